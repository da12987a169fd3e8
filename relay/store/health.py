"""A target's health: whether the place it leads to (an app's URL, hook or channel) is worth trying now.

A place where delivery after delivery uses up its schedule, over days, is unwell. What comes for it then is held, not
dropped, and one held delivery after another probes it; the first that gets through brings back all the others.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import sqlalchemy as sa

from relay.model import DeliveryState, Millis
from relay.store.notify import DELIVER, announce
from relay.store.schema import ailments, deliveries

EXHAUSTED_BEFORE_UNWELL = 3
"""Deliveries in a row that used up their schedules, and"""

AILING_BEFORE_UNWELL = 86_400_000
"""milliseconds since the first of them, after which a place counts as unwell."""

PROBE_EVERY = 3_600_000
"""Milliseconds between two probes of an unwell place."""


def worsen(tx: sa.Connection, place: str, now: Millis) -> None:
    """A delivery to this place has used up its schedule."""
    c = ailments.c
    change = sa.update(ailments).where(c.place == place).values(exhausted=c.exhausted + 1)
    if not tx.execute(change).rowcount:
        tx.execute(sa.insert(ailments).values(place=place, since=now, exhausted=1))
    unwell = (c.exhausted >= EXHAUSTED_BEFORE_UNWELL, c.since <= now - AILING_BEFORE_UNWELL, c.probe_at.is_(None))
    tx.execute(sa.update(ailments).where(c.place == place, *unwell).values(probe_at=now + PROBE_EVERY))


def heal(tx: sa.Connection, places: Sequence[str], now: Millis) -> None:
    """These places count as well, and what was held for them is due."""
    c = deliveries.c
    if not tx.execute(sa.delete(ailments).where(ailments.c.place.in_(places))).rowcount:
        return
    held = sa.and_(c.place.in_(places), c.state == DeliveryState.HELD)
    change = sa.update(deliveries).where(held)
    if tx.execute(change.values(state=DeliveryState.PENDING, reason=None, next_attempt_at=now)).rowcount:
        announce(tx, DELIVER)


def unwell(tx: sa.Connection, places: Collection[str]) -> set[str]:
    """Those of `places` that are unwell; none of them heals before this transaction has ended."""
    c = ailments.c
    query = sa.select(c.place).where(c.place.in_(places), c.probe_at.is_not(None))
    return set(tx.execute(query.order_by(c.place).with_for_update()).scalars())


def probe(tx: sa.Connection, now: Millis) -> int:
    """Lets one held delivery try each unwell place whose time has come; returns how many."""
    a, c = ailments.c, deliveries.c
    due = list(tx.execute(sa.select(a.place).where(a.probe_at <= now).with_for_update(skip_locked=True)).scalars())
    probing = 0
    for place in due:
        oldest = sa.select(c.id).where(c.place == place, c.state == DeliveryState.HELD).order_by(c.id).limit(1)
        chosen = tx.execute(oldest).scalar()
        tx.execute(sa.update(ailments).where(a.place == place).values(probe_at=now + PROBE_EVERY, probe_id=chosen))
        if chosen is not None:
            change = sa.update(deliveries).where(c.id == chosen, c.state == DeliveryState.HELD)
            probing += tx.execute(change.values(state=DeliveryState.PENDING, next_attempt_at=now)).rowcount
    if probing:
        announce(tx, DELIVER)
    return probing
