"""HTTP that costs next to nothing: the test shares two cores with the relay that it attacks, and measures."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from relay.web.server import listen

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_CHUNKED = re.compile(rb"(?i)\r\ntransfer-encoding: *chunked")

NEVER = 3600.0
"""Seconds after which nobody waits for an answer any more."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answers.

    Attributes:
        after: seconds until it does.
        piece: what is written again and again, every `pause` seconds, after the body; the answer then has no end.
    """

    body: bytes = b"ok"
    status: int = 200
    headers: str = ""
    after: float = 0.0
    piece: bytes = b""
    pause: float = 0.0

    def head(self) -> bytes:
        """Return the status line and the headers."""
        length = "" if self.piece else f"Content-Length: {len(self.body)}\r\n"
        return f"HTTP/1.1 {self.status} X\r\n{length}{self.headers}\r\n".encode()


class Asked(NamedTuple):
    """A request that a server got."""

    target: str
    body: bytes


@dataclass(slots=True)
class Server:
    """A server whose answers a function decides.

    Attributes:
        open, most_open: its connections now, and at most.
        heard: how many requests came.
    """

    decide: Callable[[Asked], Reply]
    port: int = 0
    open: int = 0
    most_open: int = 0
    heard: int = 0
    _transports: set[asyncio.Transport] = field(default_factory=set)


class _Answering(asyncio.Protocol):
    """A connection to a server; requests come one after another."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._data = b""
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._server._transports.add(self._transport)
        self._server.open += 1
        self._server.most_open = max(self._server.most_open, self._server.open)

    def connection_lost(self, _error: Exception | None) -> None:
        self._server.open -= 1
        self._server._transports.discard(self._transport)
        if self._timer:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not end or len(body) < (needed := int(length[1]) if length else 0):
            return
        self._data = body[needed:]
        self._server.heard += 1
        reply = self._server.decide(Asked(head.split(b" ", 2)[1].decode("latin-1"), body[:needed]))
        if reply.after:
            self._timer = asyncio.get_running_loop().call_later(reply.after, self._answer, reply)
        else:
            self._answer(reply)

    def _answer(self, reply: Reply) -> None:
        self._transport.write(reply.head() + reply.body)
        if reply.piece:
            self._go_on(reply)

    def _go_on(self, reply: Reply) -> None:
        if self._transport.get_write_buffer_size() < 1_000_000:
            self._transport.write(reply.piece)
        self._timer = asyncio.get_running_loop().call_later(reply.pause, self._go_on, reply)


@contextlib.asynccontextmanager
async def serving(decide: Callable[[Asked], Reply]) -> AsyncIterator[Server]:
    """Run a server at every address of loopback."""
    server = Server(decide)
    listener = listen("0.0.0.0", 0)
    server.port = listener.getsockname()[1]
    async with await asyncio.get_running_loop().create_server(
        lambda: _Answering(server), sock=listener, backlog=4096
    ) as running:
        yield server
        running.close()
        for transport in [*server._transports]:
            transport.abort()


class Answer(NamedTuple):
    """What relay answered."""

    status: int
    head: bytes
    body: bytes

    @property
    def json(self) -> Any:
        """Return the body, read."""
        return json.loads(self.body)

    @property
    def retry_after(self) -> float:
        """Return the seconds that a refused caller has to wait."""
        found = re.search(rb"(?i)\r\nretry-after: *(\d+)", self.head)
        return float(found[1]) if found else 1.0


class Line:
    """A connection to relay that one API key uses, request after request."""

    def __init__(self, port: int, key: str | None) -> None:
        self._port = port
        self._key = key
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return the connection; make it if there is none."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
        return self._streams

    async def send(self, method: str, path: str, body: bytes = b"", headers: str = "") -> asyncio.StreamReader:
        """Send a request; return where its answer comes."""
        reader, writer = await self.open()
        key = f"Authorization: Bearer {self._key}\r\n" if self._key else ""
        if body and "content-length" not in headers.lower():
            headers += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: relay\r\n{key}{headers}\r\n".encode() + body)
        await writer.drain()
        return reader

    async def ask(self, method: str, path: str, body: Any = None, headers: str = "") -> Answer:
        """Send a request and read its answer to the end."""
        sent = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            reader = await self.send(method, path, sent, headers)
            answer = await _read(reader)
        except BaseException:
            self.close()
            raise
        if b"\r\nconnection: close" in answer.head.lower():
            self.close()
        return answer

    async def write(self, data: bytes) -> None:
        """Write more of a request."""
        assert self._streams
        self._streams[1].write(data)
        await self._streams[1].drain()

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up at once."""
        if self._streams:
            self._streams[1].transport.abort()
        self._streams = None


async def _read(reader: asyncio.StreamReader) -> Answer:
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head[9:12])
    if length := _LENGTH.search(head):
        return Answer(status, head, await reader.readexactly(int(length[1])))
    body = b""
    if _CHUNKED.search(head):
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    return Answer(status, head, body)
