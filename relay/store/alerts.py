"""Alerts: events that tell the operator of troubles, in the outbox like all others.

They belong to an app of their own, with one watch that is never polled and has the places of RELAY_ALERTS as targets.
So they are signed, retried, shown and sent again as any event. Each function is the inside of one transaction.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson
import sqlalchemy as sa

from relay.model.delivery import DeliveryState
from relay.model.event import ALERTS, AlertData, Event, EventType, event_body
from relay.model.ids import derived_id
from relay.model.times import Millis, rfc3339
from relay.model.watch import State
from relay.store.apps import ALERTS_APP
from relay.store.registrations import NewTarget, target_row
from relay.store.schema import NEVER_ENDED, AnyRow, apps, deliveries, events, targets, watches
from relay.store.shared_schema import troubles
from relay.store.telling import Told, tell

EVERY: Millis = 3_600_000
"""Milliseconds between two alerts that the same subject has got into trouble, at least."""

BATCH = 100
"""Troubles that one transaction tells."""


def declare(tx: sa.Connection, app_id: str, given: Sequence[NewTarget], now: Millis) -> None:
    """Make the watch that alerts belong to, and give it these targets in place of those it had."""
    watch_id = derived_id("wch", app_id, "alerts")
    if not tx.execute(sa.select(watches.c.id).where(watches.c.id == watch_id)).first():
        row = {
            "id": watch_id,
            "app_id": app_id,
            "provider": "relay",
            "task_id": "alerts",
            "state": str(State.CANCELLED),
            "metadata": "{}",
            "wants_progress": False,
            "created_at": now,
            "expires_at": now,
            "ended_at": NEVER_ENDED,
            **dict.fromkeys(("polls", "misses", "unknowns", "bares", "changes"), 0),
        }
        tx.execute(sa.insert(watches).values(row))
    t = targets.c
    wanted = {target.fingerprint: target for target in given}
    present = {bytes(row.fingerprint): row.id for row in tx.execute(sa.select(targets).where(t.watch_id == watch_id))}
    gone = [target_id for fingerprint, target_id in present.items() if fingerprint not in wanted]
    tx.execute(sa.delete(targets).where(t.id.in_(gone)))
    tx.execute(sa.update(targets).where(t.watch_id == watch_id).values(ended_at=None, ended_why=None))
    for target in wanted.values():
        if target.fingerprint not in present:
            tx.execute(sa.insert(targets).values(target_row(watch_id, target) | {"events": ",".join(ALERTS)}))


def tell_operator(tx: sa.Connection, now: Millis) -> Told:
    """Tell the troubles that began, each subject at most once an hour, and the ends of those that were told."""
    c = troubles.c
    rested = sa.or_(c.told_at.is_(None), c.told_at <= now - EVERY, c.told_at > now)
    begun = sa.and_(c.over_at.is_(None), c.told.is_(False), rested)
    ended = sa.and_(c.over_at.is_not(None), c.told.is_(True))
    due = sa.select(troubles).where(sa.or_(begun, ended)).order_by(c.subject).limit(BATCH)
    rows = tx.execute(due).all()
    home = tx.execute(_HOME).first() if rows else None
    if home is None:
        return Told()
    locked = {row.subject: row for row in tx.execute(due.with_for_update(skip_locked=True))}
    for subject, row in locked.items():
        change = sa.update(troubles).where(c.subject == subject)
        is_over = row.over_at is not None
        tx.execute(change.values(told=not is_over, told_at=row.told_at if is_over else now))
    return tell(tx, [(home.id, home.app_id, _alert(row, now)) for row in locked.values()])


_HOME = (
    sa.select(watches.c.id, watches.c.app_id)
    .join(apps, apps.c.id == watches.c.app_id)
    .where(apps.c.name == ALERTS_APP, watches.c.task_id == "alerts", apps.c.disabled_at.is_(None))
    .where(sa.exists().where(targets.c.watch_id == watches.c.id))
    .limit(1)
)
"""The watch that alerts belong to, if there is one to tell."""


def _alert(row: AnyRow, now: Millis) -> Event:
    state = "unwell" if row.over_at is None else "well"
    data = AlertData(
        state="unwell" if row.over_at is None else "well",
        subject=row.subject,
        since=rfc3339(row.since),
        message=row.message,
        remedy=row.remedy,
        detail=orjson.loads(row.detail),
    )
    kind = EventType(row.type)
    return Event(kind, f"{state}:{row.subject}:{now}", now, event_body(kind, now, data))


def forget(tx: sa.Connection, before: Millis, now: Millis) -> None:
    """Delete troubles that are over and told, and the alerts that were settled before a time."""
    c = troubles.c
    rested = sa.or_(c.told_at.is_(None), c.told_at <= now - EVERY)
    tx.execute(sa.delete(troubles).where(c.over_at.is_not(None), c.told.is_(False), rested))
    home = tx.execute(sa.select(watches.c.id).join(apps).where(apps.c.name == ALERTS_APP).limit(1)).scalar()
    if home is None:
        return
    d, e = deliveries.c, events.c
    settled = d.state.in_([DeliveryState.DELIVERED, DeliveryState.DEAD])
    tx.execute(sa.delete(deliveries).where(d.watch_id == home, settled, d.created_at < before))
    left = sa.exists().where(d.watch_id == e.watch_id, d.event_key == e.key)
    tx.execute(sa.delete(events).where(e.watch_id == home, e.at < before, ~left))
