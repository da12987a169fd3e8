"""What people in a Slack channel read when a task has ended: an event in, a message out, no I/O.

Strangers write much of it (prompts, reasons, links), so their words go where Slack reads no markup, or are escaped; and
Slack refuses a whole message for one string that is too long, so every string is cut here. The SDK does neither.

https://docs.slack.dev/reference/block-kit/blocks and https://docs.slack.dev/messaging/formatting-message-text
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from ulid import ULID

from relay.channels import slack_text as words
from relay.channels.slack_text import Data
from relay.model import EventType

PROMPT, BRIEF_PROMPT, REASON, WORD = 400, 200, 400, 512
"""Characters that are shown of a prompt (in the blocks, in the text), of a reason, and of an id or a name."""

MAX_LINK = 2500
"""Characters of a result link: one that is longer would leave no room for the rest of a section's 3,000."""


@dataclass(frozen=True, slots=True)
class SlackMessage:
    """What is posted.

    Attributes:
        text: all of it in words, for notifications and screen readers, which do not read the blocks.
        blocks: the same for eyes.
        metadata: which task it is about, for programs; None if it is about none.
        brief: what matters, in the same two forms, for the reply in its thread.
    """

    text: str
    blocks: list[dict[str, Any]]
    metadata: dict[str, Any] | None
    brief: tuple[str, list[dict[str, Any]]] = ("", [])

    def body(self) -> dict[str, Any]:
        """What Slack is sent of it, without the metadata."""
        blocks = {"blocks": self.blocks} if self.blocks else {}
        return {"text": self.text, **blocks, "parse": "none"}

    def post(self) -> dict[str, Any]:
        """The same for a new message: without previews of its links."""
        return {**self.body(), "unfurl_links": False, "unfurl_media": False}

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


def terminal_message(event: Data, base_url: str = "") -> SlackMessage:
    """The message that tells an event, within all of Slack's limits whatever strangers wrote into it.

    Args:
        event: the body of an event as relay sends it (contract §3): `type`, `timestamp`, `data`.
        base_url: where people reach relay, to link the watch; empty if they cannot.

    Raises:
        ValueError: for a type that is not one of `EventType`.
    """
    data = words.table(event.get("data"))
    story = _story(EventType(event["type"]), data, event.get("timestamp"))
    head = f"{story.emoji} *{story.headline}*"
    if story.reason:
        texts = [words.markup(head), words.verbatim(f"Why: {story.reason}"), words.markup(story.then)]
    else:
        texts = [words.markup(f"{head}\n{story.then}".strip())]
    if story.prompt:
        texts.append(words.verbatim(f"“{story.prompt}”"))
    blocks: list[dict[str, Any]] = [{"type": "section", "text": text} for text in texts]
    if story.image:
        alt = f"Preview of the result: {story.prompt}".removesuffix(": ")
        blocks.append({"type": "image", "image_url": story.image, "alt_text": alt})
    page = link_to(data.get("watch_id"), base_url)
    if facts := [*story.facts, *([f"<{words.escaped(page)}|Open in relay>"] if page else [])]:
        blocks.append({"type": "context", "elements": [words.markup(fact) for fact in facts]})
    which = story.prompt and f": “{words.escaped(words.shown(story.prompt, BRIEF_PROMPT))}”"
    why = story.reason and f"Why: {words.escaped(story.reason)}"
    lines = (f"{story.headline}{which}", why, story.then, ", ".join(story.facts).replace("`", ""))
    brief = words.fitting((f"{story.headline}{which}", why or story.then))
    return SlackMessage(words.fitting(lines), blocks, metadata_of(data), (brief, blocks[: 2 if story.reason else 1]))


def metadata_of(data: Data) -> dict[str, Any] | None:
    """Which task a message is about, for programs, of an event's `data`; None if it is about none."""
    # Ids of relay's own are short; a task's may be long, and in JSON each of its characters may take twelve bytes.
    about = {key: words.shown(data.get(key), 64) for key in ("watch_id", "provider", "state")}
    about["task_id"] = words.shown(data.get("task_id"), WORD)
    return {"event_type": "relay_task", "event_payload": about} if about["watch_id"] else None


def link_to(watch_id: Any, base_url: str) -> str:
    """The page of a watch; nothing if there is no watch or nobody can reach relay."""
    return f"{base_url.rstrip('/')}/watches/{words.shown(watch_id, 64)}" if base_url and watch_id else ""


def _story(kind: EventType, data: Data, at: Any) -> _Story:
    match kind:
        case EventType.COMPLETED:
            return _completed(data, at)
        case EventType.FAILED | EventType.EXPIRED | EventType.LOST:
            return _unfinished(kind, data, at)
        case EventType.PROGRESS:
            progress = data.get("progress")
            done = f": {progress:.0%}" if isinstance(progress, int | float) and 0 <= progress <= 1 else ""
            return _Story(":hourglass_flowing_sand:", f"Rendering{done}", "", facts=facts_of(data, at))
        case EventType.TEST:
            return _Story(":wave:", "relay can post here", "This is a test. When a task ends, you will read it here.")


def _completed(data: Data, at: Any) -> _Story:
    result = words.table(data.get("result"))
    url, expires = words.link(result.get("url")), words.moment(result.get("expires_at"))
    if url and len(words.escaped(url)) <= MAX_LINK:
        then = f"<{words.escaped(url)}|Open the result>"
        if expires:
            shown = f"<!date^{int(expires.timestamp())}^{{date_short_pretty}} {{time}}|{expires:%Y-%m-%d %H:%M} UTC>"
            then += f" · the link expires {shown}"
    elif url:
        then = "Its link is too long for a Slack message: ask relay for the watch."
    else:
        then = "The provider gave no link to the result: look the task up there."
    links = (words.link(result.get(key)) for key in ("thumbnail_url", "preview_url"))
    image = next((link for link in links if words.is_shown(link)), "")
    width, height = result.get("width"), result.get("height")
    size = f"{width} × {height}" if type(width) is int and type(height) is int else ""
    facts = facts_of(data, at, size)
    return _Story(":white_check_mark:", "Render finished", then, prompt=prompt_of(data), image=image, facts=facts)


def _unfinished(kind: EventType, data: Data, at: Any) -> _Story:
    error = words.table(data.get("error"))
    code, message = words.shown(error.get("code"), WORD), words.shown(error.get("message"), REASON)
    cause, told = {EventType.EXPIRED: EXPIRED, EventType.LOST: LOST}.get(kind), ""
    if cause is None:
        found = (cause for said in (code, message) for cause in CAUSES if re.search(cause.words, said, re.IGNORECASE))
        cause, told = next(found, OTHER_CAUSE), code and f"code {words.code(code)}"
    return _Story(cause.emoji, cause.headline, cause.then, message, prompt_of(data), facts=facts_of(data, at, told))


def facts_of(data: Data, at: Any, *more: str) -> tuple[str, ...]:
    """Model, size or code, how long it was watched, id: those that are known."""
    task, upstream = words.shown(data.get("task_id"), WORD), words.table(data.get("upstream"))
    family = re.match(r"[a-z][\w.-]{1,39}(?=:)", task)
    model = words.first(upstream, "model") or (family and family[0])
    model = words.shown(model or words.first(upstream, "detail.input.model", "detail.req.model"), WORD)
    watched = _watched(data.get("watch_id"), at)
    facts = (
        model and f"model {words.code(model)}",
        *more,
        watched and f"watched for {watched}",
        task and f"task {words.code(task)}",
    )
    return tuple(fact for fact in facts if fact)


def prompt_of(data: Data) -> str:
    """What the task was asked for, or what the provider made of that."""
    paths = "prompt", "input.prompt", "detail.input.prompt", "detail.req.prompt", "detail.pending_info.prompt"
    asked = words.first(words.table(data.get("upstream")), *paths)
    return words.shown(asked or words.table(data.get("result")).get("enhanced_prompt"), PROMPT)


def _watched(watch_id: Any, at: Any) -> str:
    """How long from the registration, whose time is in the watch's id, until `at`."""
    until = words.moment(at)
    try:
        since = ULID.from_str(str(watch_id).partition("_")[2]).timestamp
    except ValueError:
        return ""
    seconds = round(until.timestamp() - since) if until else -1
    return span(seconds) if seconds >= 0 else ""


def span(seconds: int) -> str:
    """A length of time in words: 52 s, 6 min 24 s, 2 h 5 min."""
    for size, name, part, part_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            rest = seconds % size // part
            return f"{seconds // size} {name}" + (f" {rest} {part_name}" if rest else "")
    return f"{seconds} s"
