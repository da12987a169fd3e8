"""Tokens of callback URLs: the id of a watch and a MAC of it, so that a forged one is known without a query."""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode

from relay.security.vault import Vault

PATH = "/in/"
"""What the path of a callback URL begins with. What follows is a secret."""

_PURPOSE = "callback of a watch"
_LENGTH = 16
"""Bytes of the MAC."""


class CallbackTokens:
    """Makes and reads the tokens of a deployment.

    Args:
        vault: has the keys; a token of an older one stays valid as long as that is listed.
        base_url: the address at which upstreams reach this deployment; empty if they cannot.
    """

    def __init__(self, vault: Vault, base_url: str) -> None:
        self._keys = vault.derived(_PURPOSE)
        self._base_url = base_url.rstrip("/")

    def url(self, watch_id: str) -> str | None:
        """Return the URL at which an upstream says that there is news of a task; None if it cannot reach relay.

        It holds as soon as the watch of this id is committed, and before that is 404.
        """
        return f"{self._base_url}{PATH}{watch_id}.{_mac(self._keys[0], watch_id)}" if self._base_url else None

    def watch_of(self, token: str) -> str | None:
        """Return the id of the watch that a token is of; None if it is no token of this deployment."""
        watch_id, _, mac = token.rpartition(".")
        given = mac.encode("utf-8", "replace")
        good = [hmac.compare_digest(_mac(key, watch_id).encode(), given) for key in self._keys]
        return watch_id if any(good) else None


def _mac(key: bytes, watch_id: str) -> str:
    digest = hmac.digest(key, watch_id.encode("utf-8", "replace"), "sha256")
    return urlsafe_b64encode(digest[:_LENGTH]).rstrip(b"=").decode()


def masked(path: str) -> str:
    """Return the path of a request as logs may show it."""
    return f"{PATH}********" if path.startswith(PATH) else path
