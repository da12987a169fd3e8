"""Every query about watches, named by its intent. Each function is the inside of one transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from relay.errors import FieldError, Invalid, NotFound, RelayError
from relay.ids import new_id
from relay.model import DeliveryState, EventType, Millis, State
from relay.store import messages
from relay.store.notify import POLL, announce, announce_changes
from relay.store.outbox import END, reopen, tell_late
from relay.store.schema import AnyRow, changes, deliveries, targets, watches

MAX_TARGETS = 100
"""Targets that one watch may have."""

OF_END = sa.and_(deliveries.c.target_id == targets.c.id, deliveries.c.event_key == END)
"""How a target and the delivery of the end to it belong together."""


@dataclass(frozen=True, slots=True)
class NewTarget:
    """A target of a registration; its `address` is sealed for its id.

    Attributes:
        living: it is told by a message that lives with the task.
    """

    id: str
    type: str
    address: bytes
    place: str
    host: str
    events: tuple[str, ...]
    fingerprint: bytes
    living: bool = False


@dataclass(frozen=True, slots=True)
class Registration:
    """What an app asks for; `upstream_key` is sealed, `metadata` is JSON.

    Attributes:
        no_room: why it may not begin a new watch, if so; one that is there it may still add to.
    """

    app_id: str
    provider: str
    task_id: str
    targets: tuple[NewTarget, ...]
    metadata: str
    upstream_key: bytes | None
    first_poll_at: Millis
    expires_at: Millis
    traceparent: str | None = None
    no_room: RelayError | None = None


@dataclass(frozen=True, slots=True)
class FoundTarget:
    """A stored target and how far the telling of the end has come for it."""

    id: str
    type: str
    address: bytes
    events: tuple[str, ...]
    delivery: DeliveryState
    reason: str | None


@dataclass(frozen=True, slots=True)
class Found:
    """A stored watch with its targets, in the order in which they were added."""

    row: AnyRow
    targets: tuple[FoundTarget, ...]


@dataclass(frozen=True, slots=True)
class Registered:
    """What became of a registration: the watch, and whether it is new."""

    watch: Found
    created: bool


Key = tuple[str, str, str]


def register(tx: sa.Connection, wanted: Sequence[Registration], now: Millis) -> list[Registered | RelayError]:
    """Registers all of `wanted`, or finds what is there and adds the new targets, one answer each and in order.

    New targets of a task that has already ended are told at once, and one that would hear nothing more is open again.
    A registration that would give a watch too many targets, or an app too many watches, is refused alone.
    """
    keys: list[Key] = [(one.app_id, one.provider, one.task_id) for one in wanted]
    present = _present(tx, keys)
    ids = {key: watch_id for key, (watch_id, _) in present.items()}
    ended = {watch_id for watch_id, state in present.values() if state != State.WATCHING}
    held, deaf = _targets_of(tx, list(ids.values()))
    new_watches, new_targets, new_keys = [], [], []
    reopened: dict[str, str] = {}
    answer: list[tuple[str, bool] | RelayError] = []
    for key, one in zip(keys, wanted, strict=True):
        watch_id, created = ids.get(key), False
        if watch_id is None:
            if one.no_room is not None:
                answer.append(one.no_room)
                continue
            watch_id, created = new_id("wch"), True
        added = {t.fingerprint: t for t in one.targets if t.fingerprint not in held[watch_id]}
        if len(held[watch_id]) + len(added) > MAX_TARGETS:
            why = f"a watch may have {MAX_TARGETS} targets; this one has {len(held[watch_id])}"
            answer.append(Invalid(f"/targets: {why}", errors=[FieldError("/targets", why)]))
            continue
        if created:
            ids[key] = watch_id
            new_watches.append(_new_watch(watch_id, one, now))
        elif one.upstream_key is not None:
            new_keys.append({"watch_id": watch_id, "sealed": one.upstream_key})
        held[watch_id].update(added)
        again = [deaf[watch_id, t.fingerprint] for t in one.targets if (watch_id, t.fingerprint) in deaf]
        reopened |= dict.fromkeys(again, watch_id)
        new_targets += [(watch_id, target) for target in added.values()]
        answer.append((watch_id, created))

    if new_watches:
        tx.execute(sa.insert(watches), new_watches)
    if new_keys:
        change = sa.update(watches).where(watches.c.id == sa.bindparam("watch_id"))
        tx.execute(change.values(upstream_key=sa.bindparam("sealed")), new_keys)
    if new_targets:
        tx.execute(sa.insert(targets), [_new_target(watch_id, target) for watch_id, target in new_targets])
        wanting = {w for w, target in new_targets if EventType.PROGRESS in target.events}
        if wanting:
            tx.execute(sa.update(watches).where(watches.c.id.in_(wanting)).values(wants_progress=True))
        messages.begin(tx, [(one.id, watch_id, one.place) for watch_id, one in new_targets if one.living], now)
        tell_late(tx, [target.id for watch_id, target in new_targets if watch_id in ended], now)
    reopen(tx, sorted(reopened), now)
    announce_changes(tx, sorted({watch_id for watch_id, _ in new_targets} | {*reopened.values()}))
    if new_watches:
        announce(tx, POLL, (min(one["next_poll_at"] for one in new_watches) - now) / 1000)
    found = {one.row.id: one for one in _found(tx, [a[0] for a in answer if isinstance(a, tuple)])}
    return [Registered(found[a[0]], a[1]) if isinstance(a, tuple) else a for a in answer]


def _present(tx: sa.Connection, keys: Sequence[Key]) -> dict[Key, tuple[str, str]]:
    """The watches that are there, locked so that none ends while targets are added to it."""
    c = watches.c
    by_place: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for app_id, provider, task_id in keys:
        by_place[app_id, provider].add(task_id)
    present = {}
    for (app_id, provider), task_ids in by_place.items():
        query = (
            sa.select(c.task_id, c.id, c.state)
            .where(c.app_id == app_id, c.provider == provider, c.task_id.in_(task_ids), c.state != State.CANCELLED)
            .order_by(c.id)
            .with_for_update()
        )
        present.update({(app_id, provider, row.task_id): (row.id, row.state) for row in tx.execute(query)})
    return present


def _targets_of(
    tx: sa.Connection, ids: Sequence[str]
) -> tuple[defaultdict[str, set[bytes]], dict[tuple[str, bytes], str]]:
    """The fingerprints of each watch's targets, and the ids of those targets that would not be told its end."""
    held, deaf = defaultdict[str, set[bytes]](set), dict[tuple[str, bytes], str]()
    if ids:
        t = targets.c
        query = sa.select(t.id, t.watch_id, t.fingerprint, t.ended_at, deliveries.c.state)
        for row in tx.execute(query.join(deliveries, OF_END, isouter=True).where(t.watch_id.in_(ids))):
            fingerprint = bytes(row.fingerprint)
            held[row.watch_id].add(fingerprint)
            if _telling(row) is DeliveryState.DEAD:
                deaf[row.watch_id, fingerprint] = row.id
    return held, deaf


def _new_watch(watch_id: str, one: Registration, now: Millis) -> dict[str, Any]:
    return {
        "id": watch_id,
        "app_id": one.app_id,
        "provider": one.provider,
        "task_id": one.task_id,
        "state": State.WATCHING,
        "metadata": one.metadata,
        "upstream_key": one.upstream_key,
        "wants_progress": False,
        "polls": 0,
        "misses": 0,
        "unknowns": 0,
        "bares": 0,
        "changes": 0,
        "next_poll_at": one.first_poll_at,
        "expires_at": one.expires_at,
        "created_at": now,
        "traceparent": one.traceparent,
    }


def _new_target(watch_id: str, target: NewTarget) -> dict[str, Any]:
    return {
        "id": target.id,
        "watch_id": watch_id,
        "type": target.type,
        "address": target.address,
        "place": target.place,
        "host": target.host,
        "events": ",".join(target.events),
        "fingerprint": target.fingerprint,
    }


# Reading and stopping, for the app that owns them


def read(tx: sa.Connection, app_id: str, watch_id: str) -> Found:
    """One watch.

    Raises:
        NotFound: this app has none of that id.
    """
    make_sure_of(tx, app_id, watch_id)
    return _found(tx, [watch_id])[0]


def make_sure_of(tx: sa.Connection, app_id: str, watch_id: str) -> None:
    """An app has this watch.

    Raises:
        NotFound: it has none of that id.
    """
    query = sa.select(watches.c.id).where(watches.c.id == watch_id, watches.c.app_id == app_id)
    if tx.execute(query).first() is None:
        raise NotFound(f"there is no watch '{watch_id[:64]}'")


def read_many(tx: sa.Connection, ids: Sequence[str]) -> dict[str, Found]:
    """Those of `ids` that there are, whosever they are."""
    there = tx.execute(sa.select(watches.c.id).where(watches.c.id.in_(ids))).scalars()
    return {one.row.id: one for one in _found(tx, list(there))}


def changes_of(tx: sa.Connection, ids: Sequence[str]) -> dict[str, int]:
    """How often each of `ids` has changed, for those that there are."""
    query = sa.select(watches.c.id, watches.c.changes).where(watches.c.id.in_(ids))
    return {row.id: row.changes for row in tx.execute(query)}


def history(tx: sa.Connection, watch_id: str) -> list[AnyRow]:
    """What a watch has been, oldest first."""
    query = sa.select(changes).where(changes.c.watch_id == watch_id).order_by(changes.c.number)
    return list(tx.execute(query))


def newest(
    tx: sa.Connection,
    app_id: str,
    limit: int,
    before: str | None = None,
    state: State | None = None,
    provider: str | None = None,
    task_id: str | None = None,
) -> list[Found]:
    """An app's watches, newest first, beginning after the id `before`."""
    c = watches.c
    query = sa.select(c.id).where(c.app_id == app_id).order_by(c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(c.id < before)
    for column, value in ((c.state, state), (c.provider, provider), (c.task_id, task_id)):
        if value is not None:
            query = query.where(column == value)
    return _found(tx, list(tx.execute(query).scalars()))


def _found(tx: sa.Connection, ids: Sequence[str]) -> list[Found]:
    """Watches with their targets, in the order of `ids`."""
    if not ids:
        return []
    rows = {row.id: row for row in tx.execute(sa.select(watches).where(watches.c.id.in_(set(ids))))}
    query = (
        sa.select(targets, deliveries.c.state, deliveries.c.reason)
        .join(deliveries, OF_END, isouter=True)
        .where(targets.c.watch_id.in_(set(ids)))
        .order_by(targets.c.id)
    )
    of_watch: defaultdict[str, list[FoundTarget]] = defaultdict(list)
    for row in tx.execute(query):
        events = tuple(row.events.split(","))
        reason = row.reason or row.ended_why
        of_watch[row.watch_id].append(FoundTarget(row.id, row.type, row.address, events, _telling(row), reason))
    return [Found(rows[watch_id], tuple(of_watch[watch_id])) for watch_id in ids]


def _telling(row: AnyRow) -> DeliveryState:
    """How far the telling of the end has come for a target, `row.state` being that of the delivery, if there is one."""
    return DeliveryState(row.state or (DeliveryState.DEAD if row.ended_at else DeliveryState.WAITING))


def under_way(tx: sa.Connection, app_id: str) -> int:
    """How many of an app's watches are still watching."""
    query = sa.select(sa.func.count()).where(watches.c.app_id == app_id, watches.c.state == State.WATCHING)
    return int(tx.execute(query).scalar_one())


def cancel(tx: sa.Connection, app_id: str, watch_id: str, now: Millis, said: str | None = None) -> bool:
    """Stops a watch; one that has ended stays as it is.

    Args:
        said: what its living messages say about who did it.

    Returns:
        Whether it was this that stopped it.

    Raises:
        NotFound: this app has none of that id.
    """
    c = watches.c
    change = sa.update(watches).where(c.id == watch_id, c.app_id == app_id, c.state == State.WATCHING)
    change = change.values(
        state=State.CANCELLED, next_poll_at=None, lease=None, estimated_end=None, ended_at=now, changes=c.changes + 1
    )
    stopped = tx.execute(change.returning(c.state, c.changes, c.upstream_status, c.progress)).first()
    if stopped is None:
        make_sure_of(tx, app_id, watch_id)
        return False
    state, number, status, progress = stopped
    row = {"watch_id": watch_id, "number": number, "at": now, "state": state}
    tx.execute(sa.insert(changes), row | {"upstream_status": status, "progress": progress})
    messages.changed(tx, [watch_id], now, at_once=True, said=said)
    announce_changes(tx, [watch_id])
    return True


def erase(tx: sa.Connection, app_id: str, watch_id: str) -> None:
    """Removes everything stored about a task: watch, targets, answer, events, deliveries, attempts.

    Raises:
        NotFound: this app has none of that id.
    """
    if not tx.execute(sa.delete(watches).where(watches.c.id == watch_id, watches.c.app_id == app_id)).rowcount:
        raise NotFound(f"there is no watch '{watch_id[:64]}'")
    announce_changes(tx, [watch_id])
