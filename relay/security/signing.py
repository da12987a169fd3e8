"""Signatures of webhooks after Standard Webhooks 1.0.0, and their verification.

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
"""Seconds by which `webhook-timestamp` may differ from the receiver's clock."""


def new_secret() -> str:
    """Return a new signing secret: `whsec_` and 32 random bytes in base64."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def key_of(secret: str) -> bytes:
    """Return the key bytes of a signing secret.

    Raises:
        ValueError: it is not base64 of 24 to 64 bytes, with or without `whsec_`. The message does not show the secret.
    """
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not 24 <= len(key) <= 64:
        raise ValueError("a signing secret is 'whsec_' and 24 to 64 random bytes in base64")
    return key


def sign(signing_secrets: Sequence[str], message_id: str, timestamp: int, body: bytes) -> str:
    """Return the `webhook-signature` header: one `v1` signature per secret, newest first.

    Args:
        signing_secrets: every secret that is valid now: several during the overlap of a rotation.
        message_id: the `webhook-id`.
        timestamp: the time of the attempt in Unix seconds.
        body: exactly the bytes that are sent.
    """
    content = b"%s.%d.%s" % (message_id.encode(), timestamp, body)
    digests = [hmac.digest(key_of(secret), content, hashlib.sha256) for secret in signing_secrets]
    return " ".join("v1," + base64.b64encode(digest).decode() for digest in digests)


def verify(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> None:
    """Verify a request as a receiver must: first the signature, then its age.

    Args:
        headers: names in lower case.
        now: the time in Unix seconds by the receiver's clock.

    Raises:
        BadSignature: the request must not be trusted; the error says why.
    """
    try:
        message_id = headers["webhook-id"]
        timestamp = int(headers["webhook-timestamp"])
        signatures = headers["webhook-signature"].split()
    except KeyError as error:
        raise BadSignature(f"the header {error} is missing") from None
    except ValueError:
        raise BadSignature("webhook-timestamp is not a whole number of seconds") from None
    expected = sign([secret], message_id, timestamp, body).encode()
    if not any(hmac.compare_digest(expected, signature.encode()) for signature in signatures):
        raise BadSignature("no signature in webhook-signature matches this body and secret")
    if abs(now - timestamp) > TOLERANCE:
        raise BadSignature(f"webhook-timestamp differs from the clock by more than {TOLERANCE} s")


def problem(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> str | None:
    """Return why a request must not be trusted; None if it verifies. The arguments are those of `verify`."""
    try:
        verify(secret, headers, body, now)
    except BadSignature as error:
        return error.detail
    return None
