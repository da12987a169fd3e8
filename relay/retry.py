"""When to try a delivery again: pure, so that a table can prove it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime

from relay.model import Millis, Outcome, Verdict

MAX_RETRY_AFTER = 24 * 3600.0
"""Seconds of a receiver's `Retry-After` that are obeyed."""

JITTER = 0.1
"""The part of a delay that chance may add to it."""


def next_attempt(schedule: Sequence[float], counted: int, outcome: Outcome, chance: float) -> float | None:
    """Seconds until the next attempt, or None when there is none: delivered, given up, or the schedule is used up.

    Args:
        schedule: seconds before each attempt, counted from the one before; the first is that of the first attempt.
        counted: attempts so far that count, this one included unless it was free.
        chance: uniform in 0..1; jitter only adds.
    """
    if outcome.verdict is not Verdict.RETRY:
        return None
    asked = min(outcome.retry_after or 0.0, MAX_RETRY_AFTER)
    if outcome.free:
        return max(asked, 1.0) * (1 + JITTER * chance)
    if counted >= len(schedule):
        return None
    return max(schedule[counted], asked) * (1 + JITTER * chance)


def parse_retry_after(value: str | None, now: Millis) -> float | None:
    """The seconds that a `Retry-After` header asks for, given as seconds or as a date (RFC 9110 §10.2.3).

    None for a header that is absent or makes no sense.
    """
    if value is None:
        return None
    try:
        seconds = float(value) if value.strip().replace(".", "", 1).isdigit() else _until(value, now)
    except (ValueError, OverflowError):
        return None
    return max(0.0, seconds)


def _until(date: str, now: Millis) -> float:
    moment = parsedate_to_datetime(date)
    if moment.tzinfo is None:  # asctime's format names no zone, and means GMT
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp() - now / 1000
