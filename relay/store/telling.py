"""Telling: writes events and, for each target that wants one, its delivery, which may be claimed at once.

Each function is the inside of one transaction: the one that ends the watch.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa

from relay.model.delivery import DeliveryState
from relay.model.event import Event
from relay.model.ids import derived_id, new_id
from relay.model.times import Millis
from relay.store.due import Allotment
from relay.store.hot import Insert, Statement, among, together
from relay.store.notifications import DELIVER, announce
from relay.store.outbox import BATCH, END, DeliveryClaim
from relay.store.schema import AnyRow, ailments, apps, deliveries, events, targets, watches


@dataclass(frozen=True, slots=True)
class Told:
    """The deliveries of new events.

    Attributes:
        made: how many there are.
        waiting: how many of them are due, and not claimed yet.
        claims: those of them that are claimed already.
    """

    made: int = 0
    waiting: int = 0
    claims: Sequence[DeliveryClaim] = ()


class _ToTell(NamedTuple):
    """A target of a watch with a new event, and what a claim has to know of its place and of its app."""

    id: str
    watch_id: str
    type: str
    address: bytes
    place: str
    host: str
    events: str
    ended_at: Millis | None
    ended_why: str | None
    ailing: bool
    probe_id: str | None
    probe_at: Millis | None
    disabled_at: Millis | None


_TARGETS = Statement(  # the columns in the order of the fields of _ToTell
    sa.select(
        targets.c.id,
        targets.c.watch_id,
        targets.c.type,
        targets.c.address,
        targets.c.place,
        targets.c.host,
        targets.c.events,
        targets.c.ended_at,
        targets.c.ended_why,
        ailments.c.place.is_not(None),
        ailments.c.probe_id,
        ailments.c.probe_at,
        apps.c.disabled_at,
    )
    .join(watches, watches.c.id == targets.c.watch_id)
    .join(apps, apps.c.id == watches.c.app_id)
    .join(ailments, ailments.c.place == targets.c.place, isouter=True)
    .where(among(targets.c.watch_id, "watches"))
)
_NEW_EVENTS = Insert(events, ("watch_id", "key", "type", "at", "body"))
_NEW_DELIVERIES = Insert(
    deliveries,
    (
        "id",
        "webhook_id",
        "app_id",
        "watch_id",
        "target_id",
        "event_key",
        "event_type",
        "place",
        "host",
        "state",
        "reason",
        "attempts",
        "counted",
        "next_attempt_at",
        "lease",
        "created_at",
        "settled_at",
    ),
)


def tell(tx: sa.Connection, new: Sequence[tuple[str, str, Event]], allotment: Allotment | None = None) -> Told:
    """Write events and, for each target that wants one, its delivery, which is claimed if there is a place for it.

    The same transaction ends the watch, so that there is never one without the other.

    Args:
        new: (watch id, app id, event).
        allotment: how many deliveries of each app may be claimed.
    """
    if not new:
        return Told()
    rows = [
        {"watch_id": watch_id, "key": event.key, "type": str(event.type), "at": event.at, "body": event.body}
        for watch_id, _, event in new
    ]
    of_watch: defaultdict[str, list[_ToTell]] = defaultdict(list)
    found = _TARGETS.rows(tx, {"watches": [watch_id for watch_id, *_ in new]})
    for target in sorted(_ToTell(*row) for row in found):
        of_watch[target.watch_id].append(target)
    made: list[dict[str, Any]] = []
    claims: list[DeliveryClaim] = []
    left = Counter(allotment.shares if allotment else {})
    for watch_id, app_id, event in new:
        for target in of_watch[watch_id]:
            if event.type not in target.events.split(","):
                continue
            delivery = _new_delivery(app_id, target, event.key, event.type, event.at)
            made.append(delivery)
            if allotment and left[app_id] > 0 and target.ended_at is None and target.disabled_at is None:
                left[app_id] -= 1
                delivery |= {"next_attempt_at": allotment.until, "lease": allotment.lease}
                claims.append(_claimed(delivery, target, event.body))
    with together(tx):
        _NEW_EVENTS.run(tx, rows)
        _send_out(tx, made)
    waiting = sum(delivery["state"] == DeliveryState.PENDING for delivery in made) - len(claims)
    return Told(len(made), waiting, claims)


def _claimed(delivery: Mapping[str, Any], target: _ToTell, body: bytes) -> DeliveryClaim:
    """Return the claim of a delivery that is written with it."""
    return DeliveryClaim(
        id=delivery["id"],
        lease=delivery["lease"],
        webhook_id=delivery["webhook_id"],
        app_id=delivery["app_id"],
        watch_id=delivery["watch_id"],
        host=delivery["host"],
        event_type=delivery["event_type"],
        attempts=0,
        counted=0,
        target_id=target.id,
        target_type=target.type,
        address=target.address,
        body=body,
        created_at=delivery["created_at"],
        place=delivery["place"],
        ailing=target.ailing,
        probe_id=target.probe_id,
        probe_at=target.probe_at,
    )


def tell_late(tx: sa.Connection, target_ids: Sequence[str], now: Millis) -> None:
    """Write deliveries of the end to targets that were added after it."""
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
        _NEW_DELIVERIES.run(tx, made)
    if any(delivery["lease"] is None for delivery in made):
        announce(tx, DELIVER)


def _new_delivery(app_id: str, target: AnyRow | _ToTell, key: str, event_type: str, at: Millis) -> dict[str, Any]:
    """Return the row of a new delivery. One to a target that has ended is dead, and can be sent again."""
    is_open = target.ended_at is None
    return {
        "id": new_id("dlv"),
        "webhook_id": derived_id("evt", target.watch_id, target.id, key),
        "app_id": app_id,
        "watch_id": target.watch_id,
        "target_id": target.id,
        "event_key": key,
        "event_type": str(event_type),
        "place": target.place,
        "host": target.host,
        "state": str(DeliveryState.PENDING if is_open else DeliveryState.DEAD),
        "reason": target.ended_why,
        "attempts": 0,
        "counted": 0,
        "next_attempt_at": at if is_open else None,
        "lease": None,
        "created_at": at,
        "settled_at": None if is_open else at,
    }
