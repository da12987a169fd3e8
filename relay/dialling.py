"""From a name to a connection: looked up, past the guard, through the proxy if there is one, and made secure."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

import aiohappyeyeballs
import httpx
from aiohappyeyeballs import AddrInfoType

from relay.guard import Blocked, Guard, literal_address, refusal

P = TypeVar("P", bound=asyncio.Protocol)

LOOKUPS = 64
"""Names that are looked up at once. One whose servers do not answer takes its thread for half a minute, and the event
loop's own threads are as few as four."""

DNS_CACHE = 10
"""Seconds for which the addresses of a name are believed."""

ATTEMPT_DELAY = 0.25
"""Seconds that one address of a name has before the next is tried beside it (RFC 8305)."""

MAX_PROXY_ANSWER = 16 * 1024
"""Bytes of what a proxy says that are looked at."""


class Unresolved(httpx.ConnectError):
    """The name of the host has no address."""


class Untrusted(httpx.ConnectError):
    """The TLS handshake failed, or the certificate is not valid for the host."""


class Origin(NamedTuple):
    """Where a request goes: connections are kept for each."""

    tls: bool
    host: str
    port: int


class Dialler:
    """Makes connections, in a running event loop.

    Args:
        guard: to which addresses; with a proxy, that is the proxy's own address.
        tls: how certificates are verified.
        proxy: where connections lead instead, and the header that lets them in.
    """

    def __init__(self, guard: Guard, tls: ssl.SSLContext, proxy: tuple[Origin, bytes] | None = None) -> None:
        self._guard, self._tls, self._proxy = guard, tls, proxy
        self._loop = asyncio.get_running_loop()
        self._lookups: dict[tuple[str, int], asyncio.Future[Any]] = {}
        self._threads = ThreadPoolExecutor(LOOKUPS, "lookup")

    async def dial(self, origin: Origin, answering: type[P]) -> P:
        """A new connection, made secure where the origin wants that, with what reads from it.

        Args:
            answering: a protocol, which is told of the connection once it is secure.

        Raises:
            httpx.ConnectError, httpx.ProxyError: there is none, for the reason that the text gives.
        """
        via, login = self._proxy or (origin, b"")
        try:
            origin.host.encode("idna")  # the proxy looks it up, but TLS wants it so too
        except UnicodeError as error:
            raise _unresolved(origin.host, error) from None
        reached = await self._reach(via)
        tls, name = (self._tls, origin.host.rstrip(".")) if origin.tls else (None, None)
        try:
            if self._proxy is None or tls is None:
                _, protocol = await self._loop.create_connection(answering, sock=reached, ssl=tls, server_hostname=name)
                return protocol
            pipe, tunnel = await self._loop.create_connection(Tunnel, sock=reached)
            try:
                await tunnel.open(origin, login)
                protocol = answering()
                secured = await self._loop.start_tls(pipe, protocol, tls, server_hostname=name)
            except BaseException:
                pipe.abort()
                raise
            protocol.connection_made(cast(asyncio.BaseTransport, secured))
            return protocol
        except ssl.SSLError as error:
            raise Untrusted(f"no TLS with {origin.host}:{origin.port}: {_said(error)}") from None
        except OSError as error:
            raise httpx.ConnectError(f"cannot connect to {origin.host}:{origin.port}: {_said(error)}") from None

    async def _reach(self, origin: Origin) -> socket.socket:
        """A socket that is connected to one of the host's addresses."""
        try:
            addresses = await self._look_up(origin.host, origin.port)
        except (OSError, UnicodeError) as error:
            if literal_address(origin.host):
                raise Blocked("the address of the host is not written in the usual way") from None
            raise _unresolved(origin.host, error) from None
        try:
            return await aiohappyeyeballs.start_connection(
                addresses, happy_eyeballs_delay=ATTEMPT_DELAY, socket_factory=self._guard.open_socket
            )
        except (OSError, RuntimeError) as error:  # RuntimeError is uvloop's
            if blocked := refusal(error):
                raise blocked from None
            raise httpx.ConnectError(f"cannot connect to {origin.host}:{origin.port}: {_said(error)}") from None

    async def _look_up(self, host: str, port: int) -> Sequence[AddrInfoType]:
        """A name's addresses, looked up once for all who ask."""
        if (host, port) not in self._lookups:
            lookup = self._loop.run_in_executor(
                self._threads, partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
            )
            self._lookups[host, port] = lookup

            def done(found: asyncio.Future[Any]) -> None:
                failed = found.cancelled() or found.exception() is not None
                self._loop.call_later(0 if failed else DNS_CACHE, self._lookups.pop, (host, port), None)

            lookup.add_done_callback(done)
        return await asyncio.shield(self._lookups[host, port])


class Tunnel(asyncio.Protocol):
    """A connection through a proxy while it is asked to lead on: https://www.rfc-editor.org/rfc/rfc9110#CONNECT."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._head = b""
        self._answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def open(self, origin: Origin, login: bytes) -> None:
        """Asks the proxy.

        Raises:
            httpx.ProxyError: it did not agree.
        """
        where = f"[{origin.host}]" if ":" in origin.host else origin.host
        place = f"{where}:{origin.port}".encode("ascii")
        self._transport.write(b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (place, place, login))
        status = await self._answered
        if not status.startswith(b"2"):
            raise httpx.ProxyError(f"the proxy answered {status.decode('latin-1')}")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio has connected it."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Something of the proxy's answer came: its head is all there is."""
        self._head += data
        if (b"\r\n\r\n" in self._head or len(self._head) > MAX_PROXY_ANSWER) and not self._answered.done():
            self._answered.set_result(self._head.partition(b" ")[2][:3])

    def connection_lost(self, _error: Exception | None) -> None:
        """The proxy hung up."""
        if not self._answered.done():
            self._answered.set_exception(httpx.ProxyError("the proxy hung up"))


def _unresolved(host: str, error: Exception) -> Unresolved:
    return Unresolved(f"the name {host} cannot be looked up: {_said(error)}")


def _said(error: Exception) -> str:
    """What went wrong, in the system's words."""
    match error:
        case socket.gaierror(strerror=str(reason)):
            return reason
        case UnicodeError():
            return "it is not a name"
        case ssl.SSLCertVerificationError():
            return error.verify_message
        case ssl.SSLError(reason=str(reason)):
            return reason.replace("_", " ").lower()
        case OSError(errno=int(number)) if number > 0:
            return os.strerror(number)
    return str(error) or type(error).__name__
