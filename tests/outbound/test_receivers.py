"""How much a receiver is sent at once: by URL, by app and by host."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

import pytest

from relay.model.fairness import fair_shares
from relay.outbound.callers import Caller, CallKind
from relay.outbound.lane import APP_SHARE, SHARES
from relay.outbound.lanes import Lanes
from relay.outbound.receivers import (
    MAX_CLAIMED,
    MAX_UNDER_WAY,
    PER_APP,
    PER_HOST,
    PER_RECEIVER,
    Receiver,
    ReceiverLanes,
    lane_of,
)

pytestmark = pytest.mark.anyio

ALPHA, BETA = Caller(CallKind.DELIVER, "app_alpha"), Caller(CallKind.DELIVER, "app_beta")


@pytest.mark.parametrize(
    "host",
    ["hook.example", "HOOK.example", "hook.example.", "hook.example:443", "hook.example:0443", "hook.example:"],
)
def test_a_host_is_one_however_it_is_written(host: str) -> None:
    assert lane_of(host) == ("hook.example", 443)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("127.0.0.1:80", "127.0.0.1:080"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("127.0.0.1:8080", "127.1:08080"),
        ("127.0.0.1:8080", "2130706433:8080"),
        ("127.0.0.1:8080", "0x7f000001:8080"),
        ("[::1]:8080", "[0:0::0:1]:8080"),
        ("[::1]", "[::1]:443"),
        ("slack", "slack"),
    ],
)
def test_two_ways_to_write_a_host(one: str, other: str) -> None:
    assert lane_of(one) == lane_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("a.example", "b.example"), ("a.example:8080", "a.example:8081"), ("[::1]:8080", "[::2]:8080")],
)
def test_hosts_that_differ(one: str, other: str) -> None:
    assert lane_of(one) != lane_of(other)


async def entered(lanes: ReceiverLanes, caller: Caller, receivers: list[Receiver]) -> int:
    """How many of these may start without a wait."""
    tasks = [asyncio.create_task(lanes.enter(receiver, caller)) for receiver in receivers]
    for _ in range(20):
        await asyncio.sleep(0)
    started = sum(task.done() and task.result() == 0 for task in tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return started


async def test_one_app_leaves_places_at_a_host_for_the_others() -> None:
    lanes = ReceiverLanes()
    hanging = [Receiver(f"alpha's {n}", "HOOK.example" if n % 2 else "hook.example.") for n in range(100)]
    assert await entered(lanes, ALPHA, hanging) == PER_APP.concurrency < PER_HOST.concurrency
    assert await entered(lanes, BETA, [Receiver("beta's", "hook.example")]) == 1


async def test_one_url_leaves_places_for_the_others_of_its_app() -> None:
    lanes = ReceiverLanes()
    assert await entered(lanes, ALPHA, [Receiver("slow", "hook.example")] * 100) == PER_RECEIVER.concurrency
    assert await entered(lanes, ALPHA, [Receiver("quick", "hook.example")]) == 1


async def test_tests_have_few_places_and_do_not_wait() -> None:
    lanes = ReceiverLanes()
    few = int(int(PER_APP.concurrency * SHARES[CallKind.TEST]) * APP_SHARE)
    test = Caller(CallKind.TEST, "app_alpha")
    waits = await asyncio.gather(*(lanes.enter(Receiver(f"{n}", "hook.example"), test) for n in range(100)))
    assert waits.count(0) == few < 5
    assert min(wait for wait in waits if wait) >= 1
    assert await lanes.enter(Receiver("0", "hook.example"), ALPHA) == 0, "a delivery has the other places"
    lanes.done(Receiver("0", "hook.example"), test, 1.0)
    assert await lanes.enter(Receiver("1", "hook.example"), test) == 0


async def test_who_gets_no_place_at_the_host_gives_the_others_back() -> None:
    lanes = ReceiverLanes()
    for app in range(4):
        await entered(lanes, Caller(CallKind.DELIVER, f"app_{app}"), [Receiver(f"{app} {n}", "h") for n in range(40)])
    assert await entered(lanes, BETA, [Receiver("beta's", "h")]) == 0
    assert all(not lane.held for lane in [lanes._places._lanes.get("beta's")] if lane)
    assert lanes._apps._lanes.get(("app_beta", lane_of("h"))) is None


def test_what_one_app_may_claim_is_more_than_may_be_under_way() -> None:
    """What waits for slow receivers is put off then, and is not all that is claimed."""
    assert fair_shares(MAX_CLAIMED, {}, {"app": 10_000})["app"] > MAX_UNDER_WAY


async def test_a_fault_in_one_lane_keeps_no_place_in_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    lanes = ReceiverLanes()
    receiver = Receiver("place", "hook.example")
    drop = Lanes.drop

    def raises_for_the_host(self: Lanes, key: Hashable, now: float) -> None:
        if isinstance(key, tuple):
            raise MemoryError
        drop(self, key, now)

    with monkeypatch.context() as patch:
        patch.setattr(Lanes, "drop", raises_for_the_host)
        for _ in range(PER_HOST.concurrency):
            assert await lanes.enter(receiver, ALPHA) == 0.0
            with pytest.raises(MemoryError):
                lanes.done(receiver, ALPHA, 0.01)
    assert await lanes.enter(receiver, ALPHA) == 0.0
