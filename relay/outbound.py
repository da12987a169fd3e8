"""HTTP out: httpx is the interface, aiohttp the engine, and every answer is bounded.

httpx's own transport looks at every pooled connection for every request and collapses under concurrency
(`python -m tests.bench.transports` shows it), so requests go through `Transport`, an httpx transport over one aiohttp
session. Here relay also meets what strangers choose: `Guard` refuses private addresses at the moment of connecting, and
one deadline and one cap hold for each answer.
"""

import asyncio
import contextlib
import html
import json
import re
import socket
import ssl
import zlib
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any
from urllib.parse import quote, unquote

import aiohttp
import httpx
import orjson
from multidict import CIMultiDict
from yarl import URL

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

DNS_CACHE_SECONDS = 10

MAX_SESSION_ANSWER = 1024 * 1024
"""Bytes of an answer that a guarded session reads, before and after it is inflated."""

MASK = b"********"
"""What stands in an answer where it repeated a secret."""

SHORTEST_SECRET, SHORTEST_PART = 8, 12
"""Characters of a secret, and of a part of a URL, that is looked for in answers: a shorter word is found everywhere."""

NAT64 = IPv6Network("64:ff9b::/96")

# From IANA's registries of special-purpose addresses. An explicit list, because `ip_address.is_global` differs between
# Python versions and is true for 224.0.0.1, fec0::1 and 64:ff9b::7f00:1.
SPECIAL: tuple[Network, ...] = tuple(
    ip_network(network)
    for networks in (
        "0.0.0.0/8 127.0.0.0/8",  # this host; Linux connects 0.0.0.0 to itself
        "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10",  # private, carrier-grade NAT
        "169.254.0.0/16",  # link-local, with the metadata services of the clouds
        "168.63.129.16/32",  # in no registry: the host agent of Azure, reached from inside only
        "192.0.0.0/24 192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.175.48.0/24",  # protocols, AS112, 6to4 relays
        "192.0.2.0/24 198.51.100.0/24 203.0.113.0/24 198.18.0.0/15",  # documentation, benchmarking
        "224.0.0.0/4 240.0.0.0/4",  # multicast, reserved, broadcast
        # Global unicast is 2000::/3 alone. Outside it lie ::1, the IPv4-compatible ::/96, NAT64 64:ff9b::/96 and
        # 64:ff9b:1::/48, discard 100::/64, SRv6 5f00::/16, fc00::/7, fe80::/10, fec0::/10 and ff00::/8.
        "::/3 4000::/2 8000::/1",
        "2001::/23 2002::/16 2620:4f:8000::/48",  # Teredo, benchmarking, ORCHID, 6to4, AS112
        "2001:db8::/32 3fff::/20",  # documentation
    )
    for network in networks.split()
)


class Blocked(httpx.ConnectError):
    """The guard refused the address: it is not public, and RELAY_ALLOWED_NETWORKS does not hold it."""


class Unresolved(httpx.ConnectError):
    """The name of the host has no address."""


class Untrusted(httpx.ConnectError):
    """The TLS handshake failed, or the certificate is not valid for the host."""


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

# The errno of a refusal, which no system call has: of the errors of a name's several addresses, aiohappyeyeballs keeps
# only the texts, and the errno if it is the same for all.
_REFUSED = -1

# Content codings as zlib names them; some servers send deflate without its head.
_WINDOWS = {"gzip": (16 + zlib.MAX_WBITS,), "deflate": (zlib.MAX_WBITS, -zlib.MAX_WBITS)}


def failure_class(error: Exception) -> str:
    """Sort an exception of `Transport` into a closed set of words, for attempts and metrics.

    One of dns, connect, tls, timeout, disconnected, blocked, and for everything else protocol: it was not HTTP.
    """
    return next((name for kind, name in _CLASSES if isinstance(error, kind)), "protocol")


def literal_address(host: str) -> Address | None:
    """Read a URL's host as an IP address, in every way of writing that a resolver accepts; None if it is a name.

    Besides the usual forms these are IPv6 in brackets or with a zone, and what inet_aton takes: 127.1, 0x7f.1,
    0177.0.0.1, 2130706433.
    """
    host = host.removeprefix("[").removesuffix("]")
    try:
        return ip_address(host)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host.removesuffix(".")))
    except (OSError, ValueError):
        return None


class Guard:
    """Decides to which addresses relay connects: to public ones, and to those of the allowed networks.

    It judges the address that a socket is about to connect to, so that literals, names that resolve to something else
    the second time, and every candidate of a name with several addresses meet the same check.
    """

    def __init__(self, allowed: Sequence[Network] = (), *, public: bool = True) -> None:
        self._allowed = tuple(allowed)
        self._public = public

    def permits(self, address: Address) -> bool:
        """Tell whether relay may connect to the address.

        An IPv4-mapped address is judged as the IPv4 address in it. A 6to4 or NAT64 address passes only if an allowed
        network holds it or the IPv4 address in it, and one with a zone (fe80::1%eth0) never does.
        """
        forms = [address]
        if isinstance(address, IPv6Address):
            if address.scope_id is not None:
                return False
            nat64 = IPv4Address(int(address) & 0xFFFFFFFF) if address in NAT64 else None
            embedded = address.ipv4_mapped or address.sixtofour or nat64
            if embedded is not None:
                forms.append(embedded)
            address = address.ipv4_mapped or address
        if any(self.allows(form) for form in forms):
            return True
        return self._public and not any(address in network for network in SPECIAL)

    def plain(self) -> "Guard":
        """The guard of connections without TLS: to the allowed networks alone."""
        return Guard(self._allowed, public=False)

    def allows(self, address: Address) -> bool:
        """Tell whether the allowed networks name the address, whatever else it is."""
        return any(address in network for network in self._allowed)

    def check(self, address: str) -> None:
        """Raise `Blocked` unless the text is an address that relay may connect to."""
        try:
            permitted = self.permits(ip_address(address))
        except ValueError:
            permitted = False
        if not permitted:
            what = "is not a public address" if self._public else "may not be called without TLS"
            raise Blocked(f"{address} {what}; RELAY_ALLOWED_NETWORKS can allow it")

    def open_socket(self, info: aiohttp.AddrInfoType) -> socket.socket:
        """Open the socket for a checked address, as the socket factory of a connector.

        Raises OSError where `check` raises `Blocked`: anything else is lost when a name has several addresses.
        """
        family, kind, protocol, _, target = info
        try:
            self.check(str(target[0]))
        except Blocked as refusal:
            raise OSError(_REFUSED, str(refusal)) from None
        return socket.socket(family, kind, protocol)


class _Capped(aiohttp.ClientResponse):
    """A response of which `MAX_SESSION_ANSWER` bytes are read, whatever is asked of it."""

    async def read(self) -> bytes:
        if self._body is None:
            self._body, _ = await _read(self, MAX_SESSION_ANSWER)
        return self._body


async def _refuse_redirects(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    answer = await handler(request)
    if "Location" in answer.headers and 300 <= answer.status < 400:
        answer.close()
        raise aiohttp.TooManyRedirects(answer.request_info, (), status=answer.status)
    return answer


def guarded_session(guard: Guard, proxy: str | None = None) -> aiohttp.ClientSession:
    """Open a session for an SDK that speaks aiohttp, in a running event loop. Whoever opens it closes it.

    It promises what `Transport` does: every connection passes the guard, certificates are verified, cookies are not
    kept, the environment's proxies are not used, `MAX_SESSION_ANSWER` bytes of an answer are read. An answer that
    redirects raises `aiohttp.TooManyRedirects`. There is no deadline: set one around the call.
    """
    options: dict[str, Any] = {"middlewares": (_refuse_redirects,), "response_class": _Capped, "proxy": proxy}
    return _session(guard, _tls(), auto_decompress=False, **options)


def _session(guard: Guard, tls: ssl.SSLContext, **options: Any) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=0, ttl_dns_cache=DNS_CACHE_SECONDS, ssl=tls, socket_factory=guard.open_socket
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(),
        **options,
    )


def _tls() -> ssl.SSLContext:
    context = httpx.create_ssl_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class _Answer(httpx.Response):
    """A response whose body is read and inflated already; given `content=`, httpx would inflate again, unbounded."""

    def __init__(
        self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes, request: httpx.Request
    ) -> None:
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
    memory: a request that streams is not supported.
    """

    def __init__(self, guard: Guard, *, timeout: float, max_bytes: int, proxy: str | None = None) -> None:
        self._guard = guard
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._proxy = proxy
        self._tls = _tls()
        self._session: aiohttp.ClientSession | None = None

    def _open(self) -> aiohttp.ClientSession:
        return _session(
            self._guard,
            self._tls,
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            proxy=self._proxy,
        )

    async def aclose(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request and read the answer.

        A body in gzip or deflate is inflated, and given as it came if it cannot be. One that passes the cap, or breaks
        off while it is inflated, is cut, and the response has `extensions["truncated"]`.

        Raises httpx's exceptions, which `failure_class` sorts; their texts never hold the URL.
        """
        if self._session is None:
            self._session = self._open()
        extensions = request.extensions
        timeout = extensions.get("timeout")
        seconds = timeout if isinstance(timeout, int | float) else self._timeout
        path, _, query = extensions.get("target", request.url.raw_path).decode("ascii").partition("?")
        authority = request.url.netloc.decode("ascii")
        url = URL.build(scheme=request.url.scheme, authority=authority, path=path, query_string=query, encoded=True)
        headers = CIMultiDict([(key.decode("latin-1"), value.decode("latin-1")) for key, value in request.headers.raw])
        content = request.read() or None
        if not 0 <= (request.url.port or 0) <= 65535:
            raise httpx.UnsupportedProtocol("the port is not one from 1 to 65535", request=request)
        try:
            async with asyncio.timeout(seconds):
                answer = await self._session.request(
                    request.method, url, headers=headers, data=content, allow_redirects=False
                )
                try:
                    body, truncated = await _read(answer, extensions.get("max_bytes", self._max_bytes))
                finally:
                    answer.release()
        except TimeoutError:
            raise httpx.TimeoutException(f"no complete answer within {seconds:g} s", request=request) from None
        except (aiohttp.ClientError, UnicodeError) as error:
            failure = as_httpx(error, request.url.raw_host.decode("ascii"))
            failure.request = request
            raise failure from None
        response = _Answer(answer.status, answer.raw_headers, body, request)
        if truncated:
            response.extensions["truncated"] = True
        return response


async def _read(answer: aiohttp.ClientResponse, cap: int) -> tuple[bytes, bool]:
    """Read at most `cap` bytes of the body and inflate them to at most as many; the flag says that some are missing."""
    body = bytearray()
    while len(body) <= cap and (chunk := await answer.content.readany()):
        body += chunk
    truncated = len(body) > cap
    del body[cap:]
    for window in _WINDOWS.get(answer.headers.get("Content-Encoding", "").lower(), ()):
        inflater = zlib.decompressobj(window)
        try:
            inflated = inflater.decompress(body, cap + 1)
        except zlib.error:
            continue
        return inflated[:cap], len(inflated) > cap or not inflater.eof
    return bytes(body), truncated


def as_httpx(error: aiohttp.ClientError | UnicodeError, host: str) -> httpx.TransportError:
    """Turn an exception of an aiohttp session into httpx's, which `failure_class` sorts; its text never holds the URL.

    host: that of the URL, which tells an address in an unusual way of writing from a broken URL
    """
    # Only a connector's error tells of the host alone. The texts of the others may hold the whole URL, a secret.
    match error:
        case UnicodeError():
            return Unresolved("the name of the host cannot be looked up")
        case aiohttp.InvalidURL() if literal_address(host):
            return Blocked("the address of the host is not written in the usual way")
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
            return httpx.UnsupportedProtocol("the URL is not an absolute one of http or https")
        case aiohttp.ClientConnectorError(errno=errno, strerror=refusal) if errno == _REFUSED:
            # Of several addresses, the texts come as one: "Multiple exceptions: [Errno -1] …, [Errno -1] …".
            return Blocked(str(refusal).removeprefix("Multiple exceptions: ").replace(f"[Errno {_REFUSED}] ", ""))
        case aiohttp.ClientConnectorDNSError():
            return Unresolved(str(error))
        case aiohttp.ClientSSLError():
            return Untrusted(str(error))
        case aiohttp.ClientConnectorError():
            return httpx.ConnectError(str(error))
        case aiohttp.ClientHttpProxyError():
            return httpx.ProxyError(f"the proxy answered {error.status}")
        case aiohttp.ClientResponseError():
            return httpx.RemoteProtocolError(f"not HTTP: {error.message.partition(':')[0]}")
    return httpx.ReadError("the connection was lost before the answer was complete")


def secret_parts(url: str) -> list[str]:
    """What may be secret about a target's URL: all of it, its path and query, and every long part of these."""
    found = re.search(r"[/?#].*", url.partition("://")[2], re.DOTALL)
    target = found[0] if found else ""
    return [url, target, *(part for part in re.split(r"[/?&=;#]", target) if len(part) >= SHORTEST_PART)]


def spellings(secrets: Iterable[str]) -> tuple[bytes, ...]:
    """Secrets as they are and as JSON, HTML and URLs write them, longest first, for `without`."""
    found = set()
    for secret in secrets:
        in_json = json.dumps(secret)[1:-1]
        found |= {secret, in_json, in_json.replace("/", r"\/"), html.escape(secret)}
        found |= {quote(secret, safe=""), quote(secret), unquote(secret)}
    long = (form.encode(errors="replace") for form in found if len(form) >= SHORTEST_SECRET)
    return tuple(sorted(long, key=len, reverse=True))


def without(text: bytes, spelt: Sequence[bytes]) -> bytes:
    """The text of an answer without the secrets that it repeats: what somebody echoes must not be kept or shown."""
    for form in spelt:
        text = text.replace(form, MASK)
    if spelt and b"\\" in text:  # JSON can write any letter as \u0041: what it says counts, not how
        with contextlib.suppress(orjson.JSONDecodeError):
            said = orjson.dumps(orjson.loads(text))
            if any(form in said for form in spelt):
                return without(said, spelt)
    return text
