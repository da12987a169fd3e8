"""Tokens in paths that strangers call: an id and a MAC of it, so that a forged one is known without a query."""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode

from relay.security.vault import Vault

CALLBACK = "/in/"
"""What the path of a callback URL begins with. What follows is a secret, with the id of a watch."""

INBOX = "/inbox/"
"""The same of an app's test inbox."""

_PURPOSES = {CALLBACK: "callback of a watch", INBOX: "test inbox of an app"}
_LENGTH = 16
"""Bytes of the MAC."""


class PathTokens:
    """Makes and reads the tokens of a deployment in one kind of path.

    Args:
        path: `CALLBACK` or `INBOX`.
        vault: has the keys; a token of an older one stays valid as long as that is listed.
        base_url: the address at which others reach this deployment; empty if they cannot.
    """

    def __init__(self, path: str, vault: Vault, base_url: str) -> None:
        self._keys = vault.derived(_PURPOSES[path])
        self._base_url = base_url.rstrip("/")
        self._path = path

    def url(self, id_: str) -> str | None:
        """Return the URL with the token of an id; None if others cannot reach relay.

        It holds as soon as what has this id is committed.
        """
        return f"{self._base_url}{self._path}{id_}.{_mac(self._keys[0], id_)}" if self._base_url else None

    def id_of(self, token: str) -> str | None:
        """Return the id that a token is of; None if it is no token of this deployment."""
        id_, _, mac = token.rpartition(".")
        given = mac.encode("utf-8", "replace")
        good = [hmac.compare_digest(_mac(key, id_).encode(), given) for key in self._keys]
        return id_ if any(good) else None


def _mac(key: bytes, id_: str) -> str:
    digest = hmac.digest(key, id_.encode("utf-8", "replace"), "sha256")
    return urlsafe_b64encode(digest[:_LENGTH]).rstrip(b"=").decode()


def masked(path: str) -> str:
    """Return the path of a request as logs may show it."""
    return next((f"{secret}********" for secret in _PURPOSES if path.startswith(secret)), path)
