"""What people in a Slack channel read when a task has ended: an event in, a message out, no I/O.

Strangers write much of it (prompts, reasons, links), so their words go where Slack reads no markup, or are escaped; and
Slack refuses a whole message for one string that is too long, so every string is cut here. The SDK does neither.

https://docs.slack.dev/reference/block-kit/blocks and https://docs.slack.dev/messaging/formatting-message-text
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from ulid import ULID

from relay.model import EventType

Data = Mapping[str, Any]

MAX_TEXT, MAX_IMAGE_URL = 4000, 3000

MAX_LINK = 2500
"""Characters of a result link: one that is longer would leave no room for the rest of a section's 3,000."""

PROMPT, BRIEF_PROMPT, REASON, WORD = 400, 200, 400, 512
"""Characters that are shown of a prompt (in the blocks, in the text), of a reason, and of an id or a name."""

NOT_SHOWN = (".webp", ".avif", ".svg", ".mp4", ".webm", ".mov")
"""What Slack takes for no image, and refuses the message for. The documented upstream's thumbnails are WebP."""

LINK = re.compile(r"https?://[^\s/?#<>][^\s<>]*", re.IGNORECASE)

# Control characters, halves of surrogate pairs, and what turns the direction of the text after it.
UNWANTED = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
ZERO_WIDTH_JOINER, ISOLATE, END_OF_ISOLATE = "\u200d", "\u2068", "\u2069"


@dataclass(frozen=True, slots=True)
class SlackMessage:
    """What is posted.

    Attributes:
        text: all of it in words, for notifications and screen readers, which do not read the blocks.
        blocks: the same for eyes.
        metadata: which task it is about, for programs; None if it is about none.
    """

    text: str
    blocks: list[dict[str, Any]]
    metadata: dict[str, Any] | None

    def without_images(self) -> SlackMessage:
        """The message for when Slack cannot fetch the picture; equal to this one if there is none."""
        return replace(self, blocks=[block for block in self.blocks if block["type"] != "image"])


@dataclass(frozen=True, slots=True)
class _Story:
    """What an event has to say.

    Attributes:
        then: what to do next, in Slack's markup, as is everything but `reason` and `prompt`.
        reason: why it ended so, in the upstream's words.
        facts: what identifies it.
    """

    emoji: str
    headline: str
    then: str
    reason: str = ""
    prompt: str = ""
    image: str = ""
    facts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Cause:
    """Why there is no result, known by these words of the upstream, and whether another try can help."""

    words: str
    then: str
    emoji: str = ":x:"
    headline: str = "Render failed"


# The first match counts: in the error's code or, when the code tells nothing ("failed"), in its message.
CAUSES = (
    _Cause(
        r"content.?policy|moderat|safety|unsafe|nsfw|guardrail|sensitive|prohibited|inappropriate|copyright|similarity"
        "|不合规|审核|违规|敏感",
        "A retry cannot help as long as nothing changes: change the prompt or the input images, then submit it anew.",
        ":no_entry:",
        "Render refused by the content filter",
    ),
    _Cause(
        "insufficient|quota|credit|balance|billing|payment|http_402|余额|积分|额度",
        "The account at the provider has nothing left to spend: top it up, then submit the task again.",
    ),
    _Cause(
        "unauthorized|authentication|api.?key|http_40[13]",
        "The provider does not accept the API key: check the key and what it may do, then submit the task again.",
    ),
    _Cause(
        r"rate.?limit|too.?many|time.?out|timed.?out|overload|heavy.?load|busy|capacity|unavailable|internal.?error"
        r"|server.?error|try again|^expired$|http_(?:408|429|5\d\d)|繁忙|超时|稍后|负载",
        "A retry can help, this looks temporary: submit the same task again in a few minutes.",
    ),
    _Cause(
        r"invalid|unsupported|not supported|must be|bad.?request|could not be downloaded|http_4(?:00|13|15|22)|参数",
        "A retry cannot help as long as nothing changes: correct the request, then submit it anew.",
    ),
    _Cause(
        "^cancell?ed$",
        "If that was not meant, submit the task again.",
        ":black_square_for_stop:",
        "Render cancelled at the provider",
    ),
)

OTHER_CAUSE = _Cause("", "The provider gives no more detail. One retry is worth it; after that, change the request.")

EXPIRED = _Cause(
    "",
    "relay has stopped watching, but the task may still finish at the provider: look it up there, or register it again"
    " to go on watching.",
    ":hourglass:",
    "Render not finished in time",
)

LOST = _Cause(
    "",
    "The provider no longer knows the task, so no result will come. Check that its id is right and that the API key"
    " belongs to the account that made it; if so, submit it again.",
    ":grey_question:",
    "Render lost",
)


def terminal_message(event: Data) -> SlackMessage:
    """The message that tells an event, within all of Slack's limits whatever strangers wrote into it.

    Args:
        event: the body of an event as relay sends it (contract §3): `type`, `timestamp`, `data`.

    Raises:
        ValueError: for a type that is not one of `EventType`.
    """
    data = _table(event.get("data"))
    story = _story(EventType(event["type"]), data, event.get("timestamp"))
    head = f"{story.emoji} *{story.headline}*"
    if story.reason:
        texts = [_markup(head), _verbatim(f"Why: {story.reason}"), _markup(story.then)]
    else:
        texts = [_markup(f"{head}\n{story.then}".strip())]
    if story.prompt:
        texts.append(_verbatim(f"“{story.prompt}”"))
    blocks: list[dict[str, Any]] = [{"type": "section", "text": text} for text in texts]
    if story.image:
        alt = f"Preview of the result: {story.prompt}".removesuffix(": ")
        blocks.append({"type": "image", "image_url": story.image, "alt_text": alt})
    if story.facts:
        blocks.append({"type": "context", "elements": [_markup(fact) for fact in story.facts]})
    which = story.prompt and f": “{_escaped(_shown(story.prompt, BRIEF_PROMPT))}”"
    why = story.reason and f"Why: {_escaped(story.reason)}"
    lines = (f"{story.headline}{which}", why, story.then, ", ".join(story.facts).replace("`", ""))
    # Ids of relay's own are short; a task's may be long, and in JSON each of its characters may take twelve bytes.
    about = {key: _shown(data.get(key), 64) for key in ("watch_id", "provider", "state")}
    about["task_id"] = _shown(data.get("task_id"), WORD)
    metadata = {"event_type": "relay_task", "event_payload": about} if about["watch_id"] else None
    return SlackMessage(_fitting(lines), blocks, metadata)


def _story(kind: EventType, data: Data, at: Any) -> _Story:
    match kind:
        case EventType.COMPLETED:
            return _completed(data, at)
        case EventType.FAILED | EventType.EXPIRED | EventType.LOST:
            return _unfinished(kind, data, at)
        case EventType.PROGRESS:
            progress = data.get("progress")
            done = f": {progress:.0%}" if isinstance(progress, int | float) and 0 <= progress <= 1 else ""
            return _Story(":hourglass_flowing_sand:", f"Rendering{done}", "", facts=_facts(data, at))
        case EventType.TEST:
            return _Story(":wave:", "relay can post here", "This is a test. When a task ends, you will read it here.")


def _completed(data: Data, at: Any) -> _Story:
    result = _table(data.get("result"))
    url, expires = _link(result.get("url")), _moment(result.get("expires_at"))
    if url and len(_escaped(url)) <= MAX_LINK:
        then = f"<{_escaped(url)}|Open the result>"
        if expires:
            shown = f"<!date^{int(expires.timestamp())}^{{date_short_pretty}} {{time}}|{expires:%Y-%m-%d %H:%M} UTC>"
            then += f" · the link expires {shown}"
    elif url:
        then = "Its link is too long for a Slack message: ask relay for the watch."
    else:
        then = "The provider gave no link to the result: look the task up there."
    links = (_link(result.get(key)) for key in ("thumbnail_url", "preview_url"))
    image = next((link for link in links if _is_shown(link)), "")
    width, height = result.get("width"), result.get("height")
    size = f"{width} × {height}" if type(width) is int and type(height) is int else ""
    facts = _facts(data, at, size)
    return _Story(":white_check_mark:", "Render finished", then, prompt=_prompt(data), image=image, facts=facts)


def _unfinished(kind: EventType, data: Data, at: Any) -> _Story:
    error = _table(data.get("error"))
    code, message = _shown(error.get("code"), WORD), _shown(error.get("message"), REASON)
    cause, told = {EventType.EXPIRED: EXPIRED, EventType.LOST: LOST}.get(kind), ""
    if cause is None:
        found = (cause for said in (code, message) for cause in CAUSES if re.search(cause.words, said, re.IGNORECASE))
        cause, told = next(found, OTHER_CAUSE), code and f"code {_code(code)}"
    return _Story(cause.emoji, cause.headline, cause.then, message, _prompt(data), facts=_facts(data, at, told))


def _facts(data: Data, at: Any, *more: str) -> tuple[str, ...]:
    """Model, size or code, how long it was watched, id: those that are known."""
    task, upstream = _shown(data.get("task_id"), WORD), _table(data.get("upstream"))
    family = re.match(r"[a-z][\w.-]{1,39}(?=:)", task)
    model = _first(upstream, "model") or (family and family[0])
    model = _shown(model or _first(upstream, "detail.input.model", "detail.req.model"), WORD)
    watched = _watched(data.get("watch_id"), at)
    facts = (
        model and f"model {_code(model)}",
        *more,
        watched and f"watched for {watched}",
        task and f"task {_code(task)}",
    )
    return tuple(fact for fact in facts if fact)


def _prompt(data: Data) -> str:
    """What the task was asked for, or what the provider made of that."""
    paths = "prompt", "input.prompt", "detail.input.prompt", "detail.req.prompt", "detail.pending_info.prompt"
    asked = _first(_table(data.get("upstream")), *paths)
    return _shown(asked or _table(data.get("result")).get("enhanced_prompt"), PROMPT)


def _watched(watch_id: Any, at: Any) -> str:
    """How long from the registration, whose time is in the watch's id, until `at`."""
    until = _moment(at)
    try:
        since = ULID.from_str(str(watch_id).partition("_")[2]).timestamp
    except ValueError:
        return ""
    seconds = round(until.timestamp() - since) if until else -1
    for size, name, part, part_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            rest = seconds % size // part
            return f"{seconds // size} {name}" + (f" {rest} {part_name}" if rest else "")
    return f"{seconds} s" if seconds >= 0 else ""


def _moment(value: Any) -> datetime | None:
    """An RFC 3339 time since 1970, in UTC."""
    try:
        moment = datetime.fromisoformat(value).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None
    return moment if moment.year >= 1970 else None


def _first(table: Data, *paths: str) -> Any:
    """The first text that stands at one of these dotted paths."""
    for path in paths:
        value: Any = table
        for name in path.split("."):
            value = _table(value).get(name)
        if isinstance(value, str) and value.strip():
            return value
    return None


def _table(value: Any) -> Data:
    return value if isinstance(value, dict) else {}


def _link(value: Any) -> str:
    """A URL of http or https that can stand in a message, or nothing."""
    found = isinstance(value, str) and LINK.fullmatch(value) and not UNWANTED.search(value)
    return value.replace("|", "%7C") if found else ""


def _is_shown(url: str) -> bool:
    path = re.split("[?#]", url, maxsplit=1)[0].lower()
    return path.startswith("https://") and len(url) <= MAX_IMAGE_URL and not path.endswith(NOT_SHOWN)


def _shown(value: Any, limit: int) -> str:
    """A stranger's text on one line, cut to `limit` characters, without what could garble its surroundings."""
    text = " ".join(UNWANTED.sub("", value).split()) if isinstance(value, str) else ""
    if len(text) > limit:
        text = f"{_cut(text, limit - 1).rstrip()}…"
    if any(unicodedata.bidirectional(character) in ("R", "AL", "AN") for character in text):
        return f"{ISOLATE}{text}{END_OF_ISOLATE}"
    return text


def _cut(text: str, limit: int) -> str:
    """The beginning of a text, at a space if one is near, and within no emoji or accented letter."""
    space = text.rfind(" ", limit - 30, limit + 1)
    if space > 0:
        return text[:space]
    end = limit
    while end > limit - 30 and _belongs(text[end - 1], text[end]):
        end -= 1
    return text[:end]


def _belongs(before: str, after: str) -> bool:
    """Whether two neighbours show as one: accents, skin tones, joined emoji, flags."""
    return (
        ZERO_WIDTH_JOINER in (before, after)
        or unicodedata.category(after).startswith("M")
        or "\U0001f3fb" <= after <= "\U0001f3ff"
        or "\U000e0020" <= after <= "\U000e007f"
        or ("\U0001f1e6" <= before <= "\U0001f1ff" and "\U0001f1e6" <= after <= "\U0001f1ff")
    )


def _escaped(text: str) -> str:
    """The text with Slack's three special characters as such, which leaves no link and no mention in it."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _code(name: str) -> str:
    """An id or a name as code: its own marks do not format, and people see where it begins and ends."""
    return f"`{_escaped(name.replace('`', chr(39)))}`"


def _markup(text: str) -> dict[str, Any]:
    # Verbatim: what looks like a URL, a channel or a person is not made a link.
    return {"type": "mrkdwn", "text": text, "verbatim": True}


def _verbatim(text: str) -> dict[str, Any]:
    return {"type": "plain_text", "text": text, "emoji": False}


def _fitting(lines: Iterable[str]) -> str:
    """The lines, without those for which there is no room left."""
    text = ""
    for line in lines:
        if line and len(text) + len(line) < MAX_TEXT:
            text = f"{text}\n{line}".lstrip("\n")
    return text
