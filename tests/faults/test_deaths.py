"""A row whose work kills the process, again and again: it ends as any failure does, and takes nobody along."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from relay.store import Database, deaths, invariants, migrate, outbox, polling, processes
from relay.store.change_feed import ChangeFeed
from relay.store.notifications import Wake
from relay.store.schema import watches
from relay.telemetry.tracing import open_tracing
from relay.worker.claim_loop import Claiming, ClaimLoop, Process
from tests.support import rows
from tests.support.deployment import environment
from tests.support.parties import Answer, Receiver, Upstream, done, until
from tests.support.processes import Serve, serve

NEIGHBOURS = 10


def die(db: Database, name: str, now: int, *, died: bool = True) -> list[polling.PollClaim]:
    """Claim what is due as a process that ends before it saves anything."""
    db.run_here(processes.beat, processes.Member(name, "host", 1), now)
    claims = rows.claim(db, now, f"{name}.1")
    db.run_here(processes.bury, name, now, died=died)
    return claims


def test_deaths_in_a_row_are_counted_up_to_some_and_forgotten_with_a_save(db: Database) -> None:
    rows.watch(db, rows.app(db), "task")
    counted = [deaths.of(claim.lease) for n in range(5) for claim in die(db, f"a{n}", rows.NOW + n * deaths.SPREAD)]
    assert counted == [0, 1, 2, deaths.MOST, deaths.MOST]
    (claim,) = rows.claim(db, rows.NOW + 5 * deaths.SPREAD, "b.1")
    assert deaths.of(claim.lease) == deaths.MOST
    db.run_here(polling.save, [polling.Polled(claim, None, rows.NOW, rows.NOW)])
    (claim,) = rows.claim(db, lease="b.2")
    assert deaths.of(claim.lease) == 0


def test_after_the_second_death_rows_come_due_one_by_one(db: Database) -> None:
    app = rows.app(db)
    for number in range(20):
        rows.watch(db, app, f"task-{number}")
    assert len(die(db, "a", rows.NOW)) == 20
    assert len(die(db, "b", rows.NOW)) == 20, "the first was an accident"
    due = db.run_here(lambda tx: tx.execute(sa.select(watches.c.next_poll_at)).scalars().all())
    assert len(set(due)) > 10
    assert rows.NOW <= min(due) <= max(due) <= rows.NOW + deaths.SPREAD


def test_who_gives_its_claims_back_has_not_died(db: Database) -> None:
    rows.watch(db, rows.app(db), "task")
    assert [deaths.of(claim.lease) for n in range(3) for claim in die(db, f"a{n}", rows.NOW, died=False)] == [0, 0, 0]


def test_a_late_save_of_the_dead_changes_nothing_and_the_next_one_does(db: Database) -> None:
    rows.watch(db, rows.app(db), "task")
    (late,) = die(db, "a", rows.NOW)
    (claim,) = rows.claim(db, lease="b.1")
    assert db.run_here(polling.save, [rows.ended(late)]).made == 0
    assert db.run_here(polling.save, [rows.ended(claim)]).made == 1
    (told,) = db.run_here(rows.claim_of, outbox, rows.NOW, rows.NOW + 60_000, "c.1", 1)
    db.run_here(processes.bury, "c", rows.NOW)
    (again,) = db.run_here(rows.claim_of, outbox, rows.NOW, rows.NOW + 60_000, "d.1", 1)
    assert (told.id, deaths.of(told.lease)) == (again.id, deaths.of(again.lease) - 1)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.anyio
async def test_a_row_that_kills_the_process_ends_and_takes_nobody_along(
    upstream: Upstream, receiver: Receiver, tmp_path: Path
) -> None:
    """The upstream kills relay when it is asked about one task, and the receiver when it is told of another."""
    running: list[Serve] = []
    killed: list[str] = []

    def kill(what: str) -> Any:
        def script(_number: int) -> Answer:
            killed.append(what)
            os.kill(running[-1].process.pid, signal.SIGKILL)
            return done()

        return script

    upstream.scripts["asked"] = kill("asked")
    receiver.scripts["/told"] = kill("told")
    upstream.default = Answer(done().body, after=0.3)
    url = f"sqlite:///{tmp_path / 'relay.db'}"
    migrated = Database(url)
    migrated.run_here(migrate.upgrade)
    environ = environment(url, UNIFIED_VIDEO_BASE_URL=upstream.url, RELAY_RETRY_SCHEDULE="0s,0.1s")
    names = ["asked", "told", *(f"neighbour-{number}" for number in range(NEIGHBOURS))]
    async with serve({**environ, "RELAY_POLL_INTERVAL": "3"}, tmp_path, "web") as web:
        await web.ready()
        for name in names:
            target = {"type": "webhook", "url": f"{receiver.url}/{name}"}
            given = {"task_id": name, "targets": [target], "expires_in": 3 if name == "asked" else 3600}
            assert (await web.http.post("/v1/watches", json=given)).status_code == 201

        async def under_way() -> bool:
            rows_left = await migrated.read(lambda tx: tx.execute(sa.select(watches.c.next_poll_at)).scalars().all())
            pending = (await web.http.get("/v1/deliveries", params={"state": "pending"})).json()["data"]
            return any(rows_left) or bool(pending)

        async def stopped() -> bool:
            return running[-1].process.returncode is not None or not await under_way()

        while await under_way():
            async with serve(environ, tmp_path, "worker") as process:
                running.append(process)
                await until(stopped)
        listed = (await web.http.get("/v1/watches", params={"limit": 100})).json()["data"]
        deliveries = (await web.http.get("/v1/deliveries", params={"limit": 100})).json()["data"]
    states = {watch["task_id"]: watch for watch in listed}
    assert (states["asked"]["state"], states["asked"]["error"]["code"]) == ("expired", "internal")
    assert {states[name]["state"] for name in names[1:]} == {"completed"}
    task_of = {watch["id"]: watch["task_id"] for watch in listed}
    of_task = {task_of[one["watch_id"]]: one for one in deliveries}
    assert of_task["told"]["state"] == "dead"
    assert [one["error"] for one in of_task["told"]["attempts"]] == ["internal", "internal"]
    assert {of_task[name]["state"] for name in names if name != "told"} == {"delivered"}
    assert killed.count("told") <= 2 * deaths.MOST
    assert migrated.run_here(invariants.find_violations) == []
    migrated.close()


class Working(ClaimLoop[polling.PollClaim]):
    """A loop that only notes what it was asked to do."""

    done: list[str]

    async def work(self, claim: polling.PollClaim) -> None:
        self.done.append("work")

    async def fail(self, claim: polling.PollClaim) -> None:
        self.done.append("fail")


@pytest.mark.anyio
async def test_a_row_that_processes_have_died_over_is_a_fault(db: Database) -> None:
    rows.watch(db, rows.app(db), "task")
    now = rows.NOW
    wake = Wake(lambda _name, _wait: None)
    process = Process("me", lambda: now, db, wake, ChangeFeed(db), open_tracing(None))
    loop = Working(process, Claiming("poll", watches, polling, 60.0, 10), wake.polls)
    loop.done = []
    for number in range(deaths.MOST + 2):
        await loop.tick()
        await loop.drain()
        await db.run(processes.bury, "me", now)
        now += deaths.SPREAD
        assert len(loop.done) == number + 1
    assert loop.done == ["work"] * deaths.MOST + ["fail"] * 2
