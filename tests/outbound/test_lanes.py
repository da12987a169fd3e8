"""How much one place is asked at once, on a simulated clock."""

import asyncio
import heapq
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.outbound.callers import Caller, CallKind
from relay.outbound.lane import FIRST_PAUSE, MAX_PAUSE, MEMORY, Limit
from relay.outbound.lanes import AT_ONCE, LONGEST_WAIT, SHORT_WAIT, Lanes

LANE = ("api.example", "key")
ME = Caller(CallKind.POLL, "app_me")
FREE = Limit(concurrency=1000)
QUIET = settings(deadline=None)


def refuse(budget: Lanes, now: float, *, times: int = 1, retry_after: float | None = None, key: object = LANE) -> None:
    """Calls, one after the other, each of them refused."""
    for _ in range(times):
        assert budget.take(key, FREE, ME, now) == 0
        budget.done(key, ME, 0.0, now, refused=True, retry_after=retry_after)


def succeed(budget: Lanes, now: float, key: object = LANE) -> None:
    assert budget.take(key, FREE, ME, now) == 0
    budget.done(key, ME, 0.0, now, refused=False, retry_after=None)


# --------------------------------------------------------------------------------------------------- concurrency


@pytest.mark.parametrize("most", [1, 2, 20])
def test_concurrency_is_never_exceeded(most: int) -> None:
    budget, limit = Lanes(), Limit(concurrency=most)
    assert [budget.take(LANE, limit, ME, 0.0) for _ in range(most)] == [0] * most
    assert budget.take(LANE, limit, ME, 0.0) > 0
    assert budget.take("another lane", limit, ME, 0.0) == 0
    budget.done(LANE, ME, 1.0, 1.0, refused=False, retry_after=None)
    assert budget.take(LANE, limit, ME, 1.0) == 0
    assert budget.take(LANE, limit, ME, 1.0) > 0


def test_the_last_places_of_a_process_are_for_lanes_that_hold_none_and_for_apps_that_hold_few() -> None:
    budget, other = Lanes(100), Caller(CallKind.DELIVER, "app_other")
    taken = [budget.take(f"slow {n % 10}", FREE, ME, 0.0) for n in range(200)]
    assert taken.count(0) == 90
    assert budget.take("quick", FREE, ME, 0.0) == 0
    assert budget.take("quick", FREE, ME, 0.0) > 0
    theirs = [budget.take("theirs", FREE, other, 0.0) for _ in range(20)]
    assert theirs.count(0) == 10, "whatever the lanes of the first app hold"
    budget.done("theirs", other, 1.0, 1.0, refused=False, retry_after=None)
    assert budget.take("theirs", FREE, other, 1.0) == 0


@pytest.mark.parametrize("refused", [False, True])
def test_a_refused_call_makes_room_too(refused: bool) -> None:
    budget, limit = Lanes(), Limit(concurrency=1)
    assert budget.take(LANE, limit, ME, 0.0) == 0
    budget.done(LANE, ME, 1.0, 1.0, refused=refused, retry_after=None)
    assert budget.take(LANE, limit, ME, 1.0) == 0


def test_waiting_callers_are_spread() -> None:
    budget, limit = Lanes(), Limit(concurrency=1)
    budget.take(LANE, limit, ME, 0.0)
    waits = [budget.take(LANE, limit, ME, 0.0) for _ in range(100)]
    assert waits == sorted(set(waits))
    assert 0 < waits[0] < waits[-1] <= LONGEST_WAIT
    assert waits[-1] > 50 * waits[0]


def test_no_caller_is_told_to_wait_for_longer_than_the_longest_wait() -> None:
    budget, limit = Lanes(), Limit(concurrency=1)
    budget.take(LANE, limit, ME, 0.0)
    waits = [budget.take(LANE, limit, ME, 0.0) for _ in range(10_000)]
    assert min(waits) >= 0.01
    assert max(waits) <= LONGEST_WAIT + 1e-6


def test_callers_of_a_paused_lane_come_back_spread_after_the_pause() -> None:
    budget = Lanes()
    refuse(budget, 0.0, times=3)
    waits = [budget.take(LANE, Limit(concurrency=10, per_second=20), ME, 0.0) for _ in range(100)]
    assert waits == sorted(set(waits))
    assert waits[0] > FIRST_PAUSE
    assert waits[-1] >= FIRST_PAUSE + 99 / 20


# ---------------------------------------------------------------------------------------------------------- rate


@pytest.mark.parametrize("rate", [0.1, 0.5, 1.0, 2.0, 10.0])
def test_an_idle_lane_starts_one_call_at_once_and_no_burst(rate: float) -> None:
    budget, limit = Lanes(), Limit(1000, rate)
    assert sum(budget.take(LANE, limit, ME, 1000.0) == 0 for _ in range(200)) == 1


def within_rate(starts: Sequence[float], rate: float) -> bool:
    """Whether no second, and no time in which the rate allows one call, holds more starts than the rate."""
    window, most = max(1.0, 1 / rate), max(1, math.ceil(rate))
    return all(starts[first + most] - starts[first] >= window - 1e-6 for first in range(len(starts) - most))


@settings(QUIET, max_examples=300)
@given(
    st.floats(0.1, 50),
    st.integers(1, 5),
    st.lists(st.tuples(st.floats(0, 3), st.sampled_from(["take", "take", "take", "done"])), max_size=120),
)
def test_no_window_holds_more_than_the_rate(rate: float, most: int, steps: list[tuple[float, str]]) -> None:
    budget, limit = Lanes(), Limit(most, rate)
    now, in_flight, starts = 1000.0, 0, []
    for pause, step in steps:
        now += pause
        if step == "done" and in_flight:
            budget.done(LANE, ME, 0.1, now, refused=False, retry_after=None)
            in_flight -= 1
        elif step == "take" and budget.take(LANE, limit, ME, now) == 0:
            in_flight += 1
            starts.append(now)
        assert in_flight <= most
    assert within_rate(starts, rate)


@dataclass
class Crowd:
    """Callers that arrive within a second and do as they are told.

    starts: when each call started; asked: how often somebody was told to wait.
    """

    callers: int
    limit: Limit
    took: float
    starts: list[float] = field(default_factory=list)
    asked: int = 0

    def go(self) -> None:
        budget, in_flight = Lanes(), 0
        due = [(1000 + number / self.callers, number, "take") for number in range(self.callers)]
        while due:
            now, number, what = heapq.heappop(due)
            took = self.took * (0.5 + number * 7 % 11 / 10)
            if what == "done":
                in_flight -= 1
                budget.done(LANE, ME, took, now, refused=False, retry_after=None)
            elif wait := budget.take(LANE, self.limit, ME, now):
                self.asked += 1
                heapq.heappush(due, (now + wait, number, "take"))
            else:
                in_flight += 1
                self.starts.append(now)
                heapq.heappush(due, (now + took, number, "done"))
            assert in_flight <= self.limit.concurrency


@settings(QUIET, max_examples=50)
@given(st.integers(1, 150), st.none() | st.floats(1, 50), st.integers(1, 10), st.floats(0.001, 2))
def test_everybody_who_waits_gets_a_turn(callers: int, rate: float | None, most: int, took: float) -> None:
    crowd = Crowd(callers, Limit(most, rate), took)
    crowd.go()
    assert len(crowd.starts) == callers
    assert rate is None or within_rate(crowd.starts, rate)
    ideal = max(callers / rate if rate else 0.0, 1.5 * took * callers / most)
    assert crowd.starts[-1] - 1000 <= 2 * ideal + LONGEST_WAIT + 1


@pytest.mark.parametrize(
    ("callers", "limit", "took"), [(1000, Limit(20), 0.2), (3000, Limit(100), 1.0), (1000, Limit(100, 50.0), 1.0)]
)
def test_a_crowd_loses_no_time_and_does_not_ask_over_and_over(callers: int, limit: Limit, took: float) -> None:
    """Each question costs the database a claim and a save."""
    crowd = Crowd(callers, limit, took)
    crowd.go()
    elapsed = crowd.starts[-1] - 1000
    assert elapsed <= 1.2 * max(callers / (limit.per_second or 1e9), took * callers / limit.concurrency) + 1
    assert crowd.asked <= callers * (2 * elapsed / LONGEST_WAIT + 2)


@pytest.mark.parametrize(
    ("concurrency", "per_second"), [(0, None), (-1, None), (1, 0.0), (1, -1.0), (1, float("nan")), (1, float("inf"))]
)
def test_a_limit_that_makes_no_sense(concurrency: int, per_second: float | None) -> None:
    with pytest.raises(ValueError, match="concurrency must be at least 1"):
        Limit(concurrency, per_second)


# -------------------------------------------------------------------------------------------------------- pauses


def test_three_refusals_in_a_row_pause_a_lane() -> None:
    budget = Lanes()
    refuse(budget, 0.0, times=2)
    assert budget.take(LANE, FREE, ME, 0.0) == 0
    budget.done(LANE, ME, 0.0, 0.0, refused=True, retry_after=None)
    assert budget.take(LANE, FREE, ME, 0.0) >= FIRST_PAUSE
    assert budget.take(LANE, FREE, ME, FIRST_PAUSE - 0.01) > 0
    assert budget.take("another lane", FREE, ME, 0.0) == 0
    assert budget.take(LANE, FREE, ME, FIRST_PAUSE) == 0


def test_pauses_double_up_to_the_longest() -> None:
    budget = Lanes()
    refuse(budget, 0.0, times=2)
    now, pauses = 0.0, []
    for _ in range(9):
        refuse(budget, now)
        pauses.append(pause_left(budget, now))
        now += pauses[-1]
    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300, 300]


def pause_left(budget: Lanes, now: float) -> float:
    """The seconds until the lane opens, to the second."""
    return next(seconds for seconds in range(1000) if not paused(budget, now + seconds))


def paused(budget: Lanes, at: float) -> bool:
    if budget.take(LANE, FREE, ME, at):
        return True
    budget._lanes[LANE].end(ME)  # as if it had not been asked
    return False


@pytest.mark.parametrize("under_way", [0, 1], ids=["nothing else", "another call under way"])
def test_a_success_in_between_begins_the_count_anew(under_way: int) -> None:
    budget = Lanes()
    for _ in range(under_way):
        budget.take(LANE, FREE, ME, 0.0)
    for _ in range(10):
        refuse(budget, 0.0, times=2)
        succeed(budget, 0.0)
    refuse(budget, 0.0, times=2)
    assert not paused(budget, 0.0)


def test_refusals_long_ago_are_not_in_a_row() -> None:
    budget = Lanes()
    refuse(budget, 0.0, times=2)
    refuse(budget, MEMORY - 1)
    assert paused(budget, MEMORY - 1)


@pytest.mark.parametrize(("asked", "seconds"), [(None, 5), (0.0, 5), (2.0, 2), (60.0, 60), (86_400.0, MAX_PAUSE)])
def test_retry_after_says_how_long_the_pause_is(asked: float | None, seconds: float) -> None:
    budget = Lanes()
    refuse(budget, 0.0, times=3, retry_after=asked)
    assert pause_left(budget, 0.0) == seconds


def test_a_whole_burst_that_is_refused_pauses_once() -> None:
    """A hundred calls under way at the same time are one surprise, not a hundred in a row."""
    budget = Lanes()
    for _ in range(100):
        assert budget.take(LANE, FREE, ME, 0.0) == 0
    for _ in range(100):
        budget.done(LANE, ME, 0.5, 0.5, refused=True, retry_after=None)
    assert budget.take(LANE, FREE, ME, 0.5 + FIRST_PAUSE) == 0


def test_a_call_that_began_before_the_pause_may_still_ask_for_a_longer_one() -> None:
    budget = Lanes()
    for _ in range(4):
        budget.take(LANE, FREE, ME, 0.0)
    for _ in range(3):
        budget.done(LANE, ME, 0.0, 0.0, refused=True, retry_after=None)
    budget.done(LANE, ME, 1.0, 1.0, refused=True, retry_after=60.0)
    assert budget.take(LANE, FREE, ME, 60.9) > 0
    assert budget.take(LANE, FREE, ME, 61.0) == 0


def test_a_call_that_began_before_the_pause_does_not_end_it() -> None:
    budget = Lanes()
    for _ in range(4):
        budget.take(LANE, FREE, ME, 0.0)
    for _ in range(3):
        budget.done(LANE, ME, 0.0, 0.0, refused=True, retry_after=None)
    budget.done(LANE, ME, 1.0, 1.0, refused=False, retry_after=None)
    assert budget.take(LANE, FREE, ME, 1.0) > 0
    assert budget.take(LANE, FREE, ME, FIRST_PAUSE) == 0


# -------------------------------------------------------------------------------------------------------- memory


def lanes(budget: Lanes) -> int:
    return len(budget._lanes)


def test_a_lane_is_forgotten_when_its_last_call_ends() -> None:
    budget = Lanes()
    for number in range(100):
        succeed(budget, 0.0, number)
    assert lanes(budget) == 0


@pytest.mark.parametrize("limit", [FREE, Limit(10, 0.5)], ids=["concurrency", "rate"])
@pytest.mark.parametrize("refusals", [0, 1, 3, 10])
def test_idle_lanes_are_forgotten_however_they_ended(limit: Limit, refusals: int) -> None:
    """Of one new lane per second, those are kept that may still matter, and not many more."""
    budget, most = Lanes(), 0
    for number in range(20_000):
        now = float(number)
        assert budget.take(number, limit, ME, now) == 0
        budget.done(number, ME, 0.1, now, refused=refusals > 0, retry_after=600.0 if refusals > 3 else None)
        if refusals > 1:
            for _ in range(refusals - 1):
                if budget.take(number, limit, ME, now) == 0:
                    budget.done(number, ME, 0.1, now, refused=True, retry_after=None)
        most = max(most, lanes(budget))
    assert most <= 2 * (MEMORY + MAX_PAUSE)


def test_forgetting_keeps_what_still_matters() -> None:
    budget = Lanes()
    refuse(budget, 0.0, times=3, key="paused")
    refuse(budget, 0.0, times=2, key="nearly")
    assert budget.take("under way", Limit(1), ME, 0.0) == 0
    assert budget.take("paced", Limit(10, 0.05), ME, 0.0) == 0
    budget.done("paced", ME, 0.1, 0.1, refused=False, retry_after=None)
    for number in range(10_000):
        refuse(budget, 1.0, key=number)
    assert budget.take("paused", FREE, ME, 1.0) > 0
    assert budget.take("under way", Limit(1), ME, 1.0) > 0
    assert budget.take("paced", Limit(10, 0.05), ME, 1.0) > 0
    refuse(budget, 1.0, key="nearly")
    assert budget.take("nearly", FREE, ME, 1.0) > 0


# ------------------------------------------------------------------------------------------------- waiting in a queue


@asynccontextmanager
async def waiting(budget: Lanes, callers: int, limit: Limit) -> AsyncIterator[list[asyncio.Task[float]]]:
    """Callers who have entered, in order, as far as they get without time going by."""
    tasks = [asyncio.create_task(budget.enter(LANE, limit, ME)) for _ in range(callers)]
    try:
        await settled()
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def settled() -> None:
    """Lets everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


def leave(budget: Lanes, *, refused: bool = False) -> None:
    budget.done(LANE, ME, 0.1, time.monotonic(), refused=refused, retry_after=None)


def inside(tasks: Sequence[asyncio.Task[float]]) -> list[bool]:
    return [task.done() and not task.cancelled() and task.result() == 0 for task in tasks]


@pytest.mark.anyio
async def test_a_place_that_comes_free_goes_to_whoever_waits_longest() -> None:
    budget = Lanes()
    async with waiting(budget, 4, Limit(1)) as tasks:
        for entered in range(1, 5):
            assert inside(tasks) == [True] * entered + [False] * (4 - entered)
            leave(budget)
            await settled()
    assert lanes(budget) == 0


@pytest.mark.anyio
async def test_nobody_gets_in_beside_the_queue() -> None:
    budget = Lanes()
    async with waiting(budget, 5, Limit(2)) as tasks:
        assert budget.take(LANE, Limit(2), ME, time.monotonic()) > 0
        leave(budget)
        assert budget.take(LANE, Limit(2), ME, time.monotonic()) > 0
        await settled()
        assert inside(tasks) == [True, True, True, False, False]


@pytest.mark.anyio
async def test_who_would_wait_for_long_is_told_so_at_once() -> None:
    """A lane of one: ten may wait, the others give their rows back."""
    budget = Lanes(waiting=10)
    async with waiting(budget, 40, Limit(1)) as tasks:
        told = [task.result() for task in tasks if task.done()]
        assert told[0] == 0
        assert 20 <= len(told) <= 35
        assert all(1 < wait <= LONGEST_WAIT for wait in told[1:]), "behind the ten that wait"


@pytest.mark.anyio
async def test_any_number_waits_for_a_quick_lane() -> None:
    budget, limit = Lanes(most=20, waiting=10), Limit(2)

    def end_quickly() -> None:
        budget.done(LANE, ME, 0.001, time.monotonic(), refused=False, retry_after=None)

    assert [await budget.enter(LANE, limit, ME) for _ in range(2)] == [0, 0]
    for _ in range(60):
        end_quickly()
        assert await budget.enter(LANE, limit, ME) == 0
    crowd = [asyncio.create_task(budget.enter(LANE, limit, ME)) for _ in range(40)]
    await settled()
    assert not any(task.done() for task in crowd), "though ten may wait elsewhere, and twenty be here at all"
    for task in crowd:
        end_quickly()
        assert await task == 0
    end_quickly()
    end_quickly()
    assert lanes(budget) == 0


@pytest.mark.anyio
async def test_what_was_to_be_short_and_is_not_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that were answered at once hang from now on: whoever waits for their places gives his row back in time."""
    monkeypatch.setattr("relay.outbound.lanes.SHORT_WAIT", 0.2)
    budget = Lanes(most=8)
    async with waiting(budget, 3, Limit(1)) as tasks:
        assert [await task > 0 for task in tasks[1:]] == [True, True]
        leave(budget)
    assert lanes(budget) == 0
    assert await asyncio.gather(*(budget.enter(n, FREE, ME) for n in range(8))) == [0] * 8, "all places are free"


@pytest.mark.anyio
@pytest.mark.parametrize("slow", [1, 10, 14, 15, 16, 30])
async def test_many_lanes_of_which_none_comes_free_let_the_next_one_in(slow: int) -> None:
    budget = Lanes(most=300, waiting=40)
    crowd = [asyncio.create_task(budget.enter(n, Limit(20), ME)) for n in range(slow) for _ in range(40)]
    await settled()
    assert await budget.enter("another lane", Limit(20), ME) == 0
    for task in crowd:
        task.cancel()
    await asyncio.gather(*crowd, return_exceptions=True)


@pytest.mark.anyio
async def test_a_pause_sends_the_queue_away() -> None:
    budget = Lanes()
    async with waiting(budget, 6, Limit(3)) as tasks:
        for _ in range(3):
            leave(budget, refused=True)
        await settled()
        assert inside(tasks)[:5] == [True, True, True, True, True]
        assert tasks[5].done()
        assert FIRST_PAUSE - 1 < tasks[5].result() < FIRST_PAUSE + 1


@pytest.mark.anyio
async def test_who_goes_away_does_not_keep_the_place() -> None:
    budget = Lanes()
    async with waiting(budget, 3, Limit(1)) as tasks:
        tasks[1].cancel()
        await settled()
        leave(budget)
        await settled()
        assert inside(tasks) == [True, False, True]
        leave(budget)
    assert lanes(budget) == 0


@pytest.mark.anyio
async def test_who_is_cancelled_just_when_the_place_is_handed_over_passes_it_on() -> None:
    budget = Lanes()
    async with waiting(budget, 3, Limit(1)) as tasks:
        leave(budget)
        tasks[1].cancel()
        await settled()
        assert tasks[1].cancelled()
        assert inside(tasks) == [True, False, True]
        leave(budget)
    assert lanes(budget) == 0


@pytest.mark.anyio
async def test_a_closed_budget_lets_nobody_in() -> None:
    budget = Lanes()
    async with waiting(budget, 3, Limit(1)) as tasks:
        budget.close()
        await settled()
        assert [task.result() for task in tasks] == [0, AT_ONCE, AT_ONCE]
        assert await budget.enter(LANE, FREE, ME) == AT_ONCE
        assert await budget.enter("another lane", FREE, ME) == AT_ONCE
        leave(budget)
    assert lanes(budget) == 0


@pytest.mark.anyio
async def test_a_lane_with_a_rate_is_waited_for_as_long_as_that_is_short() -> None:
    budget, limit = Lanes(), Limit(1000, per_second=200)
    began = time.monotonic()
    waits = await asyncio.gather(*(budget.enter(LANE, limit, ME) for _ in range(240)))
    assert waits == [0] * 240
    assert time.monotonic() - began >= 239 / 200

    slow = Limit(1000, per_second=0.1)
    assert await budget.enter("slow", slow, ME) == 0
    assert await budget.enter("slow", slow, ME) > SHORT_WAIT


@pytest.mark.anyio
@QUIET
@given(st.integers(1, 4), st.lists(st.sampled_from(["enter", "enter", "leave", "refused", "cancel"]), max_size=60))
async def test_places_are_never_lost_nor_given_twice(most: int, steps: list[str]) -> None:
    budget, limit = Lanes(), Limit(most)
    tasks: list[asyncio.Task[float]] = []
    left = 0
    for number, step in enumerate(steps):
        under_way = sum(inside(tasks)) - left
        if step == "enter":
            tasks.append(asyncio.create_task(budget.enter(LANE, limit, ME)))
        elif step == "cancel" and tasks:
            tasks[number * 7 % len(tasks)].cancel()
        elif step in ("leave", "refused") and under_way:
            leave(budget, refused=step == "refused")
            left += 1
        if number % 3:
            await settled()
            assert sum(inside(tasks)) - left <= most
    await settled()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for _ in range(sum(inside(tasks)) - left):
        leave(budget)
    assert all(lane.held == 0 and not lane.waiting for lane in budget._lanes.values())
    assert budget._held == 0
