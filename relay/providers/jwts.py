"""JSON Web Tokens (RFC 7519), made of an API key as a provider file says."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

from relay.model.times import Millis
from relay.providers.auth import END, NOW, Signed

SKEW = 5
"""Seconds that a token begins in the past: the clock of an upstream may be that much behind."""


def signed(table: Signed, parts: Mapping[str, str], now: Millis) -> tuple[str, Millis]:
    """Return a token, and when it ends.

    Args:
        parts: the parts of the API key.

    Raises:
        ValueError: the part that signs is no key of this algorithm. The text does not repeat it.
    """
    # Here, because few providers need it, and it is large.
    import warnings

    import jwt
    from cryptography.hazmat.primitives.serialization import load_der_private_key

    begin = now // 1000 - SKEW
    end = begin + int(table.lifetime)
    values: dict[str, str | int] = {**parts, NOW: begin, END: end}
    secret = parts[table.secret]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jwt.InsecureKeyLengthWarning)  # the upstream has chosen how long it is
        try:
            key: Any = secret if table.algorithm == "HS256" else load_der_private_key(_der(secret), None)
            token = jwt.encode(filled(table.claims, values), key, table.algorithm, filled(table.headers, values))
        except Exception:  # the libraries raise many kinds, and their texts may hold what they were given
            why = f"{table.secret.upper()} must be a private key for {table.algorithm}, without a passphrase"
            raise ValueError(why) from None
    return token, end * 1000


def filled(template: Any, values: Mapping[str, str | int]) -> Any:
    """Put values into the braces of a template. A text that is nothing but a placeholder becomes the value itself."""
    if isinstance(template, dict):
        return {name: filled(value, values) for name, value in template.items()}
    if isinstance(template, list):
        return [filled(value, values) for value in template]
    if not isinstance(template, str):
        return template
    whole = re.fullmatch(r"\{(\w+)\}", template)
    if whole and whole[1] in values:
        return values[whole[1]]
    return re.sub(r"\{(\w+)\}", lambda match: str(values.get(match[1], match[0])), template)


def _der(private_key: str) -> bytes:
    """Return a private key without what PEM puts around it. Line ends may be missing, or written as \\n."""
    return b64decode("".join(re.sub(r"-----[A-Z ]+-----|\\[rn]", "", private_key).split()), validate=True)
