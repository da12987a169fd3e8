"""The health of the places that targets lead to: an app's URLs, hooks and channels.

A place is unwell when delivery after delivery has used up its schedule over days. Later deliveries to it are held, not
dropped, and one held delivery at a time probes it. When a probe succeeds, all held deliveries are due.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import sqlalchemy as sa

from relay.model.delivery import DeliveryState
from relay.model.times import Millis
from relay.store.notifications import DELIVER, announce
from relay.store.schema import HELD, ailments, deliveries

EXHAUSTED_BEFORE_UNWELL = 3
"""A place is unwell after so many deliveries in a row have used up their schedules,"""

AILING_BEFORE_UNWELL: Millis = 86_400_000
"""and this much time has passed since the first of them."""

PROBE_EVERY: Millis = 3_600_000
"""The time between two probes of an unwell place."""


def worsen(tx: sa.Connection, place: str, now: Millis) -> bool:
    """Record that a delivery to this place has used up its schedule. Return whether the place is unwell from now on."""
    c = ailments.c
    change = sa.update(ailments).where(c.place == place).values(exhausted=c.exhausted + 1)
    if not tx.execute(change).rowcount:
        tx.execute(sa.insert(ailments).values(place=place, since=now, exhausted=1))
    unwell = (c.exhausted >= EXHAUSTED_BEFORE_UNWELL, c.since <= now - AILING_BEFORE_UNWELL, c.probe_at.is_(None))
    change = sa.update(ailments).where(c.place == place, *unwell).values(probe_at=now + PROBE_EVERY)
    return tx.execute(change).rowcount > 0


def heal(tx: sa.Connection, places: Sequence[str], now: Millis) -> None:
    """Mark these places as well, and make the deliveries that were held for them due."""
    c = deliveries.c
    if not tx.execute(sa.delete(ailments).where(ailments.c.place.in_(places))).rowcount:
        return
    held = sa.and_(c.place.in_(places), c.state == sa.literal_column(HELD))
    change = sa.update(deliveries).where(held)
    if tx.execute(change.values(state=DeliveryState.PENDING, reason=None, next_attempt_at=now)).rowcount:
        announce(tx, DELIVER)


def unwell(tx: sa.Connection, places: Collection[str]) -> set[str]:
    """Return which of `places` are unwell. The rows are locked, so none of them heals before the transaction ends."""
    c = ailments.c
    query = sa.select(c.place).where(c.place.in_(places), c.probe_at.is_not(None))
    return set(tx.execute(query.order_by(c.place).with_for_update()).scalars())


def probe(tx: sa.Connection, now: Millis) -> int:
    """Make one held delivery due for each unwell place whose probe is due. Return how many."""
    a = ailments.c
    c = deliveries.c
    places = sa.select(a.place).where(a.probe_at <= now).with_for_update(skip_locked=True)
    probing = 0
    for place in list(tx.execute(places).scalars()):
        oldest = sa.select(c.id).where(c.place == place, c.state == sa.literal_column(HELD)).order_by(c.id).limit(1)
        chosen = tx.execute(oldest).scalar()
        tx.execute(sa.update(ailments).where(a.place == place).values(probe_at=now + PROBE_EVERY, probe_id=chosen))
        if chosen is not None:
            change = sa.update(deliveries).where(c.id == chosen, c.state == DeliveryState.HELD)
            probing += tx.execute(change.values(state=DeliveryState.PENDING, next_attempt_at=now)).rowcount
    if probing:
        announce(tx, DELIVER)
    return probing
