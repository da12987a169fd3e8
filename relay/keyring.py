"""An app's keys and secrets: the newest secret signs, and those rotated out sign along until their overlap is over.

Every event in flight during a rotation carries a signature by each, so that a receiver may change at its leisure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypedDict

import orjson

from relay.model import Millis
from relay.store.apps import App
from relay.vault import Vault

OVERLAP: Millis = 86_400_000
"""Milliseconds that a secret still signs after it was replaced, unless told otherwise."""


class Secret(TypedDict):
    """One signing secret, and until when it signs (None: until it is replaced)."""

    secret: str
    expires_at: Millis | None


def rotated(secrets: Sequence[Secret], new: str, now: Millis, overlap: Millis) -> list[Secret]:
    """The secrets once `new` is the newest; the rest sign for `overlap` milliseconds more, no longer than before."""
    ends = now + overlap
    kept = [
        Secret(secret=one["secret"], expires_at=min(ends, one["expires_at"] or ends))
        for one in valid(secrets, now)
        if one["secret"] != new
    ]
    return [Secret(secret=new, expires_at=None), *(kept if overlap > 0 else [])]


def valid(secrets: Sequence[Secret], now: Millis) -> list[Secret]:
    """Those that sign now, newest first."""
    return [one for one in secrets if one["expires_at"] is None or one["expires_at"] > now]


def sealed(vault: Vault, app_id: str, secrets: Sequence[Secret]) -> bytes:
    """The secrets as the store keeps them."""
    return vault.seal(orjson.dumps(list(secrets)), app_id)


def opened(vault: Vault, app: App) -> list[Secret]:
    """The secrets of a stored app."""
    secrets: list[Secret] = orjson.loads(vault.open(app.secrets, app.id))
    return secrets


def hash_key(key: str) -> bytes:
    """What is stored of an API key: 256 random bits need no slow hash."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
