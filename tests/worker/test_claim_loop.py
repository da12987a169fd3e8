"""What a loop claims: a fair share for each app, and nothing of an app that is disabled."""

from __future__ import annotations

import asyncio

import pytest

from relay.store import Database, apps, outbox, polling, slack_messages
from relay.store.change_feed import ChangeFeed
from relay.store.notifications import Wake
from relay.store.schema import watches
from relay.telemetry.tracing import open_tracing
from relay.worker.claim_loop import Claiming, ClaimLoop, Process
from tests.support import rows
from tests.support.rows import NOW

PLACES = 20


class Hanging(ClaimLoop[polling.PollClaim]):
    """A loop whose work takes until it is `released`."""

    def __init__(self, db: Database) -> None:
        self.woken: list[float] = []
        self.begun: list[str] = []
        self.released = asyncio.Event()
        wake = Wake(lambda _loop, wait: self.woken.append(wait))
        process = Process("me", lambda: NOW, db, wake, ChangeFeed(db), open_tracing(None))
        super().__init__(process, Claiming("poll", watches, polling, 60.0, PLACES), wake.polls)

    async def work(self, claim: polling.PollClaim) -> None:
        self.begun.append(claim.app_id)
        await self.released.wait()


@pytest.mark.anyio
async def test_an_app_whose_calls_hang_leaves_room_for_others(db: Database) -> None:
    alpha, beta = rows.app(db, "alpha"), rows.app(db, "beta")
    for number in range(2 * PLACES):
        rows.watch(db, alpha, f"task-{number}", due=NOW - 1000)
    loop = Hanging(db)
    assert await loop.tick() is None, "what is due has no room, so there is nothing to wake up for"
    assert loop.under_way == PLACES * 9 // 10
    assert await loop.tick() is None
    assert loop.under_way == PLACES * 9 // 10
    rows.watch(db, beta, "task")
    rows.watch(db, beta, "later", due=NOW + 5000)
    assert await loop.tick() == 5.0
    await asyncio.sleep(0)
    assert loop.begun.count(beta) == 1
    loop.released.set()
    await loop.drain()
    assert loop.woken, "there is room now for what was held back"
    await loop.tick()
    await loop.drain()
    assert loop.begun.count(alpha) == PLACES * 9 // 5


@pytest.mark.anyio
async def test_two_apps_share_the_places(db: Database) -> None:
    for name in ("alpha", "beta"):
        app = rows.app(db, name)
        for number in range(2 * PLACES):
            rows.watch(db, app, f"task-{number}")
    loop = Hanging(db)
    await loop.tick()
    await asyncio.sleep(0)
    shares = {app: loop.begun.count(app) for app in loop.begun}
    assert len(shares) == 2
    assert max(shares.values()) - min(shares.values()) <= 1
    loop.released.set()
    await loop.drain()


def test_what_a_disabled_app_has_registered_waits(db: Database) -> None:
    app, other = rows.app(db), rows.app(db, "other")
    rows.watch(db, app, "told")
    db.run_here(polling.save, [rows.ended(claim) for claim in rows.claim(db)])
    rows.watch(db, app, "asked", rows.target(), rows.living_target())
    rows.watch(db, other, "asked", due=NOW + 7)
    db.run_here(apps.change, app, disabled_at=NOW)
    for claims in (polling, outbox):
        assert app not in db.run_here(claims.due, NOW, 100)
    assert db.run_here(polling.next_due) == NOW + 7, "no loop wakes up for it"
    assert db.run_here(outbox.next_due) is None
    assert db.run_here(rows.claim_of, slack_messages, NOW, NOW + 60_000, "me.1", 100) == []
    assert db.run_here(slack_messages.next_due) == NOW + slack_messages.REST
    db.run_here(apps.change, app, disabled_at=None)
    assert [claim.task_id for claim in rows.claim(db)] == ["asked"]
    assert len(db.run_here(rows.claim_of, outbox, NOW, NOW + 60_000, "me.1", 100)) == 1
    later = NOW + slack_messages.REST
    assert len(db.run_here(rows.claim_of, slack_messages, later, later + 60_000, "me.1", 100)) == 1
