"""A fault in any function that a claim passes through has an outcome, and nobody else notices.

A healthy run shows which functions these are. Then each of them raises once, whatever it was asked to do; and in
another run each raises whenever it is about one watch, while other watches go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import structlog

from relay.store import invariants
from relay.store.schema import deliveries, watches
from tests.faults.injection import KINDS, Point, Points, install
from tests.support import parties
from tests.support.deployment import Deployment, deployment, environment
from tests.support.parties import Receiver, Upstream, done, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

GROUPS = {
    "worker": ("relay.worker", "relay.model"),
    "channels": ("relay.channels", "relay.security"),
    "providers": ("relay.providers",),
    "outbound": ("relay.outbound",),
    "store": ("relay.store.polling", "relay.store.telling", "relay.store.outbox", "relay.store.batches"),
}
STEPS = (
    "relay.worker.claim_loop.ClaimLoop.take",
    "relay.worker.claim_loop.ClaimLoop._work_on",
    "relay.worker.scheduler",
    "relay.store.batches.Batcher._ended",
    "relay.outbound.lane.Lane.end",
)
"""What makes an outcome of a fault, the clock behind it, and what gives a place back: a fault of these has none."""


@dataclass
class House:
    """A relay whose functions can be made to raise, with its upstream and its receiver."""

    relay: Deployment
    upstream: Upstream
    receiver: Receiver
    points: Points
    numbers: Any

    async def pair(self, **fields: Any) -> list[str]:
        """Registers two tasks, each with a path of its own at the receiver, and gives their ids.

        Args:
            fields: of the first of them.
        """
        number = next(self.numbers)
        names = [f"task-{number}-{side}" for side in "ab"]
        of_each = zip(names, (fields, {}), strict=True)
        made = [await self.relay.register(name, f"{self.receiver.url}/{name}", **given) for name, given in of_each]
        return [one["id"] for one in made]

    async def rows(self, query: Any) -> list[Any]:
        return await self.relay.relay.db.read(lambda tx: list(tx.execute(query)))

    async def settled(self, ids: list[str]) -> bool:
        """Whether these watches have ended, and their deliveries are settled."""
        under_way = sa.select(watches.c.id).where(watches.c.id.in_(ids), watches.c.next_poll_at.is_not(None))
        if await self.rows(under_way):
            return False
        told = await self.rows(sa.select(deliveries.c.next_attempt_at).where(deliveries.c.watch_id.in_(ids)))
        return len(told) >= len(ids) and all(row.next_attempt_at is None for row in told)

    async def states(self, ids: list[str]) -> list[tuple[str, str]]:
        """The state of each watch and of its delivery."""
        query = sa.select(watches.c.id, watches.c.state, deliveries.c.state.label("told"))
        query = query.join(deliveries, deliveries.c.watch_id == watches.c.id, isouter=True)
        found = {row.id: (row.state, row.told) for row in await self.rows(query.where(watches.c.id.in_(ids)))}
        return [found[one] for one in ids]


@contextlib.asynccontextmanager
async def house(folder: Path, **more: str) -> AsyncIterator[House]:
    # The log is not rendered: structlog's own tracebacks, with all variables, take seconds each.
    with pytest.MonkeyPatch.context() as patch, structlog.testing.capture_logs():
        points = install((*itertools.chain(*GROUPS.values()),), patch)
        async with parties.upstream() as upstream, parties.receiver() as receiver:
            upstream.default = done()
            more = {"RELAY_RATE_LIMIT": "1000", "UNIFIED_VIDEO_BASE_URL": upstream.url, **more}
            # A fault in a callback of the loop ends there: pytest's plugin would make it a failure of the test.
            asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
            async with deployment(environment(f"sqlite:///{folder / 'relay.db'}", **more)) as relay:
                one = House(relay, upstream, receiver, points, itertools.count())
                ids = await one.pair()
                points.wanted = frozenset(ids)
                points.tracing = True
                await until(lambda: one.settled(ids))
                points.tracing = False
                yield one
                assert await relay.relay.unwell() == []


async def sound(house: House) -> list[invariants.Violation]:
    """What `relay check` finds of promises that are broken; and that nothing is due or claimed any more."""
    assert await house.rows(sa.select(watches.c.id).where(watches.c.lease.is_not(None))) == []
    assert await house.rows(sa.select(deliveries.c.id).where(deliveries.c.lease.is_not(None))) == []
    return await house.relay.relay.db.read(invariants.find_violations)


async def raised_once(house: House, point: Point, kind: str, nth: int) -> str | None:
    """Has a function raise once while two tasks end; returns what is wrong then."""
    ids = await house.pair()
    point.raise_once(kind, nth)
    try:
        await until(lambda: house.settled(ids), within=20)
    except TimeoutError:
        return f"{point.name} {kind} {nth}: {await house.states(ids)}"
    finally:
        point.rest()
    states = await house.states(ids)
    return None if states == [("completed", "delivered")] * 2 else f"{point.name} {kind} {nth}: {states}"


def cases(points: list[Point], long: bool) -> list[tuple[Point, str, int]]:
    """Each function with each kind of fault at its first calls; in short, with one of them, by turns."""
    every = itertools.product(points, KINDS, (1, 2, 3))
    by_turns = zip(points, itertools.cycle(KINDS), itertools.cycle((1, 2)))
    return [case for case in (every if long else by_turns) if not is_answer(*case[:2])]


def is_answer(point: Point, kind: str) -> bool:
    """Whether this is no fault, but how a mapping says that it holds no such name."""
    return point.name.endswith(".__getitem__") and kind == "KeyError"


@pytest.mark.parametrize(
    "long", [pytest.param(False, id="short"), pytest.param(True, id="long", marks=pytest.mark.long)]
)
@pytest.mark.parametrize("group", GROUPS)
async def test_a_function_that_raises_once_costs_time_and_nothing_else(group: str, long: bool, tmp_path: Path) -> None:
    async with house(tmp_path) as one:
        points = [point for point in one.points.reached(*GROUPS[group]) if not point.name.startswith(STEPS)]
        assert len(points) >= 10
        wrong = []
        fired = 0
        for case in cases(points, long):
            wrong += [found for found in [await raised_once(one, *case)] if found]
            fired += case[0].raised
            assert len(wrong) < 3, wrong
        assert wrong == []
        assert fired > len(points) / 2, "most of them were called"
        assert await sound(one) == []
        assert await one.relay.relay.db.read(invariants.find_faults) == []


WRITES = (
    "relay.worker.poller.Poller._polled",
    "relay.worker.poller.Poller._save",
    "relay.worker.poller._to_keep",
    "relay.worker.poller._event",
    "relay.worker.poller._save_and_claim",
    "relay.worker.dispatcher.Dispatcher._tried",
    "relay.worker.dispatcher.Dispatcher._record",
    "relay.model.event.",
    "relay.model.ids.",
    "relay.store.batches.Batcher.put",
    "relay.store.polling.",
    "relay.store.telling.",
    "relay.store.outbox.",
)
"""Without these no outcome of that watch, or no end, can be written: its rows are put off, each time longer."""


async def test_a_function_that_always_raises_for_one_watch_ends_it_and_nobody_else_notices(tmp_path: Path) -> None:
    async with house(tmp_path) as one:
        points = [p for p in one.points.all.values() if p.about and not p.name.startswith(STEPS)]
        assert len(points) >= 40
        victims: dict[str, Point] = {}
        neighbours = []
        for point, kind in zip(points, itertools.cycle(KINDS), strict=False):
            victim, neighbour = await one.pair(expires_in=5)
            point.raise_always(kind, victim)
            victims[victim] = point
            neighbours.append(neighbour)
        await until(lambda: one.settled(neighbours))
        assert await one.states(neighbours) == [("completed", "delivered")] * len(neighbours)
        await until(lambda: ended_or_put_off(one, list(victims)))
        far = await put_off(one)
        assert [name for name in (victims[victim].name for victim in far) if not name.startswith(WRITES)] == []
        assert {told for _, told in await one.states(list(set(victims) - far))} == {"delivered", "dead"}
        for point in points:
            point.rest()
        violations = await one.relay.relay.db.read(invariants.find_violations)
        assert violations == []
        faults = await one.relay.relay.db.read(invariants.find_faults)
        assert {fault.what.split()[-1] for fault in faults} == {"poll", "attempt"}


async def put_off(house: House) -> set[str]:
    """The watches that are polled, or whose delivery is tried, no sooner than in half a minute."""
    soon = round(time.time() * 1000) + 30_000
    polled = sa.select(watches.c.id).where(watches.c.next_poll_at > soon, watches.c.lease.is_(None))
    told = sa.select(deliveries.c.watch_id).where(deliveries.c.next_attempt_at > soon, deliveries.c.lease.is_(None))
    return {row[0] for row in await house.rows(polled.union(told))}


async def ended_or_put_off(house: House, ids: list[str]) -> bool:
    far = await put_off(house)
    return await house.settled([one for one in ids if one not in far])
