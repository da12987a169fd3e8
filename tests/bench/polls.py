"""Polls per second and CPU per poll through the whole path (claim, query, read, save), against a bare aiohttp loop.

`python -m tests.bench.polls [--watches 2000] [--seconds 5] [--postgresql | --database-url …]`

Both ask the same raw HTTP server, which has a core of its own; both run in this process, the bare loop before and after
relay, so that their ratio holds on any machine, also on one that others use meanwhile. The bare loop does what nobody
may do: it decides nothing, keeps nothing and forgets everything when it dies.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psycopg
import sqlalchemy as sa
import uvloop

from relay import interpreter
from relay.app import Relay
from relay.settings.sources import load
from relay.store import Database, apps, migrate, registrations
from relay.store.schema import watches
from relay.store.shared_schema import processes
from tests.bench import cores
from tests.bench.figures import Bench, Direction, Figure, Sample
from tests.bench.sizing import cpu_of_postgresql, postgresql
from tests.bench.upstream import running
from tests.support.deployment import environment
from tests.support.processes import serve

CONCURRENCY = 200


@dataclass(frozen=True)
class Speed:
    """Polls per second, and what each costs.

    Attributes:
        cpu: milliseconds of this process.
        server: milliseconds of PostgreSQL.
        wal: kB that PostgreSQL writes ahead.
    """

    rate: float
    cpu: float
    server: float = 0.0
    wal: float = 0.0


async def bare(url: str, seconds: float) -> Speed:
    """Ask, and do nothing else."""
    count, stop = 0, time.monotonic() + seconds

    async def ask(session: aiohttp.ClientSession) -> None:
        nonlocal count
        while time.monotonic() < stop:
            async with session.get(f"{url}/v1/video/query?id=task_{count}") as answer:
                await answer.read()
            count += 1

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        started, cpu = time.monotonic(), time.process_time()
        await asyncio.gather(*(ask(session) for _ in range(CONCURRENCY)))
        return Speed(count / (time.monotonic() - started), (time.process_time() - cpu) * 1000 / count)


async def whole(url: str, database_url: str, count: int, seconds: float) -> Speed:
    """Poll as relay does, with `count` watches that are always due."""
    interpreter.tune()
    db = Database(database_url)
    db.run_here(migrate.upgrade)
    db.close()
    environ = environment(database_url, UNIFIED_VIDEO_BASE_URL=url, RELAY_POLL_INTERVAL="0.05", LOG_LEVEL="error")
    relay = await asyncio.to_thread(Relay, load(environ), environ)
    relay.db.run_here(register, count)
    async with relay.working():
        await asyncio.sleep(1)
        before, started, cpu = await relay.db.read(polls), time.monotonic(), time.process_time()
        server, wal = server_costs(database_url)
        await asyncio.sleep(seconds)
        cpu, took = time.process_time() - cpu, time.monotonic() - started
        polled = await relay.db.read(polls) - before
        server, wal = (after - first for after, first in zip(server_costs(database_url), (server, wal), strict=True))
    await relay.aclose()
    return Speed(polled / took, cpu * 1000 / polled, server * 1000 / polled, wal / 1000 / polled)


def server_costs(url: str) -> tuple[float, float]:
    """Return the CPU seconds that PostgreSQL has had, and the bytes that it has written ahead."""
    if url.startswith("sqlite"):
        return 0.0, 0.0
    with psycopg.connect(url) as tx:
        row = tx.execute("SELECT pg_current_wal_lsn() - '0/0'").fetchone()
    return cpu_of_postgresql(url), float(row[0]) if row else 0.0


def register(tx: sa.Connection, count: int) -> None:
    """Register tasks for the default app, with no target."""
    app = apps.by_name(tx, apps.DEFAULT)
    assert app is not None
    now = time.time_ns() // 1_000_000
    for start in range(0, count, 1000):
        rows = [
            registrations.Registration(app.id, "unified-video", f"task_{n}", (), "{}", None, now, now + 86_400_000)
            for n in range(start, min(count, start + 1000))
        ]
        registrations.register(tx, rows, now)


def polls(tx: sa.Connection) -> int:
    """Return how many polls are stored."""
    return int(tx.execute(sa.select(sa.func.sum(watches.c.polls))).scalar() or 0)


def workers(tx: sa.Connection) -> int:
    """Return how many processes beat."""
    return int(tx.execute(sa.select(sa.func.count()).select_from(processes)).scalar_one())


async def of_workers(url: str, database_url: str, folder: Path, count: int, seconds: float) -> tuple[float, float]:
    """Return the polls per second of one worker, and those of four."""
    environ = environment(database_url, UNIFIED_VIDEO_BASE_URL=url, RELAY_POLL_INTERVAL="0.05", LOG_LEVEL="error")
    db = Database(database_url)
    db.run_here(migrate.upgrade)
    rates = []
    async with contextlib.AsyncExitStack() as stack:
        for more in (1, 3):
            for _ in range(more):
                await stack.enter_async_context(serve(environ, folder, "worker"))
            async with asyncio.timeout(120):
                while db.run_here(workers) < 1 + len(rates) * 3:
                    await asyncio.sleep(0.1)
            if not rates:
                db.run_here(register, count)
            await asyncio.sleep(3)
            before, started = db.run_here(polls), time.monotonic()
            await asyncio.sleep(seconds)
            rates.append((db.run_here(polls) - before) / (time.monotonic() - started))
    db.close()
    return rates[0], rates[1]


async def both(url: str, database_url: str, count: int, seconds: float) -> tuple[Speed, Speed]:
    """Return the speed of the bare loop, half of it before and half after relay, and that of relay."""
    before = await bare(url, seconds / 2)
    relay = await whole(url, database_url, count, seconds)
    after = await bare(url, seconds / 2)
    return Speed((before.rate + after.rate) / 2, (before.cpu + after.cpu) / 2), relay


ON_SQLITE = Figure("polls/s, saturated, on one core, SQLite; the bare aiohttp loop", Direction.AT_LEAST, 0.8)
CPU = Figure("CPU seconds per 1,000 polls, nothing ending", Direction.AT_MOST, 0.16, absolute=True, digits=3)
ON_POSTGRESQL = Figure("polls/s, the same, PostgreSQL on the same core", Direction.AT_LEAST, 0.6)
SERVER = Figure("CPU ms of PostgreSQL per poll", Direction.AT_MOST, None, digits=3)
WAL = Figure("kB of WAL per poll", Direction.AT_MOST, None, digits=2)
PROCESSES = Figure("polls/s of 4 processes on two cores, with all others; 1 process there", Direction.AT_LEAST, 1.5)


def on_sqlite() -> Iterator[Sample]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, _upstream() as url, cores.pinned(cores.RELAY):
        loop, relay = uvloop.run(both(url, f"sqlite:///{folder}/bench.db", 2000, 6))
    yield Sample(ON_SQLITE, relay.rate, loop.rate)
    yield Sample(CPU, relay.cpu, loop.cpu)


def on_postgresql() -> Iterator[Sample]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))
        url = stack.enter_context(_upstream())
        stack.enter_context(cores.pinned(cores.RELAY))
        loop, relay = uvloop.run(both(url, stack.enter_context(postgresql(folder)), 2000, 6))
    yield Sample(ON_POSTGRESQL, relay.rate, loop.rate)
    yield Sample(SERVER, relay.server)
    yield Sample(WAL, relay.wal)


def with_processes() -> Iterator[Sample]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))
        stack.enter_context(cores.pinned(cores.OTHERS, cores.RELAY))
        port = stack.enter_context(running())
        database_url = stack.enter_context(postgresql(folder))
        one, four = asyncio.run(of_workers(f"http://127.0.0.1:{port}", database_url, folder, 2000, 6))
    yield Sample(PROCESSES, four, one)


@contextlib.contextmanager
def _upstream() -> Iterator[str]:
    with cores.pinned(cores.OTHERS), running() as port:
        yield f"http://127.0.0.1:{port}"


BENCHES = (
    Bench("polls-sqlite", (ON_SQLITE, CPU), on_sqlite),
    Bench("polls-postgresql", (ON_POSTGRESQL, SERVER, WAL), on_postgresql),
    Bench("polls-processes", (PROCESSES,), with_processes),
)


async def main() -> None:
    """Prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--watches", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--database-url")
    parser.add_argument("--postgresql", action="store_true")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-bench-", dir="/tmp")))
        url = f"http://127.0.0.1:{stack.enter_context(running())}"
        database_url = given.database_url or f"sqlite:///{folder / 'bench.db'}"
        if given.postgresql:
            database_url = stack.enter_context(postgresql(folder))
        loop, relay = await both(url, database_url, given.watches, given.seconds)
        print(f"bare aiohttp loop   {loop.rate:7,.0f} polls/s   {loop.cpu:.3f} ms CPU per poll")
        print(f"relay, whole path   {relay.rate:7,.0f} polls/s   {relay.cpu:.3f} ms CPU per poll")
        rate, cpu = relay.rate / loop.rate, relay.cpu / loop.cpu
        print(f"ratio               {rate:7.2f} of its polls/s, {cpu:.2f} times its CPU")


if __name__ == "__main__":
    uvloop.run(main())
