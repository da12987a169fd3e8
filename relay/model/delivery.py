"""The states of a delivery, and the outcome of an attempt."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from relay.model.times import Millis


class DeliveryState(StrEnum):
    """The state of a delivery. A target that has no delivery yet is shown as `waiting`."""

    WAITING = "waiting"
    PENDING = "pending"
    HELD = "held"
    DELIVERED = "delivered"
    DEAD = "dead"


class Verdict(StrEnum):
    """What an attempt means for its delivery."""

    DELIVERED = "delivered"
    RETRY = "retry"
    GIVE_UP = "give_up"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of an attempt, as a channel reports it.

    Attributes:
        error: why it was not delivered, one of a closed set (`timeout`, `dns`, `http_503`, …).
        status: the HTTP status of the answer, if there was one.
        retry_after: seconds for which the receiver asks relay to wait.
        free: the attempt does not count against the schedule (Slack's rate limit).
        unsent: nothing was sent, because it is not its turn before `retry_after`; this is no attempt.
        ends_target: nothing more may be sent to this target (410, a revoked hook).
        note: a sentence for people: what is wrong and how to solve it.
        answer: the first bytes of the receiver's answer; `truncated` if there were more.
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
    """One try of a delivery, as it is stored."""

    number: int
    at: Millis
    latency_ms: int
    outcome: Outcome
