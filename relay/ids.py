"""Prefixed ids that sort by time (ULID), minted at random or derived from what they stand for."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from typing import Literal

from ulid import ULID

Prefix = Literal["app", "wch", "tgt", "dlv", "evt"]

_last = 0
_lock = threading.Lock()


def new_id(prefix: Prefix) -> str:
    """A fresh id such as `wch_01JB…`; ids of one process sort in the order of their making.

    They do so within a millisecond, and when the clock is set back.

    https://github.com/ulid/spec#monotonicity
    """
    global _last
    with _lock:
        fresh = int.from_bytes(int(time.time() * 1000).to_bytes(6, "big") + secrets.token_bytes(10), "big")
        _last = fresh if fresh >> 80 > _last >> 80 else _last + 1
        return f"{prefix}_{ULID(_last.to_bytes(16, 'big'))}"


def derived_id(prefix: Prefix, ancestor: str, *parts: str) -> str:
    """The id that `ancestor` and `parts` always lead to, sorted beside its ancestor.

    A crash, a retry or a second worker that derives it again gets the same one: this is what makes one
    `webhook-id` per event and target more than luck.

    Args:
        ancestor: an id of ours (`wch_…`); its time becomes the time of the derived id.
        parts: what tells this id from its siblings.
    """
    time_of_ancestor = ULID.from_str(ancestor.partition("_")[2]).bytes[:6]
    digest = hashlib.sha256("\0".join((ancestor, *parts)).encode()).digest()
    return f"{prefix}_{ULID(time_of_ancestor + digest[:10])}"
