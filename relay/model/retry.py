"""When to retry a delivery. The functions are pure, so that a test can check them with a table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime

from relay.model.delivery import Outcome, Verdict
from relay.model.times import Millis

MAX_RETRY_AFTER = 24 * 3600.0
"""The longest `Retry-After` of a receiver that relay obeys, in seconds."""

JITTER = 0.1
"""The share of a delay that is added at random at most."""


def next_attempt(schedule: Sequence[float], counted: int, outcome: Outcome, chance: float) -> float | None:
    """Return the seconds until the next attempt.

    Return None when there is none, because the delivery succeeded, was given up, or has used up its schedule.

    Args:
        schedule: the seconds to wait before each attempt, the first one included.
        counted: how many attempts count so far, this one included unless it was free.
        chance: a random number in 0..1 for the jitter, which only adds.
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
    """Return the seconds that a `Retry-After` header asks for, in seconds or as a date (RFC 9110 §10.2.3).

    Return `MAX_RETRY_AFTER` for any longer time, and None for a header that is absent or not valid.
    """
    if value is None:
        return None
    try:
        seconds = float(value) if value.strip().replace(".", "", 1).isdigit() else _until(value, now)
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, seconds), MAX_RETRY_AFTER)


def _until(date: str, now: Millis) -> float:
    moment = parsedate_to_datetime(date)
    if moment.tzinfo is None:  # the format of asctime, which has no zone and means GMT
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp() - now / 1000
