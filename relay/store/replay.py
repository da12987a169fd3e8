"""What an app sees of its deliveries, and sends again. Each function is the inside of one transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from relay.errors import Conflict, NotFound
from relay.model import DeliveryState, Millis
from relay.store import messages
from relay.store.outbox import END, SINGLE_ATTEMPT, resend
from relay.store.schema import AnyRow, attempts, deliveries, targets
from relay.store.watches import make_sure_of


@dataclass(frozen=True, slots=True)
class Found:
    """A stored delivery with its target's type and its attempts, oldest first."""

    row: AnyRow
    attempts: tuple[AnyRow, ...]


def read(tx: sa.Connection, app_id: str, delivery_id: str) -> Found:
    """One delivery.

    Raises:
        NotFound: this app has none of that id.
    """
    query = sa.select(deliveries).where(deliveries.c.id == delivery_id, deliveries.c.app_id == app_id)
    if (row := tx.execute(query).first()) is None:
        raise NotFound(f"there is no delivery '{delivery_id[:64]}'")
    return _found(tx, [row])[0]


def newest(
    tx: sa.Connection,
    app_id: str,
    limit: int,
    before: str | None = None,
    state: DeliveryState | None = None,
    watch_id: str | None = None,
) -> list[Found]:
    """An app's deliveries, newest first, beginning after the id `before`."""
    c = deliveries.c
    query = sa.select(deliveries).where(c.app_id == app_id).order_by(c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(c.id < before)
    for column, value in ((c.state, state), (c.watch_id, watch_id)):
        if value is not None:
            query = query.where(column == value)
    return _found(tx, list(tx.execute(query)))


def _found(tx: sa.Connection, rows: Sequence[AnyRow]) -> list[Found]:
    of_delivery: defaultdict[str, list[AnyRow]] = defaultdict(list)
    query = sa.select(attempts).where(attempts.c.delivery_id.in_([row.id for row in rows]))
    for attempt in tx.execute(query.order_by(attempts.c.delivery_id, attempts.c.number)):
        of_delivery[attempt.delivery_id].append(attempt)
    return [Found(row, tuple(of_delivery[row.id])) for row in rows]


def retry(tx: sa.Connection, app_id: str, delivery_id: str, now: Millis) -> Found:
    """Sends a delivery again now, whatever became of it, with a fresh schedule and the same `webhook-id`.

    Raises:
        NotFound: this app has none of that id.
        Conflict: it is being sent at this moment.
    """
    c = deliveries.c
    nobodys = sa.or_(c.lease.is_(None), c.next_attempt_at <= now)
    if not resend(tx, sa.and_(c.id == delivery_id, c.app_id == app_id, nobodys), now):
        read(tx, app_id, delivery_id)
        raise Conflict("this delivery is being sent at this moment; look at its attempts in a few seconds")
    return read(tx, app_id, delivery_id)


def retry_many(
    tx: sa.Connection,
    app_id: str,
    now: Millis,
    state: DeliveryState = DeliveryState.DEAD,
    since: Millis | None = None,
    until: Millis | None = None,
    host: str | None = None,
) -> int:
    """Sends again every delivery of an app in `state`, made between `since` and `until`, to `host`.

    Args:
        host: with a port, if only that one is meant.

    Returns:
        How many.
    """
    c = deliveries.c
    chosen = sa.and_(c.app_id == app_id, c.state == state, c.lease.is_(None), c.event_type.not_in(SINGLE_ATTEMPT))
    for condition in (
        None if since is None else c.created_at >= since,
        None if until is None else c.created_at < until,
        None if host is None else sa.or_(c.host == host, c.host.startswith(f"{host}:", autoescape=True)),
    ):
        if condition is not None:
            chosen = sa.and_(chosen, condition)
    return resend(tx, chosen, now)


def send_again(tx: sa.Connection, app_id: str, watch_id: str, now: Millis, said: str) -> int:
    """Sends the end of a watch again to every webhook that did not get it and is not tried any more.

    Args:
        said: what the watch's living messages say about who did it.

    Returns:
        How many.

    Raises:
        NotFound: this app has none of that id.
    """
    c, t = deliveries.c, targets.c
    make_sure_of(tx, app_id, watch_id)
    hooks = sa.select(t.id).where(t.watch_id == watch_id, t.type == "webhook")
    dead = sa.and_(c.watch_id == watch_id, c.event_key == END, c.state == DeliveryState.DEAD, c.target_id.in_(hooks))
    replayed = resend(tx, dead, now)
    if replayed:
        messages.changed(tx, [watch_id], now, at_once=True, said=said)
    return replayed
