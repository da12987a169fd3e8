"""Reads Slack's mrkdwn into spans that the page and the terminal each draw in their own way."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

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
class Span:
    """A run of text drawn in one way: bold, italic, strike, code, link or mention."""

    kind: str
    inside: "tuple[Span | str, ...]"
    url: str = ""


Spans = tuple[Span | str, ...]


@dataclass(frozen=True)
class Part:
    """A stretch of lines: text, quote or pre."""

    kind: str
    spans: Spans


def with_emoji(text: str) -> str:
    """Shortcodes as the emoji they stand for; an unknown one stays as it is."""
    return re.sub(r":([a-z0-9_+-]+):", lambda found: EMOJI.get(found[1], found[0]), text)


def parse(text: str, names: Mapping[str, str], *, verbatim: bool = False) -> list[Part]:
    """Splits off code fences and quotes, and reads the spans of each part."""
    parts: list[Part] = []
    for index, stretch in enumerate(re.split(r"```\n?(.*?)\n?```\n?", text, flags=re.DOTALL)):
        if index % 2:
            parts.append(Part("pre", (_unescape(stretch),)))
            continue
        run: list[str] = []
        quoted = False
        for line in stretch.split("\n") if stretch else []:
            if bool(QUOTE.match(line)) != quoted:
                parts += _part(run, quoted, names, verbatim)
                run, quoted = [], not quoted
            run.append(QUOTE.sub("", line, count=1) if quoted else line)
        parts += _part(run, quoted, names, verbatim)
    return parts


def local(seconds: str) -> datetime:
    """The moment a timestamp names, in the local time zone."""
    return datetime.fromtimestamp(float(seconds), UTC).astimezone()


def time_of_day(moment: datetime) -> str:
    """As Slack writes it: 2:05 PM."""
    return f"{moment.hour % 12 or 12}:{moment:%M %p}"


def _part(run: list[str], quoted: bool, names: Mapping[str, str], verbatim: bool) -> list[Part]:
    return [Part("quote" if quoted else "text", _spans("\n".join(run), names, verbatim))] if run else []


def _spans(text: str, names: Mapping[str, str], verbatim: bool) -> Spans:
    spans: list[Span | str] = []
    end = 0
    for token in TOKEN.finditer(text):
        spans.append(_unescape(text[end : token.start()]))
        end = token.end()
        kind, value = token.lastgroup or "", token[token.lastgroup or 0]
        if kind == "angle":
            spans.append(_angle(value, names))
        elif kind == "emoji":
            spans.append(EMOJI.get(value, token[0]))
        elif kind == "url":
            url = _unescape(value)
            spans.append(url if verbatim else Span("link", (url,), url))
        elif kind == "code":
            spans.append(Span("code", (_unescape(value),)))
        else:
            spans.append(Span(kind, _spans(value, names, verbatim)))
    spans.append(_unescape(text[end:]))
    return tuple(span for span in spans if span)


def _angle(value: str, names: Mapping[str, str]) -> Span | str:
    """What stands between angle brackets: a link, a date or a mention."""
    target, _, label = value.partition("|")
    label = _unescape(label)
    if target.startswith("!date^"):
        _, seconds, form, *link = target.split("^")
        text = _date(seconds, form) or label
        return Span("link", (text,), _unescape(link[0])) if link else text
    if target[0] == "#":
        return Span("mention", ("#" + (label or names.get(target[1:], target[1:])),))
    if target[0] == "@":
        return Span("mention", ("@" + (label or names.get(target[1:], target[1:])),))
    if target[0] == "!":
        return Span("mention", (label or "@" + target[1:],))
    url = _unescape(target)
    return Span("link", (with_emoji(label) or url,), url)


def _date(seconds: str, form: str) -> str:
    """A date as Slack's clients write it; nothing if it makes no sense."""
    try:
        moment = local(seconds)
    except (ValueError, OverflowError, OSError):
        return ""
    days = (moment.date() - datetime.now(UTC).astimezone().date()).days
    near = {0: "today", -1: "yesterday", 1: "tomorrow"}.get(days)
    month, rest = f"{moment:%B}", f"{moment.day}, {moment.year}"
    short, normal, full = f"{month[:3]} {rest}", f"{month} {rest}", f"{moment:%A}, {month} {rest}"
    tokens = {
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
    return re.sub(r"\{(\w+)\}", lambda found: tokens.get(found[1], found[0]), form)


def _unescape(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
