"""URLs of targets: how they are written, and whether they lead where relay may connect.

The check at registration is a courtesy: it tells the app of a mistake at once. What protects relay is the guard, at
every connection.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

import httpx
from pydantic import AfterValidator, Field

from relay.errors import ResolverUnavailable
from relay.outbound.lookups import DNS_CACHE, Lookups
from relay.security.guard import Guard, IPAddress, is_loopback, literal_address

RESOLVE_TIMEOUT = 2.0
"""Seconds that the lookup of a name may take."""

LOOKUPS = 16
"""Names that are looked up at once, in threads that only registrations wait for."""

NO_SUCH_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None), getattr(socket, "EAI_ADDRFAMILY", None)}
"""What a resolver says of a name that has no address. All else says something about the resolver."""

RETRY_AFTER = 5.0
"""Seconds after which a registration may be sent again that failed for want of a resolver."""

NEVER_PUBLIC = (".localhost", ".local", ".internal", ".lan", ".home.arpa", ".intranet")

PRIVATE = "leads to an address that is not public: RELAY_ALLOWED_NETWORKS can allow it"
LOOPBACK = "leads to this machine, whose address is not public: RELAY_ALLOWED_NETWORKS={networks} can allow it"
NOT_ENCRYPTED = "must begin with https:// (http:// only within RELAY_ALLOWED_NETWORKS)"


MAX_ORIGINS = 1024
"""Origins that a process remembers. Apps register many URLs and few origins."""

_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\<>\"^`{|}]")
_ORIGIN = re.compile(r"[^/?#]*//[^/?#]*")


@dataclass(frozen=True, slots=True)
class UrlOrigin:
    """The beginning of a URL: what is to be called, without the path.

    Attributes:
        host: the name or address alone, as a resolver takes it.
        netloc: the host with its port, as they are written, but in lower case.
        local: the host is an address, or a name that a public resolver does not know.
    """

    encrypted: bool
    host: str
    netloc: str
    literal: IPAddress | None
    local: bool


def origin_of(url: str) -> UrlOrigin:
    """Return the origin of an absolute http(s) URL. It is parsed once for all URLs that have it.

    Raises:
        ValueError: it is no such URL, or it holds a password.
    """
    if not url.isascii() or _FORBIDDEN.search(url):
        raise ValueError("must be a URL in ASCII without spaces: percent-encode its path, write its host in punycode")
    origin = _ORIGIN.match(url)
    return _parsed(url if origin is None else origin[0])


@lru_cache(MAX_ORIGINS)
def _parsed(origin: str) -> UrlOrigin:
    parts = urlsplit(origin)
    if "%" in parts.netloc:
        raise ValueError("must not percent-encode its host")
    if parts.scheme not in ("http", "https"):
        raise ValueError("must begin with https://")
    if not parts.hostname or parts.port == 0:
        raise ValueError("must name a host, and a port between 1 and 65535 if any")
    if "@" in parts.netloc:
        raise ValueError("must not contain a user name or password: only a webhook target's headers can carry them")
    try:
        _ = httpx.URL(origin).host
    except (httpx.InvalidURL, UnicodeError):  # 0177.0.0.1, 999.1.1.1, xn--a: relay could not call them
        raise ValueError("must name a host, or an address as it is usually written") from None
    host = parts.hostname.rstrip(".").lower()
    literal = literal_address(host)
    local = literal is not None or "." not in host or host.endswith(NEVER_PUBLIC)
    return UrlOrigin(parts.scheme == "https", host, parts.netloc.lower(), literal, local)


def split_url(url: str) -> SplitResult:
    """Split an absolute http(s) URL into its parts.

    Raises:
        ValueError: it is no such URL, or it holds a password.
    """
    origin_of(url)
    return urlsplit(url)


def _url(value: str) -> str:
    origin_of(value)
    return value


Url = Annotated[str, Field(max_length=2048, json_schema_extra={"format": "uri"}), AfterValidator(_url)]


def host_of(url: str) -> str:
    """Return the host of a URL, with its port if it names one."""
    return origin_of(url).netloc


class UrlCheck:
    """Says what is wrong with the URL of a target.

    Args:
        guard: knows which addresses relay may connect to.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._lookups = Lookups("registration", LOOKUPS)
        self._permitted: dict[UrlOrigin, float] = {}  # until when

    async def problem(self, url: str) -> str | None:
        """Return why relay may not call a URL and what to do about it, or None if it may.

        Raises:
            ResolverUnavailable: the name must be looked up to tell, and the resolver does not answer.
        """
        origin = origin_of(url)
        if origin.encrypted and not origin.local:
            return None  # The guard judges its addresses at every connection.
        if self._permitted.get(origin, 0.0) > time.monotonic():
            return None
        if problem := await self._judged(origin):
            return problem
        if len(self._permitted) >= MAX_ORIGINS:
            self._permitted.clear()
        self._permitted[origin] = time.monotonic() + DNS_CACHE
        return None

    async def _judged(self, origin: UrlOrigin) -> str | None:
        addresses = await self._resolve(origin.host) if origin.literal is None else [origin.literal]
        if origin.local and not (addresses and all(map(self._guard.permits, addresses))):
            return _private(origin)
        if not origin.encrypted and not (addresses and all(map(self._guard.allows, addresses))):
            return NOT_ENCRYPTED
        return None

    async def _resolve(self, host: str) -> Sequence[IPAddress]:
        """Return the addresses of a name; none if it has none."""
        try:
            async with asyncio.timeout(RESOLVE_TIMEOUT):
                answers = await self._lookups.addresses(host, 0)
        except UnicodeError:
            return ()
        except OSError as error:  # TimeoutError is one
            if isinstance(error, socket.gaierror) and error.errno in NO_SUCH_NAME:
                return ()
            raise ResolverUnavailable(f"the name {host} cannot be looked up now", retry_after=RETRY_AFTER) from None
        return [ip_address(answer[4][0]) for answer in answers]


def _private(origin: UrlOrigin) -> str:
    """Return what to say of an address that is not public. For this machine's own it is what to paste."""
    if not is_loopback(origin.host if origin.literal is None else str(origin.literal)):
        return PRIVATE
    v4, v6 = "127.0.0.0/8", "::1/128"
    networks = f"{v4},{v6}" if origin.literal is None else v4 if origin.literal.version == 4 else v6
    return LOOPBACK.format(networks=networks)
