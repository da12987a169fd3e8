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
from pathlib import Path

import aiohttp
import uvloop

from relay.app import Relay
from relay.settings import load
from relay.store import Database, apps, migrate, watches
from tests.bench.sizing import postgresql
from tests.bench.upstream import running
from tests.support.deployment import environment

CONCURRENCY = 200


async def bare(url: str, seconds: float) -> tuple[float, float]:
    """(requests per second, CPU milliseconds per request) of a loop that only asks."""
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
        return count / (time.monotonic() - started), (time.process_time() - cpu) * 1000 / count


async def whole(url: str, database_url: str, count: int, seconds: float) -> tuple[float, float]:
    """(polls per second, CPU milliseconds per poll) of relay, with `count` watches that are always due."""
    db = Database(database_url)
    db.run_here(migrate.upgrade)
    db.close()
    environ = environment(database_url, UNIFIED_VIDEO_BASE_URL=url, RELAY_POLL_INTERVAL="0.05", LOG_LEVEL="error")
    relay = await asyncio.to_thread(Relay, load(environ), environ)
    app = relay.db.run_here(apps.by_name, apps.DEFAULT)
    assert app is not None
    now = relay.context.clock()
    registrations = [
        watches.Registration(app.id, "unified-video", f"task_{n}", (), "{}", None, now, now + 86_400_000)
        for n in range(count)
    ]
    for start in range(0, count, 1000):
        await relay.db.run(watches.register, registrations[start : start + 1000], now)
    async with relay.working():
        await asyncio.sleep(1)
        before, started, cpu = await _polls(relay), time.monotonic(), time.process_time()
        await asyncio.sleep(seconds)
        cpu, took = time.process_time() - cpu, time.monotonic() - started
        polled = await _polls(relay) - before
    await relay.aclose()
    return polled / took, cpu * 1000 / polled


async def _polls(relay: Relay) -> int:
    import sqlalchemy as sa

    query = sa.select(sa.func.sum(watches.watches.c.polls))
    return int(await relay.db.read(lambda tx: tx.execute(query).scalar()) or 0)


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
        before = await bare(url, given.seconds / 2)
        rate, cpu = await whole(url, database_url, given.watches, given.seconds)
        after = await bare(url, given.seconds / 2)
        bare_rate, bare_cpu = ((one + other) / 2 for one, other in zip(before, after, strict=True))
        print(f"bare aiohttp loop   {bare_rate:7,.0f} polls/s   {bare_cpu:.3f} ms CPU per poll")
        print(f"relay, whole path   {rate:7,.0f} polls/s   {cpu:.3f} ms CPU per poll")
        print(f"ratio               {rate / bare_rate:7.2f} of its polls/s, {cpu / bare_cpu:.2f} times its CPU")


if __name__ == "__main__":
    uvloop.run(main())
