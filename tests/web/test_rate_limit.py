"""What a request costs of its app's rate, and whose turn it is among heavy ones."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from relay.errors import TooManyRequests
from relay.outbound.descriptors import limit, parts
from relay.web.rate_limit import MAX_BYTES_IN_LINE, MAX_IN_LINE, HeavyRequests, RateLimiter, RequestsAtOnce
from tests.support.parties import until


def test_a_dear_request_costs_as_many_tokens_and_never_more_than_the_bucket_holds() -> None:
    limiter = RateLimiter(2)
    assert limiter.take("app", 0.0)[0] == 0
    assert limiter.take("app", 0.0, cost=5, paid=1)[0] == 0
    assert limiter.take("app", 0.0, cost=1)[1]["RateLimit"] == '"key";r=14;t=3'
    wait, headers = limiter.take("app", 0.0, cost=500, paid=1)
    assert (wait, headers["RateLimit"]) == (2.5, '"key";r=14;t=3'), "what is refused costs nothing"
    assert limiter.take("app", wait, cost=500, paid=1) == (
        0,
        {"RateLimit-Policy": '"key";q=20;w=10', "RateLimit": '"key";r=0;t=10'},
    )
    assert limiter.take("app", wait)[0] == 0.5
    assert limiter.take("other", wait)[0] == 0


@pytest.mark.anyio
async def test_an_app_has_one_turn_at_a_time_and_others_do_not_wait_for_it() -> None:
    turns, done, go = HeavyRequests(), list[str](), asyncio.Event()
    under_way, most = Counter[str](), Counter[str]()

    async def heavy(app: str) -> None:
        async with turns.one_at_a_time(app):
            under_way[app] += 1
            most[app] = max(most[app], under_way[app])
            if app == "greedy":
                await go.wait()
            await asyncio.sleep(0)
            under_way[app] -= 1
            done.append(app)

    greedy = [asyncio.create_task(heavy("greedy")) for _ in range(5)]
    await asyncio.sleep(0)
    await heavy("other")
    assert done == ["other"]
    go.set()
    await asyncio.gather(*greedy)
    assert done == ["other", *["greedy"] * 5]
    assert most == {"greedy": 1, "other": 1}


@pytest.mark.anyio
@pytest.mark.parametrize(("size", "most"), [(0, MAX_IN_LINE), (MAX_BYTES_IN_LINE // 4, 4), (MAX_BYTES_IN_LINE * 2, 1)])
async def test_a_line_is_as_long_as_it_may_be_and_shorter_afterwards(size: int, most: int) -> None:
    turns, go, in_line = HeavyRequests(), asyncio.Event(), list[int]()

    async def heavy() -> None:
        in_line.append(1)
        async with turns.one_at_a_time("app", size):
            await go.wait()

    waiting = [asyncio.create_task(heavy()) for _ in range(most)]
    await until(lambda: asyncio.sleep(0, len(in_line) == most))
    with pytest.raises(TooManyRequests):
        async with turns.one_at_a_time("app", size):
            pass
    go.set()
    await asyncio.gather(*waiting)
    async with turns.one_at_a_time("app", size):
        pass


def test_the_requests_of_one_app_leave_connections_to_another() -> None:
    at_once, most = RequestsAtOnce(), parts(limit()).incoming * 3 // 4
    at_once._held["greedy"] = most - 1
    with at_once.one("greedy"):
        with pytest.raises(TooManyRequests), at_once.one("greedy"):
            raise AssertionError("one too many")
        with at_once.one("other"):
            assert most < parts(limit()).incoming
    with at_once.one("greedy"):
        assert at_once._held == {"greedy": most}
