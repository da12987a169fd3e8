"""Sealing of what relay keeps for others: upstream keys, signing secrets, target URLs and headers.

AES-256-GCM with the owning row's identity as associated data, so that a sealed value copied to another row does not
open there. The key is found by its fingerprint, which is how several keys live side by side during a rotation.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from relay.errors import ConfigError

_FINGERPRINT, _NONCE = 4, 12


class Vault:
    """Seals with the newest key and opens with whichever key sealed.

    Args:
        keys: `RELAY_SECRET_KEY`, newest first; any text of at least 16 characters each.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        digests = [hashlib.sha256(b"relay vault v1\0" + key.encode()).digest() for key in keys]
        self._keys = {hashlib.sha256(digest).digest()[:_FINGERPRINT]: AESGCM(digest) for digest in digests}
        self._newest = next(iter(self._keys))
        self._digests = digests

    def __repr__(self) -> str:
        return f"<Vault of {len(self._keys)} keys>"

    def seal(self, plain: bytes, owner: str) -> bytes:
        """Seals `plain` for the row that `owner` names."""
        nonce = secrets.token_bytes(_NONCE)
        return self._newest + nonce + self._keys[self._newest].encrypt(nonce, plain, owner.encode())

    def derived(self, purpose: str) -> list[bytes]:
        """Keys for something else than sealing, one from each of the vault's, newest first."""
        return [hmac.digest(digest, purpose.encode(), "sha256") for digest in self._digests]

    def is_newest(self, sealed: bytes) -> bool:
        """Whether it was sealed with the newest key."""
        return sealed[:_FINGERPRINT] == self._newest

    def open(self, sealed: bytes, owner: str) -> bytes:
        """The plain bytes again.

        Raises:
            ConfigError: no configured key opens it for this owner.
        """
        fingerprint, rest = sealed[:_FINGERPRINT], sealed[_FINGERPRINT:]
        key = self._keys.get(fingerprint)
        if key is None:
            raise ConfigError("stored secrets were sealed with another RELAY_SECRET_KEY: add that key to the list")
        try:
            return key.decrypt(rest[:_NONCE], rest[_NONCE:], owner.encode())
        except (InvalidTag, ValueError):  # ValueError: too short to hold a nonce
            raise ConfigError(f"the sealed value of {owner} was altered or belongs to another row") from None
