"""A submission: one create call on its way through relay, and what tells two of them apart. Pure: no I/O, no clock.

An upstream bills for a create call, and most have no idempotency of their own. So what is not known stays `unknown`:
neither forgotten nor sent again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from enum import StrEnum

MAX_KEY = 255
"""Characters of an `Idempotency-Key`."""

_KEY = re.compile(r"[!-~](?:[ -~]*[!-~])?")


class SubmissionState(StrEnum):
    """Where a submission stands: `sending` → `created` | `refused` | `unknown`."""

    SENDING = "sending"
    CREATED = "created"
    REFUSED = "refused"
    UNKNOWN = "unknown"


def idempotency_key(value: str) -> str:
    """Return the key that a header holds: `"k"` and `k` are one key.

    https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/

    Raises:
        ValueError: it is no key, in words.
    """
    key = value.strip(" \t")
    if len(key) >= 2 and key.startswith('"') and key.endswith('"'):
        key = re.sub(r'\\(["\\])', r"\1", key[1:-1])
    if len(key) > MAX_KEY or not _KEY.fullmatch(key):
        raise ValueError(f"must be 1 to {MAX_KEY} printable ASCII characters, such as a UUID")
    return key


def key_digest(app_id: str, key: str) -> bytes:
    """Return what stands for a key in the database: the key may say something about the caller's business."""
    return hashlib.sha256(f"relay idempotency v1\0{app_id}\0{key}".encode()).digest()


def request_digest(
    app_id: str, provider: str, target: tuple[str, bytes, bytes], content_type: str, body: bytes
) -> bytes:
    """Return what tells one request from another: app, provider, method, path, query and body.

    Of a multipart body its parts count, and not the boundary between them, which clients make anew for each retry.

    Args:
        target: method, path and query.
    """
    method, path, query = target
    digest = hashlib.sha256(b"relay request v1")
    for part in (app_id.encode(), provider.encode(), method.encode(), path, query, *_parts(content_type, body)):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


_BOUNDARY = re.compile(r"""(?i)\bmultipart/.*;\s*boundary=(?:"([^"]{1,200})"|([^\s;"]{1,200}))""")


def _parts(content_type: str, body: bytes | bytearray) -> Iterable[bytes | bytearray]:
    """Return what of a body counts."""
    found = _BOUNDARY.search(content_type)
    if found is None:
        return (body,)
    boundary = (found[1] or found[2]).encode("latin-1", "replace")
    return b"\r\n".join((b"", body)).split(b"\r\n--" + boundary)
