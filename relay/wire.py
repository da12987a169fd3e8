"""HTTP/1.1 as a poll and a webhook need it: a request out, an answer back, over a connection that is kept.

An engine for all that HTTP can do costs several times as much CPU (`python -m tests.bench.transports`), and exchanges
are what relay mostly does. httptools (llhttp, the parser of Node) reads; what is here keeps the connections and sees
that an answer is whole.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import cast

import httptools
import httpx

from relay.dialling import Dialler, Origin

KEEP = 15.0
"""Seconds for which a connection is kept without being asked anything."""

MAX_HEAD = 16 * 1024
"""Bytes of an answer's head, as Node has it, and of what may stand between two pieces of its body."""


class Unheard(httpx.ReadError):
    """The connection was lost before a byte of the answer came."""


@dataclass(frozen=True, slots=True)
class Received:
    """An answer, its body as it came."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Connection(asyncio.Protocol):
    """A connection, on which one exchange at a time takes place. httptools calls the methods that begin with `on_`."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._parser: httptools.HttpResponseParser
        self._received: asyncio.Future[Received] | None = None
        self._cap = self._unread = 0
        self._again, self._heard, self._head_read = True, False, False
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = bytearray()

    @property
    def usable(self) -> bool:
        """Whether it may be asked once more."""
        return self._again and not self._transport.is_closing()

    def abort(self) -> None:
        """Closes it at once."""
        self._transport.abort()

    async def ask(self, request: bytes, cap: int) -> Received:
        """Sends the request and reads the answer; of a body longer than `cap`, one byte more than that.

        Raises:
            httpx.TransportError: what came was no whole answer. `Unheard` if nothing came.
        """
        self._cap, self._unread = cap, 0
        self._again, self._heard, self._head_read = False, False, False
        self._parser = httptools.HttpResponseParser(self)
        # As aiohttp reads: what servers get wrong and what leaves no doubt about where an answer ends.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self._received = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            return await self._received
        except BaseException:
            self._again = False  # whoever gives up does not take the connection back, answered or not
            raise
        finally:
            self._received, self._headers, self._body = None, [], bytearray()
            if not self._again:
                self.abort()

    @property
    def _awaited(self) -> asyncio.Future[Received] | None:
        """The answer that somebody waits for, if anybody does."""
        return self._received if self._received is not None and not self._received.done() else None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio has connected it."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Something came: of the answer that is awaited, or else nothing that follows can be trusted."""
        if self._awaited is None:
            self._again = False
            self.abort()
            return
        self._heard = True
        self._unread += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(httpx.RemoteProtocolError(f"not HTTP: {error}"))
        if len(self._body) > self._cap:
            self._succeed()
        elif self._unread > MAX_HEAD:
            self._fail(httpx.RemoteProtocolError(f"not HTTP: more than {MAX_HEAD} bytes of headers"))

    def connection_lost(self, error: Exception | None) -> None:
        """The connection has ended, and with it a body of which nothing else says where it ends."""
        self._again = False
        framed = any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in self._headers)
        if error is None and self._head_read and not framed:
            self._succeed()
        else:
            kind = httpx.ReadError if self._heard else Unheard
            self._fail(kind("the connection was lost before the answer was complete"))

    def on_message_begin(self) -> None:
        """An answer begins; if it is one too many, nobody knows what the next one would be an answer to."""
        self._again = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, of the head or behind the body."""
        if not self._head_read:
            # A lenient parser lets NUL through, which no store of text takes: https://www.rfc-editor.org/rfc/rfc9110#section-5.5
            self._headers.append((name, value.replace(b"\0", b" ")))

    def on_headers_complete(self) -> None:
        """The head has been read, of the answer or of an interim one."""
        self._head_read = self._parser.get_status_code() >= 200
        if not self._head_read:
            self._headers.clear()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._unread = 0
        if len(self._body) <= self._cap:
            self._body += body

    def on_message_complete(self) -> None:
        """The answer is complete, or an interim one."""
        if self._head_read and len(self._body) <= self._cap and self._awaited is not None:
            # An answer may come before the request is sent: the rest of it would stand in the way of the next.
            self._again = self._parser.should_keep_alive() and not self._transport.get_write_buffer_size()
            self._succeed()

    def _succeed(self) -> None:
        if (awaited := self._awaited) is not None:
            del self._body[self._cap + 1 :]
            awaited.set_result(Received(self._parser.get_status_code(), self._headers, bytes(self._body)))
            self._headers = []  # an answer too many does not change this one

    def _fail(self, error: httpx.TransportError) -> None:
        if (awaited := self._awaited) is not None:
            awaited.set_exception(error)


class Wire:
    """Exchanges requests for answers over connections that are kept, in a running event loop.

    Args:
        dialler: makes the connections.
    """

    def __init__(self, dialler: Dialler) -> None:
        self._dialler = dialler
        self._loop = asyncio.get_running_loop()
        self._idle: defaultdict[Origin, deque[tuple[float, Connection]]] = defaultdict(deque)
        self._sweeping: asyncio.TimerHandle | None = None
        self._closed = False

    async def exchange(self, origin: Origin, request: bytes, cap: int, *, repeatable: bool) -> Received:
        """Sends the request and reads the answer; of a body longer than `cap` bytes, one byte more than that.

        Args:
            repeatable: it may be sent once more if a kept connection turns out to have been closed.

        Raises:
            httpx.TransportError: there was no whole answer; its text never holds the request.
        """
        connection = self._kept(origin)
        if connection is not None:
            try:
                return await self._ask(origin, connection, request, cap)
            except Unheard:
                if not repeatable:
                    raise
        return await self._ask(origin, await self._dialler.dial(origin, Connection), request, cap)

    async def _ask(self, origin: Origin, connection: Connection, request: bytes, cap: int) -> Received:
        received = await connection.ask(request, cap)
        if self._closed:
            connection.abort()
        elif connection.usable:
            self._idle[origin].append((self._loop.time(), connection))
            if self._sweeping is None:
                self._sweeping = self._loop.call_later(KEEP, self._sweep)
        return received

    def _kept(self, origin: Origin) -> Connection | None:
        """The connection that was used last: those that nobody needs any more grow old."""
        idle = self._idle.get(origin)
        while idle:
            _, connection = idle.pop()
            if connection.usable:
                return connection
        return None

    def _sweep(self) -> None:
        """Closes what nobody has used for long."""
        old = self._loop.time() - KEEP
        for origin, idle in list(self._idle.items()):
            while idle and (idle[0][0] <= old or not idle[0][1].usable):
                idle.popleft()[1].abort()
            if not idle:
                del self._idle[origin]
        self._sweeping = self._loop.call_later(KEEP / 4, self._sweep) if self._idle else None

    def close(self) -> None:
        """Closes every connection that is kept, and keeps none from now on."""
        self._closed = True
        if self._sweeping is not None:
            self._sweeping.cancel()
        for idle in self._idle.values():
            for _, connection in idle:
                connection.abort()
        self._idle.clear()
