"""Connections in their bounds: who waits, which is closed for a new one, and what is said when there is no room."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from ipaddress import ip_network
from typing import Any

import httpx
import pytest
from aiohappyeyeballs import AddrInfoType

from relay.channels.base import failed
from relay.model.delivery import Verdict
from relay.outbound import bulkheads
from relay.outbound.bulkheads import Bulkhead
from relay.outbound.connector import ADDRESSES, tried
from relay.outbound.descriptors import NoRoom, parts
from relay.outbound.shares import on_behalf_of
from relay.outbound.transport import Transport
from relay.security.guard import Guard
from tests.support.loopback import OK, Server, serving
from tests.support.parties import until
from tests.support.processes import no_descriptors

pytestmark = pytest.mark.anyio

LOOPBACK = Guard([ip_network("127.0.0.0/8")])


async def silence(_writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def get(transport: Transport, server: Server, owner: str = "", host: str = "127.0.0.1") -> httpx.Response:
    with on_behalf_of(owner):
        return await transport.handle_async_request(httpx.Request("GET", server.url(host=host)))


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that knows all names below `example`, as loopback."""
    look_up = socket.getaddrinfo

    def getaddrinfo(host: Any, *more: Any, **options: Any) -> Any:
        return look_up("127.0.0.1" if host.endswith(".example") else host, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@contextlib.asynccontextmanager
async def calling(connections: int) -> AsyncIterator[Transport]:
    bulkhead = Bulkhead("test", 4, connections)
    async with Transport(LOOPBACK, timeout=30, max_bytes=100, bulkhead=bulkhead) as transport:
        yield transport


async def test_the_oldest_kept_connection_is_closed_for_a_new_one() -> None:
    async with serving(OK) as server, calling(4) as transport:
        for number in range(1, 9):
            assert (await get(transport, server, host=f"{number}.example")).content == b"ok"
        assert server.connections == 8
        for number in (8, 7, 6):
            await get(transport, server, host=f"{number}.example")
        assert server.connections == 8
        await get(transport, server, host="1.example")
        assert server.connections == 9


async def test_calls_that_hang_leave_connections_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulkheads, "PATIENCE", 0.2)
    async with serving(silence) as silent, serving(OK) as server, calling(8) as transport:
        hanging = [asyncio.create_task(get(transport, silent, "a", f"{n}.silent.example")) for n in range(1, 30)]

        async def the_others_are_sent_away() -> bool:
            return sum(task.done() for task in hanging) == 25

        await until(the_others_are_sent_away)
        assert {type(task.exception()) for task in hanging if task.done()} == {NoRoom}
        assert silent.connections == 4
        for number in range(1, 20):
            assert (await get(transport, server, "b", f"{number}.example")).content == b"ok"
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)


async def test_to_have_no_descriptor_left_is_no_attempt() -> None:
    async with serving(OK) as server, calling(8) as transport:
        with no_descriptors(), pytest.raises(NoRoom) as raised:
            await get(transport, server)
        outcome = failed(raised.value)
        assert (outcome.verdict, outcome.unsent) == (Verdict.RETRY, True)
        assert outcome.retry_after
        assert (await get(transport, server)).content == b"ok"


async def test_a_name_that_cannot_be_looked_up_for_want_of_descriptors_is_no_attempt() -> None:
    async with serving(OK) as server, calling(8) as transport:
        with no_descriptors(), pytest.raises(NoRoom):
            await get(transport, server, host="no-such-name.invalid")
        assert not failed(httpx.ConnectError("refused")).unsent


def test_a_few_addresses_of_each_family_are_tried() -> None:
    def address(family: int, number: int) -> AddrInfoType:
        return family, socket.SOCK_STREAM, 6, "", (str(number), 80)

    six = [address(socket.AF_INET6, number) for number in range(100)]
    four = [address(socket.AF_INET, number) for number in range(100)]
    assert tried(six + four) == [six[0], four[0], six[1], four[1]]
    assert tried(four) == four[:ADDRESSES]
    assert tried(six[:1] + four[:1]) == [six[0], four[0]]


@pytest.mark.parametrize("limit", [64, 256, 512, 1024, 4096, 20_000, 1 << 20])
def test_the_parts_leave_about_half_of_any_limit(limit: int) -> None:
    divided = parts(limit)
    assert divided.incoming + divided.receivers + divided.upstreams + divided.slack <= limit * 0.55
    assert sum(divided) + divided.incoming // 2 <= limit * 0.8
    assert min(divided) >= 2
