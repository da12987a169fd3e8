"""The clock: one that is wrong is noticed, warned of and not worked by; what is under way ends by the right time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from relay.model.times import Millis
from relay.store import Database, processes
from relay.store.clock_reset import TOLERANCE
from relay.store.processes import NOTABLE, Member
from relay.telemetry import metrics
from relay.wiring import now
from relay.worker import clock as module
from relay.worker.clock import JUMP, Agreement, Machine, SharedClock, compare, watch_clock

DAY = 86_400_000
DIFFERS = "the clock of this machine differs from the database's"
AGREES = "the clock of this machine agrees with the database's again"


class Clocks(Machine):
    """The clocks of a machine whose wall clock is ahead of the real one."""

    ahead: Millis = 0

    def wall(self) -> Millis:
        return super().wall() + self.ahead


@pytest.fixture
def shared(migrated_postgres_url: str) -> Iterator[Database]:
    db = Database(migrated_postgres_url)
    yield db
    db.close()


# The decision


@pytest.mark.parametrize(
    ("before", "after", "ahead", "verdict"),
    [
        (0, 0, 0, Agreement.RIGHT),
        (-100, 300, 100, Agreement.RIGHT),
        (TOLERANCE, TOLERANCE, TOLERANCE, Agreement.RIGHT),
        (TOLERANCE + 1, TOLERANCE + 1, TOLERANCE + 1, Agreement.WRONG),
        (-TOLERANCE - 1, -TOLERANCE - 1, -TOLERANCE - 1, Agreement.WRONG),
        (DAY, DAY + 9000, DAY + 4500, Agreement.WRONG),
        (-5100, 5100, 0, Agreement.UNKNOWN),  # nothing is wrong, but who knows
        (0, 11_000, 5500, Agreement.UNKNOWN),  # the database answered after 11 s, perhaps at once
    ],
)
def test_a_comparison_says_no_more_than_the_time_that_it_took_allows(
    before: Millis, after: Millis, ahead: Millis, verdict: Agreement
) -> None:
    assert compare(0, before, after) == (ahead, verdict)


@given(off=st.integers(-DAY, DAY), there=st.integers(0, 20_000), back=st.integers(0, 20_000))
def test_whatever_the_way_there_and_back_took_a_verdict_is_true(off: Millis, there: Millis, back: Millis) -> None:
    _, verdict = compare(NOON, NOON - there + off, NOON + back + off)
    if verdict is not Agreement.UNKNOWN:
        assert (verdict is Agreement.RIGHT) == (abs(off) <= TOLERANCE)


NOON = 1_800_000_000_000


# With PostgreSQL


@pytest.mark.anyio
@pytest.mark.parametrize("seconds", [-1800, -6, 6, 1800, 172_800])
async def test_by_a_wrong_clock_nothing_is_claimed_until_it_is_right(seconds: int, shared: Database) -> None:
    clocks = Clocks()
    clock = SharedClock(shared, "me", clocks)
    assert clock.unwell() == "the clock of this machine is not compared with the database's yet"
    clocks.ahead = seconds * 1000
    with capture_logs() as lines:
        for _ in range(3):
            await clock.look()
            assert not clock.right
            side = "ahead of" if seconds > 0 else "behind"
            assert f"{abs(seconds)} s {side} the database's" in str(clock.unwell())
            assert abs(clock.now() - now()) < 2000, "what is under way ends by the right time"
            assert pytest.approx(seconds, abs=1) == metrics.CLOCK_AHEAD._value.get()
        clocks.ahead = 0
        assert not clock.right, "it was set: who knows"
        assert abs(clock.now() - now()) < 2000
        await clock.look()
    assert clock.right
    assert clock.unwell() is None
    assert [line["event"] for line in lines] == [
        f"{DIFFERS}: set both by NTP",
        f"{DIFFERS} too much: this process claims nothing until it is right",
        AGREES,
    ]


@pytest.mark.anyio
async def test_a_small_difference_is_warned_of_once_and_worked_with(shared: Database) -> None:
    clocks = Clocks()
    clock = SharedClock(shared, "me", clocks)
    with capture_logs() as lines:
        for ahead in (0, NOTABLE + 500, NOTABLE - 500, NOTABLE + 500, 0):
            clocks.ahead = ahead
            clock.look_here()
            assert clock.right
    assert [line["event"] for line in lines] == [f"{DIFFERS}: set both by NTP", AGREES]


@pytest.mark.anyio
async def test_a_process_whose_clock_differs_is_named_as_long_as_it_does(shared: Database) -> None:
    shared.run_here(processes.beat, Member("me", "here", 1), 0)
    shared.run_here(processes.beat, Member("other", "there", 2), 0)
    clocks = Clocks()
    clock = SharedClock(shared, "me", clocks)
    for ahead, named in ((0, []), (4000, ["me"]), (DAY, ["me"]), (0, [])):
        clocks.ahead = ahead
        await clock.look()
        await clock.look()  # which notes what the look before has found
        assert [row.name for row in shared.run_here(processes.wrong_clocks)] == named


@pytest.mark.anyio
async def test_a_comparison_during_which_the_clock_was_set_counts_for_the_clock_as_it_is_now(shared: Database) -> None:
    clocks = Clocks()

    class Slow(Database):
        async def run(self, *args: object, **more: object) -> object:  # type: ignore[override]
            shared_time = await Database.run(shared, *args, **more)  # type: ignore[arg-type]
            clocks.ahead = DAY
            return shared_time

    slow = Slow(shared.url)
    clock = SharedClock(slow, "me", clocks)
    await clock.look()
    assert not clock.right
    slow.close()


# A jump


@pytest.mark.anyio
async def test_a_jump_stops_claims_until_the_next_comparison(db: Database) -> None:
    clocks = Clocks()
    clock = SharedClock(db, "me", clocks)
    await clock.look()
    assert clock.right
    for ahead in (DAY, -DAY):
        clocks.ahead = ahead
        assert not clock.right
        assert abs(clock.now() - now()) < 2000, "nobody lived through a day in between"
        assert clock.unwell() == "the clock of this machine is not compared with the database's yet"
    clocks.ahead = JUMP - 500
    assert clock.right


@pytest.mark.anyio
async def test_who_watches_the_clock_is_told_of_a_jump_and_when_it_is_right(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY", 0.01)
    clocks = Clocks()
    clock = SharedClock(db, "me", clocks)
    await clock.look()
    told: list[str] = []
    righted = asyncio.Event()

    async def is_right() -> None:
        told.append("righted")
        righted.set()

    watching = asyncio.create_task(watch_clock(clock, lambda: told.append("jumped"), is_right, lambda _: None))
    await asyncio.sleep(0)
    with capture_logs() as lines:
        clocks.ahead = DAY
        async with asyncio.timeout(20):
            while "jumped" not in told or (not db.embedded and not clock.unwell()):
                await asyncio.sleep(0.01)
            if not db.embedded:  # there, the new clock is the only one
                assert "righted" not in told
                clocks.ahead = 0
            await righted.wait()
    watching.cancel()
    assert told[0] == "jumped"
    assert told.count("righted") == 1
    jumps = [line["by_seconds"] for line in lines if line["event"] == "the clock was set"]
    assert jumps[0] == pytest.approx(86_400, abs=2)


@pytest.mark.anyio
async def test_a_fault_does_not_end_the_watch_over_the_clock(shared: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY", 0.01)
    clocks = Clocks()
    clock = SharedClock(shared, "me", clocks)
    righted = asyncio.Event()
    broken = [KeyError("once"), OSError(24, "no descriptors")]

    async def is_right() -> None:
        if broken:
            raise broken.pop()
        righted.set()

    watching = asyncio.create_task(watch_clock(clock, lambda: None, is_right, lambda _: None))
    async with asyncio.timeout(20):
        await righted.wait()
    watching.cancel()
    assert broken == []


@pytest.mark.anyio
async def test_with_sqlite_there_is_no_other_clock(tmp_path: Path) -> None:
    db = Database(f"sqlite:///{tmp_path / 'relay.db'}")
    clocks = Clocks()
    clocks.ahead = DAY
    clock = SharedClock(db, "me", clocks)
    with capture_logs() as lines:
        clock.look_here()
    assert clock.right
    assert lines == []
    assert clock.now() == pytest.approx(now() + DAY, abs=2000)
    db.close()
