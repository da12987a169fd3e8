"""What people in a Slack channel read when a task has ended: an event in, a message out, no I/O.

Much of it comes from others (prompts, reasons, links), so it goes where Slack reads no markup, or is escaped. Slack
refuses a whole message for one string that is too long, so every string is cut here. The SDK does neither.

https://docs.slack.dev/reference/block-kit/blocks and https://docs.slack.dev/messaging/formatting-message-text
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

from ulid import ULID

from relay.channels.slack import text as words
from relay.channels.slack.causes import EXPIRED, LOST, cause_of
from relay.channels.slack.errors import TOO_LONG
from relay.channels.slack.text import Data
from relay.model.event import EventType
from relay.model.watch import NOUN

TASK = "relay_task"
"""The `event_type` of the metadata of a message about a task."""

PROMPT = 400
"""Characters of a prompt that the blocks show."""

BRIEF_PROMPT = 200
"""Characters of a prompt that the text shows."""

REASON = 400
"""Characters of a reason that are shown."""

RESULT = 1500
"""Characters of a result that is a text."""

REFERENCE = 200
"""Characters of a reference that is no link, such as `s3://…`."""

MAX_LINKS = 10
"""Links of one result that are shown."""

LINK_OF_MANY = 200
"""Characters of a further link: all of them and the reference fit into one section of 3,000."""

WORD = 512
"""Characters of an id or a name that are shown."""

MAX_LINK = 2500
"""Characters of a result link: a longer one would leave no room for the rest of a section's 3,000."""


SHORT = 1500
"""Characters of the text of a message that Slack has found too long."""


Brief = tuple[str, list[dict[str, Any]]]
"""What matters most of a message, as text and as blocks."""


class Layout(IntEnum):
    """How much of its layout a message keeps. Each goes where Slack refused the one before."""

    FULL = 0
    NO_IMAGES = 1
    TEXT = 2
    SHORT_TEXT = 3


@dataclass(frozen=True, slots=True)
class SlackMessage:
    """What is posted.

    Attributes:
        text: everything in words, for notifications and screen readers, which do not read the blocks.
        blocks: the same, laid out.
        metadata: which task it is about, for programs; None if it is about none.
        brief: what matters most, for the reply in the thread.
    """

    text: str
    blocks: list[dict[str, Any]]
    metadata: dict[str, Any] | None
    brief: Brief = ("", [])

    def body(self) -> dict[str, Any]:
        """Return the arguments of an edit, without the metadata."""
        blocks = {"blocks": self.blocks} if self.blocks else {}
        return {"text": self.text, **blocks, "parse": "none"}

    def post(self) -> dict[str, Any]:
        """Return the arguments of a post, which shows no previews of links."""
        return {**self.body(), "unfurl_links": False, "unfurl_media": False}

    def laid_out(self, layout: Layout) -> SlackMessage:
        """Return the message in a layout."""
        match layout:
            case Layout.FULL:
                return self
            case Layout.NO_IMAGES:
                return replace(self, blocks=[block for block in self.blocks if block["type"] != "image"])
            case Layout.TEXT:
                return replace(self, blocks=[])
        return replace(self, blocks=[], text=words.fitting(self.text.split("\n"), SHORT))

    def plainer(self, refused: Layout, code: str | None) -> Layout | None:
        """Return the layout for the next try, after Slack has refused one; None if none is plainer.

        Args:
            code: why Slack refused it. Less layout does not shorten a text that is too long.
        """
        first = Layout.SHORT_TEXT if code == TOO_LONG else refused + 1
        body = self.laid_out(refused).body()
        return next((layout for layout in Layout if layout >= first and self.laid_out(layout).body() != body), None)


@dataclass(frozen=True, slots=True)
class _Story:
    """What an event says. Everything but `reason`, `prompt` and `result` is in Slack's markup.

    Attributes:
        then: what to do next.
        reason: why the task ended like this, in the upstream's words.
        result: a result that is a text itself; `more`: what else there is of a result.
        facts: what identifies the task.
    """

    emoji: str
    headline: str
    then: str
    reason: str = ""
    prompt: str = ""
    result: str = ""
    more: str = ""
    image: str = ""
    facts: tuple[str, ...] = ()


def terminal_message(event: Data, base_url: str = "", noun: str = NOUN) -> SlackMessage:
    """Write an event as a message that keeps all of Slack's limits.

    Args:
        event: the body of an event as relay sends it (contract §3): `type`, `timestamp`, `data`.
        base_url: the address at which people reach relay, for a link to the watch; empty if they cannot.
        noun: what a task of this provider is to people.

    Raises:
        ValueError: the type is not one of `EventType`.
    """
    data = words.table(event.get("data"))
    story = _story(EventType(event["type"]), data, event.get("timestamp"), words.escaped(noun))
    head = f"{story.emoji} *{story.headline}*"
    if story.reason:
        texts = [words.markup(head), words.verbatim(f"Why: {story.reason}")]
        texts += [words.markup(story.then)] if story.then else []
    else:
        texts = [words.markup(f"{head}\n{story.then}".strip())]
    if story.more:
        texts.append(words.markup(story.more))
    if story.result:
        texts.append(words.verbatim(story.result))
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
    result = words.escaped(story.result)
    lines = (f"{story.headline}{which}", why, story.then, story.more, result, ", ".join(story.facts).replace("`", ""))
    return SlackMessage(words.fitting(lines), blocks, metadata_of(data), _brief(story, which, why, data, blocks))


def _brief(story: _Story, which: str, why: str, data: Data, blocks: list[dict[str, Any]]) -> Brief:
    """Return what matters most, with the task that it is about: a reply stands alone in a list of notifications."""
    task = words.code(words.shown(data.get("task_id"), BRIEF_PROMPT)) if data.get("task_id") else ""
    text = words.fitting((f"{story.headline}{which or (task and f': {task}'.replace('`', ''))}", why or story.then))
    named = [{"type": "context", "elements": [words.markup(task)]}] if task else []
    return text, [*blocks[: 2 if story.reason else 1], *named]


def metadata_of(data: Data) -> dict[str, Any] | None:
    """Return which task an event's `data` is about, for programs; None if it is about none."""
    # The ids of relay are short. A task's id may be long, and in JSON each of its characters may take twelve bytes.
    about = {key: words.shown(data.get(key), 64) for key in ("watch_id", "provider", "state")}
    about["task_id"] = words.shown(data.get("task_id"), WORD)
    return {"event_type": TASK, "event_payload": about} if about["watch_id"] else None


def link_to(watch_id: Any, base_url: str) -> str:
    """Return the address of a watch's page; an empty text if there is no watch, or if people cannot reach relay."""
    return f"{base_url.rstrip('/')}/watches/{words.shown(watch_id, 64)}" if base_url and watch_id else ""


def _story(kind: EventType, data: Data, at: Any, noun: str) -> _Story:
    match kind:
        case EventType.COMPLETED:
            return _completed(data, at, noun)
        case EventType.FAILED | EventType.EXPIRED | EventType.LOST:
            return _unfinished(kind, data, at, noun)
        case EventType.PROGRESS:
            progress = data.get("progress")
            done = f": {progress:.0%}" if isinstance(progress, int | float) and 0 <= progress <= 1 else ""
            return _Story(":hourglass_flowing_sand:", f"{noun} under way{done}", "", facts=facts_of(data, at))
        case EventType.LATE:
            return _Story(":hourglass:", f"{noun} is taking longer than usual", "", facts=facts_of(data, at))
        case EventType.TEST:
            return _Story(":wave:", "relay can post here", "This is a test. When a task ends, you will read it here.")
        case _:
            return _alert(kind, data)


_IN_TROUBLE = {
    EventType.DELIVERY_DEAD: "Deliveries to a receiver are dead",
    EventType.TARGET_UNWELL: "A receiver is unwell",
    EventType.UPSTREAM_REFUSED: "An upstream is in trouble",
    EventType.SUBMISSION_UNKNOWN: "A submission is in doubt",
}
_WELL_AGAIN = {
    EventType.DELIVERY_DEAD: "A receiver gets its deliveries again",
    EventType.TARGET_UNWELL: "A receiver is well again",
    EventType.UPSTREAM_REFUSED: "An upstream is well again",
    EventType.SUBMISSION_UNKNOWN: "A submission is settled",
}


def _alert(kind: EventType, data: Data) -> _Story:
    """Return what the operator reads: what is wrong and what to look at, or that it is over."""
    message = words.shown(data.get("message"), REASON)
    if data.get("state") == "well":
        return _Story(":white_check_mark:", _WELL_AGAIN[kind], "", reason=message)
    then = words.escaped(words.shown(data.get("remedy"), REASON))
    return _Story(":rotating_light:", _IN_TROUBLE[kind], f"What to do: {then}", reason=message)


def _completed(data: Data, at: Any, noun: str) -> _Story:
    result = words.table(data.get("result"))
    url = words.link(result.get("url"))
    expires = words.moment(result.get("expires_at"))
    if url and len(words.escaped(url)) <= MAX_LINK:
        then = f"<{words.escaped(url)}|Open the result>"
        if expires:
            shown = f"<!date^{int(expires.timestamp())}^{{date_short_pretty}} {{time}}|{expires:%Y-%m-%d %H:%M} UTC>"
            then += f" · the link expires {shown}"
    elif url:
        then = "Its link is too long for a Slack message: ask relay for the watch."
    elif result.get("text") or result.get("ref"):
        then = ""
    else:
        then = "The provider gave no link to the result: look the task up there."
    links = (words.link(result.get(key)) for key in ("thumbnail_url", "preview_url"))
    image = next((link for link in links if words.is_shown(link)), "")
    width = result.get("width")
    height = result.get("height")
    size = f"{width} × {height}" if type(width) is int and type(height) is int else ""
    facts = facts_of(data, at, size)
    text = words.shown(result.get("text"), RESULT)
    finished = f"{noun} finished"
    more = "\n".join(_more(result, url))
    return _Story(":white_check_mark:", finished, then, "", prompt_of(data), text, more, image, facts)


def _more(result: Data, first: str) -> Iterator[str]:
    """Yield lines about what else a result has: further links, a reference that is no link, a link that wants a key."""
    urls = result.get("urls")
    links = [words.link(url) for url in urls[:MAX_LINKS]] if isinstance(urls, list) else []
    further = [link for link in links if link and link != first and len(words.escaped(link)) <= LINK_OF_MANY]
    if further:
        shown = [f"<{words.escaped(link)}|{number}>" for number, link in enumerate(further, 2)]
        rest = len(urls) - 1 - len(further) if isinstance(urls, list) else 0
        yield f"Further results: {', '.join(shown)}" + (f" and {rest} more" if rest > 0 else "")
    if ref := words.shown(result.get("ref"), REFERENCE):
        yield f"Reference {words.code(ref)}"
    if result.get("key_needed") is True:
        yield "It opens only with the provider's key."


def _unfinished(kind: EventType, data: Data, at: Any, noun: str) -> _Story:
    error = words.table(data.get("error"))
    code = words.shown(error.get("code"), WORD)
    message = words.shown(error.get("message"), REASON)
    known = {EventType.EXPIRED: EXPIRED, EventType.LOST: LOST}.get(kind)
    cause = known or cause_of(code, message)
    fact = f"code {words.code(code)}" if code and not known else ""
    headline = f"{noun} {cause.what}"
    return _Story(cause.emoji, headline, cause.then, message, prompt_of(data), facts=facts_of(data, at, fact))


def facts_of(data: Data, at: Any, *more: str) -> tuple[str, ...]:
    """Return what is known of the task: model, size or code, how long it was watched, id."""
    task = words.shown(data.get("task_id"), WORD)
    upstream = words.table(data.get("upstream"))
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
    """Return the prompt of the task, or what the provider made of it."""
    paths = "prompt", "input.prompt", "detail.input.prompt", "detail.req.prompt", "detail.pending_info.prompt"
    asked = words.first(words.table(data.get("upstream")), *paths)
    return words.shown(asked or words.table(data.get("result")).get("enhanced_prompt"), PROMPT)


def _watched(watch_id: Any, at: Any) -> str:
    """Return how long it was from the registration, whose time is in the watch's id, until `at`."""
    until = words.moment(at)
    try:
        since = ULID.from_str(str(watch_id).partition("_")[2]).timestamp
    except ValueError:
        return ""
    seconds = round(until.timestamp() - since) if until else -1
    return span(seconds) if seconds >= 0 else ""


def span(seconds: int) -> str:
    """Write a length of time: 52 s, 6 min 24 s, 2 h 5 min."""
    for size, name, part, part_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            rest = seconds % size // part
            return f"{seconds // size} {name}" + (f" {rest} {part_name}" if rest else "")
    return f"{seconds} s"
