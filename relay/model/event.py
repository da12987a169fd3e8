"""Events: what a target is sent, and their bodies as Standard Webhooks has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, NamedTuple, NotRequired

import orjson
from typing_extensions import TypedDict

from relay.model.reading import TOO_LARGE, Problem, Result
from relay.model.times import Millis, rfc3339
from relay.model.watch import State

MAX_EVENT_BYTES = 256 * 1024
"""An event body longer than this leaves the upstream's answer out (contract §3)."""


_UPSTREAM = b',"upstream":'
_REPAIRED = b',"upstream_repaired":true}}'
_END = b"}}"


class EventType(StrEnum):
    """What a target can be notified of."""

    COMPLETED = "task.completed"
    FAILED = "task.failed"
    EXPIRED = "task.expired"
    LOST = "task.lost"
    PROGRESS = "task.progress"
    LATE = "task.late"
    TEST = "relay.test"
    DELIVERY_DEAD = "relay.delivery_dead"
    TARGET_UNWELL = "relay.target_unwell"
    UPSTREAM_REFUSED = "relay.upstream_refused"
    SUBMISSION_UNKNOWN = "relay.submission_unknown"


TERMINAL_EVENTS = {
    State.COMPLETED: EventType.COMPLETED,
    State.FAILED: EventType.FAILED,
    State.EXPIRED: EventType.EXPIRED,
    State.LOST: EventType.LOST,
}
"""The event of each end. `cancelled` has none: the app stopped the watch itself."""

ALERTS = (
    EventType.DELIVERY_DEAD,
    EventType.TARGET_UNWELL,
    EventType.UPSTREAM_REFUSED,
    EventType.SUBMISSION_UNKNOWN,
)
"""The events for the operator. No app can ask for them."""


class EventData(TypedDict):
    """The `data` of every event about a task."""

    watch_id: str
    task_id: str
    provider: str
    state: str
    progress: NotRequired[float | None]
    result: Result | None
    error: Problem | None
    metadata: Any
    upstream: NotRequired[Any]
    upstream_omitted: NotRequired[str]
    upstream_repaired: NotRequired[bool]


class AlertData(TypedDict):
    """The `data` of every event for the operator (`RELAY_ALERTS`).

    `state` is `unwell` when a trouble has begun, and `well` when it is over. `subject` names what is in trouble.
    """

    state: Literal["unwell", "well"]
    subject: str
    since: str
    message: str
    remedy: str
    detail: Any


class Upstream(NamedTuple):
    """An upstream's answer, as events repeat it: strict JSON, as it came or `repaired`."""

    body: bytes
    repaired: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """A fact to notify targets of: the same bytes to every target, on every attempt.

    Attributes:
        key: names the fact within its watch (`end`, `progress:3`), unique there.
        at: when it became so.
    """

    type: EventType
    key: str
    at: Millis
    body: bytes


def event(kind: EventType, key: str, at: Millis, data: EventData, upstream: Upstream | None) -> Event:
    """Return an event, the upstream's answer in it byte for byte unless that makes it too large or too deep."""
    if upstream is None:
        return Event(kind, key, at, event_body(kind, at, data))
    body = b""
    omitted = "too_large"
    if upstream.body != TOO_LARGE and len(upstream.body) <= MAX_EVENT_BYTES:
        repaired = {"upstream_repaired": True} if upstream.repaired else {}
        body = event_body(kind, at, {**data, "upstream": orjson.Fragment(upstream.body), **repaired})
        omitted = "too_large" if len(body) > MAX_EVENT_BYTES else "" if _is_readable(body) else "too_deep"
    if omitted:
        body = event_body(kind, at, {**data, "upstream_omitted": omitted})
    return Event(kind, key, at, body)


def repeats(body: bytes, answer: bytes) -> bool:
    """Return whether an event holds the upstream's answer byte for byte, so that `answer_in` finds it there."""
    return body.endswith(_UPSTREAM + answer + _END)


def answer_in(body: bytes) -> bytes | None:
    """Return the upstream's answer as it came, out of an event; None where the event holds none, or a repaired one."""
    if body.endswith(_REPAIRED):
        return None
    start = body.find(_UPSTREAM)
    # A key of this name may stand in the metadata, too. What stands before the right one is a whole event without it.
    while start >= 0 and not _is_readable(body[:start] + _END):
        start = body.find(_UPSTREAM, start + 1)
    return None if start < 0 else body[start + len(_UPSTREAM) : -len(_END)]


def _is_readable(body: bytes) -> bool:
    """Return whether a receiver can parse it: an answer that is nested nearly too deep is so once it is embedded."""
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return True


def event_body(kind: EventType, at: Millis, data: Mapping[str, Any]) -> bytes:
    """Return the body of an event, as Standard Webhooks has it."""
    return orjson.dumps({"type": kind, "timestamp": rfc3339(at), "data": data})
