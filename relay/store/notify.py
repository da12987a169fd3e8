"""Waking other processes at once, where PostgreSQL's LISTEN/NOTIFY reaches them.

It is a courtesy: behind a pooler such as PgBouncer, or on SQLite, nobody listens, and the next look at the database
finds what is due.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import psycopg
import sqlalchemy as sa
import structlog

log = structlog.stdlib.get_logger(__name__)

CHANNEL = "relay"
POLL, DELIVER = "poll", "deliver"
CHANGED = "changed"
MAX_IDS = 200
"""Ids in one notice, which may have 8,000 bytes."""
FIRST_PAUSE, MAX_PAUSE = 1.0, 30.0


def announce(tx: sa.Connection, what: str, wait: float = 0.0) -> None:
    """Says, when this transaction commits, that something comes due in `wait` seconds."""
    if tx.dialect.name == "postgresql":
        tx.execute(sa.select(sa.func.pg_notify(CHANNEL, f"{what} {max(0.0, wait):.3f}")))


def announce_changes(tx: sa.Connection, ids: Sequence[str]) -> None:
    """Says, when this transaction commits, which watches are no longer what they were."""
    if tx.dialect.name == "postgresql":
        for first in range(0, len(ids), MAX_IDS):
            notice = " ".join((CHANGED, *ids[first : first + MAX_IDS]))
            tx.execute(sa.select(sa.func.pg_notify(CHANNEL, notice)))


async def listen(url: str, due: Callable[[str, float], None], changed: Callable[[Sequence[str]], None]) -> None:
    """Calls `due` with what was announced and in how many seconds it comes due, `changed` with ids of watches.

    It outlives the database.

    It ends where a pooler stands in between.
    """
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
                    what, _, rest = notice.payload.partition(" ")
                    if what == CHANGED:
                        changed(rest.split())
                    else:
                        due(what, float(rest or 0))
        except (psycopg.Error, OSError, ValueError) as error:
            log.debug("not listening", error=type(error).__name__, again_in=pause)
            await asyncio.sleep(pause)
            pause = min(MAX_PAUSE, pause * 2)


async def _pooled(connection: psycopg.AsyncConnection) -> bool:
    """Whether the session belongs to a pooler, which would LISTEN for nobody and warn of every notice.

    A pooler gives its clients process ids of its own making, since the server's process changes under them.
    """
    answer = await (await connection.execute("SELECT pg_backend_pid()")).fetchone()
    return answer is not None and answer[0] != connection.info.backend_pid
