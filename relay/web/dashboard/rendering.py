"""Templates and static files, and the headers that pages go out with."""

from __future__ import annotations

import hashlib
import json
import math
import mimetypes
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from relay import __version__
from relay.errors import NotFound
from relay.model.times import Millis, rfc3339
from relay.store.schema import AnyRow

HERE = Path(__file__).parents[1]
STATIC = {str(file.relative_to(HERE / "static")): file.read_bytes() for file in (HERE / "static").rglob("*.*")}
VERSION = hashlib.sha256(b"".join(STATIC[name] for name in sorted(STATIC))).hexdigest()[:12]
"""Part of every static file's address, so that browsers may keep them for ever."""

STANDS: Millis = 30_000
"""The time without a change, beyond what is left by the estimate, after which a task's progress stands."""

STATIC_PATH = f"/static/{VERSION}"

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Not "no-referrer": with it, a browser does not tell us either where a form comes from.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def page(html: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a page as it goes out."""
    return Response(html, status, {**HEADERS, **(headers or {})}, media_type="text/html")


def render(template: str, **content: Any) -> str:
    """Fill a template. Every value is text, unless a template of ours says otherwise."""
    return _environment.get_template(template).render(content)


async def static(request: Request) -> Response:
    """Answer with a static file: `GET /static/{version}/{name}`, the version being that of all of them."""
    content = STATIC.get(request.path_params["name"])
    if content is None or request.path_params["version"] != VERSION:
        raise NotFound(f"there is nothing at {request.url.path[:200]}")
    kind = mimetypes.guess_type(request.path_params["name"])[0]
    headers = {"Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
    return Response(content, headers=headers, media_type=kind or "application/octet-stream")


def when(at: Millis, relative: Literal["", "ago", "in"] = "") -> Markup:
    """Return a time, as UTC. `live.js` shows it in the reader's zone, or how long `ago` it was, or `in` how long."""
    moment = datetime.fromtimestamp(at / 1000, UTC)
    return Markup('<time datetime="{}" title="{}"{}>{}</time>').format(
        rfc3339(at),
        f"{moment:%Y-%m-%d %H:%M:%S}.{at % 1000:03} UTC",
        Markup(' data-relative="{}"').format(relative) if relative else "",
        f"{moment:%Y-%m-%d %H:%M:%S} UTC",
    )


def moment(text: str) -> Markup | str:
    """Return a time that an upstream wrote as RFC 3339, as `when` does; what is not a time stays text."""
    try:
        return when(round(datetime.fromisoformat(text).timestamp() * 1000))
    except (ValueError, OverflowError):
        return text


def expected_end(row: AnyRow, changed_at: Millis | None, now: Millis) -> Millis | None:
    """Return when a task should end, unless that is past, or its progress stands: then nothing is known of its end."""
    left = (row.estimated_end or 0) - now
    stands = changed_at is not None and now - changed_at > left + STANDS
    return None if left <= 0 or stands else row.estimated_end


def is_over(text: str, now: Millis) -> bool:
    """Return whether a time that an upstream wrote as RFC 3339 is past; what is no time is not."""
    try:
        return datetime.fromisoformat(text).timestamp() * 1000 <= now
    except (ValueError, OverflowError):
        return False


def span(milliseconds: float) -> str:
    """Return how long something took: `340 ms`, `4.2 s`, `3 min 12 s`, `2 h 5 min`, `3 d 4 h`."""
    if milliseconds < 1000:
        return f"{max(0, round(milliseconds))} ms"
    seconds = milliseconds / 1000
    if seconds < 10:
        return f"{seconds:.1f} s"
    for unit, smaller, size, part in (("d", "h", 86400, 3600), ("h", "min", 3600, 60), ("min", "s", 60, 1)):
        if seconds >= size:
            whole, rest = divmod(int(seconds), size)
            return f"{whole} {unit} {rest // part} {smaller}" if rest // part else f"{whole} {unit}"
    return f"{seconds:.0f} s"


def percent(part: float, digits: int = 0) -> str:
    """Return a part of 1 as a percentage, rounded down: 100 % is all of it."""
    value = math.floor(part * 100 * 10**digits + 1e-6) / 10**digits
    return f"{value:g} %"


def bound(seconds: float) -> str:
    """Return the bound of a histogram's bucket in words: `within 0.5 s`."""
    return f"within {seconds:g} s" if math.isfinite(seconds) else "later than that"


def text(content: bytes, most: int = 4096) -> str:
    """Return what a receiver sent, as text; only its beginning if it is long, because pages are sent often."""
    return content[:most].decode("utf-8", "replace") + (" …" if len(content) > most else "")


def pretty(content: str) -> str:
    """Return JSON laid out for reading; what is not JSON, or nests too deep, as it came."""
    try:
        return json.dumps(json.loads(content), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return content


def is_link(url: object) -> bool:
    """Return whether this leads to a page on the web: anything else is shown as text."""
    if not isinstance(url, str):
        return False
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc) and url.isprintable()


_environment = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters |= {
    "bound": bound,
    "from_json": json.loads,
    "is_over": is_over,
    "moment": moment,
    "percent": percent,
    "pretty": pretty,
    "span": span,
    "text": text,
    "when": when,
}
_environment.tests |= {"link": is_link}
_environment.globals |= {"expected_end": expected_end} | {"static": STATIC_PATH, "version": __version__}
