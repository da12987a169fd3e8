"""What each kind of option may be: types that read it from a text, and say in words what is allowed."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from relay.cadence import Cadence
from relay.signing import key_of

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DAY = 86400.0


def duration(value: object) -> object:
    """Seconds from `90`, `90s`, `5m`, `2h`, `30d`."""
    _no_boolean(value)
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd]?)\s*", value)
        if not match:
            raise ValueError("must be a number of seconds, or one such as 90s, 5m, 2h, 30d")
        return float(match[1]) * UNITS[match[2] or "s"]
    return value


def _list(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _schedule(value: object) -> object:
    return [duration(part) for part in parts] if isinstance(parts := _list(value), list) else value


def _cadence(value: object) -> object:
    """`MIN` or `MIN-MAX` seconds, as a cadence that replaces every provider's."""
    _no_boolean(value)
    if isinstance(value, int | float):
        value = str(value)
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)(?:\s*-\s*(\d+(?:\.\d+)?))?\s*", value)
    least, most = (float(match[1]), float(match[2] or match[1])) if match else (0.0, 0.0)
    if not 0.05 <= least <= most <= 3600:
        raise ValueError("must be MIN or MIN-MAX seconds between 0.05 and 3600, such as 5 or 0.5-2")
    return Cadence(first=least, steady=most, growth=1.5, floor=least)


def _keys(value: object) -> object:
    """A list of keys; separators alone are a key that was meant, and lost."""
    if value and not (keys := _list(value)):
        raise ValueError("must hold a key of at least 16 characters")
    return keys if value else ()


def _no_boolean(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def fits_in_a_header(text: str | None) -> bool:
    """Whether a key or another value can be sent, or there is none."""
    return not text or (text.isascii() and text.isprintable())


def _token(value: str) -> str:
    if not fits_in_a_header(value):
        raise ValueError("must be printable ASCII: it is sent in a header")
    return value


def _origins(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if value != "*" and not re.fullmatch(r"https?://[^\s/?#@]+", value):
            raise ValueError("must be '*' or origins, such as https://app.example or http://localhost:3000")
    return values


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _network(value: object) -> IPv4Network | IPv6Network:
    try:
        return ip_network(str(value))
    except ValueError:
        raise ValueError("must be networks in CIDR notation, such as 10.0.0.0/8,fd00::/8") from None


def _signing_secret(value: str) -> str:
    key_of(value)
    return value


def _grants(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not re.fullmatch(r"[TE][A-Z0-9]+(/[UW][A-Z0-9]+)?=[^\s=,]+", value):
            raise ValueError("must be like T0123=APP for a whole workspace, or T0123/U0456=APP for one person of it")
    return values


def _hosts(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not re.fullmatch(r"[\w.\[\]:-]+", value, re.ASCII):
            raise ValueError("must be hosts, such as hooks.slack.com, or with a port hooks.example:8443")
    return values


def _database_url(value: str) -> str:
    if not re.match(r"(postgres(ql)?(\+psycopg)?|sqlite)://", value):
        raise ValueError("must begin with postgres://, postgresql:// or sqlite:///")
    try:
        url = make_url(value)
    except (ArgumentError, ValueError):  # its text holds what it could not read, a piece of the password perhaps
        raise ValueError("must be like postgres://user:password@host:5432/name, special characters escaped") from None
    if url.get_backend_name() == "sqlite":
        if url.host or url.port or url.username:
            raise ValueError(
                "names a host, which SQLite has none of: sqlite:///relay.db, or sqlite:////var/lib/relay.db"
            )
        if not url.database or ":memory:" in url.database or url.query.get("mode") == "memory":
            raise ValueError("must name a file, sqlite:///relay.db: what is in memory only would be lost")
    return value


def _http_url(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s?#]+", value):
        raise ValueError("must be an address with http:// or https:// and a host, without query")
    return value


def _public_url(value: str) -> str:
    if value and re.match(r"https?://[^/]*@", _http_url(value)):
        raise ValueError("must be an address without user and password: everybody is shown it")
    return value


def _proxy(value: str) -> str:
    try:
        parts = urlsplit(value)
        good = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0 and parts.path in ("", "/")
    except ValueError:  # of the host, or of the port; its text holds the password
        good = False
    if not good or re.search(r"[\s?#]", value):
        raise ValueError("must be like http://proxy:4750 or http://user:password@proxy:4750")
    return value


Whole = Annotated[int, BeforeValidator(_no_boolean)]
Duration = Annotated[float, BeforeValidator(duration), Field(ge=0, le=3650 * DAY)]
Schedule = Annotated[tuple[Duration, ...], BeforeValidator(_schedule)]
Interval = Annotated[Cadence, BeforeValidator(_cadence)]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]
Networks = Annotated[tuple[Network, ...], BeforeValidator(_list)]
Words = Annotated[tuple[str, ...], BeforeValidator(_list)]
Keys = Annotated[tuple[str, ...], BeforeValidator(_keys)]
Token = Annotated[str, AfterValidator(_token)]
SigningSecret = Annotated[str, AfterValidator(_signing_secret)]
Grants = Annotated[Words, AfterValidator(_grants)]
Hosts = Annotated[Words, AfterValidator(_hosts)]
Origins = Annotated[Words, AfterValidator(_origins)]
DatabaseUrl = Annotated[str, AfterValidator(_database_url)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
PublicUrl = Annotated[str, AfterValidator(_public_url)]
Proxy = Annotated[str, AfterValidator(_proxy)]
LogLevel = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)]
