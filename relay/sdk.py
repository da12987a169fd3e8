"""The way out for an SDK that brings an HTTP client of its own, aiohttp: guarded and bounded like all others."""

from __future__ import annotations

import aiohttp
import httpx

from relay.dialling import DNS_CACHE, Unresolved, Untrusted
from relay.guard import Guard, refusal
from relay.outbound import inflated, tls_context

MAX_ANSWER = 1024 * 1024
"""Bytes of an answer that are read, before and after it is inflated."""


class _Capped(aiohttp.ClientResponse):
    """A response of which `MAX_ANSWER` bytes are read, whatever is asked of it."""

    async def read(self) -> bytes:
        if self._body is None:
            body = bytearray()
            while len(body) <= MAX_ANSWER and (chunk := await self.content.readany()):
                body += chunk
            self._body, _ = inflated(bytes(body), self.headers.get("Content-Encoding", ""), MAX_ANSWER)
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

    It promises what `relay.outbound.Transport` does: every connection passes the guard, certificates are verified,
    cookies are not kept, the environment's proxies are not used, `MAX_ANSWER` bytes of an answer are read. An answer
    that redirects raises `aiohttp.TooManyRedirects`. There is no deadline: set one around the call.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=0, ttl_dns_cache=DNS_CACHE, ssl=tls_context(), socket_factory=guard.open_socket
        ),
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
    if blocked := refusal(error):
        return blocked
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
            return httpx.ProxyError(f"the proxy answered {error.status}")
        case aiohttp.ClientResponseError():
            return httpx.RemoteProtocolError(f"not HTTP: {error.message.partition(':')[0]}")
    return httpx.ReadError("the connection was lost before the answer was complete")
