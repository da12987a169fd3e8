"""HTTP/1.1 as a poll and a webhook need it: a request out, an answer back, over a connection that is kept.

An engine for all that HTTP can do costs several times as much CPU (`python -m tests.bench.transports`), and exchanges
are what relay mostly does. httptools (llhttp, the parser of Node) reads; what is here keeps the connections and sees
that an answer is whole.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import defaultdict, deque
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, cast

import httptools
import httpx

from relay.outbound.bulkheads import Bulkhead
from relay.outbound.codings import codings_of
from relay.outbound.connector import Connector, Origin, Untrusted, reason_of
from relay.outbound.reservations import FREE, Reservation, Reservations

KEEP = 15.0
"""Seconds for which a connection is kept without being asked anything."""

MAX_HEAD = 16 * 1024
"""Bytes of an answer's head, as Node has it, and of what may stand between two pieces of its body."""


class RawResponse(NamedTuple):
    """An answer, its body as it came.

    Attributes:
        reservation: for the memory of a large body.
        broken: what was wrong with it behind its status line; there is less of it than the server meant to send.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    reservation: Reservation | None = None
    broken: httpx.TransportError | None = None

    @property
    def codings(self) -> list[str]:
        """Return the codings of the body, in the order in which they were applied."""
        values = [value.decode("latin-1") for name, value in self.headers if name.lower() == b"content-encoding"]
        return codings_of(values) if values else []


class Connection(asyncio.Protocol):
    """A connection, on which one exchange at a time takes place. httptools calls the methods that begin with `on_`.

    Args:
        reservations: where a large answer gets its memory.

    Attributes:
        heard: whether a byte has come of the answer to the last request.
    """

    def __init__(self, reservations: Reservations) -> None:
        self._reservations = reservations
        self._transport: asyncio.Transport
        self._parser: httptools.HttpResponseParser
        self._received: asyncio.Future[RawResponse] | None = None
        self._reusable = True
        self.heard = False
        self._head_read = False
        self._cap = 0
        self._unread = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = bytearray()
        self._reservation: Reservation | None = None

    @property
    def usable(self) -> bool:
        """Return whether another request may be sent."""
        return self._reusable and not self._transport.is_closing()

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    async def ask(self, request: bytes, cap: int) -> RawResponse:
        """Send the request and read the answer; of a body longer than `cap`, one byte more than that.

        Raises:
            httpx.TransportError: no status line came.
        """
        self._cap = cap
        self._unread = 0
        self._reusable = self.heard = self._head_read = False
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
            self._reusable = False  # the caller may have given up just when the answer came
            raise
        finally:
            self._received = None
            self._headers = []
            self._body = bytearray()
            self._let_go()
            if not self._reusable:
                self.abort()

    @property
    def _awaited(self) -> asyncio.Future[RawResponse] | None:
        """Return the answer that a caller still waits for, if there is one."""
        return self._received if self._received is not None and not self._received.done() else None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection that asyncio has made."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Read what came. Close the connection if no answer is awaited: what follows could not be trusted."""
        if self._awaited is None:
            self._reusable = False
            self.abort()
            return
        self.heard = True
        self._unread += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserInvalidStatusError as error:
            self._fail(httpx.RemoteProtocolError(f"not HTTP: {error}"))
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._break_off(httpx.RemoteProtocolError(f"not HTTP: {error}"))
        if len(self._body) > self._cap:
            self._succeed()
        elif self._unread > MAX_HEAD:
            self._break_off(httpx.RemoteProtocolError(f"not HTTP: more than {MAX_HEAD} bytes of headers"))
        elif len(self._body) > FREE and self._reservation is None:
            self._reserve()

    def connection_lost(self, error: Exception | None) -> None:
        """End the answer: its body, if nothing else says where that ends, or else the wait for it."""
        self._reusable = False
        framed = any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in self._headers)
        if error is None and self._head_read and not framed:
            self._succeed()
        elif isinstance(error, ssl.SSLError):  # with TLS 1.3, a server judges the client after the handshake
            self._break_off(Untrusted(f"TLS has ended: {reason_of(error)}"))
        else:
            self._break_off(httpx.ReadError("the connection was lost before the answer was complete"))

    def on_message_begin(self) -> None:
        """Begin an answer. If it is one too many, later ones could belong to any request."""
        self._reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header, but not one that stands behind the body."""
        if not self._head_read:
            # A lenient parser lets NUL through, which no store of text takes: https://www.rfc-editor.org/rfc/rfc9110#section-5.5
            self._headers.append((name, value.replace(b"\0", b" ")))

    def on_headers_complete(self) -> None:
        """End the head, of the answer or of an interim one."""
        status = self._parser.get_status_code()
        self._head_read = status >= 200
        if status < 100:
            self._fail(httpx.RemoteProtocolError(f"not HTTP: there is no status {status:03}"))
        elif not self._head_read:
            self._headers.clear()

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body."""
        self._unread = 0
        if len(self._body) <= self._cap:
            self._body += body

    def on_message_complete(self) -> None:
        """End the answer, or an interim one."""
        if self._head_read and len(self._body) <= self._cap and self._awaited is not None:
            # An answer may come before the request is sent: the rest of it would stand in the way of the next.
            self._reusable = self._parser.should_keep_alive() and not self._transport.get_write_buffer_size()
            self._succeed()

    def _reserve(self) -> None:
        """Reserve memory for all that the body may come to, decoded too, and read on when it is granted."""
        if self._awaited is None:
            return
        declared = next((value for name, value in self._headers if name.lower() == b"content-length"), b"")
        coded = any(name.lower() == b"content-encoding" for name, _ in self._headers)
        size = min(int(declared), self._cap) if declared.isdigit() else self._cap
        self._reservation = self._reservations.reserve(size + self._cap if coded else size)
        if not self._reservation.granted.done():
            self._transport.pause_reading()
            self._reservation.granted.add_done_callback(self._read_on)

    def _read_on(self, granted: asyncio.Future[None]) -> None:
        """Go on with an answer that has waited for its memory."""
        if self._awaited is None or granted.cancelled():
            return
        if (error := granted.exception()) is not None:
            self._break_off(cast(httpx.TransportError, error))
        else:
            self._transport.resume_reading()

    def _let_go(self) -> None:
        """Forget the reservation, or stop waiting for it."""
        if self._reservation is not None:
            self._reservation.granted.cancel()
            self._reservation = None

    def _succeed(self, broken: httpx.TransportError | None = None) -> None:
        if (awaited := self._awaited) is not None:
            del self._body[self._cap + 1 :]
            body = bytes(self._body)
            self._body = bytearray()  # two copies of a large one are one too many
            status = self._parser.get_status_code()
            awaited.set_result(RawResponse(status, self._headers, body, self._reservation, broken))
            self._headers = []  # an answer too many does not change this one

    def _break_off(self, error: httpx.TransportError) -> None:
        """End an answer that is not whole, with what came of it if that is at least its status."""
        if self._awaited is not None and self._parser.get_status_code() >= 200:
            self._succeed(error)
        else:
            self._fail(error)

    def _fail(self, error: httpx.TransportError) -> None:
        if (awaited := self._awaited) is not None:
            awaited.set_exception(error)


class Connections:
    """Exchanges requests for answers over connections that are kept, in a running event loop.

    Args:
        connector: makes the connections.
        reservations: where large answers get their memory.
        bulkhead: how many there may be.
    """

    def __init__(self, connector: Connector, reservations: Reservations, bulkhead: Bulkhead) -> None:
        self._connector = connector
        self._bulkhead = bulkhead
        self._new = partial(Connection, reservations)
        self._loop = asyncio.get_running_loop()
        self._idle: defaultdict[Origin, deque[tuple[float, Connection]]] = defaultdict(deque)
        self._sweeping: asyncio.TimerHandle | None = None
        self._closed = False

    async def exchange(
        self, origin: Origin, request: bytes, cap: int, *, reuse: bool, sending: Callable[[], None] | None = None
    ) -> RawResponse:
        """Send the request and read the answer; of a body longer than `cap` bytes, one byte more than that.

        Args:
            reuse: whether a kept connection will do. The server may close one at any time, so the request is then sent
                once more, on a fresh connection, if the kept one ends before a byte of the answer.
            sending: called when a fresh connection stands, and the request goes out.

        Raises:
            httpx.TransportError: no status line came; the text never holds the request. If it is `NoRoom`, nothing was
                sent.
        """
        owner, app = await self._bulkhead.enter()
        try:
            connection = self._kept(origin) if reuse else None
            if connection is not None:
                try:
                    return await self._ask(origin, connection, request, cap)
                except httpx.TransportError:
                    if connection.heard:
                        raise
            self._bulkhead.make_room()
            fresh = await self._connector.dial(origin, self._new)
            if sending is not None:
                sending()
            return await self._ask(origin, fresh, request, cap)
        finally:
            self._bulkhead.leave(owner, app)

    async def _ask(self, origin: Origin, connection: Connection, request: bytes, cap: int) -> RawResponse:
        received = await connection.ask(request, cap)
        if self._closed:
            connection.abort()
        elif connection.usable:
            self._idle[origin].append((self._loop.time(), connection))
            self._bulkhead.keep(connection)
            if self._sweeping is None:
                self._sweeping = self._loop.call_later(KEEP, self._sweep)
        return received

    def _kept(self, origin: Origin) -> Connection | None:
        """Return the connection that was used last, so that those which are not needed any more grow old."""
        idle = self._idle.get(origin)
        while idle:
            _, connection = idle.pop()
            self._bulkhead.forget(connection)
            if connection.usable:
                return connection
        return None

    def _sweep(self) -> None:
        """Close the connections that were not used for long."""
        old = self._loop.time() - KEEP
        for origin, idle in list(self._idle.items()):
            while idle and (idle[0][0] <= old or not idle[0][1].usable):
                self._close(idle.popleft()[1])
            if not idle:
                del self._idle[origin]
        self._sweeping = self._loop.call_later(KEEP / 4, self._sweep) if self._idle else None

    def close(self) -> None:
        """Close every connection that is kept, and keep none from now on."""
        self._closed = True
        if self._sweeping is not None:
            self._sweeping.cancel()
        for idle in self._idle.values():
            for _, connection in idle:
                self._close(connection)
        self._idle.clear()

    def _close(self, connection: Connection) -> None:
        self._bulkhead.forget(connection)
        connection.abort()
