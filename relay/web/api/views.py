"""Rows as the API shows them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import orjson

from relay.channels.targets import TargetOut
from relay.model.delivery import Attempt
from relay.model.reading import stored_result
from relay.model.submission import SubmissionState
from relay.model.times import Millis, rfc3339
from relay.store.deliveries import StoredDelivery
from relay.store.schema import AnyRow
from relay.store.watches import StoredWatch
from relay.web.api.answers import AttemptOut, DeliveryOut, SubmissionOut, WatchOut
from relay.web.context import Context


def show_watch(watch: StoredWatch, targets: Sequence[TargetOut], callback_url: str | None) -> WatchOut:
    """Return a watch and its targets as its app sees them."""
    row = watch.row
    return WatchOut(
        id=row.id,
        task_id=row.task_id,
        provider=row.provider,
        state=row.state,
        upstream_status=row.upstream_status,
        progress=row.progress,
        estimated_end=_time(row.estimated_end),
        result=None if row.result is None else stored_result(_json(row.result)),
        error=_json(row.error),
        metadata=_unread(row.metadata),
        targets=list(targets),
        polls=row.polls,
        last_poll_at=_time(row.last_poll_at),
        next_poll_at=None if row.ended_at is not None else _time(row.next_poll_at),
        callback_url=callback_url,
        expires_at=rfc3339(row.expires_at),
        created_at=rfc3339(row.created_at),
        ended_at=_time(row.ended_at),
    )


def callback_url(context: Context, watch: StoredWatch) -> str | None:
    """Return where an upstream says that there is news of a watch's task; None if it cannot reach this deployment."""
    return context.callback_tokens.url(watch.row.id)


def show_delivery(delivery: StoredDelivery) -> DeliveryOut:
    """Return a delivery and its last attempts as its app sees them."""
    row = delivery.row
    return DeliveryOut(
        id=row.id,
        webhook_id=row.webhook_id,
        watch_id=row.watch_id,
        target_id=row.target_id,
        event=row.event_type,
        host=row.host,
        state=row.state,
        reason=row.reason,
        attempts=[_stored_attempt(attempt) for attempt in delivery.attempts],
        attempt_count=row.attempts,
        next_attempt_at=_time(row.next_attempt_at),
        created_at=rfc3339(row.created_at),
        settled_at=_time(row.settled_at),
    )


def _stored_attempt(row: AnyRow) -> AttemptOut:
    return AttemptOut(
        number=row.number,
        at=rfc3339(row.at),
        latency_ms=row.latency_ms,
        verdict=row.verdict,
        status=row.status,
        error=row.error,
        note=row.note,
        answer=_text(row.answer),
        truncated=row.truncated,
    )


def show_attempt(attempt: Attempt) -> AttemptOut:
    """Return an attempt that is not stored as the app sees it."""
    outcome = attempt.outcome
    return AttemptOut(
        number=attempt.number,
        at=rfc3339(attempt.at),
        latency_ms=attempt.latency_ms,
        verdict=outcome.verdict.value,
        status=outcome.status,
        error=outcome.error,
        note=outcome.note,
        answer=_text(outcome.answer),
        truncated=outcome.truncated,
    )


def show_submission(row: AnyRow) -> SubmissionOut:
    """Return a submission as its app sees it."""
    return SubmissionOut(
        id=row.id,
        provider=row.provider,
        path=row.path,
        state=SubmissionState(row.state),
        status=row.status,
        task_id=row.task_id,
        watch_id=row.watch_id,
        created_at=rfc3339(row.created_at),
        answered_at=_time(row.answered_at),
    )


def _time(at: Millis | None) -> str | None:
    return None if at is None else rfc3339(at)


def _json(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def _unread(text: str) -> Any:
    """Put stored JSON into the answer without reading it: it may hold whole numbers of any size, and nest deep."""
    return orjson.Fragment(text)


def _text(answer: bytes) -> str:
    return answer.decode("utf-8", "replace")
