"""A request that is built and checked once, and sent many times: each message has its own target and body.

To build a request costs more than to send it, and the polls of a provider differ in the id alone. httpx stays the
interface: a prepared request is made of one of httpx's, and `OverHttpx` sends it through any of httpx's transports.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import httpx

from relay.outbound.connector import Origin

_PORTS = {b"http": 80, b"https": 443}

_TARGET = re.compile(rb"[!-~]+")
"""What a target may hold. Anything else could end the line that it stands in, and begin a request of its own."""

NONE: Mapping[str, str] = {}
"""The headers of a message that has none of its own."""

_UNFIT = "a header or the path holds characters that HTTP has no way to carry"


class DecodedResponse(NamedTuple):
    """An answer that is wholly read, its body decoded.

    Attributes:
        headers: as they came; a name may stand there several times, in any case.
        truncated: bytes of the body are missing, because it passes the cap or breaks off.
        unread: the content codings that are left, because relay does not read them.
        reservation: for the memory of a large body; hold it for as long as the body.
    """

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes
    truncated: bool = False
    unread: str = ""
    reservation: object = None


class PreparedRequest:
    """A request whose head is checked and written, but for its target, the length of its body, and what changes.

    Args:
        request: whose method, URL and headers all messages have. `Transport` says which of its extensions count.
        login: the header that lets messages into a proxy that passes them on, however empty; None where there is none.

    Attributes:
        request: what it was made of.
        origin: where messages go.
        passed_on: whether they go to a proxy that passes them on.
        timeout, max_bytes, reuse, partial, sending: the extensions of the request; None for the transport's own.

    Raises:
        httpx.UnsupportedProtocol: the URL leads nowhere that is known here.
        httpx.LocalProtocolError: something would be read as more than one header.
    """

    def __init__(self, request: httpx.Request, login: bytes | None = None) -> None:
        self.request = request
        self.origin = origin_of(request.url)
        self.passed_on = login is not None
        timeout = request.extensions.get("timeout")  # httpx's own is a dictionary
        self.timeout: float | None = timeout if isinstance(timeout, int | float) else None
        self.max_bytes: int | None = request.extensions.get("max_bytes")
        self.reuse: bool = request.extensions.get("reuse", request.method == "GET")
        self.partial: bool = request.extensions.get("partial", False)
        self.sending: Callable[[], None] | None = request.extensions.get("sending")
        headers = request.headers.raw
        names = {name.lower() for name, _ in headers}
        self._adds_length = request.method != "GET" and b"content-length" not in names
        authority = b"http://" + request.url.netloc if self.passed_on else b""
        self._start = b"%b %b" % (request.method.encode("ascii"), authority)
        lines = [b" HTTP/1.1"]
        if b"host" not in names:
            lines.append(b"Host: " + request.url.netloc)
        lines += [b"%b: %b" % header for header in headers]
        head = b"\r\n".join(lines)
        whole = self._start + head
        if not whole.count(b"\r") == whole.count(b"\n") == len(lines) - 1 or b"\0" in whole:
            raise httpx.LocalProtocolError(_UNFIT)
        self._rest = b"%b\r\n%b" % (head, login or b"")

    def message(self, target: bytes, body: bytes = b"", headers: Mapping[str, str] = NONE) -> bytes:
        """Return what goes over the wire.

        Args:
            target: path and query, as they are sent.
            headers: those of this message alone, such as its signature.

        Raises:
            httpx.LocalProtocolError: the target or a header would be read as more than that.
        """
        own = "".join([f"{name}: {value}\r\n" for name, value in headers.items()]).encode("ascii") if headers else b""
        one_each = own.count(b"\r") == own.count(b"\n") == len(headers) and b"\0" not in own
        if not one_each or _TARGET.fullmatch(target) is None:
            raise httpx.LocalProtocolError(_UNFIT)
        if not self._adds_length:
            return b"%b%b%b%b\r\n%b" % (self._start, target, self._rest, own, body)
        return b"%b%b%b%bContent-Length: %d\r\n\r\n%b" % (self._start, target, self._rest, own, len(body), body)


class Exchanger(Protocol):
    """Sends prepared requests."""

    def prepare(self, request: httpx.Request) -> PreparedRequest:
        """Return a request that is built and checked, for many messages.

        Raises:
            httpx.TransportError: it can never be sent.
        """
        ...

    async def exchange(
        self, prepared: PreparedRequest, target: bytes, body: bytes = b"", headers: Mapping[str, str] = NONE
    ) -> DecodedResponse:
        """Send a message and read the answer.

        Args:
            target: path and query.
            headers: those of this message alone.

        Raises:
            httpx.TransportError: there is no answer.
        """
        ...


class OverHttpx:
    """Sends prepared requests through a transport of httpx that speaks to no network, such as the sandbox.

    Args:
        transport: reads the extension `target`, which replaces path and query.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    def prepare(self, request: httpx.Request) -> PreparedRequest:
        """Return a request that is built and checked, for many messages."""
        return PreparedRequest(request)

    async def exchange(
        self, prepared: PreparedRequest, target: bytes, body: bytes = b"", headers: Mapping[str, str] = NONE
    ) -> DecodedResponse:
        """Send a message and read the answer."""
        of = prepared.request
        if prepared.sending is not None:
            prepared.sending()
        extensions = {**of.extensions, "target": target}
        all_headers = [*of.headers.multi_items(), *headers.items()]
        request = httpx.Request(of.method, of.url, headers=all_headers, content=body or None, extensions=extensions)
        response = await self._transport.handle_async_request(request)
        return DecodedResponse(response.status_code, response.headers.raw, await response.aread())


def origin_of(url: httpx.URL) -> Origin:
    """Return where a URL leads.

    Raises:
        httpx.UnsupportedProtocol: nowhere that is known here.
    """
    port = _PORTS.get(url.raw_scheme)
    if port is None or not url.raw_host:
        raise httpx.UnsupportedProtocol("the URL is not an absolute one of http or https")
    port = port if url.port is None else url.port
    if not 0 < port <= 65535:
        raise httpx.UnsupportedProtocol("the port is not one from 1 to 65535")
    return Origin(url.raw_scheme == b"https", url.raw_host.decode("ascii"), port)
