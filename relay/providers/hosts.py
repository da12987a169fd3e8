"""Where else than at the address of its provider a task may be asked about: within the `hosts` of the provider's file.

A registration names such an address, and the deployment's key goes there only if the file writes out the host. Who
owns a host that a `*` stands for, the operator cannot know: it may be anyone's shop, the app's own among them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum, auto
from typing import Annotated, NamedTuple

from pydantic import AfterValidator

_PATTERN = re.compile(r"(?:(?:\*|[a-z0-9-]+)\.)*[a-z0-9-]+\.[a-z0-9-]*[a-z][a-z0-9-]*")
"""A name in small letters, the last two labels of which are written out. An address of numbers is none."""

_URL = re.compile(r"(https?)://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?(/[!-~]*)?")
"""An address that has no user, whoever reads it: in it nothing but a host can stand before the path."""

_DEFAULT_PORTS = {"https": 443, "http": 80}


class Unaskable(Exception):
    """A task cannot be asked about as its watch wants it.

    Attributes:
        field: the member of a registration that is wrong.
        remedy: what to do about it.
    """

    def __init__(self, field: str, why: str, remedy: str) -> None:
        super().__init__(why)
        self.field = field
        self.remedy = remedy

    @property
    def advice(self) -> str:
        """Return what is wrong and what to do about it."""
        return f"{self}; {self.remedy}"


class Standing(Enum):
    """How a host is among the hosts of a file."""

    NAMED = auto()  # written out: it may have the deployment's key
    WILD = auto()  # a `*` stands for it: it may not


class UpstreamAddress(NamedTuple):
    """An address, taken apart.

    Attributes:
        origin: scheme, host and port, as they are written for all addresses that lead there.
        target: path and query as they are sent; empty if the address has none.
    """

    origin: str
    host: str
    target: str


def address_of(url: str) -> UpstreamAddress | None:
    """Take an address apart. Return None for what is none, or has a user, a fragment or blanks."""
    match = _URL.fullmatch(url)
    if match is None or "#" in url or "\\" in url:
        return None
    scheme, host, port, target = match.groups()
    host = host.lower()
    usual = port is None or int(port) == _DEFAULT_PORTS[scheme]
    return UpstreamAddress(f"{scheme}://{host}" + ("" if usual else f":{int(port)}"), host, target or "")


def _pattern(pattern: str) -> str:
    if not _PATTERN.fullmatch(pattern):
        raise ValueError(
            f"'{pattern}' must be the name of a host in small letters, such as api.example.com or *.example.com: "
            "a '*' stands for one whole label, and not for one of the last two"
        )
    return pattern


Host = Annotated[str, AfterValidator(_pattern)]
"""An entry of `hosts`."""


def standing(patterns: Sequence[str], address: UpstreamAddress) -> Standing | None:
    """Return how an address is among the hosts of a file; None if it is not, or is not https on its usual port."""
    if address.origin != f"https://{address.host}":
        return None
    if address.host in patterns:
        return Standing.NAMED
    return Standing.WILD if any(_matches(pattern, address.host) for pattern in patterns) else None


def _matches(pattern: str, host: str) -> bool:
    wanted = pattern.split(".")
    labels = host.split(".")
    return len(wanted) == len(labels) and all(
        label and want in ("*", label) for want, label in zip(wanted, labels, strict=True)
    )
