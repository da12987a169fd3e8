"""The heartbeat goes on while the event loop is busy, and ends when the loop hangs."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from relay.store import Database
from relay.store.change_feed import ChangeFeed
from relay.store.notifications import Wake
from relay.store.shared_schema import processes
from relay.telemetry.tracing import open_tracing
from relay.wiring import now
from relay.worker import heartbeat
from relay.worker.claim_loop import Process
from relay.worker.heartbeat import Heartbeat
from tests.support.parties import until

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.02)


def beating(db: Database, name: str) -> Heartbeat:
    return Heartbeat(Process(name, now, db, Wake(lambda *_: None), ChangeFeed(db), open_tracing(None)))


def seen(db: Database) -> int:
    return int(db.run_here(lambda tx: tx.execute(sa.select(processes.c.seen_at)).scalar_one()))


def hold_the_loop_until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


async def test_a_process_with_a_busy_loop_beats(db: Database) -> None:
    process = beating(db, "busy")
    await process.start()
    try:
        for _ in range(3):
            last = seen(db)
            hold_the_loop_until(lambda last=last: seen(db) > last)
    finally:
        await process.leave()
    assert db.run_here(lambda tx: tx.execute(sa.select(processes)).all()) == []


async def test_a_process_whose_loop_hangs_beats_no_more_until_it_moves(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "HANGS", 0.3)
    said: list[str] = []
    monkeypatch.setattr(heartbeat.log, "error", lambda event, **_: said.append(event))
    process = beating(db, "hangs")
    await process.start()
    try:
        hold_the_loop_until(lambda: bool(said))
        last = seen(db)
        held = time.monotonic() + 10 * heartbeat.INTERVAL
        hold_the_loop_until(lambda: time.monotonic() > held)
        assert seen(db) == last
        assert len(said) == 1
        await until(lambda: beats_again(db, last))
    finally:
        await process.leave()


async def beats_again(db: Database, last: int) -> bool:
    return seen(db) > last
