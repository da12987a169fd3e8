"""The queries about watches: read, list, cancel, erase. Each function runs inside one transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa

from relay.errors import NotFound
from relay.model.delivery import DeliveryState
from relay.model.experience import Lesson
from relay.model.times import Millis
from relay.model.watch import State
from relay.store import cleanup, experiences, slack_erasures, slack_messages, submissions
from relay.store.notifications import ERASE, POLL, announce, announce_changes
from relay.store.outbox import END
from relay.store.schema import AnyRow, cancelled_id, changes, deliveries, messages, targets, watches

PAGE_TARGETS = 2000
"""Targets that the watches of one page may have together."""

SAME_TASK = 1000
"""Watches of one task of an app that are looked at, beside cancelled ones: there is one for each provider."""

OF_END = sa.and_(deliveries.c.target_id == targets.c.id, deliveries.c.event_key == END)
"""Joins a target with the delivery of the end to it."""


@dataclass(frozen=True, slots=True)
class StoredTarget:
    """A stored target and the state of the delivery of the end to it."""

    id: str
    type: str
    address: bytes
    place: str
    host: str
    events: tuple[str, ...]
    delivery: DeliveryState
    reason: str | None


@dataclass(frozen=True, slots=True)
class StoredWatch:
    """A stored watch with its targets, in the order in which they were added.

    Attributes:
        made: what was made of it to be shown, for all those to whom the change feed hands it.
    """

    row: AnyRow | SimpleNamespace
    targets: tuple[StoredTarget, ...]
    made: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class WatchFilter:
    """Which watches to list. A field that is None allows all."""

    state: State | None = None
    provider: str | None = None
    task_id: str | None = None


def read(tx: sa.Connection, app_id: str, watch_id: str) -> StoredWatch:
    """Return a watch of an app.

    Raises:
        NotFound: the app has no watch of that id.
    """
    require_watch(tx, app_id, watch_id)
    return load(tx, [watch_id])[0]


def require_watch(tx: sa.Connection, app_id: str, watch_id: str) -> None:
    """Check that an app has this watch.

    Raises:
        NotFound: the app has no watch of that id.
    """
    query = sa.select(watches.c.id).where(watches.c.id == watch_id, watches.c.app_id == app_id)
    if tx.execute(query).first() is None:
        raise NotFound(f"there is no watch '{watch_id[:64]}'")


def read_many(tx: sa.Connection, ids: Sequence[str]) -> dict[str, StoredWatch]:
    """Return the watches that exist by id, of whichever app they are."""
    existing = tx.execute(sa.select(watches.c.id).where(watches.c.id.in_(ids))).scalars()
    return {watch.row.id: watch for watch in load(tx, list(existing))}


def change_counts(tx: sa.Connection, ids: Sequence[str]) -> dict[str, int]:
    """Return how often each watch has changed, for those that exist."""
    query = sa.select(watches.c.id, watches.c.changes).where(watches.c.id.in_(ids))
    return {row.id: row.changes for row in tx.execute(query)}


def history(tx: sa.Connection, watch_id: str) -> list[AnyRow]:
    """Return the changes of a watch, oldest first."""
    query = sa.select(changes).where(changes.c.watch_id == watch_id).order_by(changes.c.number)
    return list(tx.execute(query))


def newest(
    tx: sa.Connection,
    app_id: str,
    limit: int,
    before: str | None = None,
    wanted: WatchFilter = WatchFilter(),
) -> list[StoredWatch]:
    """Return an app's watches, newest first, beginning after the id `before`."""
    return load(tx, newest_ids(tx, app_id, limit, before, wanted))


def page(
    tx: sa.Connection,
    app_id: str,
    limit: int,
    before: str | None = None,
    wanted: WatchFilter = WatchFilter(),
) -> tuple[list[StoredWatch], bool]:
    """Return what `newest` returns, but as few watches as have `PAGE_TARGETS` together; and whether there are more."""
    ids = newest_ids(tx, app_id, limit + 1, before, wanted)
    t = targets.c
    count = sa.select(t.watch_id, sa.func.count().label("targets")).where(t.watch_id.in_(ids)).group_by(t.watch_id)
    of_watch = {row.watch_id: row.targets for row in tx.execute(count)}
    sums = accumulate(of_watch.get(watch_id, 0) for watch_id in ids[:limit])
    fitting = max(1, sum(targets <= PAGE_TARGETS for targets in sums))
    return load(tx, ids[:fitting]), len(ids) > fitting


def newest_ids(tx: sa.Connection, app_id: str, limit: int, before: str | None, wanted: WatchFilter) -> list[str]:
    """Return the ids of an app's watches, newest first, beginning after the id `before`."""
    c = watches.c
    chosen = [c.app_id == app_id]
    if wanted.provider is not None:
        chosen.append(c.provider == wanted.provider)
    if wanted.task_id is not None:
        chosen.append(c.task_id == wanted.task_id)
        return _newest_of_task(tx, chosen, limit, before, wanted.state)
    if before is not None:
        chosen.append(c.id < before)
    # The indexes have the watches of each state in their order.
    newest_of = [
        sa.select(c.id).where(*chosen, c.state == state).order_by(c.id.desc()).limit(limit).subquery()
        for state in (State if wanted.state is None else [wanted.state])
    ]
    ids = sa.union_all(*(sa.select(of_state) for of_state in newest_of))
    return sorted(tx.execute(ids).scalars(), reverse=True)[:limit]


def _newest_of_task(
    tx: sa.Connection, of_task: Sequence[sa.ColumnElement[bool]], limit: int, before: str | None, state: State | None
) -> list[str]:
    """Return what `newest_ids` does, of a task: of its watches, the index has the cancelled ones in their order."""
    c = watches.c
    ids: list[str] = []
    if state in (None, State.CANCELLED):
        cancelled = sa.select(c.id).where(*of_task, cancelled_id > "").order_by(cancelled_id.desc()).limit(limit)
        ids += tx.execute(cancelled if before is None else cancelled.where(cancelled_id < before)).scalars()
    if state is not State.CANCELLED:
        others = sa.select(c.id, c.state).where(*of_task, cancelled_id == "").limit(SAME_TASK)
        rows = [row for row in tx.execute(others) if state in (None, row.state)]
        ids += [row.id for row in rows if before is None or row.id < before]
    return sorted(ids, reverse=True)[:limit]


def load(tx: sa.Connection, ids: Sequence[str]) -> list[StoredWatch]:
    """Return existing watches with their targets, in the order of `ids`."""
    if not ids:
        return []
    rows = {row.id: row for row in tx.execute(sa.select(watches).where(watches.c.id.in_(set(ids))))}
    query = (
        sa.select(targets, deliveries.c.state, deliveries.c.reason, messages.c.refused)
        .join(deliveries, OF_END, isouter=True)
        .join(messages, messages.c.target_id == targets.c.id, isouter=True)
        .where(targets.c.watch_id.in_(set(ids)))
    )
    of_watch: defaultdict[str, list[StoredTarget]] = defaultdict(list)
    # Sorted here: to have them in this order, SQLite would walk all targets.
    for row in sorted(tx.execute(query), key=lambda row: str(row.id)):
        events = tuple(row.events.split(","))
        reason = row.reason or row.ended_why or (row.refused if row.state is None else None)
        place = (row.place, row.host)
        target = StoredTarget(row.id, row.type, row.address, *place, events, end_delivery_state(row), reason)
        of_watch[row.watch_id].append(target)
    return [StoredWatch(rows[watch_id], tuple(of_watch[watch_id])) for watch_id in ids]


_EMPTY = dict.fromkeys(watches.columns.keys())


def written(row: Mapping[str, Any], its_targets: Sequence[StoredTarget]) -> StoredWatch:
    """Return a new watch as `load` would: made of what was written, without reading it back."""
    return StoredWatch(SimpleNamespace(**{**_EMPTY, **row}), tuple(its_targets))


def end_delivery_state(row: AnyRow) -> DeliveryState:
    """Return the state of the delivery of the end, from the row of a target joined with it by `OF_END`."""
    return DeliveryState(row.state or (DeliveryState.DEAD if row.ended_at else DeliveryState.WAITING))


def cancel(tx: sa.Connection, app_id: str, watch_id: str, now: Millis, said: str | None = None) -> bool:
    """Stop a watch. One that has ended stays as it is.

    Args:
        said: what its living messages say about who stopped it.

    Returns:
        Whether this call stopped it.

    Raises:
        NotFound: the app has no watch of that id.
    """
    if not _cancel(tx, sa.and_(watches.c.id == watch_id, watches.c.app_id == app_id), now, said):
        require_watch(tx, app_id, watch_id)
        return False
    return True


def cancel_some(tx: sa.Connection, app_id: str, now: Millis, most: int) -> int:
    """Stop up to `most` watches of an app. Return how many there were."""
    c = watches.c
    watching = sa.select(c.id).where(c.app_id == app_id, c.state == State.WATCHING).order_by(c.id).limit(most)
    ids = list(tx.execute(watching.with_for_update()).scalars())
    return _cancel(tx, c.id.in_(ids), now, None) if ids else 0


def _cancel(tx: sa.Connection, chosen: sa.ColumnElement[bool], now: Millis, said: str | None) -> int:
    c = watches.c
    change = sa.update(watches).where(chosen, c.state == State.WATCHING)
    change = change.values(
        state=State.CANCELLED, next_poll_at=None, lease=None, estimated_end=None, ended_at=now, changes=c.changes + 1
    )
    shown = (c.id, c.changes, c.state, c.upstream_status, c.progress)
    of_lesson = (c.app_id, c.provider, c.model, c.created_at, c.last_poll_at, c.inline)
    stopped = list(tx.execute(change.returning(*shown, *of_lesson)))
    if not stopped:
        return 0
    names = ("watch_id", "number", "state", "upstream_status", "progress")
    tx.execute(sa.insert(changes), [dict(zip(names, row, strict=False)) | {"at": now} for row in stopped])
    experiences.learn(
        tx,
        [_still_running(row) for row in stopped if row.upstream_status and row.last_poll_at and row.inline is None],
        now,
    )
    ids = [row.id for row in stopped]
    slack_messages.changed(tx, ids, now, at_once=True, said=said)
    announce_changes(tx, ids)
    return len(ids)


def make_due(tx: sa.Connection, watch_id: str, now: Millis) -> bool:
    """Have a watch of any app polled now, unless it is being polled. Return whether it will be."""
    c = watches.c
    idle = (c.id == watch_id, c.state == State.WATCHING, c.lease.is_(None))
    due = tx.execute(sa.update(watches).where(*idle).values(next_poll_at=now)).rowcount > 0
    if due:
        announce(tx, POLL)
    return due


def _still_running(row: AnyRow) -> experiences.Taught:
    """Return what a stopped watch teaches: its task took longer than until it was last asked about."""
    age = max(0.0, (row.last_poll_at - row.created_at) / 1000)
    lesson = Lesson(age, age, ended=False)
    return experiences.Taught(row.id, row.app_id, row.provider, row.model, row.created_at, lesson, progressed=False)


def thin(tx: sa.Connection, app_id: str, watch_id: str) -> bool:
    """Delete a slice of what a watch has beside its end; return whether there may be more.

    Raises:
        NotFound: the app has no watch of that id.
    """
    require_watch(tx, app_id, watch_id)
    return cleanup.thin(tx, [watch_id])


def erase(tx: sa.Connection, app_id: str, watch_id: str, now: Millis) -> None:
    """Delete everything stored about a task: watch, targets, answer, events, deliveries, attempts.

    Of its messages, it is noted where they stand, so that they are edited to say no more than that it was erased.

    Raises:
        NotFound: the app has no watch of that id.
    """
    require_watch(tx, app_id, watch_id)
    submissions.erase(tx, app_id, watch_id)
    if posts := slack_messages.posts_of(tx, watch_id):
        slack_erasures.note(tx, posts, now)
        announce(tx, ERASE)
    if not tx.execute(sa.delete(watches).where(watches.c.id == watch_id, watches.c.app_id == app_id)).rowcount:
        raise NotFound(f"there is no watch '{watch_id[:64]}'")
    announce_changes(tx, [watch_id])


def traceparents(tx: sa.Connection, watch_ids: Sequence[str]) -> dict[str, str]:
    """Return the `traceparent` of each watch that was registered with one."""
    query = sa.select(watches.c.id, watches.c.traceparent).where(watches.c.id.in_(watch_ids))
    return {row.id: row.traceparent for row in tx.execute(query) if row.traceparent is not None}
