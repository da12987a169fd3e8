"""A create call of an app, as it comes and as it is answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relay.channels.watch_request import WatchRequest
from relay.errors import (
    Overloaded,
    RelayError,
    SubmissionTimedOut,
    SubmissionUnanswered,
    UpstreamRedirected,
    UpstreamUnavailable,
)
from relay.model.submission import SubmissionState
from relay.providers.creating import CreateAnswer, CreateOutcome, CreateRequest
from relay.providers.provider import Provider

COME_AGAIN = 1.0
"""Seconds after which a caller may ask again."""


@dataclass(frozen=True, slots=True)
class RequestKey:
    """An Idempotency-Key, and the request that it came with: digests of both."""

    key: bytes
    request: bytes


@dataclass(frozen=True, slots=True)
class CreateCall:
    """A create call of an app, judged by nobody yet.

    Attributes:
        path: as it was asked for, without the query.
        watch: what is wanted of the watch; its `task_id` comes later.
        watch_id: the id that a new watch will have: it is known before the call, so that the call can carry it.
        origins: for each target, what of the request names it.
    """

    provider: Provider
    request: CreateRequest
    path: str
    watch: WatchRequest
    watch_id: str
    origins: Sequence[str]
    key: RequestKey | None
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class Submitted:
    """What goes back to the caller.

    Attributes:
        answer: of the upstream; where there is none, `error` says why.
        watch_id: of the watch that is committed, if there is one.
        replayed: the answer was given before.
        registered: False where a task was created that could not be registered.
        unknown: nobody knows whether the upstream took the call.
    """

    answer: CreateAnswer | None
    error: RelayError | None = None
    watch_id: str | None = None
    replayed: bool = False
    registered: bool = True
    unknown: bool = False


def error_of(outcome: CreateOutcome) -> RelayError | None:
    """Return what is said where the upstream's own answer does not go back."""
    if outcome.answer is not None:
        return None
    if outcome.redirected:
        return UpstreamRedirected(outcome.why)
    if outcome.state is SubmissionState.UNKNOWN:
        return SubmissionTimedOut(outcome.why) if outcome.timed_out else SubmissionUnanswered(outcome.why)
    if outcome.crowded:
        return Overloaded(outcome.why, retry_after=COME_AGAIN)
    return UpstreamUnavailable(outcome.why)
