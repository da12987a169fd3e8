"""AWS Signature Version 4: a signature of each request, in headers, for any service of AWS but S3.

Ours, because a query is signed as its bytes go out: the libraries that are small sign another path where an id holds a
slash, and take the time from their own clock; botocore is larger than relay. The tests compare it with botocore.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote

from relay.model.times import Millis
from relay.outbound.prepared import PreparedRequest
from relay.providers.auth import SESSION_TOKEN, SigV4


def signature(
    table: SigV4, parts: Mapping[str, str], prepared: PreparedRequest, target: bytes, body: bytes, now: Millis
) -> dict[str, str]:
    """Return the headers that let a request in.

    Args:
        parts: the parts of the API key.
        prepared, target, body: the request as it is sent.
        now: the time that it is signed for; AWS accepts it for five minutes.
    """
    request = prepared.request
    time = datetime.fromtimestamp(now / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
    added = {"X-Amz-Date": time}
    if SESSION_TOKEN in parts:
        added["X-Amz-Security-Token"] = parts[SESSION_TOKEN]
    signed = {"host": request.url.netloc.decode()}
    for name, value in (*request.headers.items(), *added.items()):
        if name.lower() == "content-type" or name.lower().startswith("x-amz-"):
            signed[name.lower()] = " ".join(value.split())
    names = ";".join(sorted(signed))
    path, _, query = target.decode().partition("?")
    canonical = (
        request.method,
        quote(re.sub("/+", "/", path), safe="/~"),
        "&".join(sorted(query.split("&"))),
        *(f"{name}:{signed[name]}" for name in sorted(signed)),
        "",
        names,
        hashlib.sha256(body).hexdigest(),
    )
    scope = (time[:8], table.region_of(request.url.host), table.service, "aws4_request")
    to_sign = ("AWS4-HMAC-SHA256", time, "/".join(scope), hashlib.sha256("\n".join(canonical).encode()).hexdigest())
    key = f"AWS4{parts['secret_access_key']}".encode()
    for word in scope:
        key = hmac.digest(key, word.encode(), "sha256")
    signature = hmac.digest(key, "\n".join(to_sign).encode(), "sha256").hex()
    credential = f"{parts['access_key_id']}/{'/'.join(scope)}"
    added["Authorization"] = f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"
    return added
