"""Lookups of names that are slow, wrong or many: what each caller gets, and that nobody waits for another's names.

The resolver is replaced at its lowest seam, `socket.getaddrinfo`: a name below `slow.example` is not answered before
the test is over, as if its servers kept silent.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from relay.outbound import lookups
from relay.outbound.lookups import Lookups
from relay.outbound.shares import on_behalf_of
from tests.support.parties import until

pytestmark = pytest.mark.anyio

THREADS = 8


class Resolver:
    """What stands in for the system's resolver.

    Attributes:
        asked: how often it was asked for each name.
        over: lets the slow names fail.
    """

    def __init__(self) -> None:
        self.asked = Counter[str]()
        self.over = threading.Event()

    def getaddrinfo(self, host: str, port: Any, *_: Any, **__: Any) -> list[Any]:
        self.asked[host] += 1
        if host.endswith(".slow.example"):
            self.over.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        if host.startswith("gone."):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port or 0))]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    found = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", found.getaddrinfo)
    yield found
    found.over.set()


async def ask(looked_up: Lookups, owner: str, host: str, port: int = 80) -> list[Any]:
    with on_behalf_of(owner):
        return [target[:2] for *_, target in await looked_up.addresses(host, port)]


async def test_a_name_is_looked_up_once_for_all_who_ask(resolver: Resolver) -> None:
    found = Lookups("test", THREADS)
    crowd = [ask(found, owner, "crowd.example", port) for port in (80, 443) for owner in "ab" for _ in range(10)]
    answers = await asyncio.gather(*crowd)
    assert answers == [[("127.0.0.1", 80)]] * 20 + [[("127.0.0.1", 443)]] * 20
    assert await ask(found, "c", "crowd.example") == [("127.0.0.1", 80)], "who comes soon after"
    assert resolver.asked["crowd.example"] == 1


async def test_a_failure_is_remembered_for_a_moment_only(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "FAILURE_CACHE", 1.0)
    found = Lookups("test", THREADS)
    for _ in range(5):
        with pytest.raises(socket.gaierror):
            await ask(found, "a", "gone.example")
        await asyncio.sleep(0.001)  # what is forgotten at once is forgotten by now
    assert resolver.asked["gone.example"] == 1

    async def asked_again() -> bool:
        with pytest.raises(socket.gaierror):
            await ask(found, "a", "gone.example")
        return resolver.asked["gone.example"] == 2

    await until(asked_again)


async def test_an_address_needs_no_resolver(resolver: Resolver) -> None:
    found = Lookups("test", THREADS)
    assert await ask(found, "a", "127.0.0.1", 8080) == [("127.0.0.1", 8080)]
    assert await ask(found, "a", "::1", 8080) == [("::1", 8080)]
    assert not resolver.asked


async def test_silent_names_of_one_app_do_not_delay_anothers(resolver: Resolver) -> None:
    found = Lookups("test", THREADS)
    silent = [asyncio.create_task(ask(found, "a", f"{n}.slow.example")) for n in range(300)]
    await asyncio.sleep(0)
    for number in range(20):
        assert await asyncio.wait_for(ask(found, "b", f"{number}.good.example"), 20)
    slow = [name for name in resolver.asked if name.endswith(".slow.example")]
    assert len(slow) <= THREADS / 2
    resolver.over.set()
    assert {type(error) for error in await asyncio.gather(*silent, return_exceptions=True)} == {socket.gaierror}


async def test_what_nobody_waits_for_any_more_is_not_looked_up(resolver: Resolver) -> None:
    found = Lookups("test", 2)
    silent = asyncio.create_task(ask(found, "a", "0.slow.example"))
    left = [asyncio.create_task(ask(found, "a", "left.example")) for _ in range(2)]
    kept = [asyncio.create_task(ask(found, "a", "kept.example")) for _ in range(2)]

    async def begun() -> bool:
        return bool(resolver.asked)

    await until(begun)
    for task in (*left, kept[0]):
        task.cancel()
    resolver.over.set()
    assert await asyncio.wait_for(kept[1], 20) == [("127.0.0.1", 80)]
    assert resolver.asked == {"0.slow.example": 1, "kept.example": 1}
    await asyncio.gather(silent, *left, *kept, return_exceptions=True)


async def test_who_leaves_a_lookup_that_has_begun_leaves_it_to_the_others(resolver: Resolver) -> None:
    found = Lookups("test", THREADS)
    first, second = (asyncio.create_task(ask(found, owner, "0.slow.example")) for owner in "ab")

    async def begun() -> bool:
        return bool(resolver.asked)

    await until(begun)
    first.cancel()
    resolver.over.set()
    with pytest.raises(socket.gaierror):
        await asyncio.wait_for(second, 20)
    assert resolver.asked["0.slow.example"] == 1
