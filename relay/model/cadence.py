"""When to poll a task. The functions are pure, so that a test can check them with a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from relay.model.reading import Reading
from relay.model.times import Millis
from relay.model.watch import Watch

MAX_BACKOFF = 8
"""The factor by which misses stretch the interval at most."""

SLOTS = 4
"""Moments in an interval at which tasks come due that share queries."""

SHORTEST_SLOT = 0.5
"""Seconds between two such moments, at least."""

MAX_RETRY_AFTER = 3600.0
"""The longest `Retry-After` of an upstream that relay obeys, in seconds."""


@dataclass(frozen=True, slots=True)
class Cadence:
    """How often an upstream is queried about a task. Times are in seconds.

    Attributes:
        first: from the registration to the first query. Queries are spread over the second half of this time, so that
            a batch of registrations does not cause a burst.
        steady: the interval in the end.
        growth: the factor from one interval to the next, from `first` until `steady`.
        floor: the shortest interval, jitter included.
        jitter: the share of an interval, 0 to 1, that is taken off at random at most.
        expires_in: from the registration to the deadline, where that says nothing; None for the configured time.
        learn: ask when the end is likely, as far as that was learned, with this cadence as the budget.
    """

    first: float = 5.0
    steady: float = 15.0
    growth: float = 1.25
    floor: float = 1.0
    jitter: float = 0.1
    expires_in: float | None = None
    learn: bool = True

    def __post_init__(self) -> None:
        seconds = (self.first, self.steady, self.floor)
        if not all(0 <= s <= 86400 for s in seconds) or self.steady == 0:
            raise ValueError("first, steady and floor must be 0 to 86400 seconds, steady more than 0")
        if not (0 < self.growth <= 10 and 0 <= self.jitter <= 1):
            raise ValueError("growth must be more than 0 and at most 10, jitter 0 to 1")
        if self.expires_in is not None and not self.expires_in >= 1:
            raise ValueError("expires_in must be at least 1 second")


class Timing(Protocol):
    """What was learned of the ends of tasks, made into times to ask. Times are seconds since the registration."""

    def first(self, chance: float) -> float:
        """Return when to ask first."""
        ...

    def following(self, age: float, chance: float) -> float:
        """Return when to ask again after a query at `age`."""
        ...


def first_poll(cadence: Cadence, now: Millis, chance: float | None, plan: Timing | None = None) -> Millis:
    """Return when to query a task that is registered `now` for the first time.

    Args:
        chance: a random number in 0..1, which spreads the queries; None for tasks that are to come due together.
        plan: what was learned of such tasks. Those that come due together follow none.
    """
    if chance is None:
        return _together(now + round(cadence.first * 750), now + round(cadence.first * 500), cadence.first)
    seconds = cadence.first * (1 - chance / 2) if plan is None else plan.first(chance)
    return now + round(seconds * 1000)


def _together(due: Millis, earliest: Millis, interval: float) -> Millis:
    """Return the moment near one at which all tasks with this interval come due, so that they can share queries."""
    step = round(max(interval / SLOTS, SHORTEST_SLOT) * 1000)
    slot = (due + step // 2) // step * step
    return slot if slot >= earliest else slot + step


def next_poll(
    cadence: Cadence,
    watch: Watch,
    reading: Reading,
    asked_at: Millis,
    now: Millis,
    chance: float | None,
    plan: Timing | None = None,
) -> Millis:
    """Return when to query a task again after `reading`.

    An interval begins when the query was sent, so that slow answers do not add to it. Misses stretch it, a wait that
    the upstream asks for postpones its end, and nothing extends the deadline of the watch.

    Args:
        chance: a random number in 0..1 for the jitter; None for tasks that are to come due together.
        plan: what was learned of such tasks; it says when, instead of the cadence. Those that come due together follow
            none.
    """
    if plan is None or chance is None:
        interval = _interval(cadence, watch.polls, chance)
    else:
        age = max(0.0, (asked_at - watch.created_at) / 1000)
        interval = max(cadence.floor, plan.following(age, chance) - age)
    interval *= min(MAX_BACKOFF, 2.0 ** min(max(0, watch.misses - 1), 10))
    due = asked_at + round(interval * 1000)
    if chance is None:
        due = _together(due, asked_at + round(cadence.floor * 1000), interval)
    due = max(now, due)
    if reading.retry_after is not None:
        due = max(due, now + round(min(reading.retry_after, MAX_RETRY_AFTER) * 1000))
    return max(now, min(due, watch.expires_at))


def _interval(cadence: Cadence, polls: int, chance: float | None) -> float:
    """Return the seconds to the next query by the file's own numbers."""
    # The exponent is limited, because growth ** 100_000 overflows. The steady interval is reached long before.
    grown = cadence.first * cadence.growth ** float(min(polls, 64))
    interval = min(cadence.steady, grown) if cadence.growth > 1 else cadence.steady
    return max(cadence.floor, interval * (1 - cadence.jitter * (chance or 0.0)))
