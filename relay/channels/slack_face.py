"""What a living message shows: where the task stands, how it ended, who did what; and the buttons below. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import orjson

from relay.channels import slack_text as words
from relay.channels.slack_message import (
    BRIEF_PROMPT,
    SlackMessage,
    facts_of,
    link_to,
    metadata_of,
    prompt_of,
    span,
    terminal_message,
)
from relay.channels.slack_text import Data
from relay.model import Millis
from relay.store.messages import Living

STOP, AGAIN, OPEN = "relay_stop", "relay_again", "relay_open"
"""The buttons, by their `action_id`."""

CELLS = 20
"""Characters of the progress bar."""

SILENT = 3
"""Answers in a row that told nothing, after which the message says so."""

HOSTS = 3
"""Receivers that are named of those that could not be reached."""

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
    """What a deployment can offer below a message.

    Attributes:
        base_url: where people reach relay; empty if they cannot.
        interactive: whether relay hears it when somebody presses a button.
    """

    base_url: str = ""
    interactive: bool = False


def face(living: Living, now: Millis, look: Look) -> SlackMessage:
    """The message as it should be now: rendering, stopped, or as the task has ended."""
    if living.end is not None:
        return _ended(living, look)
    return _watching(living, now, look) if living.watch.ended_at is None else _stopped(living, look)


def _watching(living: Living, now: Millis, look: Look) -> SlackMessage:
    watch, data = living.watch, _data(living)
    position, queue = _queue(data)
    waiting = watch.progress is None and (position or (watch.upstream_status or "") in QUEUED)
    headline = "Waiting in the provider's queue" if waiting else "Rendering"
    left = (watch.estimated_end or 0) - now
    lines = []
    if watch.progress is not None:
        percent = min(100, max(0, int(watch.progress * 100)))
        done = percent * CELLS // 100
        about = f" · about {span(round(left / 1000))} left" if left > 0 else ""
        bar, spoken = f"{'█' * done}{'░' * (CELLS - done)}  *{percent}%*{about}", f"{percent}%{about}"
    else:
        place = f" · position {position} in the queue" if position else ""
        bar = spoken = f"{span((now - watch.created_at) // 1000)} so far{place}"
    if queue:
        lines.append(words.escaped(queue))
    if watch.misses >= SILENT:
        lines.append(f":warning: The provider did not answer the last {watch.misses} times; relay goes on asking.")
    elif not watch.polls:
        lines.append("The provider has not been asked yet.")
    head = "\n".join([f":hourglass_flowing_sand: *{headline}*", bar, *lines])
    facts = [*facts_of(data, None), f"watched since {_clock(watch.created_at)}"]
    said = [f"{headline}: {spoken}", *lines]
    return _message(living, look, head, said, facts, stoppable=True)


def _stopped(living: Living, look: Look) -> SlackMessage:
    by = living.row.said or "The app that registered it does not want to know its end any more."
    then = "The render itself may go on at the provider."
    head = f":black_square_for_stop: *No longer watched*\n{by} {then}"
    facts = [*facts_of(_data(living), None), f"stopped {_clock(living.watch.ended_at)}"]
    return _message(living, look, head, ["No longer watched", f"{by} {then}"], facts, stoppable=False)


def _ended(living: Living, look: Look) -> SlackMessage:
    content = terminal_message(_told(living), "" if look.interactive else look.base_url)
    blocks, lines = list(content.blocks), [content.text]
    if living.undelivered:
        hosts = [f"`{words.escaped(words.shown(host, 64))}`" for host in living.undelivered[:HOSTS]]
        more = f" and {len(living.undelivered) - HOSTS} more" if len(living.undelivered) > HOSTS else ""
        which = "The webhook at" if len(living.undelivered) == 1 else "The webhooks at"
        warning = f"{which} {', '.join(hosts)}{more} could not be told, and relay has given up."
        # The button stands beside it, so that nobody takes it for sending the task again.
        again = {"accessory": _button(AGAIN, "Send again", value=living.watch.id)} if look.interactive else {}
        blocks.append({"type": "section", "text": words.markup(f":warning: {warning}"), **again})
        lines.append(warning.replace("`", ""))
    if living.row.said:
        blocks.append({"type": "context", "elements": [words.markup(living.row.said)]})
        lines.append(living.row.said)
    blocks += _buttons(living, look, stoppable=False)
    return replace(content, text=words.fitting(lines), blocks=blocks, metadata=_metadata(living))


def _message(
    living: Living, look: Look, head: str, said: list[str], facts: list[str], *, stoppable: bool
) -> SlackMessage:
    """Head, prompt, facts and buttons."""
    prompt = prompt_of(_data(living))
    blocks: list[dict[str, Any]] = [{"type": "section", "text": words.markup(head)}]
    which = []
    if prompt:
        blocks.append({"type": "section", "text": words.verbatim(f"“{prompt}”")})
        which = [f"“{words.escaped(words.shown(prompt, BRIEF_PROMPT))}”"]
    page = link_to(living.watch.id, look.base_url)
    links = [] if look.interactive or not page else [f"<{words.escaped(page)}|Open in relay>"]
    blocks.append({"type": "context", "elements": [words.markup(fact) for fact in (*facts, *links)]})
    blocks += _buttons(living, look, stoppable=stoppable)
    text = words.fitting((*said, *which, ", ".join(facts).replace("`", "")))
    return SlackMessage(text, blocks, _metadata(living))


def _buttons(living: Living, look: Look, *, stoppable: bool) -> list[dict[str, Any]]:
    if not look.interactive:
        return []
    watch_id, page = living.watch.id, link_to(living.watch.id, look.base_url)
    buttons = []
    if stoppable:
        confirm = {
            "title": _plain("Stop watching?"),
            "text": _plain(
                "relay asks no more about this task, and nobody is told its end. The render itself goes on."
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
    """What is said in the thread, so that people are notified: what matters, or all if the message stays as it is."""
    text, blocks = (content.text, content.blocks) if whole else content.brief
    return SlackMessage(text, blocks, _metadata(living, "relay_reply"))


def _data(living: Living) -> Data:
    """What is known of the task, in the shape of an event's `data`."""
    watch = living.watch
    about = {"watch_id": watch.id, "task_id": watch.task_id, "provider": watch.provider, "state": watch.state}
    return {**about, "upstream": _loaded(living.answer)}


def _told(living: Living) -> dict[str, Any]:
    """The event of the end; of the task it also knows what was said before, if the last answer says less."""
    event = words.table(_loaded(living.end))
    data = words.table(event.get("data"))
    upstream = {**words.table(_loaded(living.answer)), **words.table(data.get("upstream"))}
    return {**event, "data": {**data, "upstream": upstream}}


def _metadata(living: Living, kind: str = "relay_task") -> dict[str, Any]:
    """What it is found by when nobody wrote down that it was posted."""
    found = metadata_of(_data(living)) or {}
    return {"event_type": kind, "event_payload": {**found["event_payload"], "target_id": living.id}}


def _loaded(body: bytes | None) -> Any:
    try:
        return orjson.loads(body or b"{}")
    except orjson.JSONDecodeError:  # nested too deeply to be read
        return {}


def _queue(data: Data) -> tuple[int, str]:
    """The task's place in the provider's queue, and what the provider says of it."""
    upstream = words.table(data.get("upstream"))
    for path in POSITIONS:
        value: Any = upstream
        for name in path.split("."):
            value = words.table(value).get(name)
        if isinstance(value, int) and 0 < value < 10**9:
            return value, ""
    return 0, words.shown(words.first(upstream, *QUEUE_WORDS), 120)


def _clock(at: Millis) -> str:
    """A time of day, in the reader's own zone."""
    moment = datetime.fromtimestamp(at // 1000, UTC)
    return f"<!date^{at // 1000}^{{date_short_pretty}} {{time}}|{moment:%Y-%m-%d %H:%M} UTC>"
