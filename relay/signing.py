"""Standard Webhooks 1.0.0 signatures: the few lines that a receiver's trust rests on.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence

from relay.errors import BadSignature

SECRET_PREFIX = "whsec_"  # noqa: S105 - the public prefix, not a secret
TOLERANCE = 300
"""Seconds that a receiver lets `webhook-timestamp` be away from its own clock."""


def new_secret() -> str:
    """A signing secret, `whsec_` and 32 random bytes in base64."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def key_of(secret: str) -> bytes:
    """The key bytes of a signing secret.

    Raises:
        ValueError: it is not base64 of 24 to 64 bytes, with or without `whsec_`; the message says so and keeps
            the secret to itself.
    """
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not 24 <= len(key) <= 64:
        raise ValueError("a signing secret is 'whsec_' and 24 to 64 random bytes in base64")
    return key


def sign(secret_list: Sequence[str], message_id: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` header: one `v1` signature per secret, newest first.

    Args:
        secret_list: every secret that is valid now (two while one is being rotated out).
        message_id: the `webhook-id`.
        timestamp: unix seconds of the attempt.
        body: exactly the bytes that are sent.
    """
    content = b"%s.%d.%s" % (message_id.encode(), timestamp, body)
    return " ".join(
        "v1," + base64.b64encode(hmac.digest(key_of(secret), content, hashlib.sha256)).decode()
        for secret in secret_list
    )


def verify(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> None:
    """Checks what arrived the way a receiver has to: signature first, then its age.

    Args:
        headers: names in lower case.
        now: unix seconds of the receiver's clock.

    Raises:
        BadSignature: with the reason in words.
    """
    try:
        message_id, stamp, given = (headers[f"webhook-{name}"] for name in ("id", "timestamp", "signature"))
        timestamp = int(stamp)
    except KeyError as error:
        raise BadSignature(f"the header {error} is missing") from None
    except ValueError:
        raise BadSignature("webhook-timestamp is not a whole number of seconds") from None
    expected = sign([secret], message_id, timestamp, body).encode()
    if not any(hmac.compare_digest(expected, one.encode()) for one in given.split()):
        raise BadSignature("no signature of webhook-signature matches this body and secret")
    if abs(now - timestamp) > TOLERANCE:
        raise BadSignature(f"webhook-timestamp is more than {TOLERANCE} s away from the clock")
