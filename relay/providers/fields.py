"""Single fields of an answer: texts, progress, links and when these stop working."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson

from relay.model.times import rfc3339
from relay.providers.placeholders import filled_url

MAX_TEXT = 4096
"""Characters of a text that are kept."""

MAX_WHOLE_TEXT = 65536
"""Bytes of a result that is a text itself; a longer one stands in the answer only, not cut."""

MAX_LINK = 16384
"""Characters of a link; a longer one is none."""

MAX_WRITTEN = 1024 * 1024
"""Characters of a text that is read as JSON: some put the answer proper into one."""

MAX_LINKS = 100
"""Links of one result that are kept."""

_LINK = re.compile('(?i)https?://[^\\s<>"\\0-\\x1f\ufffd]+\\Z')

_BLANKS = " \t\r\n\u200b\u2060\ufeff"
"""What stands around a link beside the blanks that `strip` knows."""


BASE_URL = "{base_url}"
"""What a link may begin with that a file makes itself: it stands for the address of the upstream."""


def links_in(value: Any, names: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    """Return the links that a value is: a text, or a list of texts.

    Args:
        names: what the placeholders stand for in links that a file makes.
    """
    texts = value[:MAX_LINKS] if isinstance(value, list) else [value]
    return [link for text in texts if (link := _link(text, names))]


def _link(value: Any, names: Mapping[str, str]) -> str | None:
    if not isinstance(value, str) or len(value) > MAX_LINK + 100:
        return None
    link = value.strip().strip(_BLANKS).strip()
    if "{" in link:
        if link.startswith(BASE_URL):
            link = names.get("base_url", "") + link.removeprefix(BASE_URL)
        link = filled_url(link, names)
    return link if len(link) <= MAX_LINK and _LINK.match(link) else None


def is_inline(value: Any) -> bool:
    """Return whether a value is the result itself, written into a `data:` URL: no link that could be passed on."""
    texts = value[:MAX_LINKS] if isinstance(value, list) else [value]
    return any(isinstance(text, str) and text[:20].lstrip().lower().startswith("data:") for text in texts)


def link_expiry(url: str) -> str | None:
    """Return when a signed link stops working, as RFC 3339, by its own signature; None when that does not say.

    Azure's `se` (a date), CloudFront's and OSS's `Expires` (unix seconds), S3's and GCS's `X-…-Date` + `X-…-Expires`.
    """
    try:
        query = {name.lower(): values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        if "se" in query:
            moment = datetime.fromisoformat(query["se"])
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        elif "expires" in query:
            moment = datetime.fromtimestamp(int(query["expires"]), UTC)
        else:
            vendor = next(v for v in ("x-amz", "x-goog", "x-oss", "x-tos") if f"{v}-expires" in query)
            signed = datetime.strptime(query[f"{vendor}-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            moment = signed + timedelta(seconds=int(query[f"{vendor}-expires"]))
        return rfc3339(round(moment.timestamp() * 1000))
    except (ValueError, OverflowError, KeyError, StopIteration, OSError):
        return None


def whole_text_of(value: Any) -> str | None:
    """Return a text, or the texts of a list one behind the other, if it is short enough to be kept whole."""
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        value = "".join(value)
    if not isinstance(value, str) or not value.strip() or len(value.encode()) > MAX_WHOLE_TEXT:
        return None
    return clean(value)


def text_of(value: Any) -> str | None:
    """Return a text that says something, cut to what is kept of it; None for anything else."""
    return (clean(value)[:MAX_TEXT] or None) if isinstance(value, str) and value.strip() else None


_REASONS = (
    "message", "msg", "error_message", "errorMessage", "error_msg", "errorMsg", "reason", "detail", "details", "error",
    "cause", "description",
)  # fmt: skip
"""What the reason is called inside an error that is an object."""


def reasons_in(value: Any, depth: int = 3) -> Iterator[str]:
    """Yield the reasons that a value is: a text, or those of an error object, of a list, or of a text that is JSON."""
    value = written_out(value)
    if text := text_of(value):
        yield text
    elif depth:
        inner = value[:MAX_LINKS] if isinstance(value, list) else ()
        if isinstance(value, dict):
            inner = [value[name] for name in _REASONS if name in value]
        for part in inner:
            yield from reasons_in(part, depth - 1)


def written_out(value: Any) -> Any:
    """Return the JSON that a text holds, or the value as it is."""
    if isinstance(value, str) and value[:1] in ("{", "[") and len(value) <= MAX_WRITTEN:
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return value


def clean(text: str) -> str:
    """Return a text without NUL, which PostgreSQL refuses."""
    return text.replace("\0", "")


def progress_of(value: Any) -> float | None:
    """Return 0 to 1 for `0.93`, `93`, `93.0` or `"93%"`; the whole number 1 is one per cent."""
    scale = 1.0
    if isinstance(value, str):
        scale = 100.0 if value.strip().endswith("%") else 1.0
        try:
            value = float(value.strip().rstrip("%"))
        except ValueError:
            return None
    elif isinstance(value, bool) or not isinstance(value, int | float):
        return None
    elif value == 1 and isinstance(value, int):
        scale = 100.0
    if not math.isfinite(value):
        return None
    if scale == 1.0 and value > 1:
        scale = 100.0
    fraction = value / scale
    return fraction if 0 <= fraction <= 1 else None


def number_of(value: Any) -> float | None:
    """Return the number that a value is, or that its text holds."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
