"""The HTTP server: how long it keeps connections, and that it ends without waiting for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from relay.outbound.descriptors import parts
from relay.settings.options import Settings
from relay.web.server import listen, serving

pytestmark = pytest.mark.anyio

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@asynccontextmanager
async def running(keep_alive: float) -> AsyncIterator[int]:
    app = Starlette(routes=[Route("/", lambda _: PlainTextResponse("ok"))])
    listener = listen("127.0.0.1", 0)
    async with serving(app, listener, answering=5, keep_alive=keep_alive):
        yield listener.getsockname()[1]


async def idle(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which one request was answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(GET)
    await reader.readuntil(b"\r\n\r\nok")
    return reader, writer


def test_an_idle_connection_outlives_the_patience_of_a_router() -> None:
    """Heroku's router keeps its connections for 90 s."""
    assert Settings().keep_alive >= 95


async def test_an_idle_connection_is_kept_for_as_long_as_is_set() -> None:
    async with running(keep_alive=2) as port:
        reader, writer = await idle(port)
        began = time.monotonic()
        await asyncio.sleep(1)
        writer.write(GET)
        await reader.readuntil(b"\r\n\r\nok")
        assert await asyncio.wait_for(reader.read(), 10) == b""
        assert 2.9 < time.monotonic() - began < 6
        writer.close()


async def test_idle_connections_do_not_hold_up_the_end() -> None:
    async with running(keep_alive=95) as port:
        connections = [await idle(port) for _ in range(20)]
        began = time.monotonic()
    assert time.monotonic() - began < 2
    for reader, writer in connections:
        assert await reader.read() == b""
        writer.close()


async def test_who_has_just_come_is_heard_before_it_is_closed_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """All places of callers are taken by requests under way, and some come in the same moment."""
    monkeypatch.setattr("relay.web.http_limits.limit", lambda: 32)
    under_way = asyncio.Semaphore(0)
    go_on = asyncio.Event()

    async def slow(_: Request) -> PlainTextResponse:
        under_way.release()
        await go_on.wait()
        return PlainTextResponse("ok")

    app = Starlette(routes=[Route("/", lambda _: PlainTextResponse("ok")), Route("/slow", slow)])
    listener = listen("127.0.0.1", 0)
    async with serving(app, listener, answering=5):
        port = listener.getsockname()[1]
        busy = [await asyncio.open_connection("127.0.0.1", port) for _ in range(parts(32).incoming)]
        for _, writer in busy:
            writer.write(GET.replace(b"/ ", b"/slow "))
        for _ in busy:
            await under_way.acquire()
        lines = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", port) for _ in range(4)))
        for reader, writer in lines:
            writer.write(GET)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        go_on.set()
        for _, writer in (*busy, *lines):
            writer.close()
