"""Content codings: which of them relay reads, and how it undoes them without more memory than the caller allows."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

READABLE = "gzip, deflate"
"""The `Accept-Encoding` of requests. A server may choose any coding for a request that has none."""

MAX_CODINGS = 5
"""Codings around one body, as curl has it: each one multiplies what a few bytes can grow into."""

MAX_MEMBERS = 1000
"""Members of one gzip body. A server that flushes often sends several; a bomb may have millions."""

PIECE = 64 * 1024
"""Bytes that are inflated at a time: zlib copies what it leaves over, once per member."""

_GZIP = 16 + zlib.MAX_WBITS
_GZIP_MAGIC = b"\x1f\x8b"

# Some servers send deflate without zlib's head.
_WINDOWS = {"gzip": (_GZIP,), "x-gzip": (_GZIP,), "deflate": (zlib.MAX_WBITS, -zlib.MAX_WBITS)}


class Decoded(NamedTuple):
    """A body without its codings.

    Attributes:
        truncated: bytes are missing: there were more than the cap, or the coded body breaks off.
        unread: the codings that are left because relay does not read the last of them.
    """

    body: bytes
    truncated: bool = False
    unread: str | None = None


def codings_of(values: Iterable[str]) -> list[str]:
    """Return the codings that `Content-Encoding` names, in the order in which the server applied them."""
    names = (re.sub(r"[^!-~]", "", name).lower() for value in values for name in value.split(","))
    return [name for name in names if name not in ("", "identity")]


def decode(body: bytes, codings: Sequence[str], cap: int) -> Decoded:
    """Undo the codings, the last one first, with at most `cap` bytes after each.

    A body that is not coded as it says stays as it is: some servers name a coding that they do not apply.
    """
    truncated = False
    unread = list(codings if body else ())
    while unread and unread[-1] in _WINDOWS and len(codings) <= MAX_CODINGS:
        inflated = _inflated(body, _WINDOWS[unread.pop()], cap)
        if inflated is None:
            unread.clear()
            break
        body = inflated.body
        truncated |= inflated.truncated
    return Decoded(body[:cap], truncated or len(body) > cap, ", ".join(unread) or None)


def _inflated(body: bytes, windows: Iterable[int], cap: int) -> Decoded | None:
    """Inflate a body in the first of these ways that fits; None if there is none."""
    for window in windows:
        inflated = bytearray()
        try:
            whole = _inflate(body, window, cap, inflated)
        except zlib.error:
            if not inflated:
                continue
            whole = False
        return Decoded(bytes(inflated[:cap]), not whole)
    return None


def _inflate(body: bytes, window: int, cap: int, inflated: bytearray) -> bool:
    """Add what the body inflates to, up to one byte more than the cap; return whether that is all of it.

    What follows the last member is ignored, as gunzip does: some servers pad.
    """
    inflater = zlib.decompressobj(window)
    members = 1
    position = 0
    while position < len(body):
        piece = body[position : position + PIECE]
        inflated += inflater.decompress(piece, cap + 1 - len(inflated))
        if len(inflated) > cap:
            return False
        position += len(piece) - len(inflater.unused_data)
        if inflater.eof:
            if window != _GZIP or not body.startswith(_GZIP_MAGIC, position):
                return True
            if members == MAX_MEMBERS:
                return False
            members += 1
            inflater = zlib.decompressobj(window)
    return inflater.eof
