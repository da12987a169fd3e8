"""A parser of Slack's mrkdwn. The page and the terminal draw the sections and spans that it returns."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby

EMOJI = {
    "+1": "👍", "-1": "👎", "alarm_clock": "⏰", "arrow_down": "⬇️", "arrow_right": "➡️",
    "arrows_counterclockwise": "🔄", "ballot_box_with_check": "☑️", "bell": "🔔", "black_square_for_stop": "⏹️",
    "boom": "💥", "bulb": "💡", "camera": "📷", "cat": "🐱", "clapper": "🎬", "clock1": "🕐", "cry": "😢",
    "exclamation": "❗", "eyes": "👀", "film_frames": "🎞️", "film_projector": "📽️", "fire": "🔥",
    "frame_with_picture": "🖼️", "gear": "⚙️", "ghost": "👻", "grey_question": "❔", "heart": "❤️",
    "heavy_check_mark": "✔️", "hourglass": "⌛", "hourglass_flowing_sand": "⏳", "inbox_tray": "📥",
    "information_source": "ℹ️", "joy": "😂", "key": "🔑", "large_blue_circle": "🔵", "large_green_circle": "🟢",
    "large_yellow_circle": "🟡", "link": "🔗", "lock": "🔒", "mag": "🔍", "memo": "📝", "money_with_wings": "💸",
    "movie_camera": "🎥", "no_entry": "⛔", "no_entry_sign": "🚫", "octagonal_sign": "🛑", "outbox_tray": "📤",
    "package": "📦", "question": "❓", "red_circle": "🔴", "repeat": "🔁", "robot_face": "🤖", "rocket": "🚀",
    "rotating_light": "🚨", "satellite_antenna": "📡", "see_no_evil": "🙈", "shrug": "🤷", "sleeping": "😴",
    "smile": "😄", "sparkles": "✨", "speech_balloon": "💬", "stopwatch": "⏱️", "tada": "🎉", "thinking_face": "🤔",
    "thumbsdown": "👎", "thumbsup": "👍", "timer_clock": "⏲️", "tv": "📺", "vhs": "📼", "video_camera": "📹",
    "warning": "⚠️", "wastebasket": "🗑️", "wave": "👋", "white_check_mark": "✅", "white_circle": "⚪", "x": "❌",
    "zap": "⚡", "zzz": "💤",
}  # fmt: skip

TOKEN = re.compile(
    r"""
      <(?P<angle>[^<>\n]+)>
    | `(?P<code>[^`\n]+)`
    | (?P<url>\bhttps?://[^\s<>|]*[^\s<>|.,;:!?)'"*_~])
    | :(?P<emoji>[a-z0-9_+-]+):
    | (?<![\w*])\*(?P<bold>[^\s*](?:[^*\n]*[^\s*])?)\*(?![\w*])
    | (?<![\w_])_(?P<italic>[^\s_](?:[^_\n]*[^\s_])?)_(?![\w_])
    | (?<![\w~])~(?P<strike>[^\s~](?:[^~\n]*[^\s~])?)~(?![\w~])
    """,
    re.VERBOSE,
)

QUOTE = re.compile(r"(?:>|&gt;) ?")


@dataclass(frozen=True)
class TextSpan:
    """A stretch of text drawn in one way: bold, italic, strike, code, link or mention."""

    kind: str
    inside: "tuple[TextSpan | str, ...]"
    url: str = ""


Spans = tuple[TextSpan | str, ...]


@dataclass(frozen=True)
class Section:
    """Successive lines of one kind: text, quote or pre."""

    kind: str
    spans: Spans


def with_emoji(text: str) -> str:
    """Replace each known shortcode by its emoji."""
    return re.sub(r":([a-z0-9_+-]+):", lambda shortcode: EMOJI.get(shortcode[1], shortcode[0]), text)


def parse(text: str, names: Mapping[str, str], *, verbatim: bool = False) -> list[Section]:
    """Split a text into sections and parse the spans of each.

    Args:
        names: what a mention shows for an id.
        verbatim: leave bare URLs as text.
    """
    sections: list[Section] = []
    for index, stretch in enumerate(re.split(r"```\n?(.*?)\n?```\n?", text, flags=re.DOTALL)):
        if index % 2:  # inside a code fence
            sections.append(Section("pre", (_unescape(stretch),)))
            continue
        lines = stretch.split("\n") if stretch else []
        for quoted, group in groupby(lines, key=lambda line: bool(QUOTE.match(line))):
            joined = "\n".join(QUOTE.sub("", line, count=1) if quoted else line for line in group)
            sections.append(Section("quote" if quoted else "text", _spans(joined, names, verbatim)))
    return sections


def local_time(seconds: str) -> datetime:
    """Return a message's timestamp as a time in the local zone."""
    return datetime.fromtimestamp(float(seconds), UTC).astimezone()


def time_of_day(moment: datetime) -> str:
    """Format a time as Slack does: 2:05 PM."""
    return f"{moment.hour % 12 or 12}:{moment:%M %p}"


def _spans(text: str, names: Mapping[str, str], verbatim: bool) -> Spans:
    spans: list[TextSpan | str] = []
    end = 0
    for token in TOKEN.finditer(text):
        spans.append(_unescape(text[end : token.start()]))
        end = token.end()
        kind = token.lastgroup or ""
        value = token[kind]
        if kind == "angle":
            spans.append(_angle(value, names))
        elif kind == "emoji":
            spans.append(EMOJI.get(value, token[0]))
        elif kind == "url":
            url = _unescape(value)
            spans.append(url if verbatim else TextSpan("link", (url,), url))
        elif kind == "code":
            spans.append(TextSpan("code", (_unescape(value),)))
        else:
            spans.append(TextSpan(kind, _spans(value, names, verbatim)))
    spans.append(_unescape(text[end:]))
    return tuple(span for span in spans if span)


def _angle(value: str, names: Mapping[str, str]) -> TextSpan | str:
    """Parse what stands between angle brackets: a link, a date or a mention."""
    target, _, label = value.partition("|")
    label = _unescape(label)
    if target.startswith("!date^"):
        _, seconds, template, *link = target.split("^")
        text = _date(seconds, template) or label
        return TextSpan("link", (text,), _unescape(link[0])) if link else text
    if target[0] == "#":
        return TextSpan("mention", ("#" + (label or names.get(target[1:], target[1:])),))
    if target[0] == "@":
        return TextSpan("mention", ("@" + (label or names.get(target[1:], target[1:])),))
    if target[0] == "!":
        return TextSpan("mention", (label or "@" + target[1:],))
    url = _unescape(target)
    return TextSpan("link", (with_emoji(label) or url,), url)


def _date(seconds: str, template: str) -> str:
    """Format a date as Slack's clients do. Return an empty string for a timestamp that is none."""
    try:
        moment = local_time(seconds)
    except (ValueError, OverflowError, OSError):
        return ""
    days = (moment.date() - datetime.now(UTC).astimezone().date()).days
    near = {0: "today", -1: "yesterday", 1: "tomorrow"}.get(days)
    short = f"{moment:%b} {moment.day}, {moment.year}"
    normal = f"{moment:%B} {moment.day}, {moment.year}"
    full = f"{moment:%A}, {normal}"
    values = {
        "date_num": f"{moment:%Y-%m-%d}",
        "date_short_pretty": near or short,
        "date_long_pretty": near or full,
        "date_pretty": near or normal,
        "date_short": short,
        "date_long": full,
        "date": normal,
        "time_secs": f"{moment.hour % 12 or 12}:{moment:%M:%S %p}",
        "time": time_of_day(moment),
    }
    return re.sub(r"\{(\w+)\}", lambda name: values.get(name[1], name[0]), template)


def _unescape(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
