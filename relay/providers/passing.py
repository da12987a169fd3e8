"""What of a create call passes through relay: which headers and parameters go out, and which headers come back.

What concerns one connection, or what relay says itself, stops here; so does what a server behind could take for a word
of relay's own, in whatever writing: some servers read `X_Forwarded_For` as `X-Forwarded-For`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from relay.providers.definition import RequestTable
from relay.providers.paths import Table

Header = tuple[bytes, bytes]

_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding"
    b" upgrade".split()
)
_NOT_OUT = _HOP_BY_HOP | frozenset(
    b"host content-length expect cookie cookie2 accept-encoding idempotency-key forwarded via x-real-ip"
    b" traceparent".split()
)
_NOT_OUT_BEGINS = (b"relay-", b"x-forwarded-", b"x-request-", b"x-original-", b"x-rewrite-", b"x-http-method")
_NOT_BACK = _HOP_BY_HOP | frozenset(
    b"set-cookie set-cookie2 content-encoding content-length location refresh alt-svc strict-transport-security"
    b" clear-site-data idempotent-replayed x-request-id x-content-type-options content-security-policy date".split()
)
_NOT_BACK_BEGINS = (b"access-control-", b"ratelimit", b"relay-")

_TOKEN = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_UNFIT = re.compile(rb"[\r\n\0]")


def headers_out(headers: Iterable[Header], dropped: Iterable[str] = ()) -> list[Header]:
    """Return the headers of a caller that go on to the upstream.

    Args:
        dropped: further ones that do not.
    """
    given = list(headers)
    without = _NOT_OUT | _named_by_connection(given) | {_plain(name.encode()) for name in dropped}
    return [
        (name, value)
        for name, value in given
        if _plain(name) not in without and not _plain(name).startswith(_NOT_OUT_BEGINS)
    ]


def headers_back(headers: Iterable[Header]) -> list[Header]:
    """Return the headers of an upstream's answer that go on to the caller."""
    given = list(headers)
    without = _NOT_BACK | _named_by_connection(given)
    return [
        (name.lower(), value)
        for name, value in given
        if _TOKEN.fullmatch(name)
        and not _UNFIT.search(value)
        and _plain(name) not in without
        and not _plain(name).startswith(_NOT_BACK_BEGINS)
    ]


def _named_by_connection(headers: Sequence[Header]) -> set[bytes]:
    named = (value for name, value in headers if _plain(name) == b"connection")
    return {_plain(part.strip()) for value in named for part in value.split(b",")}


def _plain(name: bytes) -> bytes:
    return name.lower().replace(b"_", b"-")


class KeyPlaces(Table):
    """Where in a request the upstream's key stands: headers and parameters, each with its template."""

    headers: Mapping[str, str]
    query: Mapping[str, str]

    @classmethod
    def of(cls, request: RequestTable) -> KeyPlaces:
        """Return where the table of a provider's file has `{key}`."""
        headers = {name: value for name, value in request.headers.items() if "{key}" in value}
        return cls(headers=headers, query={name: value for name, value in request.query.items() if "{key}" in value})

    def key_in(self, headers: Iterable[Header], query: Sequence[tuple[str, str]]) -> str | None:
        """Return the key that a caller has put there, by the first place that has one."""
        values = {_plain(name): value.decode("latin-1") for name, value in headers}
        for name, template in self.headers.items():
            if found := _key_of(template, values.get(_plain(name.encode()), "")):
                return found
        for name, template in self.query.items():
            for given, value in query:
                if given == name and (found := _key_of(template, value)):
                    return found
        return None


def _key_of(template: str, value: str) -> str | None:
    """Return what stands for the key in a value. The word before it is the scheme, in any case."""
    before, _, after = template.partition("{key}")
    found = re.fullmatch(f"(?i:{re.escape(before)})(.+){re.escape(after)}", value.strip())
    return found[1].strip() or None if found else None


def query_without(raw: bytes, dropped: Iterable[str], names: Sequence[str]) -> bytes:
    """Return a query as it came, without some parameters.

    Args:
        names: the name of each of its parts, decoded.
    """
    out = set(dropped)
    parts = [part for part in raw.split(b"&") if part]
    return b"&".join(part for part, name in zip(parts, names, strict=True) if name not in out)
