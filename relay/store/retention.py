"""Forgetting what ended long ago, in small batches, and giving the space back."""

from __future__ import annotations

import sqlalchemy as sa

from relay.model import DeliveryState, Millis
from relay.store.schema import deliveries, watches

PAGES = 2000
"""Free pages of a SQLite file that are given back in one go."""


def prune(tx: sa.Connection, before: Millis, most: int) -> int:
    """Removes up to `most` watches that ended before a time, with all that belongs to them; returns how many.

    One that still has something to deliver stays.
    """
    c = watches.c
    open_ = sa.exists().where(
        deliveries.c.watch_id == c.id, deliveries.c.state.in_([DeliveryState.PENDING, DeliveryState.HELD])
    )
    old = sa.select(c.id).where(c.ended_at < before, ~open_).order_by(c.ended_at).limit(most)
    ids = list(tx.execute(old.with_for_update(skip_locked=True)).scalars())
    if not ids:
        return 0
    return tx.execute(sa.delete(watches).where(c.id.in_(ids))).rowcount


def shrink(tx: sa.Connection) -> None:
    """Gives free pages of a SQLite file back to the disk; PostgreSQL's autovacuum does so by itself."""
    if tx.dialect.name == "sqlite":
        # A script, because the pragma gives back one page per step, and only a script is stepped to its end.
        cursor = tx.connection.cursor()
        cursor.executescript(f"PRAGMA incremental_vacuum({PAGES})")
        cursor.close()
