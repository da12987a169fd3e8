"""The vault seals the secrets that relay stores: upstream keys, signing secrets, target URLs and headers.

It uses AES-256-GCM with the owner of the value as associated data, so that a sealed value does not open in another row.
A sealed value begins with the fingerprint of its key, so that several keys can be in use during a rotation.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from relay.errors import ConfigError

_FINGERPRINT = 4
_NONCE = 12
"""Bytes at the beginning of a sealed value: first the fingerprint of the key, then the nonce."""


class Vault:
    """Seals with the newest key, and opens with the key that sealed.

    Args:
        keys: `RELAY_SECRET_KEY`, newest first. Each is any text of at least 16 characters.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        digests = [hashlib.sha256(b"relay vault v1\0" + key.encode()).digest() for key in keys]
        self._keys = {hashlib.sha256(digest).digest()[:_FINGERPRINT]: AESGCM(digest) for digest in digests}
        self._newest = next(iter(self._keys))
        self._digests = digests

    def __repr__(self) -> str:
        return f"<Vault of {len(self._keys)} keys>"

    def seal(self, plain: bytes, owner: str) -> bytes:
        """Seal a value for an owner, such as the id of its row."""
        nonce = secrets.token_bytes(_NONCE)
        return self._newest + nonce + self._keys[self._newest].encrypt(nonce, plain, owner.encode())

    def seal_text(self, text: str | None, owner: str) -> bytes | None:
        """Seal a text for an owner, if there is one."""
        return None if text is None else self.seal(text.encode(), owner)

    def derived(self, purpose: str) -> list[bytes]:
        """Return keys for another purpose than sealing, one derived from each of the vault's keys, newest first."""
        return [hmac.digest(digest, purpose.encode(), "sha256") for digest in self._digests]

    def is_newest(self, sealed: bytes) -> bool:
        """Return whether the value was sealed with the newest key."""
        return sealed[:_FINGERPRINT] == self._newest

    def open(self, sealed: bytes, owner: str) -> bytes:
        """Open a value that was sealed for an owner.

        Raises:
            ConfigError: no configured key opens it for this owner.
        """
        key = self._keys.get(sealed[:_FINGERPRINT])
        if key is None:
            raise ConfigError("stored secrets were sealed with another RELAY_SECRET_KEY: add that key to the list")
        nonce = sealed[_FINGERPRINT : _FINGERPRINT + _NONCE]
        try:
            return key.decrypt(nonce, sealed[_FINGERPRINT + _NONCE :], owner.encode())
        except (InvalidTag, ValueError):  # ValueError: too short to hold a nonce
            raise ConfigError(f"the sealed value of {owner} was altered or belongs to another row") from None

    def open_text(self, sealed: bytes | None, owner: str) -> str | None:
        """Open a text that was sealed for an owner, if there is one. It raises as `open` does."""
        return None if sealed is None else self.open(sealed, owner).decode()


def upstream_key_owner(app_id: str, provider: str, task_id: str) -> str:
    """Return the owner for whom a watch's upstream key is sealed. It needs no watch id, which comes later."""
    return f"upstream-key {app_id} {provider} {task_id}"


def inline_owner(app_id: str, provider: str, task_id: str) -> str:
    """Return the owner for whom a watch's inline definition is sealed."""
    return f"inline {app_id} {provider} {task_id}"
