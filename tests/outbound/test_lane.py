"""How the places of one lane are shared, between apps and between kinds of calls, on a simulated clock."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

import pytest

from relay.outbound.callers import Caller, CallKind
from relay.outbound.lane import FIRST_PAUSE, Limit, admits, kept_of
from relay.outbound.lanes import REFUSED_WAIT, Lanes

LANE = ("api.example", "key")
HUNDRED = Limit(100)
ALPHA, BETA = Caller(CallKind.POLL, "alpha"), Caller(CallKind.POLL, "beta")
MIRROR, BETAS_MIRROR = Caller(CallKind.MIRROR, "alpha"), Caller(CallKind.MIRROR, "beta")
LAST = Caller(CallKind.LAST, "beta")


def taken(lanes: Lanes, limit: Limit, caller: Caller, now: float = 0.0, tries: int = 1000) -> int:
    """How many places a caller gets."""
    return sum(lanes.take(LANE, limit, caller, now) == 0 for _ in range(tries))


def done(lanes: Lanes, caller: Caller, now: float = 0.0, *, refused: bool = False) -> None:
    lanes.done(LANE, caller, 0.1, now, refused=refused, retry_after=None)


@pytest.mark.parametrize(("most", "kept"), [(1, 0), (3, 0), (4, 1), (10, 1), (20, 2), (100, 10)])
def test_the_last_tenth_is_for_apps_that_hold_few(most: int, kept: int) -> None:
    assert kept_of(most) == kept
    held = 0
    while admits(held, held, most):
        held += 1
    assert held == most - kept
    of_another = 0
    while admits(of_another, held + of_another, most):
        of_another += 1
    assert of_another == kept
    assert not admits(0, most, most)


def test_an_app_alone_has_all_places_where_no_other_can_come() -> None:
    assert taken(Lanes(), HUNDRED, ALPHA) == 100
    assert taken(Lanes(between_apps=True), HUNDRED, ALPHA) == 90


def test_the_mirror_has_a_quarter_of_a_lane_and_an_app_half_of_that() -> None:
    lanes = Lanes(between_apps=True)
    assert taken(lanes, HUNDRED, MIRROR) == 12
    assert taken(lanes, HUNDRED, BETAS_MIRROR) == 12
    assert taken(lanes, HUNDRED, Caller(CallKind.MIRROR, "gamma")) == 1
    assert taken(lanes, HUNDRED, ALPHA) == 65
    for _ in range(12):
        done(lanes, MIRROR)
    assert taken(lanes, HUNDRED, MIRROR) == 12


@pytest.mark.parametrize("most", [1, 2, 3, 7])
def test_of_a_narrow_lane_the_mirror_may_have_one_place(most: int) -> None:
    assert taken(Lanes(), Limit(most), MIRROR) == 1


def test_the_mirror_has_a_share_of_all_places_of_the_process() -> None:
    lanes = Lanes(most=80)
    got = Counter(lanes.take(n, HUNDRED, MIRROR, 0.0) == 0 for n in range(100))
    assert got[True] == 10
    lanes.done(0, MIRROR, 0.1, 0.0, refused=False, retry_after=None)
    assert lanes.take(0, HUNDRED, MIRROR, 0.0) == 0


def test_the_mirror_has_a_share_of_the_rate() -> None:
    lanes, limit = Lanes(), Limit(1000, 40.0)
    starts: Counter[Caller] = Counter()
    for step in range(10_000):
        now = 1000 + step / 1000
        for caller in (MIRROR, ALPHA):
            if lanes.take(LANE, limit, caller, now) == 0:
                starts[caller] += 1
                done(lanes, caller, now)
    assert 40 <= starts[MIRROR] <= 50, "an eighth of 40 per second"
    assert 350 <= starts.total() <= 400


def test_refusals_of_the_mirror_pause_its_own_share_and_those_of_polls_all() -> None:
    lanes = Lanes()
    for _ in range(3):
        assert lanes.take(LANE, HUNDRED, MIRROR, 0.0) == 0
        done(lanes, MIRROR, refused=True)
    assert lanes.take(LANE, HUNDRED, MIRROR, 0.0) == FIRST_PAUSE
    assert lanes.take(LANE, HUNDRED, BETAS_MIRROR, 0.0) == 0
    assert lanes.take(LANE, HUNDRED, ALPHA, 0.0) == 0
    for _ in range(3):
        lanes.take(LANE, HUNDRED, ALPHA, 0.0)
        done(lanes, ALPHA, refused=True)
    assert lanes.take(LANE, HUNDRED, BETAS_MIRROR, 0.0) >= FIRST_PAUSE


@pytest.mark.anyio
async def test_the_mirror_takes_no_place_while_a_poll_waits() -> None:
    lanes, limit = Lanes(), Limit(1)
    assert await lanes.enter(LANE, limit, ALPHA) == 0
    poll = asyncio.create_task(lanes.enter(LANE, limit, BETA))
    await asyncio.sleep(0)
    assert await lanes.enter(LANE, limit, MIRROR) >= REFUSED_WAIT
    done(lanes, ALPHA, time.monotonic())
    assert await lanes.enter(LANE, limit, MIRROR) >= REFUSED_WAIT
    assert await poll == 0


@pytest.mark.anyio
async def test_the_mirror_takes_none_of_the_places_that_are_kept_while_a_poll_waits() -> None:
    lanes = Lanes(between_apps=True)
    assert taken(lanes, HUNDRED, ALPHA) == 90
    poll = asyncio.create_task(lanes.enter(LANE, HUNDRED, ALPHA))
    await asyncio.sleep(0)
    assert await lanes.enter(LANE, HUNDRED, BETAS_MIRROR) >= REFUSED_WAIT
    assert lanes.take(LANE, HUNDRED, BETAS_MIRROR, time.monotonic()) >= REFUSED_WAIT, "once a lease has come"
    assert await lanes.enter(LANE, HUNDRED, BETA) == 0, "a poll of another app"
    for caller in (BETA, ALPHA):
        done(lanes, caller, time.monotonic())
    assert await poll == 0


async def order(lanes: Lanes, limit: Limit, first: Caller, callers: Sequence[Caller]) -> list[Caller]:
    """In which order these get the one place of a lane that `first` has."""
    got: list[Caller] = []

    async def call(caller: Caller) -> None:
        assert await lanes.enter(LANE, limit, caller) == 0
        got.append(caller)

    assert await lanes.enter(LANE, limit, first) == 0
    tasks = [asyncio.create_task(call(caller)) for caller in callers]
    holder = first
    for _ in callers:
        await asyncio.sleep(0)
        done(lanes, holder, time.monotonic())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        holder = got[-1]
    await asyncio.gather(*tasks)
    return got


@pytest.mark.anyio
async def test_apps_that_wait_take_turns() -> None:
    got = await order(Lanes(), Limit(1), ALPHA, [ALPHA] * 5 + [BETA] * 2)
    assert got == [ALPHA, BETA, ALPHA, BETA, ALPHA, ALPHA, ALPHA]


@pytest.mark.anyio
async def test_a_last_poll_goes_first_and_last_polls_have_every_second_place() -> None:
    got = await order(Lanes(), Limit(1), ALPHA, [ALPHA] * 3 + [LAST] * 3)
    assert got == [LAST, ALPHA, LAST, ALPHA, LAST, ALPHA]


@pytest.mark.anyio
async def test_apps_take_turns_at_a_rate_too() -> None:
    lanes, limit = Lanes(), Limit(1000, 50.0)
    assert await lanes.enter(LANE, limit, ALPHA) == 0
    alphas = [asyncio.create_task(lanes.enter(LANE, limit, ALPHA)) for _ in range(60)]
    await asyncio.sleep(0)
    assert await lanes.enter(LANE, limit, BETA) == 0
    assert sum(task.done() for task in alphas) < 30
    for task in alphas:
        task.cancel()
    await asyncio.gather(*alphas, return_exceptions=True)


@pytest.mark.anyio
async def test_the_crowd_of_one_app_leaves_room_to_wait_for_another() -> None:
    lanes = Lanes(waiting=40, between_apps=True)
    assert [await lanes.enter(LANE, Limit(4), ALPHA) for _ in range(3)] == [0.0] * 3
    alphas = [asyncio.create_task(lanes.enter(LANE, Limit(4), ALPHA)) for _ in range(100)]
    await asyncio.sleep(0)
    assert sum(not task.done() for task in alphas) == 36
    betas = [asyncio.create_task(lanes.enter(LANE, Limit(4), BETA)) for _ in range(2)]
    await asyncio.sleep(0)
    assert [task.done() for task in betas] == [True, False], "one has the place that is kept, one waits"
    done(lanes, ALPHA, time.monotonic())
    done(lanes, BETA, time.monotonic())
    assert await betas[1] == 0
    for task in alphas:
        task.cancel()
    await asyncio.gather(*alphas, return_exceptions=True)


def test_a_last_poll_finds_a_place_where_an_app_has_taken_all_that_it_may() -> None:
    lanes = Lanes(between_apps=True)
    assert taken(lanes, HUNDRED, BETA) == 90
    assert lanes.take(LANE, HUNDRED, BETA, 0.0) > 0
    assert taken(lanes, HUNDRED, LAST) == 10
