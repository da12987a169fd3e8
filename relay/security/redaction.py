"""Redaction of answers: some receivers and upstreams repeat the key, the URL or the signature that they were sent."""

import contextlib
import html
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import quote, unquote

import orjson

MASK = "********"
"""Shown in place of a secret."""

MIN_SECRET = 8
"""Characters of the shortest secret that is redacted: a shorter word stands in many answers by chance."""

MIN_URL_PART = 12
"""Characters of the shortest part of a URL that counts as a secret."""


def url_secrets(url: str) -> list[str]:
    """Return what may be secret in a target's URL: all of it, its path and query, and every long part of these."""
    match = re.search(r"[/?#].*", url.partition("://")[2], re.DOTALL)
    path_and_query = match[0] if match else ""
    parts = re.split(r"[/?&=;#]", path_and_query)
    return [url, path_and_query, *(part for part in parts if len(part) >= MIN_URL_PART)]


def encoded_forms(secrets: Iterable[str]) -> tuple[bytes, ...]:
    """Return the secrets as they are and as JSON, HTML and URLs encode them, longest first, for `redact`.

    The mask itself is left out: it says nothing, and could not be hidden.
    """
    forms = set()
    for secret in secrets:
        in_json = json.dumps(secret)[1:-1]
        forms |= {secret, in_json, in_json.replace("/", r"\/"), html.escape(secret)}
        forms |= {quote(secret, safe=""), quote(secret), unquote(secret)}
    long_forms = (form.encode(errors="replace") for form in forms if len(form) >= MIN_SECRET and form != MASK)
    return tuple(sorted(long_forms, key=len, reverse=True))


def redact(text: bytes, forms: Sequence[bytes]) -> bytes:
    """Return the text of an answer with the secrets masked, so that nothing secret is stored or shown.

    What it returns holds none of the forms, and is not changed by a second call. Where a mask and the text around it
    would make a secret again (one that has stars in it), the whole text is masked.

    Args:
        forms: the secrets, from `encoded_forms`.
    """
    if not forms:
        return text
    try:
        return _redacted(text, forms)
    except orjson.JSONEncodeError:  # It reads deeper nesting than it writes: no one can say what is in there.
        return MASK.encode()


def _redacted(text: bytes, forms: Sequence[bytes]) -> bytes:
    for writing in _writings(text, forms):
        if places := _places(writing, forms):
            masked = _masked(writing, places)
            clean = not any(_places(one, forms) for one in _writings(masked, forms))
            return masked if clean else MASK.encode()
    return text


def _writings(text: bytes, forms: Sequence[bytes]) -> Iterator[bytes]:
    """Return the ways to write a text in which a secret may show: JSON can write any letter as an escape (\\u0041)."""
    if forms and b"\\" in text:
        with contextlib.suppress(orjson.JSONDecodeError):
            yield orjson.dumps(orjson.loads(text))
    yield text


def _places(text: bytes, forms: Sequence[bytes]) -> list[tuple[int, int]]:
    """Return from where to where secrets stand in a text, also where they overlap.

    `find` takes linear time, whatever app and receiver have chosen; an alternation of all forms takes quadratic time.
    """
    places = []
    for form in forms:
        start = text.find(form)
        while start >= 0:
            end = start + len(form)
            places.append((start, end))
            start = text.find(form, end)
    return sorted(places)


def _masked(text: bytes, places: Sequence[tuple[int, int]]) -> bytes:
    """Return the text with one mask for each place, or for several that touch or overlap."""
    parts: list[bytes] = []
    shown = 0
    for start, end in places:
        if start > shown or not parts:
            parts += [text[shown:start], MASK.encode()]
        shown = max(shown, end)
    return b"".join((*parts, text[shown:]))
