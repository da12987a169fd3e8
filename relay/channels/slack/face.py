"""What a living message shows: the state of the task, how it ended, who did what, and the buttons. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import orjson

from relay.channels.slack import text as words
from relay.channels.slack.message import (
    BRIEF_PROMPT,
    TASK,
    SlackMessage,
    facts_of,
    link_to,
    metadata_of,
    prompt_of,
    span,
    terminal_message,
)
from relay.channels.slack.text import Data
from relay.model.times import Millis
from relay.model.watch import NOUN
from relay.store.slack_messages import Living

REPLY = "relay_reply"
"""The `event_type` of the metadata of a reply in the thread of a message."""

# The buttons, by their `action_id`.
STOP = "relay_stop"
AGAIN = "relay_again"
OPEN = "relay_open"

CELLS = 20
"""Characters of the progress bar."""

SILENT = 3
"""Answers in a row that said nothing, after which the message says so."""

HOSTS = 3
"""Hosts that the message names of those that could not be notified."""

QUEUED = frozenset(("queued", "in_queue", "in queue", "waiting", "submitted", "scheduled", "not_start", "not_started"))
"""Words of upstreams for a task that has not begun."""

POSITIONS = (
    "queue_position",
    "position_in_queue",
    "queue.position",
    "detail.queue_position",
    "detail.pending_info.progress_pos_in_queue",
)
QUEUE_WORDS = ("queue_status_message", "detail.queue_status_message", "detail.pending_info.queue_status_message")


@dataclass(frozen=True, slots=True)
class Look:
    """What a message shows of the deployment that sends it.

    Attributes:
        base_url: the address at which people reach relay; empty if they cannot.
        interactive: whether Slack sends relay a request when a person presses a button.
        noun_of: returns what a task of a provider is to people.
    """

    base_url: str = ""
    interactive: bool = False
    noun_of: Callable[[str], str] = lambda _provider: NOUN


def face(living: Living, now: Millis, look: Look) -> SlackMessage:
    """Write the message as it should be now: under way, stopped, or with the end of the task."""
    if living.end is not None:
        return _ended(living, look)
    return _watching(living, now, look) if living.watch.ended_at is None else _stopped(living, look)


def _watching(living: Living, now: Millis, look: Look) -> SlackMessage:
    watch = living.watch
    data = _data(living)
    position, queue = _queue(data)
    waiting = watch.progress is None and (position or (watch.upstream_status or "") in QUEUED)
    headline = (
        "Waiting in the provider's queue" if waiting else f"{words.escaped(look.noun_of(watch.provider))} under way"
    )
    left = (watch.estimated_end or 0) - now
    lines = []
    if watch.progress is not None:
        percent = min(100, max(0, int(watch.progress * 100)))
        done = percent * CELLS // 100
        about = f" · about {span(round(left / 1000))} left" if left > 0 else ""
        bar = f"{'█' * done}{'░' * (CELLS - done)}  *{percent}%*{about}"
        spoken = f"{percent}%{about}"
    else:
        place = f" · about {span(round(left / 1000))} left" if left > 0 else ""
        place += f" · position {position} in the queue" if position else ""
        bar = spoken = f"{span((now - watch.created_at) // 1000)} so far{place}"
    if queue:
        lines.append(words.escaped(queue))
    if watch.late_told_at is not None:
        lines.append("It is taking longer than usual.")
    if watch.misses >= SILENT:
        lines.append(f":warning: The provider did not answer the last {watch.misses} times; relay goes on asking.")
    elif not watch.polls:
        lines.append("The provider has not been asked yet.")
    head = "\n".join([f":hourglass_flowing_sand: *{headline}*", bar, *lines])
    facts = [*facts_of(data, None), f"watched since {_clock(watch.created_at)}"]
    return _message(living, look, head, [f"{headline}: {spoken}", *lines], facts)


def _stopped(living: Living, look: Look) -> SlackMessage:
    by = living.row.said or "The app that registered it does not want to know its end any more."
    then = "The task itself may go on at the provider."
    head = f":black_square_for_stop: *No longer watched*\n{by} {then}"
    facts = [*facts_of(_data(living), None), f"stopped {_clock(living.watch.ended_at)}"]
    return _message(living, look, head, ["No longer watched", f"{by} {then}"], facts)


def _ended(living: Living, look: Look) -> SlackMessage:
    content = terminal_message(
        _end(living), "" if look.interactive else look.base_url, look.noun_of(living.watch.provider)
    )
    blocks = list(content.blocks)
    lines = [content.text]
    if living.undelivered:
        hosts = [f"`{words.escaped(words.shown(host, 64))}`" for host in living.undelivered[:HOSTS]]
        more = f" and {len(living.undelivered) - HOSTS} more" if len(living.undelivered) > HOSTS else ""
        warning = f"{', '.join(hosts)}{more} could not be notified, and relay has given up."
        # The button stands beside the warning, so that it does not look like a button to submit the task again.
        again = {"accessory": _button(AGAIN, "Send again", value=living.watch.id)} if look.interactive else {}
        blocks.append({"type": "section", "text": words.markup(f":warning: {warning}"), **again})
        lines.append(warning.replace("`", ""))
    if living.row.said:
        blocks.append({"type": "context", "elements": [words.markup(living.row.said)]})
        lines.append(living.row.said)
    blocks += _buttons(living, look)
    return replace(content, text=words.fitting(lines), blocks=blocks, metadata=_metadata(living))


def _message(living: Living, look: Look, head: str, lines: list[str], facts: list[str]) -> SlackMessage:
    """Make a message of its head, the prompt, facts and buttons.

    Args:
        lines: the head in words, for the text.
    """
    prompt = prompt_of(_data(living))
    blocks: list[dict[str, Any]] = [{"type": "section", "text": words.markup(head)}]
    if prompt:
        blocks.append({"type": "section", "text": words.verbatim(f"“{prompt}”")})
        lines = [*lines, f"“{words.escaped(words.shown(prompt, BRIEF_PROMPT))}”"]
    page = link_to(living.watch.id, look.base_url)
    links = [] if look.interactive or not page else [f"<{words.escaped(page)}|Open in relay>"]
    blocks.append({"type": "context", "elements": [words.markup(fact) for fact in (*facts, *links)]})
    blocks += _buttons(living, look)
    text = words.fitting((*lines, ", ".join(facts).replace("`", "")))
    return SlackMessage(text, blocks, _metadata(living))


def _buttons(living: Living, look: Look) -> list[dict[str, Any]]:
    if not look.interactive:
        return []
    watch_id = living.watch.id
    page = link_to(watch_id, look.base_url)
    buttons = []
    if living.watch.ended_at is None:
        confirm = {
            "title": _plain("Stop watching?"),
            "text": _plain(
                "relay asks no more about this task and sends no notification of its end. The task itself goes on."
            ),
            "confirm": _plain("Stop watching"),
            "deny": _plain("Go on"),
            "style": "danger",
        }
        buttons.append(_button(STOP, "Stop watching", value=watch_id, confirm=confirm))
    if page:
        buttons.append(_button(OPEN, "Open in relay", url=page))
    return [{"type": "actions", "elements": buttons}] if buttons else []


def _button(action: str, label: str, **more: Any) -> dict[str, Any]:
    return {"type": "button", "action_id": action, "text": _plain(label), **more}


def _plain(text: str) -> dict[str, Any]:
    return {"type": "plain_text", "text": text}


def reply_to(living: Living, content: SlackMessage, *, whole: bool) -> SlackMessage:
    """Write the reply in the thread, so that people are notified.

    Args:
        whole: whether it repeats everything, because the message itself cannot be edited.
    """
    text, blocks = (content.text, content.blocks) if whole else content.brief
    return SlackMessage(text, blocks, _metadata(living, REPLY))


def _data(living: Living) -> Data:
    """Return what is known of the task, in the shape of an event's `data`."""
    watch = living.watch
    about = {"watch_id": watch.id, "task_id": watch.task_id, "provider": watch.provider, "state": watch.state}
    return {**about, "upstream": _loaded(living.answer)}


def _end(living: Living) -> dict[str, Any]:
    """Return the event of the end, with what earlier answers said of the task if the last one says less."""
    event = words.table(_loaded(living.end))
    data = words.table(event.get("data"))
    upstream = {**words.table(_loaded(living.answer)), **words.table(data.get("upstream"))}
    return {**event, "data": {**data, "upstream": upstream}}


def _metadata(living: Living, kind: str = TASK) -> dict[str, Any]:
    """Return the metadata by which relay finds the message again, if a crash kept it from recording the post."""
    task = metadata_of(_data(living)) or {}
    return {"event_type": kind, "event_payload": {**task["event_payload"], "target_id": living.id}}


def is_of(target_id: str, kind: str, post: Data) -> bool:
    """Return whether a post, as Slack lists it, is the message of a target, or the reply to it."""
    metadata = words.table(post.get("metadata"))
    return (
        metadata.get("event_type") == kind and words.table(metadata.get("event_payload")).get("target_id") == target_id
    )


def _loaded(body: bytes | None) -> Any:
    try:
        return orjson.loads(body or b"{}")
    except orjson.JSONDecodeError:  # nested too deeply to be read
        return {}


def _queue(data: Data) -> tuple[int, str]:
    """Return the task's place in the provider's queue, and what the provider says about it."""
    upstream = words.table(data.get("upstream"))
    for path in POSITIONS:
        value: Any = upstream
        for name in path.split("."):
            value = words.table(value).get(name)
        if isinstance(value, int) and 0 < value < 10**9:
            return value, ""
    return 0, words.shown(words.first(upstream, *QUEUE_WORDS), 120)


def _clock(at: Millis) -> str:
    """Write a time of day, which Slack shows in the reader's own zone."""
    moment = datetime.fromtimestamp(at // 1000, UTC)
    return f"<!date^{at // 1000}^{{date_short_pretty}} {{time}}|{moment:%Y-%m-%d %H:%M} UTC>"
