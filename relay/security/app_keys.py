"""An app's API key and signing secrets, and the rotation of the secrets.

After a rotation the old secrets still sign until their overlap ends. Events carry a signature by each secret, so that a
receiver can change to the new one at any time during the overlap.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypedDict

import orjson

from relay.model.times import Millis
from relay.security.vault import Vault
from relay.store.apps import App

OVERLAP: Millis = 86_400_000
"""Milliseconds for which a replaced secret still signs by default."""


class Secret(TypedDict):
    """A signing secret, and until when it signs. The newest has no `expires_at`: it signs until it is replaced."""

    secret: str
    expires_at: Millis | None


def rotated(secrets: Sequence[Secret], new: str, now: Millis, overlap: Millis) -> list[Secret]:
    """Return the secrets with `new` as the newest.

    The old ones sign for `overlap` more milliseconds, but not longer than they would have before.
    """
    newest = Secret(secret=new, expires_at=None)
    if overlap <= 0:
        return [newest]
    end = now + overlap
    old = [
        Secret(secret=secret["secret"], expires_at=min(end, secret["expires_at"] or end))
        for secret in valid(secrets, now)
        if secret["secret"] != new
    ]
    return [newest, *old]


def valid(secrets: Sequence[Secret], now: Millis) -> list[Secret]:
    """Return the secrets that sign now, newest first."""
    return [secret for secret in secrets if secret["expires_at"] is None or secret["expires_at"] > now]


def sealed(vault: Vault, app_id: str, secrets: Sequence[Secret]) -> bytes:
    """Return the secrets as they are stored."""
    return vault.seal(orjson.dumps(list(secrets)), app_id)


def opened(vault: Vault, app: App) -> list[Secret]:
    """Return the secrets of a stored app."""
    secrets: list[Secret] = orjson.loads(vault.open(app.secrets, app.id))
    return secrets


def hash_key(key: str) -> bytes:
    """Return the hash by which an API key is stored. A fast one is enough, because a key is 256 random bits."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
