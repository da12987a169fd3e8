"""relay's nouns, and the one decision that everything hangs on: what a reading means for a watch.

Nothing here does I/O or looks at a clock. Points in time are whole milliseconds since the epoch (`Millis`), durations
are seconds. `docs/lifecycle.md` draws the state machine that `transition` is.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from relay.model.reading import Kind, Problem, Reading, Result
from relay.model.times import Millis

NOUN = "Task"
"""What a task is to people where its provider's file says nothing else, such as "Transcription"."""


class State(StrEnum):
    """Where a watch stands. Only `watching` is ever left."""

    WATCHING = "watching"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    LOST = "lost"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Caution:
    """How often an upstream must repeat itself before relay believes it (from the provider's file).

    Attributes:
        lost_after: unknown-id answers in a row before a task counts as lost, and
        lost_grace: the seconds that must have passed since the first of them and since the registration.
        bare_after: "completed" answers without a result link before relay takes that as the end, and
        bare_grace: the seconds that must have passed since the first of them. With `bare_after = 1` there is no wait.
    """

    lost_after: int = 5
    lost_grace: float = 120.0
    bare_after: int = 4
    bare_grace: float = 20.0

    def __post_init__(self) -> None:
        graces = (self.lost_grace, self.bare_grace)
        if self.lost_after < 1 or self.bare_after < 1 or not all(0 <= grace <= 30 * 86400 for grace in graces):
            raise ValueError("counts must be at least 1, lost_grace and bare_grace 0 to 30 days in seconds")


class Watch(NamedTuple):
    """What a decision needs to know about a watch. (Each poll makes two: frozen dataclasses would cost thrice that.)

    Attributes:
        misses: answers in a row that told nothing about the task.
        unknowns: unknown-id answers in a row.
        bares: answers so far that said "completed" without a link.
        doubted_since: when the upstream began to say what it must repeat: that it does not know the task, or that it
            is completed without a link. Anything else that it says of the task ends that.
    """

    created_at: Millis
    expires_at: Millis
    state: State = State.WATCHING
    upstream_status: str | None = None
    progress: float | None = None
    result: Result | None = None
    error: Problem | None = None
    polls: int = 0
    misses: int = 0
    unknowns: int = 0
    doubted_since: Millis | None = None
    bares: int = 0
    ended_at: Millis | None = None


def transition(watch: Watch, reading: Reading, now: Millis, caution: Caution) -> Watch:
    """Return what the watch becomes after a reading. Pure, and the only place where a task ends by an answer.

    Only an explicit success or failure ends a task at once. An unknown id and a success without a link must be
    repeated; any other answer never ends it, except that the deadline has passed. An ended watch stays as it is.
    """
    if watch.state is not State.WATCHING:
        return watch
    tells_nothing = reading.kind in (Kind.NOT_ANSWERED, Kind.NOT_UNDERSTOOD)
    heard = Watch(
        watch.created_at,
        watch.expires_at,
        watch.state,
        reading.status or watch.upstream_status,
        _further(watch.progress, reading.progress),
        watch.result,
        reading.error,
        watch.polls + 1,
        watch.misses + 1 if tells_nothing else 0,
        watch.unknowns,
        watch.doubted_since,
        watch.bares,
    )
    if tells_nothing:
        return expire(heard, now)
    if reading.kind is Kind.FAILED:
        return _ended(_undoubted(heard), State.FAILED, now)
    if reading.kind is Kind.COMPLETED:
        return _completed(heard._replace(result=reading.result, error=None), reading, now, caution)
    if reading.kind is Kind.UNKNOWN_TASK:
        return _unknown(heard, now, caution)
    return expire(_undoubted(heard), now)


def _further(before: float | None, told: float | None) -> float | None:
    """Return the progress of a watch: it never goes back."""
    if before is None or told is None:
        return told if before is None else before
    return max(before, told)


def _undoubted(watch: Watch) -> Watch:
    return watch if watch.doubted_since is None else watch._replace(unknowns=0, doubted_since=None)


def _completed(watch: Watch, reading: Reading, now: Millis, caution: Caution) -> Watch:
    """Return what a success makes of a watch: without a link, it must be repeated for a while."""
    done = _undoubted(watch)._replace(progress=1.0)
    named = reading.inline or (reading.result and (reading.result["url"] or reading.result["ref"]))
    if named or caution.bare_after == 1:
        return _ended(done, State.COMPLETED, now)
    # A run of unknown ids before it has a beginning of its own.
    since = now if watch.unknowns or watch.doubted_since is None else watch.doubted_since
    if watch.bares + 1 >= caution.bare_after and now - since >= caution.bare_grace * 1000:
        return _ended(done, State.COMPLETED, now)
    return expire(watch._replace(bares=watch.bares + 1, unknowns=0, doubted_since=since), now)


def _unknown(watch: Watch, now: Millis, caution: Caution) -> Watch:
    """Return what an unknown id makes of a watch: repeated over a while, the task is lost."""
    since = watch.doubted_since if watch.unknowns and watch.doubted_since is not None else now
    watch = watch._replace(unknowns=watch.unknowns + 1, doubted_since=since)
    quiet = now - max(since, watch.created_at) >= caution.lost_grace * 1000
    return _ended(watch, State.LOST, now) if quiet and watch.unknowns >= caution.lost_after else expire(watch, now)


def says_new(before: Watch, after: Watch) -> bool:
    """Return whether a reading changed what people see of a watch: its state, the upstream's word, a whole percent."""
    if before.state is not after.state or before.upstream_status != after.upstream_status:
        return True
    return before.progress != after.progress and _percent(before) != _percent(after)


def _percent(watch: Watch) -> int | None:
    return None if watch.progress is None else round(watch.progress * 100)


def expire(watch: Watch, now: Millis, note: str = "") -> Watch:
    """Return the watch, `expired` if its deadline has passed, with what the upstream said last as its error.

    Args:
        note: what to add to that.
    """
    if watch.state is not State.WATCHING or now < watch.expires_at:
        return watch
    error = watch.error or Problem(
        code="deadline_passed",
        message=f"the deadline passed; the upstream last said '{watch.upstream_status}'"
        if watch.upstream_status
        else "the deadline passed before the upstream said anything about the task",
    )
    error = Problem(code=error["code"], message=error["message"] + note)
    return _ended(watch._replace(error=error), State.EXPIRED, now)


LAST_WAIT: Millis = 60_000
"""Milliseconds past its deadline for which a watch waits for its last poll."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why the upstream cannot be asked about a watch at the moment.

    Attributes:
        reason: in words, for the error of the watch.
        passing: it may be gone soon, so that the last poll is worth a wait.
    """

    reason: str
    passing: bool = False


def unasked(watch: Watch, obstacle: Obstacle, now: Millis, again: Millis) -> tuple[Watch, Millis]:
    """Return what becomes of a watch that could not be asked about, and when to try again while it goes on.

    Past its deadline it is owed one last poll. It expires without one only if that is impossible, or was for a while.

    Args:
        again: when to try again as far as the obstacle goes.
    """
    if now < watch.expires_at:
        return watch, min(again, watch.expires_at)
    give_up_at = watch.expires_at + (LAST_WAIT if obstacle.passing else 0)
    if now < give_up_at:
        return watch, min(again, give_up_at)
    return expire(watch, now, f"; it could not be asked once more: {obstacle.reason}"), again


def _ended(watch: Watch, state: State, now: Millis) -> Watch:
    # A success that was not believed has left a result, which is that of no other end.
    result = watch.result if state is State.COMPLETED else None
    return watch._replace(state=state, result=result, ended_at=now)


def estimated_end(watch: Watch, now: Millis) -> Millis | None:
    """Return when the task should end if it goes on as it went, or None where too little is known."""
    if watch.state is not State.WATCHING or watch.progress is None or not 0.05 <= watch.progress < 1:
        return None
    return now + round((now - watch.created_at) * (1 - watch.progress) / watch.progress)
