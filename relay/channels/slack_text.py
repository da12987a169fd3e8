"""Words for Slack: a stranger's on one line, cut where that keeps their sense, and without a say in the markup.

https://docs.slack.dev/messaging/formatting-message-text
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

Data = Mapping[str, Any]

MAX_TEXT, MAX_IMAGE_URL = 4000, 3000

NOT_SHOWN = (".webp", ".avif", ".svg", ".mp4", ".webm", ".mov")
"""What Slack takes for no image, and refuses the message for. The documented upstream's thumbnails are WebP."""

LINK = re.compile(r"https?://[^\s/?#<>][^\s<>]*", re.IGNORECASE)

# Control characters, halves of surrogate pairs, and what turns the direction of the text after it.
UNWANTED = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
ZERO_WIDTH_JOINER, ISOLATE, END_OF_ISOLATE = "\u200d", "\u2068", "\u2069"


def moment(value: Any) -> datetime | None:
    """An RFC 3339 time since 1970, in UTC."""
    try:
        moment = datetime.fromisoformat(value).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None
    return moment if moment.year >= 1970 else None


def first(within: Data, *paths: str) -> Any:
    """The first text that stands at one of these dotted paths."""
    for path in paths:
        value: Any = within
        for name in path.split("."):
            value = table(value).get(name)
        if isinstance(value, str) and value.strip():
            return value
    return None


def table(value: Any) -> Data:
    """The value, if it is an object; else an empty one."""
    return value if isinstance(value, dict) else {}


def link(value: Any) -> str:
    """A URL of http or https that can stand in a message, or nothing."""
    found = isinstance(value, str) and LINK.fullmatch(value) and not UNWANTED.search(value)
    return value.replace("|", "%7C") if found else ""


def is_shown(url: str) -> bool:
    """Whether Slack can show what is there as a picture, by its address."""
    path = re.split("[?#]", url, maxsplit=1)[0].lower()
    return path.startswith("https://") and len(url) <= MAX_IMAGE_URL and not path.endswith(NOT_SHOWN)


def shown(value: Any, limit: int) -> str:
    """A stranger's text on one line, cut to `limit` characters, without what could garble its surroundings."""
    text = " ".join(UNWANTED.sub("", value).split()) if isinstance(value, str) else ""
    if len(text) > limit:
        text = f"{cut(text, limit - 1).rstrip()}…"
    if any(unicodedata.bidirectional(character) in ("R", "AL", "AN") for character in text):
        return f"{ISOLATE}{text}{END_OF_ISOLATE}"
    return text


def cut(text: str, limit: int) -> str:
    """The beginning of a text, at a space if one is near, and within no emoji or accented letter."""
    space = text.rfind(" ", limit - 30, limit + 1)
    if space > 0:
        return text[:space]
    end = limit
    while end > limit - 30 and belongs(text[end - 1], text[end]):
        end -= 1
    return text[:end]


def belongs(before: str, after: str) -> bool:
    """Whether two neighbours show as one: accents, skin tones, joined emoji, flags."""
    return (
        ZERO_WIDTH_JOINER in (before, after)
        or unicodedata.category(after).startswith("M")
        or "\U0001f3fb" <= after <= "\U0001f3ff"
        or "\U000e0020" <= after <= "\U000e007f"
        or ("\U0001f1e6" <= before <= "\U0001f1ff" and "\U0001f1e6" <= after <= "\U0001f1ff")
    )


def escaped(text: str) -> str:
    """The text with Slack's three special characters as such, which leaves no link and no mention in it."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def code(name: str) -> str:
    """An id or a name as code: its own marks do not format, and people see where it begins and ends."""
    return f"`{escaped(name.replace('`', chr(39)))}`"


def markup(text: str) -> dict[str, Any]:
    """A text object in Slack's markup."""
    # Verbatim: what looks like a URL, a channel or a person is not made a link.
    return {"type": "mrkdwn", "text": text, "verbatim": True}


def verbatim(text: str) -> dict[str, Any]:
    """A text object without any markup."""
    return {"type": "plain_text", "text": text, "emoji": False}


def fitting(lines: Iterable[str]) -> str:
    """The lines, without those for which there is no room left."""
    text = ""
    for line in lines:
        if line and len(text) + len(line) < MAX_TEXT:
            text = f"{text}\n{line}".lstrip("\n")
    return text
