"""Claims made before a row is due, and claims by the transaction that makes the row: both are like any other claim."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa

from relay.model.times import Millis
from relay.store import Database, apps, outbox, polling, processes
from relay.store.due import Allotment
from relay.store.schema import deliveries, watches
from relay.wiring import now
from relay.worker.claim_loop import Claiming
from relay.worker.poller import AHEAD
from tests.support import rows
from tests.support.deployment import Deployment, deployment, environment
from tests.support.parties import Receiver, Upstream, done
from tests.support.rows import NOW
from tests.worker.test_claim_loop import PLACES, Hanging

pytestmark = pytest.mark.anyio


@pytest.fixture
async def idle(database_url: str, upstream: Upstream) -> AsyncIterator[Deployment]:
    """A relay whose loops claim only when the test says so."""
    environ = environment(database_url, UNIFIED_VIDEO_BASE_URL=upstream.url, RELAY_POLL_INTERVAL="3600")
    async with deployment(environ, working=False) as running:
        yield running


def plan(idle: Deployment, task_id: str, in_seconds: float) -> Millis:
    """Make a task due in so many seconds; return when that is."""
    due = idle.relay.clock.now() + round(in_seconds * 1000)
    change = sa.update(watches).where(watches.c.task_id == task_id).values(next_poll_at=due)
    idle.relay.db.run_here(lambda tx: tx.execute(change))
    return due


def planned(idle: Deployment) -> list[tuple[Millis | None, str | None]]:
    """When the watches are due, and their leases."""
    query = sa.select(watches.c.next_poll_at, watches.c.lease)
    return [(row.next_poll_at, row.lease) for row in idle.relay.db.run_here(lambda tx: list(tx.execute(query)))]


async def test_what_is_claimed_ahead_is_asked_about_on_its_time(idle: Deployment, upstream: Upstream) -> None:
    await idle.register("task", "http://127.0.0.1:9/hook")
    started = time.monotonic()
    plan(idle, "task", AHEAD - 0.05)
    await idle.relay.poller.tick()
    assert idle.relay.poller.under_way == 1, "claimed"
    assert not upstream.asked
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        while not upstream.asked["task"]:
            await asyncio.sleep(0.01)
    assert upstream.asked["task"][0] - started >= AHEAD - 0.06
    await idle.relay.poller.drain()


async def test_what_is_due_later_is_not_claimed(idle: Deployment) -> None:
    await idle.register("task", "http://127.0.0.1:9/hook")
    plan(idle, "task", 3600)
    wait = await idle.relay.poller.tick()
    assert idle.relay.poller.under_way == 0
    assert wait is not None
    assert 3500 < wait < 3600, "the next claim is made shortly before the row is due"


async def test_a_process_that_stops_gives_back_what_it_claimed_ahead_for_its_own_time(
    idle: Deployment, upstream: Upstream
) -> None:
    await idle.register("task", "http://127.0.0.1:9/hook")
    due = plan(idle, "task", AHEAD - 0.05)
    await idle.relay.poller.tick()
    assert [lease is None for _, lease in planned(idle)] == [False]
    idle.relay.poller.halt()
    await idle.relay.poller.drain()
    ((again_at, lease),) = planned(idle)
    assert due <= again_at <= max(due, now()), "its own time, or at once if that has passed"
    assert lease is None
    assert not upstream.asked


async def test_an_end_is_told_without_another_look(idle: Deployment, upstream: Upstream, receiver: Receiver) -> None:
    """The loop of deliveries is not run at all."""
    upstream.scripts["task"] = done()
    await idle.register("task", f"{receiver.url}/one", f"{receiver.url}/two")
    plan(idle, "task", 0)
    await idle.relay.poller.tick()
    await idle.relay.poller.drain()
    await receiver.wait_for(2)
    await idle.relay.dispatcher.drain()
    assert {delivery["state"] for delivery in await idle.deliveries()} == {"delivered"}


async def test_a_process_that_stops_claims_no_delivery_that_it_makes(
    idle: Deployment, upstream: Upstream, receiver: Receiver
) -> None:
    upstream.scripts["task"] = done()
    await idle.register("task", f"{receiver.url}/hook")
    plan(idle, "task", 0)
    await idle.relay.poller.tick()
    idle.relay.dispatcher.halt()
    await idle.relay.poller.drain()
    await idle.relay.dispatcher.drain()
    query = sa.select(deliveries.c.state, deliveries.c.lease)
    assert idle.relay.db.run_here(lambda tx: tx.execute(query).all()) == [("pending", None)]
    assert not receiver.posts


# What a transaction may claim


def allotment(**shares: int) -> Allotment:
    return Allotment("me.1", NOW + 45_000, shares)


async def test_a_save_claims_as_many_of_its_deliveries_as_there_are_places_for(db: Database) -> None:
    app, other = rows.app(db), rows.app(db, "other")
    rows.watch(db, app, "task", rows.target(), rows.target())
    rows.watch(db, other, "task")
    ends = [rows.ended(claim) for claim in rows.claim(db)]
    told = db.run_here(polling.save, ends, allotment(**{app: 1}))
    assert (told.made, told.waiting, [claim.app_id for claim in told.claims]) == (3, 2, [app])
    later = db.run_here(rows.claim_of, outbox, NOW, NOW + 45_000, "me.2", 100)
    assert told.claims[0].id not in {claim.id for claim in later}
    assert len(later) == 2
    again = db.run_here(rows.claim_of, outbox, NOW + 45_000, NOW + 90_000, "me.3", 100)
    (same,) = [claim for claim in again if claim.id == told.claims[0].id]
    described = {name: getattr(same, name) for name in outbox.DeliveryClaim.__slots__ if name != "lease"}
    assert described == {name: getattr(told.claims[0], name) for name in described}, "as a claim reads it later"


async def test_the_deliveries_of_a_dead_process_are_free_that_it_claimed_as_it_made_them(db: Database) -> None:
    app = rows.app(db)
    rows.watch(db, app, "task")
    db.run_here(polling.save, [rows.ended(claim) for claim in rows.claim(db)], allotment(**{app: 1}))
    assert db.run_here(outbox.due, NOW, 10) == {}
    assert db.run_here(processes.bury, "me", NOW + 1) == 1
    assert db.run_here(outbox.due, NOW + 1, 10) == {app: 1}


async def test_what_a_disabled_app_is_to_be_told_is_not_claimed(db: Database) -> None:
    app = rows.app(db)
    rows.watch(db, app, "task")
    ends = [rows.ended(claim) for claim in rows.claim(db)]
    db.run_here(apps.change, app, disabled_at=NOW)
    told = db.run_here(polling.save, ends, allotment(**{app: 1}))
    assert (told.made, told.claims) == (1, [])


async def test_a_lease_says_when_its_row_was_due(db: Database) -> None:
    app = rows.app(db)
    rows.watch(db, app, "task", due=NOW + 7)
    (claim,) = rows.claim(db, NOW + 100)
    assert claim.due == NOW + 7


# Places that are held for a transaction


async def test_places_that_are_held_are_nobody_elses(db: Database) -> None:
    app = rows.app(db)
    for number in range(PLACES):
        rows.watch(db, app, f"task-{number}")
    loop = Hanging(db)
    with loop.reserved({app: 5}) as held:
        assert held().shares == {app: 5}
        await loop.tick()
        assert loop.under_way == PLACES * 9 // 10 - 5
        assert loop.woken == []
    assert loop.woken == [0.0], "what was held back has room now"
    await loop.tick()
    assert loop.under_way == PLACES * 9 // 10
    with loop.reserved({app: 5}) as held:
        assert not held().shares.get(app), "older rows of this app wait for room"
    with loop.reserved({"other": 5}) as held:
        assert 0 < held().shares["other"] <= 2, "a fair share of what is free"
    loop.released.set()
    await loop.drain()


async def test_a_loop_that_has_been_halted_holds_no_places(db: Database) -> None:
    loop = Hanging(db)
    loop.halt()
    with loop.reserved({"app": 1}) as held:
        assert held().shares == {}


async def test_rows_that_wait_for_their_time_have_places_too(db: Database) -> None:
    app, other = rows.app(db), rows.app(db, "other")
    for number in range(2 * PLACES):
        rows.watch(db, app, f"task-{number}", due=NOW + 9000)
    loop = Ahead(db)
    await loop.tick()
    assert (loop.begun, loop.under_way) == ([], PLACES * 9 // 10)
    rows.watch(db, other, "task")
    await loop.tick()
    await asyncio.sleep(0)
    assert loop.begun == [other]
    loop.halt()
    loop.released.set()
    await loop.drain()
    assert loop.under_way == 0


async def test_a_clock_that_is_set_back_holds_no_claim_for_as_long(db: Database) -> None:
    app = rows.app(db)
    rows.watch(db, app, "task", due=NOW)
    loop = Ahead(db, ahead=0.1, set_back=3600)
    await loop.tick()
    async with asyncio.timeout(30):
        while not loop.begun:
            await asyncio.sleep(0.01)
    loop.released.set()
    await loop.drain()


class Ahead(Hanging):
    """A loop that claims so many seconds ahead, by a clock that is then set back by so many."""

    def __init__(self, db: Database, ahead: float = 10.0, set_back: float = 0.0) -> None:
        super().__init__(db)
        self._claiming = Claiming("poll", watches, polling, 60.0, PLACES, ahead)
        self._set_back = set_back

    def early(self, claim: polling.PollClaim) -> float:
        return (claim.due - NOW) / 1000 + self._set_back
