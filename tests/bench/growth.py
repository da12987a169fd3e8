"""What a poll, a claim, a registration and the process itself cost beside 1,000,000 waiting watches, against 1,000.

The watches that wait are due tomorrow, have a target each, and belong to the app whose other watches are polled and
registered meanwhile. They are written straight into the tables. A round removes what it has added, so that all rounds
share the million.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import psycopg
import sqlalchemy as sa

from relay.settings.sources import load
from relay.store import Database, apps, migrate, polling
from relay.wiring import declare_default_app, now, open_vault
from tests.bench import cores
from tests.bench.figures import Bench, Direction, Figure, Sample
from tests.bench.sizing import TOKEN, cpu, cpu_of_postgresql, memory, postgresql, queries, register
from tests.bench.upstream import running
from tests.support.deployment import environment
from tests.support.processes import serve

FEW = 1_000
MANY = 1_000_000
LIVE = 1_000
"""Watches that are polled once a second meanwhile."""

SECONDS = 6.0
BATCHES = 3
"""Batches of 1,000 registrations; the median counts, so that one that meets a checkpoint does not."""

CLAIMS = 20
CLAIMED = 20

_open = contextlib.ExitStack()
atexit.register(_open.close)


@dataclass(frozen=True)
class Costs:
    """What one database made relay spend.

    Attributes:
        poll: CPU milliseconds of relay and of PostgreSQL.
        claim: milliseconds of a claim of 20 watches.
        batch: seconds of a registration of 1,000 watches, over HTTP.
        memory: MB of the process.
    """

    poll: float
    claim: float
    batch: float
    memory: float


def fill(db: Database, count: int) -> None:
    """Write watches that wait, and a target for each."""
    series = (
        f"WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {count})"
        if db.embedded
        else f"WITH s(n) AS (SELECT generate_series(1, {count}))"
    )
    app = db.run_here(apps.by_name, apps.DEFAULT)
    assert app is not None
    at = now()
    address = "zeroblob(100)" if db.embedded else f"'{'x' * 100}'::bytea"
    fingerprint = "CAST('f' || n AS BLOB)" if db.embedded else "('f' || n)::bytea"
    # As long as a ULID, and older than all; in the order of the indexes, into which it is written much faster.
    number = "'0000000000000000' || CAST(1000000000 + n AS TEXT)"
    statements = (
        f"""INSERT INTO watches (id, app_id, provider, task_id, state, metadata, wants_progress, polls, misses,
        unknowns, bares, next_poll_at, changes, expires_at, created_at)
        {series} SELECT 'wch_' || {number}, '{app.id}', 'unified-video', 'waiting_' || {number}, 'watching', '{{}}',
        false, 1, 0, 0, 0, {at + 86_400_000} + n, 1, {at + 2 * 86_400_000}, {at} FROM s""",
        f"""INSERT INTO targets (id, watch_id, type, address, host, events, place, fingerprint)
        {series} SELECT 'tgt_' || {number}, 'wch_' || {number}, 'webhook', {address}, 'app.example', 'task.completed',
        'place_' || n, {fingerprint} FROM s""",
    )

    def write(tx: sa.Connection) -> None:
        if not db.embedded:
            # A replica checks no foreign keys and fires no triggers, row by row.
            tx.exec_driver_sql("SET LOCAL session_replication_role = replica; SET LOCAL statement_timeout = 0")
        for statement in statements:
            tx.exec_driver_sql(statement)

    db.run_here(write)
    if not db.embedded:  # as autovacuum would, some minutes later
        with psycopg.connect(db.url, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")


@cache
def databases(engine: str) -> tuple[str, str]:
    """Return the URLs of a database with few and of one with many waiting watches. They last until the program ends."""
    folder = Path(_open.enter_context(tempfile.TemporaryDirectory(prefix="relay-bench-", dir="/tmp")))
    if engine == "sqlite":
        urls = (f"sqlite:///{folder}/few.db", f"sqlite:///{folder}/many.db")
    else:
        with cores.pinned(cores.RELAY):
            server = _open.enter_context(postgresql(folder))
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute("CREATE DATABASE few")
            connection.execute("CREATE DATABASE many")
        urls = (_named(server, "few"), _named(server, "many"))
    for url, count in zip(urls, (FEW, MANY), strict=True):
        _prepare(url, count)
    return urls


def _named(server: str, name: str) -> str:
    url = sa.make_url(server).set(database=name)
    return url.render_as_string(hide_password=False)


def _prepare(url: str, count: int) -> None:
    settings = load(environment(url))
    db = Database(url)
    db.run_here(migrate.upgrade)
    declare_default_app(db, open_vault(settings), settings, now())
    fill(db, count)
    db.close()


async def costs(url: str) -> Costs:
    """Measure what relay spends with a database, and remove what that has added to it."""
    with tempfile.TemporaryDirectory() as folder, cores.pinned(cores.OTHERS), running() as port:
        environ = environment(
            url,
            UNIFIED_VIDEO_BASE_URL=f"http://127.0.0.1:{port}",
            RELAY_POLL_INTERVAL="1",
            RELAY_METRICS_TOKEN=TOKEN,
            RELAY_RATE_LIMIT="100000",
            RELAY_MAX_WATCHES=str(10 * MANY),
            RELAY_MAX_TARGETS=str(10 * MANY),
            LOG_LEVEL="warning",
        )
        async with contextlib.AsyncExitStack() as stack:
            with cores.pinned(cores.RELAY):
                process = await stack.enter_async_context(serve(environ, Path(folder)))
            await process.ready()
            await register(process.http, LIVE)
            await asyncio.sleep(2)
            used, polled = _cpu(process.process.pid, url), await queries(process)
            await asyncio.sleep(SECONDS)
            used, polled = _cpu(process.process.pid, url) - used, await queries(process) - polled
            resident = memory(process.process.pid)
            batches = []
            for number in range(BATCHES):
                started = time.monotonic()
                await register(process.http, 1000, f"batch-{number}")
                batches.append(time.monotonic() - started)
    with cores.pinned(cores.RELAY):
        claim = _claims(url)
    return Costs(used * 1000 / polled, claim, statistics.median(batches), resident)


def _cpu(pid: int, url: str) -> float:
    return cpu(pid) + (0.0 if url.startswith("sqlite") else cpu_of_postgresql(url))


def _claims(url: str) -> float:
    """Return the milliseconds of a claim, by the median, and delete all watches that do not wait."""
    db = Database(url)
    app = db.run_here(apps.by_name, apps.DEFAULT)
    assert app is not None
    due = now() + 60_000  # when all that was registered is due
    spent = []
    for number in range(CLAIMS):
        started = time.perf_counter()
        claims = db.run_here(polling.claim, due, due + 60_000, f"lease-{number}", {app.id: CLAIMED})
        spent.append(time.perf_counter() - started)
        assert len(claims) == CLAIMED
    db.run_here(lambda tx: tx.exec_driver_sql("DELETE FROM watches WHERE task_id NOT LIKE 'waiting_%%'"))
    db.close()
    return statistics.median(spent) * 1000


def figure(what: str, engine: str, digits: int) -> Figure:
    name = f"{what} beside 1,000,000 waiting watches, {engine}; beside 1,000"
    return Figure(name, Direction.AT_MOST, 1.2, digits=digits)


def bench(engine: str, name: str) -> Bench:
    """Return the bench of one kind of database."""
    figures = (
        figure("CPU ms per poll", name, 3),
        figure("ms per claim of 20", name, 2),
        figure("seconds per batch of 1,000", name, 3),
        figure("MB of memory", name, 0),
    )
    return Bench(f"growth-{engine}", figures, partial(measure, engine, figures))


def measure(engine: str, figures: tuple[Figure, ...]) -> Iterator[Sample]:
    few, many = (asyncio.run(costs(url)) for url in databases(engine))
    for of, value, baseline in zip(
        figures,
        (many.poll, many.claim, many.batch, many.memory),
        (few.poll, few.claim, few.batch, few.memory),
        strict=True,
    ):
        yield Sample(of, value, baseline)


BENCHES = (bench("sqlite", "SQLite"), bench("postgresql", "PostgreSQL"))
