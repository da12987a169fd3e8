"""The outbox: claims deliveries, records attempts. `telling` writes the deliveries.

Each function is the inside of one transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from relay.model.delivery import Attempt, DeliveryState
from relay.model.event import ALERTS, EventType
from relay.model.times import Millis
from relay.model.trouble import Trouble, dead_subject, unwell_subject
from relay.store import attempts, slack_messages, target_health, troubles
from relay.store.due import DueRows
from relay.store.hot import Statement, Update, among, together
from relay.store.notifications import announce_changes
from relay.store.schema import ailments, deliveries, events, targets

END = slack_messages.END
"""The key of the event of a watch's end."""

BATCH = 1000
"""Rows that one statement names: PostgreSQL takes 65,535 parameters, and a batch of watches may have more targets."""


def has_ended(tx: sa.Connection, watch_id: str) -> bool:
    """Return whether there is an event of the end of a watch."""
    query = sa.select(events.c.key).where(events.c.watch_id == watch_id, events.c.key == END)
    return tx.execute(query).first() is not None


SINGLE_ATTEMPT = (EventType.PROGRESS,)
"""Events that are never retried: the next one says more."""


@dataclass(frozen=True, slots=True)
class DeliveryClaim:
    """A claimed delivery, with everything that it takes to send it. This process may send it while the lease holds.

    Attributes:
        ailing: whether deliveries to its place have used up their schedules lately.
        probe_id: the one delivery that may try the place, if that is unwell.
        probe_at: when the place is tried next, if it is unwell.
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
        """Return whether it must wait until its place is well again."""
        return self.probe_at is not None and self.probe_id != self.id


_none = sa.literal_column("0", sa.Integer)
_rows = DueRows(  # an app's first attempts are never kept waiting by its retries
    deliveries.c.next_attempt_at,
    returning=(deliveries.c.id,),
    ranks=(deliveries.c.attempts == _none, deliveries.c.attempts > _none),
)


def due(tx: sa.Connection, now: Millis, most: int) -> dict[str, int]:
    """Return how many deliveries each app has due, as `DueRows.count` does."""
    return _rows.count(tx, now, most)


def claim(tx: sa.Connection, now: Millis, until: Millis, lease: str, shares: Mapping[str, int]) -> list[DeliveryClaim]:
    """Claim of each app up to its share of due deliveries, as `DueRows.claim` does; first attempts before retries."""
    claimed = [delivery_id for (delivery_id,) in _rows.claim(tx, now, until, lease, shares)]
    if not claimed:
        return []
    return [DeliveryClaim(*row) for row in _CLAIMS.rows(tx, {"ids": claimed})]


_CLAIMS = Statement(  # the columns in the order of the fields of DeliveryClaim
    sa.select(
        deliveries.c.id,
        deliveries.c.lease,
        deliveries.c.webhook_id,
        deliveries.c.app_id,
        deliveries.c.watch_id,
        deliveries.c.host,
        deliveries.c.event_type,
        deliveries.c.attempts,
        deliveries.c.counted,
        targets.c.id,
        targets.c.type,
        targets.c.address,
        events.c.body,
        deliveries.c.created_at,
        deliveries.c.place,
        ailments.c.place.is_not(None),
        ailments.c.probe_id,
        ailments.c.probe_at,
    )
    .join(targets, targets.c.id == deliveries.c.target_id)
    .join(ailments, ailments.c.place == deliveries.c.place, isouter=True)
    .join(events, sa.and_(events.c.watch_id == deliveries.c.watch_id, events.c.key == deliveries.c.event_key))
    .where(among(deliveries.c.id, "ids"))
    .order_by(deliveries.c.id)
)


def next_due(tx: sa.Connection, without: Collection[str] = ()) -> Millis | None:
    """Return when the next delivery comes due, or its claim runs out; of all apps but some."""
    return _rows.next(tx, without)


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of a claim.

    Attributes:
        attempt: None if it was not sent after all, but put off or held.
        counted: attempts that count against the schedule, with this one if it counts.
        state: the new state of the delivery.
        next_attempt_at: None once it is settled. For one to be held: when it is due if its place is well by then.
        reason: why it is not delivered.
        exhausted: whether it has used up its schedule.
    """

    claim: DeliveryClaim
    attempt: Attempt | None
    counted: int
    state: DeliveryState
    next_attempt_at: Millis | None
    settled_at: Millis | None = None
    reason: str | None = None
    exhausted: bool = False


_LOCKED = Statement(
    sa.select(deliveries.c.id, deliveries.c.lease)
    .where(among(deliveries.c.id, "ids"))
    .order_by(deliveries.c.id)
    .with_for_update()
)
_PUT_OFF = Update(deliveries, where=("id",), columns=("next_attempt_at",), clears=("lease",))
_CHANGED = Update(
    deliveries,
    where=("id",),
    columns=("state", "reason", "attempts", "counted", "next_attempt_at", "settled_at"),
    clears=("lease",),
)


def record(tx: sa.Connection, tried: Sequence[Tried]) -> None:
    """Record what became of claims, of those that still hold. Of two results of one claim, the first counts."""
    rows = _LOCKED.rows(tx, {"ids": list({result.claim.id for result in tried})})
    leases: dict[str, str | None] = {delivery_id: lease for delivery_id, lease in rows}  # noqa: C416  # typed
    held: dict[str, Tried] = {}
    for result in tried:
        if leases.get(result.claim.id) == result.claim.lease:
            held.setdefault(result.claim.id, result)
    kept = _pending_where_well(tx, list(held.values()))
    attempted = [(result.claim, result.attempt) for result in kept if result.attempt]
    with together(tx):
        _save(tx, kept)
        announce_changes(tx, sorted({claim.watch_id for claim, _ in attempted}))
    if attempted:
        attempts.add(tx, [(claim.id, attempt) for claim, attempt in attempted])
        _show(tx, kept)
    for result in kept:
        if result.settled_at is not None:
            _consequences(tx, result, result.settled_at)


def _pending_where_well(tx: sa.Connection, tried: Sequence[Tried]) -> list[Tried]:
    """Return what is to be saved: what was to be held is pending if its place got well after the claim.

    Otherwise nothing would make it pending later.
    """
    places = {result.claim.place for result in tried if result.state is DeliveryState.HELD}
    unwell = target_health.unwell(tx, places) if places else set()
    return [
        replace(result, state=DeliveryState.PENDING, reason=None)
        if result.state is DeliveryState.HELD and result.claim.place not in unwell
        else result
        for result in tried
    ]


def _save(tx: sa.Connection, tried: Sequence[Tried]) -> None:
    """Write the new state of deliveries, and give up the claims."""
    put_off = [result for result in tried if result.attempt is None and result.state is DeliveryState.PENDING]
    _PUT_OFF.run(tx, [{"id": result.claim.id, "next_attempt_at": result.next_attempt_at} for result in put_off])
    changed = [result for result in tried if result.attempt is not None or result.state is not DeliveryState.PENDING]
    _CHANGED.run(tx, [_changes(result) for result in changed])


def _changes(result: Tried) -> dict[str, Any]:
    return {
        "id": result.claim.id,
        "state": str(result.state),
        "reason": result.reason,
        "attempts": result.attempt.number if result.attempt else result.claim.attempts,
        "counted": result.counted,
        "next_attempt_at": None if result.state is DeliveryState.HELD else result.next_attempt_at,
        "settled_at": result.settled_at,
    }


def _show(tx: sa.Connection, tried: Sequence[Tried]) -> None:
    """Have living messages show which deliveries are dead, and no longer those that succeeded after a retry."""
    news = {
        (result.claim.watch_id, result.claim.place): result.settled_at
        for result in tried
        if result.settled_at is not None and (result.state is DeliveryState.DEAD or result.claim.attempts)
    }
    if news:
        slack_messages.settled(tx, news.keys(), max(news.values()))


def _consequences(tx: sa.Connection, result: Tried, at: Millis) -> None:
    """Let a settled delivery have its effect on its target, and on the health of its place."""
    if result.attempt and result.attempt.outcome.ends_target:
        _end_target(tx, result.claim.target_id, at, result.reason)
    if result.claim.ailing and result.state is DeliveryState.DELIVERED:
        target_health.heal(tx, [result.claim.place], at)
        troubles.over(tx, [unwell_subject(result.claim.place)], at)
    got_unwell = result.exhausted and target_health.worsen(tx, result.claim.place, at)
    if result.claim.event_type in (*SINGLE_ATTEMPT, *ALERTS):  # no alert is about the places of alerts
        return
    if got_unwell:
        troubles.begin(tx, _trouble(result, EventType.TARGET_UNWELL, at), at)
    if result.state is DeliveryState.DEAD:
        troubles.begin(tx, _trouble(result, EventType.DELIVERY_DEAD, at), at)


def _trouble(result: Tried, kind: EventType, at: Millis) -> Trouble:
    """Return what the operator should know of a delivery that is dead, or of its place that is unwell."""
    claim = result.claim
    is_dead = kind is EventType.DELIVERY_DEAD
    outcome = result.attempt.outcome if result.attempt else None
    reason = result.reason or "it was not delivered"
    return Trouble(
        dead_subject(claim.place) if is_dead else unwell_subject(claim.place),
        kind,
        at,
        f"a delivery to {claim.host} is dead: {reason}"
        if is_dead
        else f"{claim.host} has failed for a day; its deliveries are held, and one an hour is tried: {reason}",
        f"see what {claim.host} answers, then send the delivery again (dashboard, POST /v1/deliveries/retry)"
        if is_dead
        else f"see what {claim.host} answers; what is held goes out once it is well",
        {
            "app_id": claim.app_id,
            "host": claim.host,
            "place": claim.place,
            "watch_id": claim.watch_id,
            "delivery_id": claim.id,
            "event_type": claim.event_type,
            "status": outcome.status if outcome else None,
            "error": outcome.error if outcome else None,
        },
    )


def _end_target(tx: sa.Connection, target_id: str, at: Millis, reason: str | None) -> None:
    """End a target: relay sends nothing more to it. Its pending deliveries are dead, and can be sent again."""
    c = deliveries.c
    tx.execute(sa.update(targets).where(targets.c.id == target_id).values(ended_at=at, ended_why=reason))
    tx.execute(
        sa.update(deliveries)
        .where(c.target_id == target_id, c.state == DeliveryState.PENDING)
        .values(state=DeliveryState.DEAD, reason=reason, next_attempt_at=None, lease=None, settled_at=at)
    )
