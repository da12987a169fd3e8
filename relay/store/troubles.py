"""Troubles as they stand, for all processes: what each of them notices, the dashboard shows and the operator is told.

Each function is the inside of one transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from relay.model.delivery import DeliveryState
from relay.model.event import EventType
from relay.model.times import Millis
from relay.model.trouble import Trouble, dead_subject
from relay.model.watch import State
from relay.store.schema import EACH_APP, AnyRow, deliveries, watches
from relay.store.shared_schema import troubles

COUNTED = 10_000
"""Watches that are counted for a line of the log, and deliveries that are looked at."""

LATELY: Millis = 60_000
"""Milliseconds for which a delivery counts as a recent one."""


def begin(tx: sa.Connection, trouble: Trouble, now: Millis) -> None:
    """Record a trouble. One that lasts gets the newest words; one that is back goes on if its end was not told yet."""
    c = troubles.c
    words: dict[str, Any] = {
        "type": str(trouble.type),
        "message": trouble.message,
        "remedy": trouble.remedy,
        "detail": orjson.dumps(trouble.detail).decode(),
        "seen_at": now,
    }
    since = sa.case((sa.or_(c.over_at.is_(None), c.told), c.since), else_=trouble.since)
    change = sa.update(troubles).where(c.subject == trouble.subject).values(**words, since=since, over_at=None)
    if not tx.execute(change).rowcount:
        # Another process may have noticed the same at the same moment.
        insert = postgresql.insert if tx.dialect.name == "postgresql" else sqlite.insert
        row = {"subject": trouble.subject, "since": trouble.since, "told": False, **words}
        tx.execute(insert(troubles).values(row).on_conflict_do_nothing())


def over(tx: sa.Connection, subjects: Collection[str], now: Millis) -> None:
    """Record that what was in trouble is well again."""
    c = troubles.c
    tx.execute(sa.update(troubles).where(c.subject.in_(subjects), c.over_at.is_(None)).values(over_at=now))


def forget(tx: sa.Connection, subjects: Collection[str]) -> None:
    """Delete the troubles of what is not kept any more, and notify no one of an end."""
    tx.execute(sa.delete(troubles).where(troubles.c.subject.in_(subjects)))


def standing(tx: sa.Connection, *types: EventType) -> Sequence[AnyRow]:
    """Return the troubles of some types that last, the oldest first."""
    c = troubles.c
    query = sa.select(troubles).where(c.over_at.is_(None), c.type.in_([str(kind) for kind in types]))
    return tx.execute(query.order_by(c.since, c.subject)).all()


def end_delivered(tx: sa.Connection, now: Millis) -> None:
    """End the troubles of places to which a delivery has arrived since the last one that died."""
    lasting = {orjson.loads(row.detail)["place"]: row.seen_at for row in standing(tx, EventType.DELIVERY_DEAD)}
    if not lasting:
        return
    d = deliveries.c
    lately = sa.select(d.place, d.settled_at, d.state).where(d.settled_at > now - LATELY)
    lately = lately.order_by(d.settled_at.desc()).limit(COUNTED)
    arrived = {
        row.place
        for row in tx.execute(lately)
        if row.state == DeliveryState.DELIVERED and row.settled_at > lasting.get(row.place, row.settled_at)
    }
    if arrived:
        over(tx, [dead_subject(place) for place in sorted(arrived)], now)


def waiting(tx: sa.Connection, provider: str) -> int:
    """Return how many watches of a provider are under way, counted up to `COUNTED`."""
    w = watches.c
    under_way = (EACH_APP, w.provider == provider, w.state == State.WATCHING)
    some = sa.select(w.id).where(*under_way).limit(COUNTED).subquery()
    return tx.execute(sa.select(sa.func.count()).select_from(some)).scalar_one()


def end_unasked(tx: sa.Connection, now: Millis) -> None:
    """End the troubles of upstreams about which no watch asks any more: nothing else would end them."""
    lasting = standing(tx, EventType.UPSTREAM_REFUSED)
    unasked = [row.subject for row in lasting if not waiting(tx, orjson.loads(row.detail)["provider"])]
    if unasked:
        over(tx, unasked, now)


def any_known(tx: sa.Connection) -> bool:
    """Return whether there is anything to end or to tell."""
    return tx.execute(sa.select(troubles.c.subject).limit(1)).first() is not None
