"""What an answer repeats of our secrets: some echo the key, the URL or the signature that they were sent."""

import contextlib
import html
import json
import re
from collections.abc import Iterable, Sequence
from urllib.parse import quote, unquote

import orjson

MASK = "********"
"""What stands in the place of a secret."""

SHORTEST_SECRET, SHORTEST_PART = 8, 12
"""Characters of a secret, and of a part of a URL, that is looked for in answers: a shorter word is found everywhere."""


def secret_parts(url: str) -> list[str]:
    """What may be secret about a target's URL: all of it, its path and query, and every long part of these."""
    found = re.search(r"[/?#].*", url.partition("://")[2], re.DOTALL)
    target = found[0] if found else ""
    return [url, target, *(part for part in re.split(r"[/?&=;#]", target) if len(part) >= SHORTEST_PART)]


def spellings(secrets: Iterable[str]) -> tuple[bytes, ...]:
    """Secrets as they are and as JSON, HTML and URLs write them, longest first, for `without`."""
    found = set()
    for secret in secrets:
        in_json = json.dumps(secret)[1:-1]
        found |= {secret, in_json, in_json.replace("/", r"\/"), html.escape(secret)}
        found |= {quote(secret, safe=""), quote(secret), unquote(secret)}
    long = (form.encode(errors="replace") for form in found if len(form) >= SHORTEST_SECRET)
    return tuple(sorted(long, key=len, reverse=True))


def without(text: bytes, spelt: Sequence[bytes]) -> bytes:
    """The text of an answer without the secrets that it repeats: what somebody echoes must not be kept or shown."""
    for form in spelt:
        text = text.replace(form, MASK.encode())
    if spelt and b"\\" in text:  # JSON can write any letter as \u0041: what it says counts, not how
        with contextlib.suppress(orjson.JSONDecodeError):
            said = orjson.dumps(orjson.loads(text))
            if any(form in said for form in spelt):
                return without(said, spelt)
    return text
