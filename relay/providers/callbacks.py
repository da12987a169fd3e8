"""Callback members of a create's JSON body: taken out where they stand, while every other byte stays as it came.

In the place of one of them, relay may name itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any, NamedTuple

import orjson

_ESCAPED = re.compile(rb"\\u00([0-7][0-9A-Fa-f])")
"""A character of ASCII, written as an escape."""

_BLANK = re.compile(r"[ \t\r\n]*")
_NONE = ("", "-1", None)
"""What a member says that stands there and names nobody."""

_WALKER = json.JSONDecoder(parse_int=len, parse_float=len)


class Forward(NamedTuple):
    """The callback member by which the upstream is told to call relay, and the URL that it is to call."""

    name: str
    url: str


class _Member(NamedTuple):
    name: str
    value: Any
    start: int
    end: int


def without_callbacks(
    body: bytes, names: Collection[str], forward: Forward | None = None
) -> tuple[bytes, dict[str, Any]]:
    """Return a body without its callback members, and these.

    Args:
        names: of the members.
        forward: what stands in their place: one of these members, at the end of the object.

    Raises:
        ValueError: it has such a member and is not strict JSON, or names a key twice; in words.
    """
    if not names:
        return body, {}
    try:
        orjson.loads(body)  # strict: UTF-8, no NaN, no lone surrogates, nesting bounded
        text = body.decode()
        members = _members(text)
        if any(member.name in names for member in members):
            json.loads(text, object_pairs_hook=_once, parse_int=len, parse_float=len)
    except (ValueError, RecursionError) as error:
        if _may_name(body, names):
            raise ValueError(f"a body with a callback must be strict JSON: {error}") from None
        return body, {}
    taken = [member for member in members if member.name in names and member.value not in _NONE]
    cut = [member for member in members if member in taken or (forward is not None and member.name == forward.name)]
    rest = _without(text, members, cut) if cut else text
    if forward is not None and text[_after_blanks(text, 0)] == "{":
        rest = _with(rest, forward, first=len(cut) == len(members))
    return (body if rest is text else rest.encode()), {one.name: one.value for one in taken}


def _may_name(body: bytes, names: Collection[str]) -> bool:
    """Return whether a lenient parser could find one of the names in a body: escaped, or in UTF-16, too."""
    plain = _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), body.replace(b"\0", b""))
    return any(json.dumps(name).encode() in plain for name in names)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one of its objects")
    return found


def _members(text: str) -> list[_Member]:
    """Return the members of an object, and where they stand. The text is strict JSON; of another value there are none.

    Raises:
        RecursionError: it nests too deep.
    """
    members: list[_Member] = []
    at = _after_blanks(text, 0)
    if text[at] != "{":
        return []
    at = _after_blanks(text, at + 1)
    while text[at] != "}":
        start = at
        name, at = scanstring(text, at + 1, True)
        at = _after_blanks(text, _after_blanks(text, at) + 1)
        value, at = _WALKER.raw_decode(text, at)
        members.append(_Member(name, value, start, at))
        at = _after_blanks(text, at)
        if text[at] == ",":
            at = _after_blanks(text, at + 1)
    return members


def _after_blanks(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    return found.end() if found else at


def _with(text: str, forward: Forward, *, first: bool) -> str:
    """Return the text of an object with one more member, at its end."""
    end = text.rindex("}")
    return f"{text[:end]}{'' if first else ', '}{json.dumps(forward.name)}: {json.dumps(forward.url)}{text[end:]}"


def _without(text: str, members: list[_Member], taken: list[_Member]) -> str:
    """Return the text without some members, each cut out with the comma before it."""
    parts = [text[: members[0].start]]
    first = True
    for before, member in zip([None, *members], members, strict=False):
        if member in taken:
            continue
        if not first and before is not None:
            parts.append(text[before.end : member.start])
        parts.append(text[member.start : member.end])
        first = False
    return "".join((*parts, text[members[-1].end :]))
