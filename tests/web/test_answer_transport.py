"""Answers go in one write: head and body together, a stream's head without delay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from relay.web.answer_transport import MOST, AnswerTransport
from relay.web.server import listen, serving

pytestmark = pytest.mark.anyio


class Sent(asyncio.Transport):
    """A transport that notes what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed_after: int | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed_after = len(self.writes)

    def is_closing(self) -> bool:
        return self.closed_after is not None


HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


async def test_a_head_goes_with_its_body() -> None:
    sent = Sent()
    transport = AnswerTransport(sent, asyncio.get_running_loop())
    for _ in range(2):
        transport.write(HEAD)
        transport.write(b"ok")
    await asyncio.sleep(0)
    assert sent.writes == [HEAD + b"ok"] * 2
    assert not transport.is_closing()


async def test_a_head_without_a_body_goes_at_the_end_of_the_turn() -> None:
    sent = Sent()
    transport = AnswerTransport(sent, asyncio.get_running_loop())
    transport.write(HEAD)
    assert sent.writes == []
    await asyncio.sleep(0)
    assert sent.writes == [HEAD]
    transport.write(b"later")
    assert sent.writes == [HEAD, b"later"]


async def test_nothing_is_lost_when_the_connection_is_closed() -> None:
    sent = Sent()
    transport = AnswerTransport(sent, asyncio.get_running_loop())
    transport.write(HEAD)
    transport.close()
    assert (sent.writes, sent.closed_after) == ([HEAD], 1)


async def test_a_large_body_is_not_copied() -> None:
    sent = Sent()
    transport = AnswerTransport(sent, asyncio.get_running_loop())
    transport.write(HEAD)
    transport.write(b"x" * (MOST + 1))
    assert sent.writes == [HEAD, b"x" * (MOST + 1)]


async def _answer(request: Request) -> Response:
    if request.url.path == "/stream":
        go = request.app.state.go

        async def chunks() -> AsyncIterator[bytes]:
            await go.wait()
            yield b"late"

        return StreamingResponse(chunks())
    return PlainTextResponse("x" * (2 * MOST) if request.url.path == "/large" else "ok")


async def test_every_kind_of_answer_arrives() -> None:
    app = Starlette(routes=[Route("/{path:path}", _answer, methods=["GET"])])
    app.state.go = asyncio.Event()
    listener = listen("127.0.0.1", 0)
    async with serving(app, listener, answering=5):
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.getsockname()[1])
        for method, path, body in (("GET", "/", b"ok"), ("HEAD", "/", b""), ("GET", "/large", b"x" * (2 * MOST))):
            writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert await reader.readexactly(len(body)) == body
        writer.write(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"chunked" in await reader.readuntil(b"\r\n\r\n"), "before there is anything in it"
        app.state.go.set()
        assert await reader.readuntil(b"0\r\n\r\n") == b"4\r\nlate\r\n0\r\n\r\n"
        writer.close()
