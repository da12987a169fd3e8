"""Cleanup: delete watches that ended long ago in small batches, leave nothing of them, and return the space."""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import sqlalchemy as sa

from relay.errors import StoreUnavailable
from relay.model.delivery import DeliveryState
from relay.model.times import Millis
from relay.store import usage
from relay.store.database import Database
from relay.store.outbox import END
from relay.store.schema import NEVER_ENDED, changes, deliveries, events, messages, watches

PATIENCE = 200
"""Milliseconds for which the log of a SQLite file is locked at most while it is emptied: others may still read it."""

PAGES = 2000
"""Free pages of a SQLite file that are returned to the disk at a time."""


SLICE = 500
"""Deliveries, events or changes that one transaction deletes, at most: a watch may have 100,000 of them."""


def prune(tx: sa.Connection, before: Millis, most: int) -> int:
    """Delete up to `most` watches that ended before a time, with all that belongs to them. Return how many.

    There may be more: one transaction deletes no more than a slice, or else one watch.
    """
    ids = _ended_before(tx, before, most)
    if not ids:
        return 0
    d = deliveries.c
    sizes = sa.select(d.watch_id, sa.func.count()).where(d.watch_id.in_(ids)).group_by(d.watch_id)
    size_of = {row[0]: row[1] for row in tx.execute(sizes)}
    sums = list(accumulate(size_of.get(watch_id, 0) for watch_id in ids))
    chosen = ids[: max(1, bisect_right(sums, SLICE))]
    usage.lock(tx, set(tx.execute(sa.select(watches.c.app_id).where(watches.c.id.in_(chosen))).scalars()))
    return tx.execute(sa.delete(watches).where(watches.c.id.in_(chosen))).rowcount


def thin_old(tx: sa.Connection, before: Millis, most: int) -> bool:
    """Do what `thin` does, to the watches that `prune` would delete."""
    return thin(tx, _ended_before(tx, before, most))


def thin(tx: sa.Connection, watch_ids: Sequence[str]) -> bool:
    """Delete a slice of what watches have beside their ends, so that they can be deleted in a moment themselves.

    Returns:
        Whether there may be more.
    """
    for table, key in (
        (deliveries, (deliveries.c.id,)),
        (events, (events.c.watch_id, events.c.key)),
        (changes, (changes.c.watch_id, changes.c.number)),
    ):
        rows = sa.select(*key).where(table.c.watch_id.in_(watch_ids)).limit(SLICE)
        if table is deliveries:
            rows = rows.where(deliveries.c.event_key != END)
        if table is events:
            rows = rows.where(events.c.key != END)
        if tx.execute(sa.delete(table).where(sa.tuple_(*key).in_(rows))).rowcount == SLICE:
            return True
    return False


def _ended_before(tx: sa.Connection, before: Millis, most: int) -> list[str]:
    """Return up to `most` watches that ended before a time, locked, the longest ago first.

    A watch that still has something to deliver stays, and so does one whose message is being edited.
    """
    c = watches.c
    undelivered = sa.exists().where(
        deliveries.c.watch_id == c.id, deliveries.c.state.in_([DeliveryState.PENDING, DeliveryState.HELD])
    )
    # Where a message is missing at its save, its watch was erased: see slack_messages.save.
    edited = sa.exists().where(messages.c.watch_id == c.id, messages.c.lease.is_not(None))
    long_ago = c.ended_at.between(NEVER_ENDED + 1, before - 1)
    old = sa.select(c.id).where(long_ago, ~undelivered, ~edited).order_by(c.ended_at).limit(most)
    return list(tx.execute(old.with_for_update(skip_locked=True)).scalars())


def shrink(tx: sa.Connection) -> None:
    """Return free pages of a SQLite file to the disk. PostgreSQL needs no help, because it has autovacuum."""
    if tx.dialect.name == "sqlite":
        # As a script, because the pragma frees one page per step, and only a script runs all steps.
        cursor = tx.connection.cursor()
        cursor.executescript(f"PRAGMA incremental_vacuum({PAGES})")
        cursor.close()


def empty_log(tx: sa.Connection) -> bool:
    """Empty the log of a SQLite file (WAL), which still holds what was erased. Return whether it is empty.

    While another connection reads it, it cannot be emptied, and the next call does that. PostgreSQL's log is not ours.
    """
    if tx.dialect.name != "sqlite":
        return True
    cursor = tx.connection.cursor()
    cursor.execute("COMMIT")  # no part of a transaction
    (patience,) = cursor.execute("PRAGMA busy_timeout").fetchone()
    cursor.execute(f"PRAGMA busy_timeout={PATIENCE}")
    try:
        busy, *_ = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        cursor.execute(f"PRAGMA busy_timeout={patience}")
        cursor.close()
    return not busy


async def empty_logs(db: Database, asked: Sequence[None]) -> Sequence[None]:
    """Empty the log once for all who asked, if that can be done now. If not, upkeep does it."""
    with contextlib.suppress(StoreUnavailable):
        await db.run(empty_log)
    return asked
