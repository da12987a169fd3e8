"""Rows as the API shows them."""

from __future__ import annotations

import json
from typing import Any

import orjson

from relay.model import Attempt, Millis, rfc3339
from relay.store import replay, watches
from relay.web.addresses import Addresses
from relay.web.answers import AttemptOut, DeliveryOut, WatchOut


def _time(at: Millis | None) -> str | None:
    return None if at is None else rfc3339(at)


def _json(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def _as_it_came(text: str) -> Any:
    """Stored JSON, put into the answer unread: it may hold whole numbers of any size, and nest deep."""
    return orjson.Fragment(text)


def show_watch(found: watches.Found, addresses: Addresses) -> WatchOut:
    """A watch with its targets."""
    row = found.row
    ended = row.ended_at is not None
    return WatchOut(
        id=row.id,
        task_id=row.task_id,
        provider=row.provider,
        state=row.state,
        upstream_status=row.upstream_status,
        progress=row.progress,
        estimated_end=_time(row.estimated_end),
        result=_json(row.result),
        error=_json(row.error),
        metadata=_as_it_came(row.metadata),
        targets=[addresses.show(target) for target in found.targets],
        polls=row.polls,
        last_poll_at=_time(row.last_poll_at),
        next_poll_at=None if ended else _time(row.next_poll_at),
        expires_at=rfc3339(row.expires_at),
        created_at=rfc3339(row.created_at),
        ended_at=_time(row.ended_at),
    )


def show_delivery(found: replay.Found) -> DeliveryOut:
    """A delivery with its attempts."""
    row = found.row
    return DeliveryOut(
        id=row.id,
        webhook_id=row.webhook_id,
        watch_id=row.watch_id,
        target_id=row.target_id,
        event=row.event_type,
        host=row.host,
        state=row.state,
        reason=row.reason,
        attempts=[
            AttemptOut(
                number=one.number,
                at=rfc3339(one.at),
                latency_ms=one.latency_ms,
                verdict=one.verdict,
                status=one.status,
                error=one.error,
                note=one.note,
                answer=_text(one.answer),
                truncated=one.truncated,
            )
            for one in found.attempts
        ],
        next_attempt_at=_time(row.next_attempt_at),
        created_at=rfc3339(row.created_at),
        settled_at=_time(row.settled_at),
    )


def show_attempt(attempt: Attempt) -> AttemptOut:
    """An attempt that is not stored."""
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


def _text(answer: bytes) -> str:
    return answer.decode("utf-8", "replace")
