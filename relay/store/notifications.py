"""Wake-ups of the loops that claim due rows: in this process by a call, in others by PostgreSQL's LISTEN/NOTIFY.

They save time, but nothing depends on them. Behind a pooler such as PgBouncer, or on SQLite, no notice arrives, and the
loops find at their next run what is due.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa
import structlog

from relay.store import hot

if TYPE_CHECKING:
    import psycopg

log = structlog.stdlib.get_logger(__name__)

CHANNEL = "relay"
POLL, DELIVER, EDIT, ERASE = "poll", "deliver", "edit", "erase"
CHANGED = "changed"
MAX_IDS = 200
"""Ids in one notice. PostgreSQL allows 8,000 bytes."""

FIRST_PAUSE = 1.0
MAX_PAUSE = 30.0
"""Seconds before a lost connection is opened again: at first, and after many failures."""


class Wake:
    """Wakes the loops of this process: each runs after `wait` seconds at the latest.

    Args:
        wake: runs the loop of a name after so many seconds.
    """

    def __init__(self, wake: Callable[[str, float], None]) -> None:
        self._wake = wake

    def polls(self, wait: float = 0.0) -> None:
        """Claim watches that are due."""
        self._wake(POLL, wait)

    def deliveries(self, wait: float = 0.0) -> None:
        """Claim deliveries that are due."""
        self._wake(DELIVER, wait)

    def edits(self, wait: float = 0.0) -> None:
        """Claim Slack messages that are due."""
        self._wake(EDIT, wait)

    def erasures(self, wait: float = 0.0) -> None:
        """Claim the Slack messages of erased watches."""
        self._wake(ERASE, wait)


_notify = hot.Statement(sa.select(sa.func.pg_notify(CHANNEL, sa.bindparam("notice", type_=sa.Text()))))


def announce(tx: sa.Connection, loop: str, wait: float = 0.0) -> None:
    """Notify other processes, when this transaction commits, that a row comes due in `wait` seconds."""
    if tx.dialect.name == "postgresql":
        _notify.run(tx, {"notice": f"{loop} {max(0.0, wait):.3f}"})


def announce_changes(tx: sa.Connection, ids: Sequence[str]) -> None:
    """Notify other processes, when this transaction commits, that these watches have changed."""
    if tx.dialect.name == "postgresql":
        for first in range(0, len(ids), MAX_IDS):
            _notify.run(tx, {"notice": " ".join((CHANGED, *ids[first : first + MAX_IDS]))})


async def listen(url: str, due: Callable[[str, float], None], changed: Callable[[Sequence[str]], None]) -> None:
    """Listen to the notices of other processes, and connect again after an outage of the database.

    Return if the connection goes through a pooler, because no notice would arrive.

    Args:
        due: called with the name of a loop, and the seconds until a row comes due for it.
        changed: called with the ids of watches that have changed.
    """
    import psycopg  # which a process with SQLite does not need

    pause = FIRST_PAUSE
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(
                url, autocommit=True, prepare_threshold=None, connect_timeout=5
            ) as connection:
                if await _pooled(connection):
                    log.info("a pooler is in between: nothing is announced, each process looks once a second")
                    return
                await connection.execute(f"LISTEN {CHANNEL}")
                pause = FIRST_PAUSE
                async for notice in connection.notifies():
                    word, _, rest = notice.payload.partition(" ")
                    if word == CHANGED:
                        changed(rest.split())
                    else:
                        due(word, float(rest or 0))
        except (psycopg.Error, OSError, ValueError) as error:
            log.debug("not listening", error=type(error).__name__, again_in=pause)
            await asyncio.sleep(pause)
            pause = min(MAX_PAUSE, pause * 2)


async def _pooled(connection: psycopg.AsyncConnection) -> bool:
    """Return whether the connection goes through a pooler, where LISTEN has no effect.

    A pooler gives its clients process ids of its own, since a client's server process changes.
    """
    row = await (await connection.execute("SELECT pg_backend_pid()")).fetchone()
    return row is not None and row[0] != connection.info.backend_pid
