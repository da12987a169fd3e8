"""The one way into the database: a function of this package, run as one transaction in a thread.

`await db.run(polling.claim, …)` calls `polling.claim(tx, …)` between BEGIN and COMMIT. SQLAlchemy Core is used without
its asyncio layer: a hop to a thread per transaction is cheaper than one per statement, and the queries are plain
functions, the same for SQLite and PostgreSQL. Every such function may run again: when a connection breaks, its work
is undone, or the second run finds it done.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import NullPool, QueuePool

from relay.errors import ConfigError, StoreUnavailable
from relay.store import driver_errors, sqlite_file
from relay.store.outage import Outage

P = ParamSpec("P")
T = TypeVar("T")

RETRIES = 3
"""How often a transaction is tried when another one got in its way or its connection was stale."""

CONNECT: dict[str, int | str | None] = {
    # No prepared statements: behind PgBouncer in transaction mode they belong to the connection of another client.
    "prepare_threshold": None,
    "client_encoding": "UTF8",  # not the server's default: a text may have any letter
    "connect_timeout": 5,
    "tcp_user_timeout": 10_000,
}


def _sqlite(url: sa.URL, begin: str, cache: int) -> sa.Engine:
    """Return an engine with one connection to a SQLite file.

    Args:
        begin: starts its transactions.
        cache: how many MB of pages it keeps. The system keeps the file, too, so more would only take memory.
    """
    engine = sa.create_engine(
        url.set(drivername="sqlite+pysqlite"),
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=0,
        hide_parameters=True,  # the text of an error is logged
        connect_args={"check_same_thread": False, "timeout": 10.0},
    )
    sa.event.listen(engine, "connect", partial(_set_up_sqlite, cache))
    sa.event.listen(engine, "begin", lambda tx: tx.exec_driver_sql(begin))
    return engine


def _connect_args(url: sa.URL) -> dict[str, Any]:
    return {name: value for name, value in CONNECT.items() if name not in url.query}


def beside(engine: sa.Engine) -> sa.Engine:
    """Return an engine to the same PostgreSQL that keeps no connection, and has no limits of time."""
    return sa.create_engine(
        engine.url, poolclass=NullPool, hide_parameters=True, connect_args=_connect_args(engine.url)
    )


def _postgresql(url: sa.URL, pool: int) -> sa.Engine:
    engine = sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_size=pool,
        max_overflow=1,  # for the heartbeat, whose thread must not wait for the others
        pool_timeout=10.0,
        hide_parameters=True,
        connect_args=_connect_args(url),
    )
    # Per transaction, since PgBouncer keeps no session. A lock that cannot be had is an outage, not a wait for ever.
    # What relay reads is in memory mostly: a thousand rows by their index cost less than the whole table.
    limits = "SET LOCAL lock_timeout = '5s'; SET LOCAL statement_timeout = '30s'; SET LOCAL random_page_cost = 1.1"
    sa.event.listen(engine, "begin", lambda tx: tx.exec_driver_sql(limits))
    sa.event.listen(engine, "handle_error", driver_errors.leave_standby)
    return engine


def _set_up_sqlite(cache: int, connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    # FULL: what was answered with 2xx survives a power cut. INCREMENTAL: the file can give back pruned pages.
    # secure_delete: what was deleted, or replaced, is overwritten. It costs nothing that can be measured.
    # wal_autocheckpoint: 16 MB. At SQLite's 4 MB a busy process copies the same pages into the file twice a second,
    # and syncs it, while saves wait.
    for pragma in (
        "auto_vacuum=INCREMENTAL",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "secure_delete=ON",
        f"cache_size=-{cache * 1024}",
        "wal_autocheckpoint=4000",
    ):
        connection.execute(f"PRAGMA {pragma}")


class Database:
    """Runs transactions.

    Args:
        url: `sqlite:///file`, `postgres://…` or `postgresql://…`.
        pool: connections per process to PostgreSQL.

    Attributes:
        outage: whether the database has been away lately.
    """

    def __init__(self, url: str, pool: int = 4) -> None:
        parsed = sa.make_url(url.replace("postgres://", "postgresql://", 1))
        self.url = parsed.set(drivername=parsed.get_backend_name()).render_as_string(hide_password=False)
        self.outage = Outage()
        self.embedded = parsed.get_backend_name() == "sqlite"
        if self.embedded:
            sqlite_file.prepare(Path(str(parsed.database)))
            # IMMEDIATE, because with the driver's own BEGIN two writers can both read, and then overwrite each other.
            self.engine = _sqlite(parsed, "BEGIN IMMEDIATE", cache=16)
            # SQLite has one writer at a time and reads beside it: a long list must not delay the polls.
            self._read_engine = _sqlite(parsed, "BEGIN", cache=4)
            self._threads = ThreadPoolExecutor(1, thread_name_prefix="database")
            self._read_threads = ThreadPoolExecutor(1, thread_name_prefix="reader")
        else:
            self.engine = self._read_engine = _postgresql(parsed, pool)
            self._threads = self._read_threads = ThreadPoolExecutor(pool, thread_name_prefix="database")

    async def run(self, function: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function(tx, *args, **kwargs)` as one transaction, which is committed when this returns.

        Raises:
            StoreUnavailable: the database does not answer, or refuses. Nothing was kept, or a second run finds it done.
        """
        result = await self._in_thread(self._threads, self.engine, function, *args, **kwargs)
        self.outage.wrote()
        return result

    async def read(self, function: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function that only reads, as `run` does."""
        return await self._in_thread(self._read_threads, self._read_engine, function, *args, **kwargs)

    async def persist(
        self, function: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a function as `run` does, and again for as long as the database is away: its result must not be lost."""
        pause = 0.1
        while True:
            try:
                return await self.run(function, *args, **kwargs)
            except StoreUnavailable:
                await asyncio.sleep(pause)
                pause = min(2.0, pause * 2)

    def run_here(self, function: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function as `run` does, in the calling thread."""
        return self._transact(self.engine, function, *args, **kwargs)

    async def _in_thread(
        self,
        threads: ThreadPoolExecutor,
        engine: sa.Engine,
        function: Callable[Concatenate[sa.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        call = partial(self._transact, engine, function, *args, **kwargs)
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, call)
        except StoreUnavailable as error:
            self.outage.failed(error.detail, no_room=driver_errors.found_no_room(error.__cause__))
            raise

    @staticmethod
    def _transact(
        engine: sa.Engine, function: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        for tries_left in reversed(range(RETRIES)):
            try:
                with engine.begin() as tx:
                    return function(tx, *args, **kwargs)
            except IntegrityError:  # two processes inserted the same: the second try finds the first's row
                if not tries_left:
                    raise
            except (DBAPIError, PoolTimeout) as error:
                if driver_errors.code(error) == "SQLITE_NOTADB":
                    raise ConfigError(f"DATABASE_URL: '{engine.url.database}' is not a SQLite database") from None
                if not driver_errors.is_outage(error):
                    raise
                stale = isinstance(error, DBAPIError) and error.connection_invalidated
                if not tries_left or not (stale or driver_errors.lost_a_race(error)):
                    raise StoreUnavailable(driver_errors.reason(error), retry_after=random.uniform(1, 3)) from error  # noqa: S311
        raise AssertionError("unreachable")

    async def aclose(self) -> None:
        """Wait for the transactions under way, and close every connection."""
        await asyncio.get_running_loop().run_in_executor(None, self.close)

    def close(self) -> None:
        """Do what `aclose` does, in the calling thread."""
        for threads in (self._threads, self._read_threads):
            threads.shutdown()
        for engine in (self.engine, self._read_engine):
            engine.dispose()
