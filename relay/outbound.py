"""HTTP out: httpx is the interface, and every answer is bounded.

httpx's own transport looks at every pooled connection for every request and collapses under concurrency
(`python -m tests.bench.transports` shows it), so requests go through `Transport`, an httpx transport over `relay.wire`.
Here relay also meets what strangers choose: the guard refuses private addresses at the moment of connecting, and one
deadline and one cap hold for each answer.
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from base64 import b64encode

import httpx

from relay.dialling import Dialler, Origin, Unresolved, Untrusted
from relay.guard import Blocked, Guard
from relay.wire import Wire

# The first match counts.
_CLASSES: tuple[tuple[type[Exception], str], ...] = (
    (Blocked, "blocked"),
    (Unresolved, "dns"),
    (Untrusted, "tls"),
    (httpx.TimeoutException, "timeout"),
    (httpx.ConnectError, "connect"),
    (httpx.ProxyError, "connect"),
    (httpx.NetworkError, "disconnected"),
)

# Content codings as zlib names them; some servers send deflate without its head.
_WINDOWS = {"gzip": (16 + zlib.MAX_WBITS,), "deflate": (zlib.MAX_WBITS, -zlib.MAX_WBITS)}

_PORTS = {b"http": 80, b"https": 443}


def failure_class(error: Exception) -> str:
    """Sort an exception of `Transport` into a closed set of words, for attempts and metrics.

    One of dns, connect, tls, timeout, disconnected, blocked, and for everything else protocol: it was not HTTP.
    """
    return next((name for kind, name in _CLASSES if isinstance(error, kind)), "protocol")


def tls_context() -> ssl.SSLContext:
    """How certificates are verified; HTTP/1.1 is all that is spoken."""
    context = httpx.create_ssl_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class _Answer(httpx.Response):
    """A response whose body is read and inflated already; given `content=`, httpx would inflate again, unbounded."""

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes, request: httpx.Request) -> None:
        super().__init__(status, headers=headers, stream=httpx.ByteStream(body), request=request)
        self._content = body
        self.is_closed = self.is_stream_consumed = True


class Transport(httpx.AsyncBaseTransport):
    """Sends httpx requests over kept-alive connections, and gives back answers that are wholly read.

    It promises: the headers on the wire are the request's own and Host; redirects are not followed, cookies not kept,
    the environment's proxies not used; certificates are verified for the name; every connection passes the guard. It
    does not bound concurrency. A GET that meets a closed connection is sent once more.

    guard: to which addresses it may connect; with a proxy, that is the proxy's own address
    timeout: seconds for name resolution, connection, headers and body together
    max_bytes: how much of a body is read, and to how much it may inflate
    proxy: the URL of an HTTP proxy for every request

    Extensions of a request: `timeout` and `max_bytes` override these (httpx's dictionary of timeouts does not), and
    `target` replaces path and query, as in httpx, which spares a poll the parsing of a URL. Bodies are sent from
    memory: a request that streams is not supported, nor are HEAD and CONNECT.
    """

    def __init__(self, guard: Guard, *, timeout: float, max_bytes: int, proxy: str | None = None) -> None:
        self._guard = guard
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._proxy = None if proxy is None else _proxied(httpx.URL(proxy))
        self._tls = tls_context()
        self._wire: Wire | None = None

    async def aclose(self) -> None:
        """Close every connection."""
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request and read the answer.

        A body in gzip or deflate is inflated, and given as it came if it cannot be. One that passes the cap, or breaks
        off while it is inflated, is cut, and the response has `extensions["truncated"]`.

        Raises httpx's exceptions, which `failure_class` sorts; their texts never hold the URL.
        """
        if self._wire is None:
            self._wire = Wire(Dialler(self._guard, self._tls, self._proxy))
        extensions = request.extensions
        timeout, cap = extensions.get("timeout"), extensions.get("max_bytes", self._max_bytes)
        seconds = timeout if isinstance(timeout, int | float) else self._timeout
        try:
            origin = _origin(request.url)
            message = _head(request, self._proxy[1] if self._proxy and not origin.tls else None) + request.read()
            async with asyncio.timeout(seconds):
                received = await self._wire.exchange(origin, message, cap, repeatable=request.method == "GET")
        except TimeoutError:
            raise httpx.TimeoutException(f"no complete answer within {seconds:g} s", request=request) from None
        except httpx.TransportError as error:
            error.request = request
            raise
        coding = next((value for name, value in received.headers if name.lower() == b"content-encoding"), b"")
        body, truncated = inflated(received.body, coding.decode("latin-1"), cap)
        response = _Answer(received.status, received.headers, body, request)
        if truncated:
            response.extensions["truncated"] = True
        return response


def _proxied(proxy: httpx.URL) -> tuple[Origin, bytes]:
    """Where a proxy is, and the header that lets requests in."""
    login = f"{proxy.username}:{proxy.password}".encode()
    header = b"Proxy-Authorization: Basic %b\r\n" % b64encode(login) if proxy.userinfo else b""
    return _origin(proxy), header


def _origin(url: httpx.URL) -> Origin:
    """Where a URL leads.

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


def _head(request: httpx.Request, login: bytes | None) -> bytes:
    """The head of a request; for a proxy that is to send it on if there is a `login`, however empty.

    Raises:
        httpx.LocalProtocolError: something would be read as more than one header.
    """
    target = request.extensions.get("target", request.url.raw_path)
    if login is not None:
        target = b"http://" + request.url.netloc + target
    headers = request.headers.raw
    lines = [b"%b %b HTTP/1.1" % (request.method.encode("ascii"), target)]
    if not any(name.lower() == b"host" for name, _ in headers):
        lines.append(b"Host: " + request.url.netloc)
    lines += [b"%b: %b" % header for header in headers]
    head = b"\r\n".join(lines)
    if not head.count(b"\r") == head.count(b"\n") == len(lines) - 1 or b"\0" in head or b" " in target:
        raise httpx.LocalProtocolError("a header or the path holds characters that HTTP has no way to carry")
    return b"%b\r\n%b\r\n" % (head, login or b"")


def inflated(body: bytes, coding: str, cap: int) -> tuple[bytes, bool]:
    """A body in gzip or deflate inflated to at most `cap` bytes, else as it is; the flag says that some are missing."""
    for window in _WINDOWS.get(coding.lower(), ()) if body else ():
        inflater = zlib.decompressobj(window)
        try:
            found = inflater.decompress(body, cap + 1)
        except zlib.error:
            continue
        return found[:cap], len(found) > cap or not inflater.eof
    return body[:cap], len(body) > cap
