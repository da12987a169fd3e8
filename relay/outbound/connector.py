"""From a name to a connection: looked up, past the guard, through the proxy if there is one, and made secure."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from typing import NamedTuple, TypeVar, cast

import aiohappyeyeballs
import httpx
from aiohappyeyeballs import AddrInfoType

from relay.outbound.descriptors import NoRoom, used_up
from relay.outbound.lookups import Lookups
from relay.security.guard import Blocked, Guard, as_blocked, literal_address

P = TypeVar("P", bound=asyncio.Protocol)

ATTEMPT_DELAY = 0.25
"""Seconds that one address of a name has before the next is tried beside it (RFC 8305)."""

ADDRESSES = 4
"""Addresses of a name that are tried."""

MAX_PROXY_ANSWER = 16 * 1024
"""Bytes of a proxy's answer that are read."""

_SSL_WORDS = re.compile(r"\] (.+?)(?: \(_ssl\.c:\d+\))?$")
_ALERT = re.compile(r"(?:sslv3|tlsv1|tlsv13|ssl/tls) (?:alert )?(.+)")


class Unresolved(httpx.ConnectError):
    """The name of the host has no address."""


class Untrusted(httpx.ConnectError):
    """There is no TLS: the certificate is not valid for the host, or one of the two sides refuses the other."""


def refused_by_proxy(status: str) -> httpx.ProxyError:
    """Return the error for an answer of the proxy itself."""
    login = ": it wants a user and a password that it knows" if status == "407" else ""
    return httpx.ProxyError(f"the proxy answered {status}{login}")


class Origin(NamedTuple):
    """The server that a request goes to: connections are kept for each."""

    tls: bool
    host: str
    port: int


class Connector:
    """Makes connections, in a running event loop.

    Args:
        guard: to which addresses; with a proxy, that is the proxy's own address.
        tls: how certificates are verified.
        lookups: looks names up.
        proxy: where connections lead instead, and the header that lets them in.
    """

    def __init__(
        self, guard: Guard, tls: ssl.SSLContext, lookups: Lookups, proxy: tuple[Origin, bytes] | None = None
    ) -> None:
        self._guard = guard
        self._tls = tls
        self._proxy = proxy
        self._lookups = lookups
        self._loop = asyncio.get_running_loop()

    async def dial(self, origin: Origin, protocol_factory: Callable[[], P]) -> P:
        """Make a connection, with TLS where the origin wants that, and return the protocol that reads from it.

        Args:
            protocol_factory: makes the protocol, which gets the connection once TLS stands.

        Raises:
            httpx.ConnectError, httpx.ProxyError: there is no connection, for the reason that the text gives.
        """
        via, login = self._proxy or (origin, b"")
        try:
            origin.host.encode("idna")  # the proxy looks it up, but TLS wants it so too
        except UnicodeError as error:
            raise _unresolved(origin.host, error) from None
        protocol = protocol_factory()  # before there is a socket, which no one would close if this raised
        reached = await self._reach(via)
        tls = self._tls if origin.tls else None
        name = origin.host.rstrip(".") if origin.tls else None
        try:
            if self._proxy is None or tls is None:
                await self._loop.create_connection(lambda: protocol, sock=reached, ssl=tls, server_hostname=name)
                return protocol
            pipe, tunnel = await self._loop.create_connection(Tunnel, sock=reached)
            try:
                await tunnel.open(origin, login)
                secured = await self._loop.start_tls(pipe, protocol, tls, server_hostname=name)
            except BaseException:
                pipe.abort()
                raise
            protocol.connection_made(cast(asyncio.BaseTransport, secured))
            return protocol
        except ssl.SSLError as error:
            raise Untrusted(f"no TLS with {origin.host}:{origin.port}: {reason_of(error)}") from None
        except OSError as error:
            raise httpx.ConnectError(f"cannot connect to {origin.host}:{origin.port}: {reason_of(error)}") from None

    async def _reach(self, origin: Origin) -> socket.socket:
        """Connect a socket to one of the host's addresses."""
        try:
            addresses = await self._lookups.addresses(origin.host, origin.port)
        except (OSError, UnicodeError) as error:
            if used_up(error):
                raise NoRoom(f"no descriptor is left to look up {origin.host}") from None
            if literal_address(origin.host):
                raise Blocked("the address of the host is not written in the usual way") from None
            raise _unresolved(origin.host, error) from None
        full = False

        def open_socket(address: AddrInfoType) -> socket.socket:
            nonlocal full
            try:
                return self._guard.open_socket(address)
            except OSError as error:
                full = full or used_up(error)
                raise

        try:
            return await aiohappyeyeballs.start_connection(
                tried(addresses), happy_eyeballs_delay=ATTEMPT_DELAY, socket_factory=open_socket
            )
        except (OSError, RuntimeError) as error:  # RuntimeError is uvloop's
            if full:
                raise NoRoom(f"no descriptor is left to connect to {origin.host}:{origin.port}") from None
            if blocked := as_blocked(error):
                raise blocked from None
            raise httpx.ConnectError(f"cannot connect to {origin.host}:{origin.port}: {reason_of(error)}") from None


def tried(addresses: Sequence[AddrInfoType]) -> list[AddrInfoType]:
    """Return which of a name's addresses are tried: a few, of each family in turn, and those that come first.

    Those that keep silent are tried beside each other, each with a descriptor, and a name may have hundreds.
    """
    families: dict[int, list[AddrInfoType]] = {}
    for address in addresses:
        families.setdefault(address[0], []).append(address)
    in_turn = chain.from_iterable(zip_longest(*families.values()))
    return [address for address in in_turn if address is not None][:ADDRESSES]


class Tunnel(asyncio.Protocol):
    """A connection through a proxy while it is asked to lead on: https://www.rfc-editor.org/rfc/rfc9110#CONNECT."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._head = b""
        self._answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def open(self, origin: Origin, login: bytes) -> None:
        """Ask the proxy.

        Raises:
            httpx.ProxyError: it refuses.
        """
        host = f"[{origin.host}]" if ":" in origin.host else origin.host
        authority = f"{host}:{origin.port}".encode("ascii")
        self._transport.write(b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (authority, authority, login))
        status = await self._answered
        if not status.startswith(b"2"):
            raise refused_by_proxy(status.decode("latin-1"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection that asyncio has made."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Read the proxy's answer, which is only a head."""
        self._head += data
        if (b"\r\n\r\n" in self._head or len(self._head) > MAX_PROXY_ANSWER) and not self._answered.done():
            self._answered.set_result(self._head.partition(b" ")[2][:3])

    def connection_lost(self, _error: Exception | None) -> None:
        """End the wait for an answer: the proxy hung up."""
        if not self._answered.done():
            self._answered.set_exception(httpx.ProxyError("the proxy hung up"))


def _unresolved(host: str, error: Exception) -> Unresolved:
    return Unresolved(f"the name {host} cannot be looked up: {reason_of(error)}")


def reason_of(error: Exception) -> str:
    """Return what went wrong, in the system's words."""
    match error:
        case socket.gaierror(strerror=str(reason)):
            return reason
        case UnicodeError():
            return "it is not a name"
        case ssl.SSLCertVerificationError():
            return error.verify_message
        case ssl.SSLError():
            return _tls_reason(error)
        case OSError(errno=int(number)) if number > 0:
            return os.strerror(number)
    return str(error) or type(error).__name__


def _tls_reason(error: ssl.SSLError) -> str:
    """Return what OpenSSL says. Python has no name for some of it (`reason`), but the text has the words."""
    match = _SSL_WORDS.search(str(error))
    words = match[1] if match else str(error)
    alert = _ALERT.match(words)
    if alert:  # OpenSSL names the version that brought an alert in; it says nothing about this connection
        return f"the server refuses it with the TLS alert '{alert[1]}'"
    return "OpenSSL has no name for the reason" if words == "unknown error" else words
