"""Shares: nobody takes what the others need, whatever the order in which they come and go."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.outbound.shares import APP, OWNER, Shares, on_behalf_of

OWNERS = st.sampled_from("abcdef")


@given(st.integers(1, 100), st.lists(st.tuples(OWNERS, st.booleans(), st.integers(1, 60)), max_size=200))
def test_there_is_always_some_left_for_one_who_comes_new(total: int, steps: list[tuple[str, bool, int]]) -> None:
    shares = Shares(total)
    held = Counter[str]()
    for owner, takes, size in steps:
        if takes:
            room = shares.room(owner)
            assert shares.take(owner, size) is (size <= room)
            held[owner] += size if size <= room else 0
        elif held[owner]:
            shares.give_back(owner, held.pop(owner))
        assert shares.taken == held.total() <= total
        assert shares.room("new") >= min(1, total - held.total())
        assert max(held.values(), default=0) <= (total + 1) // 2


@pytest.mark.anyio
async def test_those_who_wait_get_their_turns_owner_by_owner() -> None:
    shares = Shares(4)
    came: list[str] = []

    async def use(owner: str) -> None:
        await shares.wait(owner)
        came.append(owner)

    waiting = [asyncio.create_task(use(owner)) for owner in "aaaaaabb"]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert sorted(came) == ["a", "a", "b"]  # half of four, then half of the two that are left
    while len(came) < 8:
        before = len(came)
        for owner in came[before - 3 :]:
            shares.give_back(owner)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(came) > before
    await asyncio.gather(*waiting)
    assert came.index("b", came.index("b") + 1) < 6


@pytest.mark.anyio
async def test_whoever_gives_up_takes_nothing_along() -> None:
    shares = Shares(2)
    assert shares.take("a")
    given_up, stays = (asyncio.create_task(shares.wait("a")) for _ in range(2))
    await asyncio.sleep(0)
    assert not shares.take("a")  # not before the two that wait
    shares.give_back("a")
    given_up.cancel()  # in the moment in which its turn has come
    await asyncio.wait_for(stays, 10)
    assert given_up.cancelled()
    given_up = asyncio.create_task(shares.wait("a"))
    stays = asyncio.create_task(shares.wait("a"))
    await asyncio.sleep(0)
    given_up.cancel()
    shares.give_back("a")  # before it knows
    await asyncio.wait_for(stays, 10)
    shares.give_back("a")
    assert shares.taken == 0


@pytest.mark.anyio
async def test_apps_that_have_one_share_together_leave_each_other_some() -> None:
    """All polls of one upstream have one owner: the calls of one app, under way or waiting, delay no other app's."""
    shares = Shares(64)
    assert [shares.take("host", app="greedy") for _ in range(40)].count(True) == 29, "nine tenths of half"
    waiting = [asyncio.create_task(shares.wait("host", "greedy")) for _ in range(40)]
    await asyncio.sleep(0)
    assert [shares.take("host", app="other") for _ in range(4)] == [True, True, True, False]
    shares.give_back("host", app="other")
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    assert shares.take("host", app="other")
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    for _ in range(29):
        shares.give_back("host", app="greedy")
    for _ in range(3):
        shares.give_back("host", app="other")
    assert (shares.taken, shares.room("host")) == (0, 32)


def test_what_is_used_belongs_to_whom_it_is_used_for() -> None:
    with on_behalf_of("app"):
        assert OWNER.get() == "app"
    assert OWNER.get() == ""
    with on_behalf_of("host", "app"):
        assert (OWNER.get(), APP.get()) == ("host", "app")
    assert APP.get() == ""
