"""What one delivery sends: its event, its target and its attempts, of whichever app it is."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from relay.errors import NotFound
from relay.store import deliveries as replay
from relay.store.deliveries import StoredDelivery
from relay.store.schema import AnyRow, apps, deliveries, events, targets, watches


@dataclass(frozen=True, slots=True)
class Sent:
    """A delivery with all that is sent.

    Attributes:
        row: the body of the event, the target's type and address, the task, and the name of the app.
    """

    delivery: StoredDelivery
    row: AnyRow


def read(tx: sa.Connection, delivery_id: str) -> Sent:
    """Return a delivery of any app.

    Raises:
        NotFound: there is no delivery of that id.
    """
    d = deliveries.c
    event = sa.and_(events.c.watch_id == d.watch_id, events.c.key == d.event_key)
    row = tx.execute(
        sa.select(
            d.app_id,
            d.target_id,
            d.place,
            d.host,
            events.c.body,
            targets.c.type,
            targets.c.address,
            watches.c.task_id,
            watches.c.provider,
            apps.c.name.label("app"),
        )
        .join(events, event)
        .join(targets, targets.c.id == d.target_id)
        .join(watches, watches.c.id == d.watch_id)
        .join(apps, apps.c.id == d.app_id)
        .where(d.id == delivery_id)
    ).first()
    if row is None:
        raise NotFound(f"there is no delivery '{delivery_id[:64]}'")
    return Sent(replay.read(tx, row.app_id, delivery_id), row)
