"""What is to be expected of a watch under way, and what it has taught when it is over. Nothing here does I/O."""

from __future__ import annotations

from relay.model.cadence import Cadence
from relay.model.experience import Lesson, Mark
from relay.model.plan import Plan, fixed_polls_until
from relay.model.reading import Kind, Reading
from relay.model.times import Millis
from relay.model.watch import State, Watch, estimated_end

SURE = 0.6
"""An end is foretold if half of the tasks end within this part of the time that is left, or within `CLOSE`."""

CLOSE = 15.0
"""Seconds within which half of the tasks end where that is close enough anyway."""


def mark_of(watch: Watch, progress_at: Millis | None) -> Mark | None:
    """Return the newest progress of a watch, and when it came up."""
    if watch.progress is None or progress_at is None:
        return None
    return Mark(watch.progress, (progress_at - watch.created_at) / 1000)


def expected_end(plan: Plan | None, watch: Watch, now: Millis) -> Millis | None:
    """Return when a task should end; None where it cannot be said with some certainty.

    Where too little was learned, a progress figure is taken as it is.
    """
    if watch.state is not State.WATCHING:
        return None
    if plan is None:
        return estimated_end(watch, now)
    age = (now - watch.created_at) / 1000
    soon, half, late = (plan.end(part, age) for part in (0.25, 0.5, 0.75))
    if late - soon > max(CLOSE, SURE * (half - age)):
        return None
    return watch.created_at + round(half * 1000)


def lesson_of(before: Watch, after: Watch, last_poll_at: Millis | None, cadence: Cadence) -> Lesson | None:
    """Return what the end of a watch teaches; None where it teaches nothing.

    A task is lost, and the query before may have said nothing about it: then it is not known when it ended.

    Args:
        before: the watch before the last query, and
        after: after it.
        last_poll_at: when the query before that was made.
    """
    if not cadence.learn or after.ended_at is None or after.state is State.LOST or before.misses:
        return None
    over = max(0.0, (after.ended_at - before.created_at) / 1000)
    ended = after.state in (State.COMPLETED, State.FAILED)
    if before.upstream_status is None or last_poll_at is None:
        return Lesson(None, over, ended)
    asked = max(0.0, (last_poll_at - before.created_at) / 1000)
    return Lesson(asked, max(asked, over), ended, after.polls, fixed_polls_until(cadence, (asked + over) / 2))


def due_by(due: Millis, late_at: Millis | None, asked_at: Millis, floor: float) -> Millis:
    """Return when a task is asked about that may be late before it is due."""
    if late_at is None or late_at <= asked_at:
        return due
    return min(due, max(late_at, asked_at + round(floor * 1000)))


def is_late(late_at: Millis | None, told_at: Millis | None, asked_at: Millis, reading: Reading) -> bool:
    """Return whether a reading says that a task takes longer than its app expects, for the first time."""
    return late_at is not None and told_at is None and asked_at >= late_at and reading.kind is Kind.PENDING
