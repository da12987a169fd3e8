"""The memory of large answers: who gets it, when, and that all of it comes back."""

import asyncio
import gc

import httpx
import pytest

from relay.outbound import reservations
from relay.outbound.reservations import Reservations

pytestmark = pytest.mark.anyio


async def settled() -> None:
    """Let the loop do what is due."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_is_dropped_is_free_for_the_next_in_line() -> None:
    memory = Reservations(100)
    first = memory.reserve(60)
    second = memory.reserve(60)
    third = memory.reserve(10)
    await settled()
    assert [one.granted.done() for one in (first, second, third)] == [True, False, False], "none overtakes"
    del first
    await asyncio.wait_for(second.granted, 5)
    await asyncio.wait_for(third.granted, 5)
    assert (second.size, third.size) == (60, 10)


async def test_what_is_not_needed_comes_back_at_once() -> None:
    memory = Reservations(100)
    first = memory.reserve(100)
    second = memory.reserve(90)
    first.keep(200)
    assert not second.granted.done()
    first.keep(10)
    assert second.granted.done()
    assert (first.size, second.size) == (10, 90)


async def test_an_answer_may_have_all_there_is_but_no_more() -> None:
    memory = Reservations(100)
    first = memory.reserve(1000)
    assert (first.granted.done(), first.size) == (True, 100)


async def test_one_that_gives_up_lets_the_next_pass() -> None:
    memory = Reservations(100)
    first = memory.reserve(50)
    second = memory.reserve(100)
    third = memory.reserve(50)
    second.granted.cancel()
    await asyncio.wait_for(third.granted, 5)
    assert (first.size, second.size, third.size) == (50, 0, 50)


async def test_none_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reservations, "PATIENCE", 0.05)
    memory = Reservations(100)
    first = memory.reserve(50)
    second = memory.reserve(100)
    monkeypatch.setattr(reservations, "PATIENCE", 5)
    third = memory.reserve(50)
    with pytest.raises(httpx.PoolTimeout, match="other large answers"):
        await asyncio.wait_for(second.granted, 5)
    await asyncio.wait_for(third.granted, 5)
    assert (first.size, second.size) == (50, 0)


async def test_what_the_garbage_collector_finds_in_another_thread_comes_back_too() -> None:
    memory = Reservations(100)
    cycle: list[object] = [memory.reserve(100)]
    cycle.append(cycle)
    del cycle
    waiting = memory.reserve(100)
    await asyncio.to_thread(gc.collect)
    await asyncio.wait_for(waiting.granted, 5)
