"""relay's nouns, and the one decision that everything hangs on: what a reading means for a watch.

Nothing here does I/O or looks at a clock. Points in time are whole milliseconds since the epoch (`Millis`), durations
are seconds. `docs/lifecycle.md` draws the state machine that `transition` is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NotRequired

import orjson
from typing_extensions import TypedDict

Millis = int

MAX_EVENT_BYTES = 256 * 1024
"""An event body longer than this leaves the upstream's answer out (contract §3)."""


def rfc3339(at: Millis) -> str:
    """`at` as RFC 3339 in UTC with milliseconds, `2025-10-06T15:14:11.908Z`."""
    moment = datetime.fromtimestamp(at // 1000, UTC).replace(microsecond=at % 1000 * 1000, tzinfo=None)
    return moment.isoformat(timespec="milliseconds") + "Z"


class State(StrEnum):
    """Where a watch stands. Only `watching` is ever left."""

    WATCHING = "watching"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    LOST = "lost"
    CANCELLED = "cancelled"


class EventType(StrEnum):
    """What can be told to a target."""

    COMPLETED = "task.completed"
    FAILED = "task.failed"
    EXPIRED = "task.expired"
    LOST = "task.lost"
    PROGRESS = "task.progress"
    TEST = "relay.test"


TERMINAL_EVENTS = {
    State.COMPLETED: EventType.COMPLETED,
    State.FAILED: EventType.FAILED,
    State.EXPIRED: EventType.EXPIRED,
    State.LOST: EventType.LOST,
}
"""The event that tells each end. `cancelled` has none: whoever stopped the watch knows."""


class DeliveryState(StrEnum):
    """Where a delivery stands; a target without one shows as `waiting`."""

    WAITING = "waiting"
    PENDING = "pending"
    HELD = "held"
    DELIVERED = "delivered"
    DEAD = "dead"


class Kind(StrEnum):
    """What one query of the upstream came to."""

    PENDING = "pending"
    COMPLETED = "completed"
    FAILED = "failed"
    UNKNOWN_TASK = "unknown_task"
    NOT_UNDERSTOOD = "not_understood"
    NOT_ANSWERED = "not_answered"


class Problem(TypedDict):
    """The `error` of a watch: a code to branch on and a sentence to read."""

    code: str
    message: str


class Result(TypedDict):
    """The `result` of a completed task, every field null when the upstream does not say."""

    url: str | None
    thumbnail_url: str | None
    preview_url: str | None
    width: int | None
    height: int | None
    enhanced_prompt: str | None
    expires_at: str | None


@dataclass(frozen=True, slots=True)
class Reading:
    """What one query said.

    Attributes:
        status: the upstream's own word, in lower case; None when there was none.
        progress: 0 to 1.
        error: for a failure its reason; for an answer that tells nothing about the task, why it does not.
        retry_after: seconds that the upstream asked to be left alone.
        limited: the upstream refused because of how much is asked with this key, so the whole key must pause.
        body: the answer as it came, when it was a JSON object about the task; what events and the mirror repeat.
        aside: the same, when it tells nothing about the task; repeated by the event of an end, and where nothing was
            said of the task.
        http_status: what `body` or `aside` came with.
    """

    kind: Kind
    status: str | None = None
    progress: float | None = None
    result: Result | None = None
    error: Problem | None = None
    retry_after: float | None = None
    limited: bool = False
    body: bytes | None = None
    aside: bytes | None = None
    http_status: int = 200


@dataclass(frozen=True, slots=True)
class Caution:
    """How often an upstream must repeat itself before relay believes it (from the provider's file).

    Attributes:
        lost_after: unknown-id answers in a row before a task counts as lost, and
        lost_grace: the seconds that must have passed since the first of them and since the registration.
        bare_after: "completed" answers without a result link before that is told as it is.
    """

    lost_after: int = 5
    lost_grace: float = 120.0
    bare_after: int = 4

    def __post_init__(self) -> None:
        if self.lost_after < 1 or self.bare_after < 1 or not 0 <= self.lost_grace <= 30 * 86400:
            raise ValueError("counts must be at least 1, lost_grace 0 to 30 days in seconds")


@dataclass(frozen=True, slots=True)
class Watch:
    """What a decision needs to know about a watch.

    Attributes:
        misses: answers in a row that told nothing about the task.
        unknowns, unknown_since: unknown-id answers in a row, and when they began.
        bares: answers so far that said "completed" without a link.
    """

    created_at: Millis
    expires_at: Millis
    state: State = State.WATCHING
    upstream_status: str | None = None
    progress: float | None = None
    result: Result | None = None
    error: Problem | None = None
    polls: int = 0
    misses: int = 0
    unknowns: int = 0
    unknown_since: Millis | None = None
    bares: int = 0
    ended_at: Millis | None = None


def transition(watch: Watch, reading: Reading, now: Millis, caution: Caution) -> Watch:
    """What the watch becomes after a reading. Pure, and the only place where a task ends by an answer.

    Only an explicit success or failure ends a task at once. An unknown id and a success without a link must be
    repeated; any other answer never ends it, except that the deadline has passed. An ended watch stays as it is.
    """
    if watch.state is not State.WATCHING:
        return watch
    tells_nothing = reading.kind in (Kind.NOT_ANSWERED, Kind.NOT_UNDERSTOOD)
    unknowns, unknown_since = 0, None
    if reading.kind is Kind.UNKNOWN_TASK:
        unknowns, unknown_since = watch.unknowns + 1, watch.unknown_since or now
    elif tells_nothing:
        unknowns, unknown_since = watch.unknowns, watch.unknown_since
    heard = replace(
        watch,
        polls=watch.polls + 1,
        upstream_status=reading.status or watch.upstream_status,
        progress=max((p for p in (watch.progress, reading.progress) if p is not None), default=None),
        error=reading.error,
        misses=watch.misses + 1 if tells_nothing else 0,
        unknowns=unknowns,
        unknown_since=unknown_since,
    )
    if reading.kind is Kind.FAILED:
        return _ended(heard, State.FAILED, now)
    if reading.kind is Kind.COMPLETED:
        heard = replace(heard, result=reading.result, error=None)
        if (reading.result and reading.result["url"]) or watch.bares + 1 >= caution.bare_after:
            return _ended(replace(heard, progress=1.0), State.COMPLETED, now)
        heard = replace(heard, bares=watch.bares + 1)
    if reading.kind is Kind.UNKNOWN_TASK and heard.unknowns >= caution.lost_after and heard.unknown_since is not None:
        quiet_since = max(heard.unknown_since, watch.created_at)
        if now - quiet_since >= caution.lost_grace * 1000:
            return _ended(heard, State.LOST, now)
    return expire(heard, now)


def says_new(before: Watch, after: Watch) -> bool:
    """Whether a reading changed what one would tell of a watch: its state, the upstream's word, a whole percent."""
    percent = [None if one.progress is None else round(one.progress * 100) for one in (before, after)]
    return (before.state, before.upstream_status, percent[0]) != (after.state, after.upstream_status, percent[1])


def expire(watch: Watch, now: Millis) -> Watch:
    """The watch, `expired` if its deadline has passed, with the last thing that the upstream said as its error."""
    if watch.state is not State.WATCHING or now < watch.expires_at:
        return watch
    said = watch.error or Problem(
        code="deadline_passed",
        message=f"the deadline passed; the upstream last said '{watch.upstream_status}'"
        if watch.upstream_status
        else "the deadline passed before the upstream said anything about the task",
    )
    return _ended(replace(watch, error=said), State.EXPIRED, now)


def _ended(watch: Watch, state: State, now: Millis) -> Watch:
    # A success that was not believed has left a result, which is that of no other end.
    result = watch.result if state is State.COMPLETED else None
    return replace(watch, state=state, result=result, ended_at=now)


def estimated_end(watch: Watch, now: Millis) -> Millis | None:
    """When the task should end if it goes on as it went, or None when too little is known to say."""
    if watch.state is not State.WATCHING or watch.progress is None or not 0.05 <= watch.progress < 1:
        return None
    return now + round((now - watch.created_at) * (1 - watch.progress) / watch.progress)


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


@dataclass(frozen=True, slots=True)
class Event:
    """A fact that is told: the same bytes to every target, on every attempt.

    Attributes:
        key: names the fact within its watch (`end`, `progress:3`), unique there.
        at: when it became so.
    """

    type: EventType
    key: str
    at: Millis
    body: bytes


def event(kind: EventType, key: str, at: Millis, data: EventData, upstream: bytes | None) -> Event:
    """An event with its body, the upstream's answer in it byte for byte unless that makes it too large or too deep."""
    if upstream is None:
        return Event(kind, key, at, event_body(kind, at, data))
    body = event_body(kind, at, {**data, "upstream": orjson.Fragment(upstream)})
    omitted = "too_large" if len(body) > MAX_EVENT_BYTES else None if _is_readable(body) else "too_deep"
    if omitted:
        body = event_body(kind, at, {**data, "upstream_omitted": omitted})
    return Event(kind, key, at, body)


def _is_readable(body: bytes) -> bool:
    """Whether a receiver can parse it: an answer that is nested nearly too deep is so once it is embedded."""
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return True


def event_body(kind: EventType, at: Millis, data: Mapping[str, Any]) -> bytes:
    """The body of an event, as Standard Webhooks has it."""
    return orjson.dumps({"type": kind, "timestamp": rfc3339(at), "data": data})


class Verdict(StrEnum):
    """What an attempt means for its delivery."""

    DELIVERED = "delivered"
    RETRY = "retry"
    GIVE_UP = "give_up"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attempt came to, as a channel reports it.

    Attributes:
        error: why it was not delivered, one of a closed set (`timeout`, `dns`, `http_503`, …).
        status: the HTTP status of the answer, if there was one.
        retry_after: seconds that the receiver asked for.
        free: this attempt does not count against the schedule (Slack's rate limit).
        unsent: it is not its turn before `retry_after`; nothing was sent, so that this is no attempt.
        ends_target: nothing more may be sent to this target (410, a revoked hook).
        note: a sentence for people: what is wrong and what mends it.
        answer: the first bytes of what the receiver said, `truncated` if it said more.
    """

    verdict: Verdict
    error: str | None = None
    status: int | None = None
    retry_after: float | None = None
    free: bool = False
    unsent: bool = False
    ends_target: bool = False
    note: str | None = None
    answer: bytes = b""
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of a delivery, as it is kept."""

    number: int
    at: Millis
    latency_ms: int
    outcome: Outcome
