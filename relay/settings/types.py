"""The types of the options: each reads a value from a text, and says in words what is allowed."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.fields import FieldInfo

from relay.model.cadence import Cadence
from relay.security.signing import key_of
from relay.settings.database_url import database_url

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DAY = 86400.0

KIB, MIB = 1024, 1024 * 1024
SIZES = {"": 1, "b": 1, "kb": 1000, "mb": 1_000_000, "kib": KIB, "mib": MIB}


def duration(value: object) -> object:
    """Read seconds from `90`, `90s`, `5m`, `2h`, `30d`."""
    _no_boolean(value)
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd]?)\s*", value)
        if not match:
            raise ValueError("must be a number of seconds, or one such as 90s, 5m, 2h, 30d")
        return float(match[1]) * UNITS[match[2] or "s"]
    return value


def in_words(seconds: float) -> str:
    """Return how a duration is written in the file: `90s`, `5m`, `24h`, `30d`."""
    for unit, least in (("d", 2 * DAY), ("h", 3600), ("m", 60)):
        if seconds >= least and seconds % UNITS[unit] == 0:
            return f"{seconds / UNITS[unit]:g}{unit}"
    return f"{seconds:g}s"


def is_duration(field: FieldInfo) -> bool:
    """Return whether an option is a duration."""
    return any(isinstance(kind, BeforeValidator) and kind.func is duration for kind in field.metadata)


def size_in_words(size: int) -> str:
    """Return how a size is written in the file: `32 MiB`, `500 kB`, `4096`."""
    for unit in ("MiB", "MB", "KiB", "kB"):
        if size % SIZES[unit.lower()] == 0:
            return f"{size // SIZES[unit.lower()]} {unit}"
    return str(size)


def is_size(field: FieldInfo) -> bool:
    """Return whether an option is a size in bytes."""
    return any(isinstance(kind, BeforeValidator) and kind.func is size for kind in field.metadata)


def size(value: object) -> object:
    """Return the bytes that `4096`, `500 kB` or `8 MiB` says."""
    _no_boolean(value)
    if isinstance(value, str):
        match = re.fullmatch(r"(?i)\s*(\d+(?:\.\d+)?)\s*(b|[km]i?b)?\s*", value)
        if not match:
            raise ValueError("must be a number of bytes, or one such as 500 kB, 8 MiB")
        return round(float(match[1]) * SIZES[(match[2] or "").lower()])
    return value


def _list(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _schedule(value: object) -> object:
    return [duration(part) for part in parts] if isinstance(parts := _list(value), list) else value


def _cadence(value: object) -> object:
    """Read `MIN` or `MIN-MAX` seconds as a cadence that replaces every provider's."""
    _no_boolean(value)
    if isinstance(value, int | float):
        value = str(value)
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)(?:\s*-\s*(\d+(?:\.\d+)?))?\s*", value)
    least, most = (float(match[1]), float(match[2] or match[1])) if match else (0.0, 0.0)
    if not 0.05 <= least <= most <= 3600:
        raise ValueError("must be MIN or MIN-MAX seconds between 0.05 and 3600, such as 5 or 0.5-2")
    return Cadence(first=least, steady=most, growth=1.5, floor=least, learn=False)


def _keys(value: object) -> object:
    """Read a list of keys. Separators alone are refused: a key was meant there."""
    if value and not (keys := _list(value)):
        raise ValueError("must hold a key of at least 16 characters")
    return keys if value else ()


def _no_boolean(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def fits_in_a_header(text: str | None) -> bool:
    """Return whether a value can be sent in a header; no value can."""
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


def _channels(values: tuple[str, ...]) -> tuple[str, ...]:
    """Return one grant for each channel: `shop=#a` and `shop=#b` for `shop=#a,#b`."""
    grants, app = [], ""
    for value in values:
        name, separator, channel = value.rpartition("=")
        app = name if separator else app
        if not app or not re.fullmatch(r"[^\s=]+", app) or not re.fullmatch(r"[^\s=]+", channel):
            raise ValueError("must be apps and their channels, like shop=#renders,#orders,crm=#crm; * stands for any")
        grants.append(f"{app}={channel}")
    return tuple(grants)


def _hosts(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not re.fullmatch(r"[\w.\[\]:-]+", value, re.ASCII):
            raise ValueError("must be hosts, such as hooks.slack.com, or with a port hooks.example:8443")
    return values


def _http_url(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s?#]+", value):
        raise ValueError("must be an address with http:// or https:// and a host, without query")
    return value


def _public_url(value: str) -> str:
    if value and re.match(r"https?://[^/]*@", _http_url(value)):
        raise ValueError("must be an address without user and password: it is shown to anyone")
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
Size = Annotated[int, BeforeValidator(size)]
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
Channels = Annotated[Words, AfterValidator(_channels)]
Hosts = Annotated[Words, AfterValidator(_hosts)]
Origins = Annotated[Words, AfterValidator(_origins)]
DatabaseUrl = Annotated[str, AfterValidator(database_url)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
PublicUrl = Annotated[str, AfterValidator(_public_url)]
Proxy = Annotated[str, AfterValidator(_proxy)]
LogLevel = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)]
