"""HTTP out: httpx is the interface, and every answer is bounded.

httpx's own transport looks at every pooled connection for every request and collapses under concurrency
(`python -m tests.bench.transports` shows it), so requests go through `Transport`, an httpx transport over
`relay.outbound.connections`.
Here relay also meets what strangers choose: the guard refuses private addresses at the moment of connecting, and one
deadline and one cap hold for each answer.
"""

from __future__ import annotations

import os
import ssl
from base64 import b64encode
from collections.abc import Mapping
from functools import cache

import httpx

from relay.outbound.bulkheads import Bulkhead
from relay.outbound.codings import decode
from relay.outbound.connections import Connections, RawResponse
from relay.outbound.connector import Connector, Origin, Unresolved, Untrusted, refused_by_proxy
from relay.outbound.deadline import Deadline
from relay.outbound.descriptors import NoRoom
from relay.outbound.prepared import NONE, DecodedResponse, PreparedRequest, origin_of
from relay.outbound.reservations import FREE, Reservations
from relay.security.guard import Blocked, Guard

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


def failure_class(error: Exception) -> str:
    """Sort an exception of `Transport` into a closed set of words, for attempts and metrics.

    One of dns, connect, tls, timeout, disconnected, blocked, and for everything else protocol: it was not HTTP.
    """
    return next((name for kind, name in _CLASSES if isinstance(error, kind)), "protocol")


def failure_of(error: Exception) -> str:
    """Return what kept an upstream from answering, as `failure_class` sorts it.

    Raises:
        NoRoom: relay itself had no connection to spare, which says nothing about the upstream.
    """
    if isinstance(error, NoRoom):
        raise error
    return failure_class(error)


def tls_context() -> ssl.SSLContext:
    """Return how certificates are verified; HTTP/1.1 is all that is spoken."""
    return _tls_context(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@cache
def _tls_context(_file: str | None, _folder: str | None) -> ssl.SSLContext:
    """Return one context for all: to read the authorities takes long. httpx looks at the variables itself."""
    context = httpx.create_ssl_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class _Answer(httpx.Response):
    """A response whose body is read and decoded already; given `content=`, httpx would decode again, unbounded."""

    def __init__(self, response: DecodedResponse, request: httpx.Request) -> None:
        stream = httpx.ByteStream(response.body)
        super().__init__(response.status, headers=list(response.headers), stream=stream, request=request)
        self._content = response.body
        self.is_closed = self.is_stream_consumed = True
        given = {"truncated": response.truncated, "unread": response.unread, "reservation": response.reservation}
        self.extensions.update({name: value for name, value in given.items() if value})


class Transport(httpx.AsyncBaseTransport):
    """Sends httpx requests over kept-alive connections, and gives back answers that are wholly read.

    It promises: the headers on the wire are the request's own and Host; redirects are not followed, cookies not kept,
    the environment's proxies not used; certificates are verified for the name; every connection passes the guard; large
    answers take bounded memory, all together. It does not bound concurrency.

    guard: to which addresses it may connect; with a proxy, that is the proxy's own address
    timeout: seconds for name resolution, connection, headers and body together
    max_bytes: how much of a body is read, and to how much it may grow when it is decoded
    proxy: the URL of an HTTP proxy for every request
    bulkhead: what it may use; by default one of its own

    Extensions of a request: `timeout` and `max_bytes` override these (httpx's dictionary of timeouts does not), and
    `target` replaces path and query, as in httpx, which spares a poll the parsing of a URL. `reuse` says that the
    request may be sent twice, so that a kept connection will do: it is sent once more, on a fresh connection, if the
    kept one ends before a byte of the answer. Without it only a GET is. `partial` asks for an answer that breaks off
    behind its status line as far as it came; without it that is an error. `sending` is called when a fresh connection
    stands, and the request goes out: before that, nothing was sent.
    Bodies are sent from memory: a request that streams is not supported, nor are HEAD and CONNECT.
    """

    def __init__(
        self,
        guard: Guard,
        *,
        timeout: float,
        max_bytes: int,
        proxy: str | None = None,
        bulkhead: Bulkhead | None = None,
    ) -> None:
        self._guard = guard
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._proxy = None if proxy is None else _proxied(httpx.URL(proxy))
        self._bulkhead = bulkhead or Bulkhead()
        self._tls = tls_context()
        self._wire: Connections | None = None
        self._reservations: Reservations

    async def aclose(self) -> None:
        """Close every connection."""
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def prepare(self, request: httpx.Request) -> PreparedRequest:
        """Return a request that is built and checked, for many messages.

        Raises:
            httpx.TransportError: it can never be sent.
        """
        login = self._proxy[1] if self._proxy and request.url.scheme == "http" else None
        return PreparedRequest(request, login)

    async def exchange(
        self, prepared: PreparedRequest, target: bytes, body: bytes = b"", headers: Mapping[str, str] = NONE
    ) -> DecodedResponse:
        """Send a message and read the answer. A body in a coding of `codings.READABLE` is decoded.

        Raises httpx's exceptions, which `failure_class` sorts; their texts never hold the URL.
        """
        seconds = self._timeout if prepared.timeout is None else prepared.timeout
        cap = self._max_bytes if prepared.max_bytes is None else prepared.max_bytes
        message = prepared.message(target, body, headers)
        try:
            with Deadline(seconds):
                wire = self._wire or self._open()
                received = await wire.exchange(
                    prepared.origin, message, cap, reuse=prepared.reuse, sending=prepared.sending
                )
                if received.broken is not None and not prepared.partial:
                    raise received.broken
                if received.status == 407 and prepared.passed_on:  # only a proxy may answer so
                    raise refused_by_proxy("407")
                return await self._decoded(received, cap)
        except TimeoutError:
            raise httpx.TimeoutException(f"no complete answer within {seconds:g} s") from None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request and read the answer, as `exchange` does.

        Extensions of the response: `truncated`, `unread` and `reservation`, as `DecodedResponse` has them.
        """
        try:
            target = request.extensions.get("target", request.url.raw_path)
            response = await self.exchange(self.prepare(request), target, request.read())
        except httpx.TransportError as error:
            error.request = request
            raise
        return _Answer(response, request)

    def _open(self) -> Connections:
        """Return new connections, in the loop that runs now."""
        self._reservations = Reservations()
        connector = Connector(self._guard, self._tls, self._bulkhead.lookups, self._proxy)
        self._wire = Connections(connector, self._reservations, self._bulkhead)
        return self._wire

    async def _decoded(self, received: RawResponse, cap: int) -> DecodedResponse:
        """Decode the body of an answer, with memory that is reserved where it needs much."""
        codings = received.codings
        reservation = received.reservation
        if not codings and reservation is None and len(received.body) <= cap:  # nearly every answer
            return DecodedResponse(received.status, received.headers, received.body, received.broken is not None)
        paid = not codings or reservation is not None or cap <= FREE
        decoded = decode(received.body, codings, cap if paid else FREE)
        if decoded.truncated and not paid:
            reservation = self._reservations.reserve(cap)
            await reservation.granted
            decoded = decode(received.body, codings, cap)
        if reservation is not None:
            reservation.keep(len(decoded.body))
        truncated = decoded.truncated or received.broken is not None
        return DecodedResponse(
            received.status, received.headers, decoded.body, truncated, decoded.unread or "", reservation
        )


def _proxied(proxy: httpx.URL) -> tuple[Origin, bytes]:
    """Return where a proxy is, and the header that lets requests in."""
    login = f"{proxy.username}:{proxy.password}".encode()
    header = b"Proxy-Authorization: Basic %b\r\n" % b64encode(login) if proxy.userinfo else b""
    return origin_of(proxy), header
