"""One budget for all processes of a PostgreSQL: rate, places and pauses of a lane, and what a dead process had."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from relay.outbound.callers import Caller, CallKind
from relay.outbound.lane import Limit
from relay.outbound.lanes import Lanes
from relay.outbound.leases import Leases
from relay.store import Database
from tests.support import loopback

pytestmark = pytest.mark.anyio

LANE = ("api.example", "key")
POLL = Caller(CallKind.POLL, "app")


class Process:
    """What one process has: lanes, leases and a database of its own."""

    def __init__(self, url: str, name: str) -> None:
        self.name = name
        self.db = Database(url, 2)
        self.lanes = Lanes()
        self.leases = Leases(self.lanes, self.db, name)

    async def keep_asking(self, limit: Limit, call: Callable[[str], Awaitable[None]], callers: int = 30) -> None:
        """Call as often as may be, until cancelled."""

        async def one() -> None:
            while True:
                if wait := await self.lanes.enter(LANE, limit, POLL):
                    await asyncio.sleep(wait)
                    continue
                try:
                    await call(self.name)
                finally:
                    self.lanes.done(LANE, POLL, 0.05, time.monotonic(), refused=False, retry_after=None)

        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(one())

    async def aclose(self) -> None:
        await self.leases.aclose()
        await self.db.aclose()

    async def die(self) -> None:
        """End without giving anything back."""
        self.leases._closed = True
        self.leases._woken.set()
        if self.leases._keeping is not None:
            await asyncio.wait([self.leases._keeping])
        await self.db.aclose()


@asynccontextmanager
async def processes(url: str, count: int) -> AsyncIterator[list[Process]]:
    found = [Process(url, f"p{n}") for n in range(count)]
    yield found
    for process in found:
        await process.aclose()


@asynccontextmanager
async def asking(
    of: list[Process], limit: Limit, call: Callable[[str], Awaitable[None]]
) -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks = [asyncio.create_task(process.keep_asking(limit, call)) for process in of]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def most_in_a_second(starts: list[float]) -> int:
    starts = sorted(starts)
    return max(sum(first <= at < first + 1 for at in starts) for first in starts)


async def test_three_processes_share_the_starts_of_every_second(migrated_postgres_url: str) -> None:
    """Times are those of sending: the network may bring two requests closer together."""
    starts: list[tuple[float, str]] = []
    limit = Limit(50, 20.0)

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")

    async with (
        loopback.serving(answer) as server,
        httpx.AsyncClient(verify=False) as http,
        processes(migrated_postgres_url, 3) as found,
    ):

        async def call(name: str) -> None:
            starts.append((time.monotonic(), name))
            await http.get(server.url("/"))

        async with asking(found, limit, call) as tasks:
            began = time.monotonic()
            await asyncio.sleep(7)
            tasks[0].cancel()
            await found[0].die()
            died = time.monotonic()
            await asyncio.sleep(7)
    assert most_in_a_second([at for at, _ in starts]) <= 20
    together = [at for at, _ in starts if began + 3 <= at < began + 7]
    assert len(together) >= 0.7 * 20 * 4
    assert len(Counter(name for at, name in starts if began + 3 <= at < began + 7)) == 3, "each has a part"
    assert len([at for at, _ in starts if died + 3 <= at < died + 7]) >= 0.7 * 20 * 4, "what the dead one had is used"


async def test_a_process_alone_has_all_and_shares_with_one_that_comes(migrated_postgres_url: str) -> None:
    under_way: Counter[str] = Counter()
    most = 0
    limit = Limit(6)

    async def call(name: str) -> None:
        nonlocal most
        under_way[name] += 1
        most = max(most, under_way.total())
        try:
            await asyncio.sleep(0.2)
        finally:
            under_way[name] -= 1

    async def reached(**wanted: int) -> None:
        async with asyncio.timeout(20):
            while {name: under_way[name] for name in wanted} != wanted:
                await asyncio.sleep(0.01)

    async with processes(migrated_postgres_url, 2) as (one, other), asking([one], limit, call):
        await reached(p0=6)
        async with asking([other], limit, call):
            await reached(p0=3, p1=3)
        await other.leases.aclose()
        await reached(p0=6, p1=0)
    assert most == 6


async def test_a_pause_that_one_process_has_earned_holds_in_the_others(migrated_postgres_url: str) -> None:
    async with processes(migrated_postgres_url, 2) as (one, other):
        for process in (one, other):
            assert await process.lanes.enter(LANE, Limit(10), POLL) == 0
        for _ in range(3):
            while await one.lanes.enter(LANE, Limit(10), POLL):
                await asyncio.sleep(0.05)
            one.lanes.done(LANE, POLL, 0.1, time.monotonic(), refused=True, retry_after=60.0)
        async with asyncio.timeout(20):
            while other.lanes[LANE].pause.until < time.monotonic() + 50:
                await asyncio.sleep(0.01)
        assert await other.lanes.enter(LANE, Limit(10), POLL) > 50


async def test_without_the_database_nothing_begins_once_the_lease_is_over(migrated_postgres_url: str) -> None:
    async with processes(migrated_postgres_url, 1) as (one,):
        assert await one.lanes.enter(LANE, Limit(10), POLL) == 0
        await one.leases.aclose()  # as if the database did not answer any more
        async with asyncio.timeout(20):
            while one.lanes[LANE].holds(time.monotonic()):
                await asyncio.sleep(0.05)
        caller = asyncio.create_task(one.lanes.enter(LANE, Limit(10), POLL))
        await asyncio.sleep(0.2)
        assert not caller.done()
        caller.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await caller


async def test_the_mirror_waits_for_the_first_lease_only(migrated_postgres_url: str) -> None:
    mirror = Caller(CallKind.MIRROR, "app")
    async with processes(migrated_postgres_url, 1) as (one,):
        assert await one.lanes.enter(LANE, Limit(100), mirror) == 0
        waits = await asyncio.gather(*(one.lanes.enter(LANE, Limit(100), mirror) for _ in range(20)))
        assert waits.count(0) == 11
