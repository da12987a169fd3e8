"""Ids with a prefix that sort by time (ULID). They are made at random or derived from another id."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from typing import Literal

from ulid import ULID

Prefix = Literal["app", "wch", "tgt", "dlv", "evt", "sub"]

_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = tuple(first + second for first in _DIGITS for second in _DIGITS)
_SHIFTS = range(120, -1, -10)

_last = 0
_lock = threading.Lock()


def new_id(prefix: Prefix) -> str:
    """Return a new id such as `wch_01JB…`. The ids of one process sort in the order in which they were made.

    This holds also within a millisecond, and when the clock is set back.

    https://github.com/ulid/spec#monotonicity
    """
    global _last
    with _lock:
        now = int(time.time() * 1000)
        _last = now << 80 | secrets.randbits(80) if now > _last >> 80 else _last + 1
        number = _last
    return f"{prefix}_{_written(number)}"


def _written(number: int) -> str:
    """Write a number as `str(ULID(…))` does, but two digits at once: a registration makes several ids."""
    return "".join([_PAIRS[number >> shift & 1023] for shift in _SHIFTS])


def derived_id(prefix: Prefix, ancestor: str, *parts: str) -> str:
    """Return the id that `ancestor` and `parts` always give. It sorts beside its ancestor.

    After a crash, on a retry and in a second worker the id is the same. So there is one `webhook-id` per event and
    target.

    Args:
        ancestor: one of relay's ids (`wch_…`). The derived id has its time.
        parts: distinguish the id from others of the same ancestor.
    """
    time_of_ancestor = ULID.from_str(ancestor.partition("_")[2]).bytes[:6]
    digest = hashlib.sha256("\0".join((ancestor, *parts)).encode()).digest()
    return f"{prefix}_{_written(int.from_bytes(time_of_ancestor + digest[:10], 'big'))}"
