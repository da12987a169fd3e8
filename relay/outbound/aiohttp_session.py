"""The way out for an SDK that brings an HTTP client of its own, aiohttp: guarded and bounded like all others."""

from __future__ import annotations

import contextlib
import socket

import aiohttp
import httpx
from aiohttp.abc import AbstractResolver, ResolveResult

from relay.outbound.codings import READABLE, codings_of, decode
from relay.outbound.connector import Unresolved, Untrusted, refused_by_proxy
from relay.outbound.descriptors import NoRoom, used_up
from relay.outbound.lookups import DNS_CACHE, Lookups
from relay.outbound.transport import tls_context
from relay.security.guard import Guard, as_blocked

MAX_ANSWER = 1024 * 1024
"""Bytes of an answer that are read, before and after it is decoded."""


class _Capped(aiohttp.ClientResponse):
    """A response of which at most `MAX_ANSWER` bytes are read.

    Its status says whether the server has taken the request, so a body that breaks off, or that is no text in its own
    encoding, is read as far as it goes.
    """

    async def text(self, encoding: str | None = None, errors: str = "replace") -> str:
        try:
            return await super().text(encoding, errors)
        except LookupError:  # It names an encoding that is none of text.
            return (await self.read()).decode(errors=errors)

    async def read(self) -> bytes:
        if self._body is None:
            body = bytearray()
            with contextlib.suppress(aiohttp.ClientPayloadError):
                while len(body) <= MAX_ANSWER and (chunk := await self.content.readany()):
                    body += chunk
            codings = codings_of(self.headers.getall("Content-Encoding", []))
            self._body = decode(bytes(body), codings, MAX_ANSWER).body
        return self._body


class _Resolver(AbstractResolver):
    """Gives aiohttp the addresses that relay's own lookups find."""

    def __init__(self, lookups: Lookups) -> None:
        self._lookups = lookups

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002
    ) -> list[ResolveResult]:
        results = []
        for found, _, protocol, _, target in await self._lookups.addresses(host, port):
            zone = f"%{target[3]}" if len(target) > 3 and target[3] else ""  # for the guard, which wants none
            results.append(
                ResolveResult(
                    hostname=host,
                    host=f"{target[0]}{zone}",
                    port=port,
                    family=found,
                    proto=protocol,
                    flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                )
            )
        return results

    async def close(self) -> None:
        return


async def _refuse_redirects(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    answer = await handler(request)
    if "Location" in answer.headers and 300 <= answer.status < 400:
        answer.close()
        raise aiohttp.TooManyRedirects(answer.request_info, (), status=answer.status)
    return answer


def guarded_session(
    guard: Guard, lookups: Lookups, proxy: str | None = None, connections: int = 100
) -> aiohttp.ClientSession:
    """Open a session for an SDK that speaks aiohttp, in a running event loop. The caller closes it.

    It promises what `Transport` of `relay.outbound` does: every connection passes the guard, certificates are verified,
    cookies are not kept, the environment's proxies are not used, `MAX_ANSWER` bytes of an answer are read. An answer
    that redirects raises `aiohttp.TooManyRedirects`. There is no deadline: set one around the call.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=connections,
            ttl_dns_cache=round(DNS_CACHE),
            ssl=tls_context(),
            socket_factory=guard.open_socket,
            resolver=_Resolver(lookups),
        ),
        headers={"Accept-Encoding": READABLE},  # aiohttp's own names all that happens to be installed
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(),
        auto_decompress=False,
        middlewares=(_refuse_redirects,),
        response_class=_Capped,
        proxy=proxy,
    )


def as_httpx(error: aiohttp.ClientError) -> httpx.TransportError:
    """Turn an exception of a guarded session into httpx's, for `failure_class`; its text never holds the URL."""
    # Only a connector's error tells of the host alone. The texts of the others may hold the whole URL, a secret.
    if blocked := as_blocked(error):
        return blocked
    if isinstance(error, aiohttp.ClientConnectorError) and used_up(error.os_error):
        return NoRoom("no descriptor is left to connect")
    match error:
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
            return httpx.UnsupportedProtocol("the URL is not an absolute one of http or https")
        case aiohttp.ClientConnectorDNSError():
            return Unresolved(str(error))
        case aiohttp.ClientSSLError():
            return Untrusted(str(error))
        case aiohttp.ClientConnectorError():
            return httpx.ConnectError(str(error))
        case aiohttp.ClientHttpProxyError():
            return refused_by_proxy(str(error.status))
        case aiohttp.ClientResponseError():
            return httpx.RemoteProtocolError(f"not HTTP: {error.message.partition(':')[0]}")
    return httpx.ReadError("the connection was lost before the answer was complete")
