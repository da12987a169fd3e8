"""The body of an answer as a JSON object: strictly as JSON has it, or repaired where only its writing is broken.

Gateways cut texts within a character, pass NaN on, or print a notice behind the object, and every usual client reads
what they mean. An event must be JSON for every parser, so what is repeated of such an answer is written anew.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson

from relay.security.redaction import redact

BOM = b"\xef\xbb\xbf"

BROKEN = "\ufffd"
"""Stands where a character could not be read."""

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")

_NOTICE = re.compile(r"\s*(?:<br ?/?>|<b>|(?:PHP )?(?:Notice|Warning|Deprecated|Strict Standards)\b)[^{]*")
"""What PHP prints before its answer. A page that merely holds an object somewhere is no answer."""

_CHARSETS = re.compile("utf-(?:8|16|32)|gb|big5|shift_jis|euc|johab|cp(?:125|874|93|949|950)|iso8859|koi8|ascii")
"""The encodings of the web, by the names that Python gives them. Some of the others take quadratic time."""


class Answer(NamedTuple):
    """What came back over HTTP.

    Attributes:
        headers: with names in lower case.
        truncated: whether the body went over the cap.
        unread: the content codings that it still has, since relay does not read them.
        reservation: keeps the memory of a large body reserved.
        secrets: forms of what must not be repeated, for a body that is written anew.
        base_url: the address of the upstream, for links that a file makes of it.
        names: what the placeholders of the task stand for, for the same.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    truncated: bool = False
    unread: str = ""
    reservation: object = None
    secrets: Sequence[bytes] = ()
    base_url: str = ""
    names: Mapping[str, str] = MappingProxyType({})

    def __repr__(self) -> str:
        """Return what it is, without the secrets."""
        return f"Answer({self.status}, {self.headers!r}, {self.body!r})"

    @property
    def link_names(self) -> dict[str, str]:
        """Return what every placeholder of a link stands for."""
        return {**self.names, "base_url": self.base_url}


class Document(NamedTuple):
    """A JSON object, or a list.

    Attributes:
        body: how it is written, always strict JSON: as it came, or `repaired`.
    """

    value: Any
    body: bytes
    repaired: bool = False


def document_of(answer: Answer) -> Document | None:
    """Return the JSON object or list that an answer is, or None. (orjson bounds nesting and takes strict JSON only.)"""
    if answer.truncated or not answer.body:
        return None
    body = answer.body.removeprefix(BOM)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return _repaired(answer)
    return Document(value, body) if isinstance(value, dict | list) else None


def _repaired(answer: Answer) -> Document | None:
    """Return the object of a body that strict parsers refuse, without what cannot be written in JSON; None if it is
    broken in its structure, cut off above all."""
    try:
        value = _lenient(_text(answer))
        if not isinstance(value, dict):
            return None
        body = redact(orjson.dumps(_writable(value)), answer.secrets)
        return Document(orjson.loads(body), body, repaired=True)
    except (ValueError, TypeError, RecursionError):  # orjson's exceptions are these too
        return None


def _text(answer: Answer) -> str:
    """Decode a body: by its byte order mark, as UTF-16 if it looks so, else as UTF-8, else as its headers declare."""
    body = answer.body
    if body.startswith(BOM):
        return body[len(BOM) :].decode(errors="replace")
    if body.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return body.decode("utf-32", errors="replace")
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return body.decode("utf-16", errors="replace")
    if len(zeros := [index for index, byte in enumerate(body[:4]) if byte == 0]) in (2, 3):
        width = 32 if len(zeros) == 3 else 16
        return body.decode(f"utf-{width}-{'be' if 0 in zeros else 'le'}", errors="replace")
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body.decode(_charset(answer.headers.get("content-type", "")), errors="replace")


def _charset(content_type: str) -> str:
    """Return the declared encoding, or UTF-8 where that is none of the web's."""
    declared = re.search(r"""(?i)\bcharset\s*=\s*["']?([\w.:-]+)""", content_type)
    try:
        name = codecs.lookup(declared[1]).name if declared else "utf-8"
    except LookupError:
        return "utf-8"
    if name in ("gb2312", "gbk"):
        return "gb18030"  # the same and more: many say less than they write
    return name if _CHARSETS.match(name) else "utf-8"


def _lenient(text: str) -> Any:
    """Parse what usual clients take for JSON: NaN, raw line breaks in texts, halves of emoji, a notice around it.

    Raises:
        ValueError: it is not JSON, or one object stands behind the other.
    """
    start = notice.end() if (notice := _NOTICE.match(text)) else len(text) - len(text.lstrip())
    value, end = _DECODER.raw_decode(text, start)
    behind = text[end:].lstrip()
    if behind.startswith(("{", "[", ",", '"')):
        raise ValueError("more than one document")
    return value


def _whole(digits: str) -> int | float:
    """Read a whole number: one that no 64 bits hold as a float, as orjson does."""
    return int(digits) if len(digits) < 19 else float(digits)


_DECODER = json.JSONDecoder(strict=False, parse_int=_whole)


def _writable(value: Any) -> Any:
    """Return a value as strict JSON can hold it: what is no number is null, half a character is marked as broken."""
    if isinstance(value, str):
        return _LONE_SURROGATE.sub(BROKEN, value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_writable(name): _writable(inner) for name, inner in value.items()}
    return [_writable(inner) for inner in value] if isinstance(value, list) else value
