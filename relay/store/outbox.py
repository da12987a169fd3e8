"""The outbox: events and deliveries are told, claimed, recorded. Each function is the inside of one transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from relay.ids import derived_id, new_id
from relay.model import Attempt, DeliveryState, Event, EventType, Millis
from relay.store import health, messages
from relay.store.notify import DELIVER, announce, announce_changes
from relay.store.schema import AnyRow, ailments, attempts, deliveries, events, targets, watches

END = messages.END
"""The key of the event that tells a watch's end."""

BATCH = 1000
"""Rows that one statement names: PostgreSQL takes 65,535 parameters, and a batch of watches may have more targets."""

SINGLE_ATTEMPT = (EventType.PROGRESS,)
"""Events that are never tried again: the next one says more."""


# Telling


def tell(tx: sa.Connection, told: Sequence[tuple[str, str, Event]]) -> int:
    """Writes events and, for each target that wants one, its delivery.

    The caller's transaction is the one that ends the watch: neither can be without the other.

    Args:
        told: (watch id, app id, event).

    Returns:
        How many deliveries were made.
    """
    if not told:
        return 0
    rows = [
        {"watch_id": watch_id, "key": event.key, "type": event.type, "at": event.at, "body": event.body}
        for watch_id, _, event in told
    ]
    tx.execute(sa.insert(events), rows)
    of_watch: defaultdict[str, list[AnyRow]] = defaultdict(list)
    query = sa.select(targets).where(targets.c.watch_id.in_({watch_id for watch_id, *_ in told}))
    for target in tx.execute(query.order_by(targets.c.id)):
        of_watch[target.watch_id].append(target)
    made = [
        _new_delivery(app_id, target, event.key, event.type, event.at)
        for watch_id, app_id, event in told
        for target in of_watch[watch_id]
        if event.type in target.events.split(",")
    ]
    _send_out(tx, made)
    return len(made)


def tell_late(tx: sa.Connection, target_ids: Sequence[str], now: Millis) -> None:
    """Tells the end, which has already been, to targets that came after it."""
    query = (
        sa.select(targets, watches.c.app_id, events.c.type.label("event_type"))
        .join(watches, watches.c.id == targets.c.watch_id)
        .join(events, sa.and_(events.c.watch_id == targets.c.watch_id, events.c.key == END))
    )
    for start in range(0, len(target_ids), BATCH):
        rows = tx.execute(query.where(targets.c.id.in_(target_ids[start : start + BATCH])))
        made = [
            _new_delivery(row.app_id, row, END, row.event_type, now)
            for row in rows
            if row.event_type in row.events.split(",")
        ]
        _send_out(tx, made)


def _send_out(tx: sa.Connection, made: Sequence[dict[str, Any]]) -> None:
    if made:
        tx.execute(sa.insert(deliveries), made)
        announce(tx, DELIVER)


def _new_delivery(app_id: str, target: AnyRow, key: str, event_type: str, at: Millis) -> dict[str, Any]:
    open_ = target.ended_at is None
    return {
        "id": new_id("dlv"),
        "webhook_id": derived_id("evt", target.watch_id, target.id, key),
        "app_id": app_id,
        "watch_id": target.watch_id,
        "target_id": target.id,
        "event_key": key,
        "event_type": event_type,
        "place": target.place,
        "host": target.host,
        "state": DeliveryState.PENDING if open_ else DeliveryState.DEAD,
        "reason": target.ended_why,
        "attempts": 0,
        "counted": 0,
        "next_attempt_at": at if open_ else None,
        "created_at": at,
        "settled_at": None if open_ else at,
    }


# Sending


@dataclass(frozen=True, slots=True)
class Claim:
    """A delivery that is ours to send until its lease runs out, with all that sending it takes.

    Attributes:
        ailing: deliveries to its place have used up their schedules lately.
        probe_id: the place is unwell, and this is the one delivery that may try it.
        probe_at: the place is unwell; when it is tried next.
    """

    id: str
    lease: str
    webhook_id: str
    app_id: str
    watch_id: str
    host: str
    event_type: str
    attempts: int
    counted: int
    target_id: str
    target_type: str
    address: bytes
    body: bytes
    created_at: Millis
    place: str
    ailing: bool
    probe_id: str | None
    probe_at: Millis | None

    @property
    def held(self) -> bool:
        """Whether it must wait until its place is well again."""
        return self.probe_at is not None and self.probe_id != self.id


def claim(tx: sa.Connection, now: Millis, until: Millis, lease: str, most: int) -> list[Claim]:
    """Takes up to `most` due deliveries that nobody else is taking, first attempts before retries."""
    c = deliveries.c
    due = (
        sa.select(c.id)
        .where(c.next_attempt_at <= now)
        .order_by(sa.case((c.attempts == 0, 0), else_=1), c.next_attempt_at)
        .limit(most)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    change = sa.update(deliveries).where(c.id.in_(sa.select(due.c.id))).values(next_attempt_at=until, lease=lease)
    taken = list(tx.execute(change.returning(c.id)).scalars())
    if not taken:
        return []
    query = (
        sa.select(
            c.id,
            c.lease,
            c.webhook_id,
            c.app_id,
            c.watch_id,
            c.host,
            c.event_type,
            c.attempts,
            c.counted,
            targets.c.id,
            targets.c.type,
            targets.c.address,
            events.c.body,
            c.created_at,
            c.place,
            ailments.c.place.is_not(None),
            ailments.c.probe_id,
            ailments.c.probe_at,
        )
        .join(targets, targets.c.id == c.target_id)
        .join(ailments, ailments.c.place == c.place, isouter=True)
        .join(events, sa.and_(events.c.watch_id == c.watch_id, events.c.key == c.event_key))
        .where(c.id.in_(taken))
        .order_by(c.id)
    )
    return [Claim(*tuple(row)) for row in tx.execute(query)]


def next_due(tx: sa.Connection) -> Millis | None:
    """When the next delivery comes due, or its claim runs out."""
    return tx.execute(sa.select(sa.func.min(deliveries.c.next_attempt_at))).scalar()


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of a claim.

    Attributes:
        attempt: None if it was not sent after all: put off, or held.
        counted: attempts that count against the schedule, this one included if it does.
        state: what the delivery has become, and `reason` why it is not delivered.
        next_attempt_at: None once settled; of what is to be held, when it is due if its place has healed meanwhile.
        exhausted: it has used up its schedule.
    """

    claim: Claim
    attempt: Attempt | None
    counted: int
    state: DeliveryState
    next_attempt_at: Millis | None
    settled_at: Millis | None = None
    reason: str | None = None
    exhausted: bool = False


def record(tx: sa.Connection, tried: Sequence[Tried]) -> None:
    """Writes down what came of many claims. What somebody else has claimed meanwhile is left alone."""
    c = deliveries.c
    leases = {one.claim.id: one.claim.lease for one in tried}
    query = sa.select(c.id, c.lease).where(c.id.in_(leases)).order_by(c.id).with_for_update()
    mine = {row.id for row in tx.execute(query) if row.lease == leases[row.id]}
    kept = _held_while_unwell(tx, [one for one in tried if one.claim.id in mine])
    mine_now = sa.update(deliveries).where(c.id == sa.bindparam("claimed"))
    put_off = [one for one in kept if one.attempt is None and one.state is DeliveryState.PENDING]
    if put_off:
        later = mine_now.values(lease=None, next_attempt_at=sa.bindparam("due"))
        tx.execute(later, [{"claimed": one.claim.id, "due": one.next_attempt_at} for one in put_off])
    changed = [one for one in kept if one.attempt is not None or one.state is not DeliveryState.PENDING]
    if changed:
        tx.execute(
            mine_now.values(
                lease=None,
                state=sa.bindparam("new_state"),
                reason=sa.bindparam("new_reason"),
                attempts=sa.bindparam("new_attempts"),
                counted=sa.bindparam("new_counted"),
                next_attempt_at=sa.bindparam("due"),
                settled_at=sa.bindparam("new_settled_at"),
            ),
            [_changed(one) for one in changed],
        )
    made = [_attempt_row(one.claim.id, one.attempt) for one in kept if one.attempt]
    if made:
        tx.execute(sa.insert(attempts), made)
        announce_changes(tx, sorted({one.claim.watch_id for one in kept if one.attempt}))
        _show(tx, [one for one in kept if one.settled_at is not None and one.claim.target_type != "slack"])
    for one in kept:
        if one.attempt and one.attempt.outcome.ends_target and one.settled_at is not None:
            _end_target(tx, one.claim.target_id, one.settled_at, one.reason)
        if one.claim.ailing and one.state is DeliveryState.DELIVERED and one.settled_at is not None:
            health.heal(tx, [one.claim.place], one.settled_at)
        if one.exhausted and one.settled_at is not None:
            health.worsen(tx, one.claim.place, one.settled_at)


def _held_while_unwell(tx: sa.Connection, tried: Sequence[Tried]) -> list[Tried]:
    """What was to be held is pending if its place has healed since the claim: nobody would bring it back later."""
    places = {one.claim.place for one in tried if one.state is DeliveryState.HELD}
    unwell = health.unwell(tx, places) if places else set()
    return [
        replace(one, state=DeliveryState.PENDING, reason=None)
        if one.state is DeliveryState.HELD and one.claim.place not in unwell
        else one
        for one in tried
    ]


def _show(tx: sa.Connection, settled: Sequence[Tried]) -> None:
    """Living messages show which deliveries are dead, and no longer those that got through after all."""
    news = [one for one in settled if one.state is DeliveryState.DEAD or one.claim.attempts]
    if news:
        messages.changed(tx, sorted({one.claim.watch_id for one in news}), max(one.settled_at or 0 for one in news))


def _changed(one: Tried) -> dict[str, Any]:
    return {
        "claimed": one.claim.id,
        "new_state": one.state,
        "new_reason": one.reason,
        "new_attempts": one.attempt.number if one.attempt else one.claim.attempts,
        "new_counted": one.counted,
        "due": None if one.state is DeliveryState.HELD else one.next_attempt_at,
        "new_settled_at": one.settled_at,
    }


def _end_target(tx: sa.Connection, target_id: str, at: Millis, why: str | None) -> None:
    """Nothing more goes to this target; what was still pending for it is dead, and can be replayed."""
    c = deliveries.c
    tx.execute(sa.update(targets).where(targets.c.id == target_id).values(ended_at=at, ended_why=why))
    tx.execute(
        sa.update(deliveries)
        .where(c.target_id == target_id, c.state == DeliveryState.PENDING)
        .values(state=DeliveryState.DEAD, reason=why, next_attempt_at=None, lease=None, settled_at=at)
    )


def _attempt_row(delivery_id: str, attempt: Attempt) -> dict[str, Any]:
    outcome = attempt.outcome
    return {
        "delivery_id": delivery_id,
        "number": attempt.number,
        "at": attempt.at,
        "latency_ms": attempt.latency_ms,
        "verdict": outcome.verdict,
        "status": outcome.status,
        "error": outcome.error,
        "note": outcome.note,
        "answer": outcome.answer,
        "truncated": outcome.truncated,
    }


# Sending again


def resend(tx: sa.Connection, chosen: sa.ColumnElement[bool], now: Millis) -> int:
    """Makes deliveries due now. Ended targets are open again and unwell places count as well: somebody asked for it.

    They are locked first, in the order in which everybody locks them: none is claimed between the look and the change.

    Returns:
        How many.
    """
    c = deliveries.c
    query = sa.select(c.id, c.target_id, c.place).where(chosen).order_by(c.id).limit(BATCH).with_for_update()
    again = {"state": DeliveryState.PENDING, "reason": None, "counted": 0, "next_attempt_at": now, "lease": None}
    replayed, last, places = 0, "", set[str]()
    while rows := list(tx.execute(query.where(c.id > last))):
        of_targets = {row.target_id for row in rows}
        tx.execute(sa.update(targets).where(targets.c.id.in_(of_targets)).values(ended_at=None, ended_why=None))
        ids = [row.id for row in rows]
        tx.execute(sa.update(deliveries).where(c.id.in_(ids)).values(settled_at=None, **again))
        places.update(row.place for row in rows)
        replayed, last = replayed + len(rows), ids[-1]
    some = sorted(places)
    for start in range(0, len(some), BATCH):
        health.heal(tx, some[start : start + BATCH], now)
    if replayed:
        announce(tx, DELIVER)
    return replayed


def reopen(tx: sa.Connection, target_ids: Sequence[str], now: Millis) -> None:
    """Somebody asks for these targets anew: none has ended, and what is dead of the end is sent again."""
    c, t = deliveries.c, targets.c
    for start in range(0, len(target_ids), BATCH):
        some = target_ids[start : start + BATCH]
        resend(tx, sa.and_(c.target_id.in_(some), c.event_key == END, c.state == DeliveryState.DEAD), now)
        ended = sa.and_(t.id.in_(some), t.ended_at.is_not(None))
        tx.execute(sa.update(targets).where(ended).values(ended_at=None, ended_why=None))
