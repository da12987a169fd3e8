"""The one way into the database: a function of this package, run as one transaction in a thread.

`await db.run(polling.claim, …)` calls `polling.claim(tx, …)` between BEGIN and COMMIT. SQLAlchemy Core is used without
its asyncio layer: a hop to a thread per transaction is cheaper than one per statement, and the queries are plain
functions, the same for SQLite and PostgreSQL. Every such function may be run again: what it did before a connection
broke is either undone or found done.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import DatabaseError, DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import QueuePool

from relay.errors import ConfigError, StoreUnavailable

log = structlog.stdlib.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

RETRIES = 3
"""Times that a transaction is tried when another one got in its way or its connection had gone stale."""


def _sqlite(url: sa.URL, begin: str) -> sa.Engine:
    """One connection to a SQLite file, whose transactions start with `begin`."""
    engine = sa.create_engine(
        url.set(drivername="sqlite+pysqlite"),
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=0,
        hide_parameters=True,  # in the text of an error, which is logged
        connect_args={"check_same_thread": False, "timeout": 10.0},
    )
    sa.event.listen(engine, "connect", _set_up_sqlite)
    sa.event.listen(engine, "begin", lambda tx: tx.exec_driver_sql(begin))
    return engine


def _postgresql(url: sa.URL, pool: int) -> sa.Engine:
    engine = sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_size=pool,
        max_overflow=0,
        pool_timeout=10.0,
        hide_parameters=True,
        # No prepared statements: behind PgBouncer in transaction mode they belong to somebody else's connection.
        connect_args={"prepare_threshold": None, "connect_timeout": 5, "tcp_user_timeout": 10_000},
    )
    # Per transaction, since PgBouncer keeps no session: a lock that is not to be had is an outage, not a wait for ever.
    limits = "SET LOCAL lock_timeout = '5s'; SET LOCAL statement_timeout = '30s'"
    sa.event.listen(engine, "begin", lambda tx: tx.exec_driver_sql(limits))
    return engine


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    # FULL: what was answered with 2xx survives a power cut. Incremental: pruned pages can be given back.
    for pragma in (
        "auto_vacuum=INCREMENTAL",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "cache_size=-65536",
    ):
        connection.execute(f"PRAGMA {pragma}")


class Database:
    """Runs transactions.

    Args:
        url: `sqlite:///file` or `postgres://…`, whatever dialect of it a platform hands out.
        pool: connections per process to PostgreSQL.
    """

    def __init__(self, url: str, pool: int = 4) -> None:
        parsed = sa.make_url(url.replace("postgres://", "postgresql://", 1))
        self.url = parsed.set(drivername=parsed.get_backend_name()).render_as_string(hide_password=False)
        self.embedded = parsed.get_backend_name() == "sqlite"
        if self.embedded:
            # IMMEDIATE, because with the driver's own BEGIN two writers can each read and then overwrite the other.
            self.engine = _sqlite(parsed, "BEGIN IMMEDIATE")
            # SQLite has one writer at a time but reads beside it: a long list must not hold up the polls.
            self._read_engine = _sqlite(parsed, "BEGIN")
            self._threads = ThreadPoolExecutor(1, thread_name_prefix="database")
            self._read_threads = ThreadPoolExecutor(1, thread_name_prefix="reader")
        else:
            self.engine = self._read_engine = _postgresql(parsed, pool)
            self._threads = self._read_threads = ThreadPoolExecutor(pool, thread_name_prefix="database")

    async def run(self, function: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`function(tx, *args, **kwargs)` as one transaction, committed when this returns.

        Raises:
            StoreUnavailable: the database does not answer. Nothing was kept, or it will be found done.
        """
        call = partial(self._transact, self.engine, function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def read(self, function: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `run`, for a function that only reads."""
        call = partial(self._transact, self._read_engine, function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._read_threads, call)

    async def persist(
        self, function: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `run`, for what must not be forgotten: while the database is away it tries again."""
        pause = 0.1
        while True:
            try:
                return await self.run(function, *args, **kwargs)
            except StoreUnavailable as error:
                log.warning("database away", error=error.detail, again_in=pause)
                await asyncio.sleep(pause)
                pause = min(2.0, pause * 2)

    def run_here(self, function: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `run`, in the calling thread."""
        return self._transact(self.engine, function, *args, **kwargs)

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
            except (OperationalError, InterfaceError, PoolTimeout) as error:
                stale = isinstance(error, DBAPIError) and error.connection_invalidated
                if not tries_left or not (stale or _lost_a_race(error)):
                    raise StoreUnavailable(_reason(error), retry_after=random.uniform(1, 3)) from error  # noqa: S311
            except DatabaseError as error:
                if getattr(error.orig, "sqlite_errorname", None) == "SQLITE_NOTADB":
                    raise ConfigError(f"DATABASE_URL: '{engine.url.database}' is not a SQLite database") from None
                raise
        raise AssertionError("unreachable")

    async def aclose(self) -> None:
        """Waits for the transactions under way and closes every connection."""
        await asyncio.get_running_loop().run_in_executor(None, self.close)

    def close(self) -> None:
        """As `aclose`, in the calling thread."""
        for threads in (self._threads, self._read_threads):
            threads.shutdown()
        for engine in (self.engine, self._read_engine):
            engine.dispose()


def _lost_a_race(error: Exception) -> bool:
    """Whether PostgreSQL chose this transaction to be undone: a deadlock or a serialization failure."""
    return getattr(getattr(error, "orig", None), "sqlstate", None) in ("40001", "40P01")


def _reason(error: Exception) -> str:
    said = str(getattr(error, "orig", None) or error).strip().splitlines()
    return f"the database does not answer: {said[0] if said else type(error).__name__}"
