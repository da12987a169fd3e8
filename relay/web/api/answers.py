"""What the API answers, as typed dictionaries; the OpenAPI document is made of these and of relay.web.api.schemas."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from relay.channels.targets import TargetOut
from relay.model.delivery import DeliveryState
from relay.model.reading import Problem, Result
from relay.model.submission import SubmissionState
from relay.model.watch import State
from relay.web.api.schemas import Time


class WatchOut(TypedDict):
    """A watch (docs/lifecycle.md)."""

    id: str
    task_id: str
    provider: str
    state: State
    upstream_status: str | None
    progress: float | None
    estimated_end: Time | None
    result: Result | None
    error: Problem | None
    metadata: dict[str, Any]
    targets: list[TargetOut]
    polls: int
    last_poll_at: Time | None
    next_poll_at: Time | None
    callback_url: str | None
    expires_at: Time
    created_at: Time
    ended_at: Time | None


class AttemptOut(TypedDict):
    """One try of a delivery."""

    number: int
    at: Time
    latency_ms: int
    verdict: Literal["delivered", "retry", "give_up"]
    status: int | None
    error: str | None
    note: str | None
    answer: str
    truncated: bool


class DeliveryOut(TypedDict):
    """An event on its way to one target."""

    id: str
    webhook_id: str
    watch_id: str
    target_id: str
    event: str
    host: str
    state: DeliveryState
    reason: str | None
    attempts: list[AttemptOut]
    attempt_count: int
    next_attempt_at: Time | None
    created_at: Time
    settled_at: Time | None


class ErrorItem(TypedDict):
    """Where in the request something is wrong, and what."""

    pointer: str
    detail: str


class ProblemOut(TypedDict):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: NotRequired[list[ErrorItem]]


class BatchItem(TypedDict):
    """What became of one registration of a batch: `watch`, or `error`."""

    status: int
    watch: NotRequired[WatchOut]
    error: NotRequired[ProblemOut]


class BatchOut(TypedDict):
    """One item per registration, in order."""

    data: list[BatchItem]


class WatchPage(TypedDict):
    """Watches, newest first."""

    data: list[WatchOut]
    next_cursor: str | None


class DeliveryPage(TypedDict):
    """Deliveries, newest first."""

    data: list[DeliveryOut]
    next_cursor: str | None


class SubmissionOut(TypedDict):
    """A create call that passed through relay, and what became of it."""

    id: str
    provider: str
    path: str
    state: SubmissionState
    status: int | None
    task_id: str | None
    watch_id: str | None
    created_at: Time
    answered_at: Time | None


class SubmissionPage(TypedDict):
    """Submissions, newest first."""

    data: list[SubmissionOut]
    next_cursor: str | None


class Retried(TypedDict):
    """How many deliveries are sent again."""

    retried: int


class TestOut(TypedDict):
    """What came of a `relay.test` event."""

    webhook_id: str
    delivered: bool
    attempt: AttemptOut


class ProviderOut(TypedDict):
    """An upstream that this deployment can watch."""

    name: str
    title: str
    default: bool
    configured: bool
    statuses: dict[str, list[str]]


class Providers(TypedDict):
    """What this deployment can watch."""

    data: list[ProviderOut]
