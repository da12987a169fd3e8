"""Registering: many watches and targets in one transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from relay.errors import FieldError, Invalid, RelayError
from relay.model.delivery import DeliveryState
from relay.model.event import EventType
from relay.model.ids import new_id
from relay.model.times import Millis
from relay.model.watch import State
from relay.store import hot, slack_messages, usage
from relay.store.deliveries import reopen
from relay.store.notifications import POLL, announce, announce_changes
from relay.store.schema import cancelled_id, deliveries, targets, watches
from relay.store.telling import tell_late
from relay.store.usage import Quota, Used
from relay.store.watches import OF_END, StoredTarget, StoredWatch, end_delivery_state, load, written

MAX_TARGETS = 100
"""Targets that one watch may have."""


@dataclass(frozen=True, slots=True)
class NewTarget:
    """A target of a registration; its `address` is sealed for its id.

    Attributes:
        living: whether it is notified by a message that lives with the task.
        shown: the fields that its app sees, so that its address need not be opened to show it. They are not stored.
    """

    id: str
    type: str
    address: bytes
    place: str
    host: str
    events: tuple[str, ...]
    fingerprint: bytes
    living: bool = False
    shown: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Registration:
    """What an app asks for.

    Attributes:
        metadata: as JSON.
        upstream_key: sealed.
        upstream_base: where the task is asked about; None for its provider's own address.
        inline: its inline definition, sealed, where it has no provider's file.
        watch_id: the id that a new watch gets; None for one that is made now.
        late_at: when the task takes longer than the app expects.
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
    upstream_base: str | None = None
    inline: bytes | None = None
    watch_id: str | None = None
    late_at: Millis | None = None


@dataclass(frozen=True, slots=True)
class Registered:
    """The answer to a registration: the watch, and whether it is new."""

    watch: StoredWatch
    created: bool


_PRESENT = hot.Statement(
    sa.select(watches.c.task_id, watches.c.id, watches.c.state, watches.c.upstream_base)
    .where(
        watches.c.app_id == sa.bindparam("app_id"),
        watches.c.provider == sa.bindparam("provider"),
        hot.among(watches.c.task_id, "task_ids"),
        cancelled_id == sa.literal_column("''"),
    )
    .order_by(watches.c.id.concat(sa.literal_column("''")))  # in the order of an index, SQLite would walk the app's
    .with_for_update()
)
_NEW_WATCHES = hot.Insert(
    watches,
    (
        "id",
        "app_id",
        "provider",
        "task_id",
        "state",
        "metadata",
        "upstream_key",
        "upstream_base",
        "inline",
        "wants_progress",
        "polls",
        "misses",
        "unknowns",
        "bares",
        "changes",
        "next_poll_at",
        "expires_at",
        "created_at",
        "traceparent",
        "late_at",
    ),
)
_NEW_TARGETS = hot.Insert(targets, ("id", "watch_id", "type", "address", "place", "host", "events", "fingerprint"))

Key = tuple[str, str, str]
"""What tells watches apart: app, provider, task id."""


@dataclass(slots=True)
class _Known:
    """What is stored for some registrations, and what earlier ones of the same transaction add to it.

    Attributes:
        ids: the watches.
        bases: their `upstream_base`.
        ended: those of them that have ended.
        fingerprints: of each watch's targets.
        dead: the ids of targets to which relay sends nothing more, by watch and fingerprint.
    """

    ids: dict[Key, str] = field(default_factory=dict)
    bases: dict[str, str | None] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    fingerprints: defaultdict[str, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    dead: dict[tuple[str, bytes], str] = field(default_factory=dict)


@dataclass(slots=True)
class _Changes:
    """What registrations change.

    Attributes:
        used: what each app has, with these changes.
        quota: what each app may have.
        watches: the rows of new watches, by their ids.
        targets: (watch id, target) of new targets.
        keys: new upstream keys of watches that are there.
        reopened: the targets that were dead, with their watches.
    """

    used: dict[str, Used]
    quota: Quota
    watches: dict[str, dict[str, Any]] = field(default_factory=dict)
    targets: list[tuple[str, NewTarget]] = field(default_factory=list)
    keys: list[dict[str, Any]] = field(default_factory=list)
    reopened: dict[str, str] = field(default_factory=dict)


def register(
    tx: sa.Connection, wanted: Sequence[Registration], now: Millis, quota: Quota = usage.QUOTA
) -> list[Registered | RelayError]:
    """Add a watch for each registration, or new targets to the watch that is there; one answer each, in order.

    New targets of a task that has already ended are notified at once, and a target that was dead is open again. A
    registration that would give a watch too many targets, or an app more than its quota, is refused alone.
    """
    known = _read(tx, [_key_of(registration) for registration in wanted])
    changes = _Changes(usage.lock(tx, {registration.app_id for registration in wanted}), quota)
    answers = [_add(registration, known, changes, now) for registration in wanted]
    _write(tx, changes, known.ended, now)
    stored = _stored(tx, changes, [answer[0] for answer in answers if isinstance(answer, tuple)])
    return [Registered(stored[answer[0]], answer[1]) if isinstance(answer, tuple) else answer for answer in answers]


def has_key(tx: sa.Connection, app_id: str, provider: str, task_id: str) -> bool:
    """Return whether the app watches a task with an upstream key of the watch's own."""
    c = watches.c
    of_task = sa.and_(c.app_id == app_id, c.provider == provider, c.task_id == task_id, cancelled_id == "")
    keyed = sa.select(c.id).where(of_task, c.upstream_key.is_not(None))
    return tx.execute(keyed).first() is not None


def _key_of(registration: Registration) -> Key:
    return registration.app_id, registration.provider, registration.task_id


def _add(registration: Registration, known: _Known, changes: _Changes, now: Millis) -> tuple[str, bool] | RelayError:
    """Add to `changes` what a registration changes; return its watch and whether that is new, or the refusal."""
    key = _key_of(registration)
    watch_id = known.ids.get(key)
    created = watch_id is None
    if watch_id is None:
        watch_id = registration.watch_id or new_id("wch")
    elif registration.upstream_base not in (None, base := known.bases[watch_id]):
        return Invalid.at("/upstream_base", f"this task is watched at {base or 'the address of its provider'} already")
    present = known.fingerprints[watch_id]
    added = {target.fingerprint: target for target in registration.targets if target.fingerprint not in present}
    if len(present) + len(added) > MAX_TARGETS:
        why = f"a watch may have {MAX_TARGETS} targets; this one has {len(present)}"
        return Invalid(f"/targets: {why}", errors=[FieldError("/targets", why)])
    used = changes.used[registration.app_id]
    if refusal := used.refusal(changes.quota, int(created), len(added)):
        return refusal
    used.watches += created
    used.targets += len(added)
    if created:
        known.ids[key] = watch_id
        known.bases[watch_id] = registration.upstream_base
        changes.watches[watch_id] = _new_watch(watch_id, registration, now)
    elif registration.upstream_key is not None:
        changes.keys.append({"watch_id": watch_id, "sealed": registration.upstream_key})
    present.update(added)
    changes.targets += [(watch_id, target) for target in added.values()]
    for target in registration.targets:
        if (dead := known.dead.get((watch_id, target.fingerprint))) is not None:
            changes.reopened[dead] = watch_id
    return watch_id, created


def _write(tx: sa.Connection, changes: _Changes, ended: Collection[str], now: Millis) -> None:
    """Write what registrations change.

    Args:
        ended: the watches that have ended.
    """
    if changes.watches:
        for watch_id, target in changes.targets:
            if EventType.PROGRESS in target.events and watch_id in changes.watches:
                changes.watches[watch_id]["wants_progress"] = True
        _NEW_WATCHES.run(tx, list(changes.watches.values()))
    if changes.keys:
        change = sa.update(watches).where(watches.c.id == sa.bindparam("watch_id"))
        tx.execute(change.values(upstream_key=sa.bindparam("sealed")), changes.keys)
    if changes.targets:
        _write_targets(tx, changes, now)
        if late := [target.id for watch_id, target in changes.targets if watch_id in ended]:
            tell_late(tx, late, now)
    reopen(tx, sorted(changes.reopened), now)
    present = {watch_id for watch_id, _ in changes.targets if watch_id not in changes.watches}
    # Nobody follows a new watch yet. One of them is enough for open pages to look at all.
    announce_changes(tx, sorted({*present, *changes.reopened.values(), *list(changes.watches)[:1]}))
    if changes.watches:
        announce(tx, POLL, (min(row["next_poll_at"] for row in changes.watches.values()) - now) / 1000)


def _write_targets(tx: sa.Connection, changes: _Changes, now: Millis) -> None:
    """Write new targets, and the living messages that they have."""
    new = changes.targets
    _NEW_TARGETS.run(tx, [target_row(watch_id, target) for watch_id, target in new])
    wanting = {watch_id for watch_id, target in new if EventType.PROGRESS in target.events} - changes.watches.keys()
    if wanting:
        tx.execute(sa.update(watches).where(watches.c.id.in_(wanting)).values(wants_progress=True))
    slack_messages.begin(tx, [(target.id, watch_id, target.place) for watch_id, target in new if target.living], now)


def _stored(tx: sa.Connection, changes: _Changes, ids: Sequence[str]) -> dict[str, StoredWatch]:
    """Return watches by their ids: new ones as they were written, others as they are stored."""
    stored = {watch.row.id: watch for watch in load(tx, [one for one in ids if one not in changes.watches])}
    targets_of: defaultdict[str, list[StoredTarget]] = defaultdict(list)
    for watch_id, target in sorted(changes.targets, key=lambda new: new[1].id):
        targets_of[watch_id].append(_stored_target(target))
    for watch_id, row in changes.watches.items():
        stored[watch_id] = written(row, targets_of[watch_id])
    return stored


def _stored_target(target: NewTarget) -> StoredTarget:
    """Return a new target of a watch that has not ended, as it is stored."""
    return StoredTarget(
        target.id, target.type, target.address, target.place, target.host, target.events, DeliveryState.WAITING, None
    )


def _read(tx: sa.Connection, keys: Sequence[Key]) -> _Known:
    """Read the watches that are there, locked so that none ends while targets are added to it, and their targets."""
    known = _Known()
    task_ids_of: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for app_id, provider, task_id in keys:
        task_ids_of[app_id, provider].append(task_id)
    for (app_id, provider), task_ids in task_ids_of.items():
        wanted = {"app_id": app_id, "provider": provider, "task_ids": task_ids}
        for task_id, watch_id, state, base in _PRESENT.rows(tx, wanted):
            known.ids[app_id, provider, task_id] = watch_id
            known.bases[watch_id] = base
            if state != State.WATCHING:
                known.ended.add(watch_id)
    if known.ids:
        _read_targets(tx, known)
    return known


def _read_targets(tx: sa.Connection, known: _Known) -> None:
    """Read the targets of the known watches."""
    t = targets.c
    query = sa.select(t.id, t.watch_id, t.fingerprint, t.ended_at, deliveries.c.state)
    query = query.join(deliveries, OF_END, isouter=True).where(t.watch_id.in_(known.ids.values()))
    for row in tx.execute(query):
        fingerprint = bytes(row.fingerprint)
        known.fingerprints[row.watch_id].add(fingerprint)
        if end_delivery_state(row) is DeliveryState.DEAD:
            known.dead[row.watch_id, fingerprint] = row.id


def _new_watch(watch_id: str, registration: Registration, now: Millis) -> dict[str, Any]:
    return {
        "id": watch_id,
        "app_id": registration.app_id,
        "provider": registration.provider,
        "task_id": registration.task_id,
        "state": State.WATCHING,
        "metadata": registration.metadata,
        "upstream_key": registration.upstream_key,
        "upstream_base": registration.upstream_base,
        "inline": registration.inline,
        "wants_progress": False,
        "polls": 0,
        "misses": 0,
        "unknowns": 0,
        "bares": 0,
        "changes": 0,
        "next_poll_at": registration.first_poll_at,
        "expires_at": registration.expires_at,
        "created_at": now,
        "traceparent": registration.traceparent,
        "late_at": registration.late_at,
    }


def target_row(watch_id: str, target: NewTarget) -> dict[str, Any]:
    """Return what is stored of a new target of a watch."""
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
