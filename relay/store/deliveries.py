"""What an app sees of its deliveries, and sends again. Each function is the inside of one transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from relay.errors import Conflict, NotFound
from relay.model.delivery import DeliveryState
from relay.model.times import Millis
from relay.store import slack_messages, target_health
from relay.store.notifications import DELIVER, announce, announce_changes
from relay.store.outbox import BATCH, END, SINGLE_ATTEMPT
from relay.store.schema import AnyRow, attempts, deliveries, targets
from relay.store.watches import require_watch

SHOWN_ATTEMPTS = 20
"""Attempts of a delivery that are shown: the last ones."""

LISTED_ANSWER = 1024
"""Bytes of the answer to an attempt that lists show. One delivery shows all that is kept."""


@dataclass(frozen=True, slots=True)
class StoredDelivery:
    """A stored delivery and its last attempts, oldest first."""

    row: AnyRow
    attempts: tuple[AnyRow, ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which deliveries of an app are meant: those in `state`, made between `since` and `until`, to `host`.

    Attributes:
        host: with a port, if only that one is meant.
    """

    state: DeliveryState = DeliveryState.DEAD
    since: Millis | None = None
    until: Millis | None = None
    host: str | None = None


def read(tx: sa.Connection, app_id: str, delivery_id: str) -> StoredDelivery:
    """Read a delivery.

    Raises:
        NotFound: this app has none of that id.
    """
    query = sa.select(deliveries).where(deliveries.c.id == delivery_id, deliveries.c.app_id == app_id)
    if (row := tx.execute(query).first()) is None:
        raise NotFound(f"there is no delivery '{delivery_id[:64]}'")
    return _with_attempts(tx, [row], attempts)[0]


def newest(
    tx: sa.Connection,
    app_id: str,
    limit: int,
    before: str | None = None,
    state: DeliveryState | None = None,
    watch_id: str | None = None,
) -> list[StoredDelivery]:
    """Read an app's deliveries, newest first, beginning after the id `before`; of each answer only its beginning."""
    c = deliveries.c
    query = sa.select(deliveries).where(c.app_id == app_id).order_by(c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(c.id < before)
    for column, value in ((c.state, state), (c.watch_id, watch_id)):
        if value is not None:
            query = query.where(column == value)
    a = attempts.c
    others = [column for column in a if column not in (a.answer, a.truncated)]
    first = sa.func.substr(a.answer, 1, LISTED_ANSWER, type_=sa.LargeBinary)
    begin = sa.func.coalesce(first, sa.literal(b"", sa.LargeBinary)).label("answer")  # SQLite's of nothing is null
    cut = sa.or_(a.truncated, sa.func.length(a.answer) > LISTED_ANSWER).label("truncated")
    return _with_attempts(tx, list(tx.execute(query)), *others, begin, cut)


def _with_attempts(
    tx: sa.Connection, rows: Sequence[AnyRow], *wanted: sa.ColumnElement[Any] | sa.FromClause
) -> list[StoredDelivery]:
    """Return deliveries with what is wanted of their last attempts."""
    of_delivery: defaultdict[str, list[AnyRow]] = defaultdict(list)
    last = attempts.c.number > deliveries.c.attempts - SHOWN_ATTEMPTS
    query = sa.select(*wanted).join(deliveries, sa.and_(deliveries.c.id == attempts.c.delivery_id, last))
    query = query.where(deliveries.c.id.in_([row.id for row in rows]))
    for attempt in tx.execute(query.order_by(attempts.c.delivery_id, attempts.c.number)):
        of_delivery[attempt.delivery_id].append(attempt)
    return [StoredDelivery(row, tuple(of_delivery[row.id])) for row in rows]


def retry(tx: sa.Connection, app_id: str, delivery_id: str, now: Millis) -> StoredDelivery:
    """Send a delivery again now, in any state, with a fresh schedule and the same `webhook-id`.

    Raises:
        NotFound: this app has none of that id.
        Conflict: it is being sent at this moment.
    """
    c = deliveries.c
    unclaimed = sa.or_(c.lease.is_(None), c.next_attempt_at <= now)
    if not resend(tx, sa.and_(c.id == delivery_id, c.app_id == app_id, unclaimed), now):
        read(tx, app_id, delivery_id)
        raise Conflict("this delivery is being sent at this moment; look at its attempts in a few seconds")
    return read(tx, app_id, delivery_id)


def retry_many(tx: sa.Connection, app_id: str, now: Millis, selection: Selection) -> list[str]:
    """Send again every delivery of an app that is selected and can be sent more than once.

    Returns:
        The ids of their watches, one for each delivery.
    """
    c = deliveries.c
    chosen = [c.app_id == app_id, c.state == selection.state, c.lease.is_(None), c.event_type.not_in(SINGLE_ATTEMPT)]
    if selection.since is not None:
        chosen.append(c.created_at >= selection.since)
    if selection.until is not None:
        chosen.append(c.created_at < selection.until)
    if (host := selection.host) is not None:
        chosen.append(sa.or_(c.host == host, c.host.startswith(f"{host}:", autoescape=True)))
    return resend(tx, sa.and_(*chosen), now)


def retry_these(tx: sa.Connection, ids: Sequence[str], state: str | None, now: Millis) -> list[str]:
    """Send deliveries of any app again, those that are in this state still and are not being sent at this moment.

    Returns:
        The ids of their watches, one for each delivery.
    """
    c = deliveries.c
    chosen: list[sa.ColumnElement[bool]] = [c.id.in_(ids), c.lease.is_(None)]
    if state is not None:
        chosen.append(c.state == state)
    return resend(tx, sa.and_(*chosen), now)


def send_again(tx: sa.Connection, app_id: str, watch_id: str, now: Millis, said: str) -> int:
    """Send the end of a watch again to every target without a living message whose delivery of it is dead.

    Args:
        said: what the watch's living messages say about who did it.

    Returns:
        How many.

    Raises:
        NotFound: this app has none of that id.
    """
    c = deliveries.c
    require_watch(tx, app_id, watch_id)
    dead = sa.and_(c.watch_id == watch_id, c.event_key == END, c.state == DeliveryState.DEAD)
    dead = sa.and_(dead, c.place.not_in(slack_messages.places_of(watch_id)))
    count = len(resend(tx, dead, now))
    if count:
        slack_messages.changed(tx, [watch_id], now, at_once=True, said=said)
    return count


def resend(tx: sa.Connection, chosen: sa.ColumnElement[bool], now: Millis) -> list[str]:
    """Make deliveries due now. A caller asks for it, so ended targets are open again, and unwell places count as well.

    The deliveries are locked first, in the same order as everywhere: none is claimed between the look and the change.

    Returns:
        The ids of their watches, one for each delivery.
    """
    c = deliveries.c
    query = (
        sa.select(c.id, c.target_id, c.place, c.watch_id).where(chosen).order_by(c.id).limit(BATCH).with_for_update()
    )
    again = {"state": DeliveryState.PENDING, "reason": None, "counted": 0, "next_attempt_at": now, "lease": None}
    last = ""
    places = set[str]()
    watch_ids: list[str] = []
    while rows := list(tx.execute(query.where(c.id > last))):
        of_targets = {row.target_id for row in rows}
        tx.execute(sa.update(targets).where(targets.c.id.in_(of_targets)).values(ended_at=None, ended_why=None))
        ids = [row.id for row in rows]
        tx.execute(sa.update(deliveries).where(c.id.in_(ids)).values(settled_at=None, **again))
        places.update(row.place for row in rows)
        watch_ids += (row.watch_id for row in rows)
        last = ids[-1]
    some = sorted(places)
    for start in range(0, len(some), BATCH):
        target_health.heal(tx, some[start : start + BATCH], now)
    if watch_ids:
        announce(tx, DELIVER)
        announce_changes(tx, sorted(set(watch_ids)))
    return watch_ids


def reopen(tx: sa.Connection, target_ids: Sequence[str], now: Millis) -> None:
    """Open targets again that an app registers again: a dead delivery of the end to one of them is sent again."""
    c = deliveries.c
    t = targets.c
    for start in range(0, len(target_ids), BATCH):
        some = target_ids[start : start + BATCH]
        resend(tx, sa.and_(c.target_id.in_(some), c.event_key == END, c.state == DeliveryState.DEAD), now)
        ended = sa.and_(t.id.in_(some), t.ended_at.is_not(None))
        tx.execute(sa.update(targets).where(ended).values(ended_at=None, ended_why=None))
