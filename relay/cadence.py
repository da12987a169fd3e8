"""When to poll next: pure, so that a table can prove it."""

from __future__ import annotations

from dataclasses import dataclass

from relay.model import Kind, Millis, Reading, Watch

MAX_BACKOFF = 8
"""Answers that tell nothing stretch the interval at most this many times."""

MAX_RETRY_AFTER = 3600.0
"""Seconds of an upstream's `Retry-After` that are believed."""


@dataclass(frozen=True, slots=True)
class Cadence:
    """How often an upstream likes to be asked, in seconds.

    Attributes:
        first: from the registration to the first query (spread over its second half, so that a batch does not
            arrive as one burst).
        growth: what each interval is of the one before, from `first` on, until
        steady: the interval it settles on.
        floor: no interval is shorter, jitter included.
        jitter: the part of an interval that chance may take off it, 0 to 1.
    """

    first: float = 5.0
    steady: float = 15.0
    growth: float = 1.25
    floor: float = 1.0
    jitter: float = 0.1

    def __post_init__(self) -> None:
        seconds = (self.first, self.steady, self.floor)
        if not all(0 <= s <= 86400 for s in seconds) or self.steady == 0:
            raise ValueError("first, steady and floor must be 0 to 86400 seconds, steady more than 0")
        if not (0 < self.growth <= 10 and 0 <= self.jitter <= 1):
            raise ValueError("growth must be more than 0 and at most 10, jitter 0 to 1")


def first_poll(cadence: Cadence, now: Millis, chance: float) -> Millis:
    """When to ask for the first time about a task registered `now`; `chance` is uniform in 0..1."""
    return now + round(cadence.first * (1 - chance / 2) * 1000)


def next_poll(cadence: Cadence, watch: Watch, reading: Reading, asked_at: Millis, now: Millis, chance: float) -> Millis:
    """When to ask again after `reading`; `chance` is uniform in 0..1.

    Intervals run from the time of asking, so that a slow upstream is not asked more slowly than it asks for itself to
    be. Answers that tell nothing stretch the interval, `Retry-After` postpones it, and nothing extends the deadline.
    """
    # The exponent is bounded because growth ** 100_000 overflows; by then the steady interval is long reached.
    grown = cadence.first * cadence.growth ** float(min(watch.polls, 64))
    interval = min(cadence.steady, grown) if cadence.growth > 1 else cadence.steady
    interval = max(cadence.floor, interval * (1 - cadence.jitter * chance))
    interval *= min(MAX_BACKOFF, 2.0 ** min(max(0, watch.misses - 1), 10))
    due = max(now, asked_at + round(interval * 1000))
    if reading.kind is Kind.NOT_ANSWERED and reading.retry_after is not None:
        due = max(due, now + round(min(reading.retry_after, MAX_RETRY_AFTER) * 1000))
    return max(now, min(due, watch.expires_at))
