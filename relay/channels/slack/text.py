"""Text for Slack: what others wrote, on one line, cut at a good place, and without effect on the markup.

https://docs.slack.dev/messaging/formatting-message-text
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

Data = Mapping[str, Any]

MAX_TEXT = 4000
MAX_IMAGE_URL = 3000

NOT_SHOWN = (".webp", ".avif", ".svg", ".mp4", ".webm", ".mov")
"""What Slack does not show as an image; it refuses the message. The documented upstream's thumbnails are WebP."""

LINK = re.compile(r"https?://[^\s/?#<>][^\s<>]*", re.IGNORECASE)

# Control characters, halves of surrogate pairs, and what changes the direction of the text after it.
UNWANTED = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
ZERO_WIDTH_JOINER = "\u200d"
ISOLATE = "\u2068"
END_OF_ISOLATE = "\u2069"


def moment(value: Any) -> datetime | None:
    """Read an RFC 3339 time since 1970, as UTC."""
    try:
        moment = datetime.fromisoformat(value).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None
    return moment if moment.year >= 1970 else None


def first(within: Data, *paths: str) -> Any:
    """Return the first text that one of these dotted paths leads to."""
    for path in paths:
        value: Any = within
        for name in path.split("."):
            value = table(value).get(name)
        if isinstance(value, str) and value.strip():
            return value
    return None


def table(value: Any) -> Data:
    """Return the value if it is an object, else an empty object."""
    return value if isinstance(value, dict) else {}


def link(value: Any) -> str:
    """Return an http(s) URL as a message can hold it; an empty text if it is none."""
    good = isinstance(value, str) and LINK.fullmatch(value) and not UNWANTED.search(value)
    return value.replace("|", "%7C") if good else ""


def is_shown(url: str) -> bool:
    """Return whether Slack can show an address as an image, as far as the address tells."""
    path = re.split("[?#]", url, maxsplit=1)[0].lower()
    return path.startswith("https://") and len(url) <= MAX_IMAGE_URL and not path.endswith(NOT_SHOWN)


def shown(value: Any, limit: int) -> str:
    """Put what others wrote on one line of at most `limit` characters, without what could disturb its surroundings."""
    text = " ".join(UNWANTED.sub("", value).split()) if isinstance(value, str) else ""
    if len(text) > limit:
        text = f"{cut(text, limit - 1).rstrip()}…"
    if any(unicodedata.bidirectional(character) in ("R", "AL", "AN") for character in text):
        return f"{ISOLATE}{text}{END_OF_ISOLATE}"
    return text


def cut(text: str, limit: int) -> str:
    """Cut a text at a space if one is near, and never inside an emoji or an accented letter."""
    space = text.rfind(" ", limit - 30, limit + 1)
    if space > 0:
        return text[:space]
    end = limit
    while end > limit - 30 and belongs(text[end - 1], text[end]):
        end -= 1
    return text[:end]


def belongs(before: str, after: str) -> bool:
    """Return whether two neighbours show as one: accents, skin tones, joined emoji, flags."""
    return (
        ZERO_WIDTH_JOINER in (before, after)
        or unicodedata.category(after).startswith("M")
        or "\U0001f3fb" <= after <= "\U0001f3ff"
        or "\U000e0020" <= after <= "\U000e007f"
        or ("\U0001f1e6" <= before <= "\U0001f1ff" and "\U0001f1e6" <= after <= "\U0001f1ff")
    )


def escaped(text: str) -> str:
    """Escape Slack's three special characters, so that the text holds no link and no mention."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def code(name: str) -> str:
    """Show an id or a name as code: nothing in it is formatted, and readers see where it begins and ends."""
    return f"`{escaped(name.replace('`', chr(39)))}`"


def markup(text: str) -> dict[str, Any]:
    """Make a text object in Slack's markup."""
    # Verbatim: Slack makes no links of what looks like a URL, a channel or a person.
    return {"type": "mrkdwn", "text": text, "verbatim": True}


def verbatim(text: str) -> dict[str, Any]:
    """Make a text object without markup."""
    return {"type": "plain_text", "text": text, "emoji": False}


def fitting(lines: Iterable[str], limit: int = MAX_TEXT) -> str:
    """Join lines, without those for which there is no room."""
    text = ""
    for line in lines:
        if line and len(text) + len(line) < limit:
            text = f"{text}\n{line}".lstrip("\n")
    return text
