"""The queries of polling: claim due watches, save what the polls found. Each function runs inside one transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa

from relay.model.event import Event, EventType, repeats
from relay.model.experience import Lesson
from relay.model.times import Millis
from relay.model.watch import State, Watch
from relay.store import experiences, hot, misses, slack_messages, usage
from relay.store.due import Allotment, DueRows, due_of
from relay.store.notifications import announce_changes
from relay.store.outbox import END
from relay.store.schema import answers, changes, lags, watches
from relay.store.telling import Told, tell

MAX_CHANGES = 500
"""Changes of one watch that are stored. After them, only the end is."""


@dataclass(slots=True)
class PollClaim:
    """A watch that this process may poll until the lease runs out.

    Attributes:
        model: what the upstream calls the model that works on the task, as far as it has said so.
        progress_at: when its progress came up.
        late_at: when it takes longer than its app expects, and `late_told_at` when its targets were notified of that.
        woken_from: when it was due before a callback woke it.
        of_watch: the columns that its watch is made of.
    """

    id: str
    app_id: str
    provider: str
    task_id: str
    lease: str
    metadata: str
    upstream_key: bytes | None
    upstream_base: str | None
    inline: bytes | None
    wants_progress: bool
    progress_told_at: Millis | None
    answer_hash: int | None
    last_poll_at: Millis | None
    changes: int
    model: str | None
    progress_at: Millis | None
    late_at: Millis | None
    late_told_at: Millis | None
    woken_from: Millis | None
    of_watch: tuple[Any, ...]
    _watch: Watch | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def due(self) -> Millis:
        """Return when it is to be polled: a claim may be made a little before."""
        return due_of(self.lease)

    @property
    def watch(self) -> Watch:
        """Return the watch as it was claimed.

        It is made where it is worked on: a row that cannot be read is a fault of its own, not of all that are claimed.
        """
        if self._watch is None:
            created_at, expires_at, status, progress, error, *counts = self.of_watch
            said = None if error is None else orjson.loads(error)
            self._watch = Watch(created_at, expires_at, State.WATCHING, status, progress, None, said, *counts)
        return self._watch


OF_CLAIM = 19
"""Of the columns that a claim returns, so many are its own. The others are those of its watch."""

_rows = DueRows(
    watches.c.next_poll_at,
    returning=(
        watches.c.id,
        watches.c.app_id,
        watches.c.provider,
        watches.c.task_id,
        watches.c.lease,
        watches.c.metadata,
        watches.c.upstream_key,
        watches.c.upstream_base,
        watches.c.inline,
        watches.c.wants_progress,
        watches.c.progress_told_at,
        watches.c.answer_hash,
        watches.c.last_poll_at,
        watches.c.changes,
        watches.c.model,
        watches.c.progress_at,
        watches.c.late_at,
        watches.c.late_told_at,
        watches.c.woken_from,
        watches.c.created_at,
        watches.c.expires_at,
        watches.c.upstream_status,
        watches.c.progress,
        watches.c.error,
        watches.c.polls,
        watches.c.misses,
        watches.c.unknowns,
        watches.c.unknown_since,
        watches.c.bares,
    ),
)


def due(tx: sa.Connection, now: Millis, most: int) -> dict[str, int]:
    """Return how many watches each app has due, as `DueRows.count` does."""
    return _rows.count(tx, now, most)


def claim(tx: sa.Connection, now: Millis, until: Millis, lease: str, shares: Mapping[str, int]) -> list[PollClaim]:
    """Claim of each app up to its share of due watches, as `DueRows.claim` does."""
    rows = _rows.claim(tx, now, until, lease, shares)
    return [PollClaim(*(*row[:OF_CLAIM], row[OF_CLAIM:])) for row in rows]


def next_due(tx: sa.Connection, without: Collection[str] = ()) -> Millis | None:
    """Return when the next watch comes due, or the lease of a claim runs out; of all apps but some."""
    return _rows.next(tx, without)


class Polled(NamedTuple):
    """The result of a claim.

    Attributes:
        watch: the watch after the poll; None if the upstream was not asked.
        next_poll_at: None once the watch has ended.
        answer: the upstream's answer if it is to be stored, and `answer_status` its HTTP status.
        answer_hash: the hash of the answer that is stored afterwards.
        event: the event to send, if there is one.
        changed: whether the reading said something new; `miss`: what came, if that told nothing.
        model, progress_at, late_told_at: as they are afterwards.
        lesson: what the end teaches.
    """

    claim: PollClaim
    watch: Watch | None
    asked_at: Millis
    next_poll_at: Millis | None
    estimated_end: Millis | None = None
    answer: bytes | None = None
    answer_status: int = 200
    answer_hash: int | None = None
    event: Event | None = None
    changed: bool = False
    miss: misses.Miss | None = None
    model: str | None = None
    progress_at: Millis | None = None
    late_told_at: Millis | None = None
    lesson: Lesson | None = None


_CLAIMED = ("id", "lease")
_OF_POLL = (
    "upstream_status",
    "progress",
    "estimated_end",
    "result",
    "error",
    "polls",
    "misses",
    "unknowns",
    "unknown_since",
    "bares",
    "last_poll_at",
    "next_poll_at",
    "answer_hash",
    "progress_told_at",
    "changes",
    "model",
    "progress_at",
    "late_told_at",
)
"""Columns that any poll may change. Of indexes, only those of the due time have one of them."""

_release = hot.Update(watches, _CLAIMED, ("next_poll_at",), clears=("lease",))
_go_on = hot.Update(watches, _CLAIMED, _OF_POLL, clears=("lease", "woken_from"))
_end = hot.Update(watches, _CLAIMED, (*_OF_POLL, "state", "ended_at"), clears=("lease", "woken_from"))
_leases = hot.Statement(
    sa.select(watches.c.id, watches.c.lease)
    .where(hot.among(watches.c.id, "ids"))
    .order_by(watches.c.id)
    .with_for_update()
)
_ANSWER = ("body", "at", "status")
_first_answers = hot.Insert(answers, ("watch_id", *_ANSWER))
_later_answers = hot.Update(answers, ("watch_id",), _ANSWER)
_former_answers = hot.Statement(sa.delete(answers).where(hot.among(answers.c.watch_id, "ids")))
_new_changes = hot.Insert(changes, ("watch_id", "number", "at", "state", "upstream_status", "progress"))
_new_lags = hot.Insert(lags, ("watch_id", "at", "unseen_ms"))


def save(tx: sa.Connection, polled: Sequence[Polled], allotment: Allotment | None = None) -> Told:
    """Save the results of many claims. With each end, also save its event and its deliveries.

    A watch that another process has claimed meanwhile, or that was stopped, is left alone. Of two results of one claim,
    the first counts.

    Args:
        allotment: how many of the deliveries may be claimed at once.

    Returns:
        The deliveries that were made.
    """
    results: dict[tuple[str, str], Polled] = {}
    for result in polled:
        results.setdefault((result.claim.id, result.claim.lease), result)
    _release.run(tx, [_released(p) for p in results.values() if p.watch is None])
    # Ends go last, by app: whoever changes what an app has (`usage`) waits for no row of a watch after it.
    asked = sorted((p for p in results.values() if p.watch is not None), key=_by_app)
    # The update of `watches` checks the lease by itself. Rows of other tables may be written only if it still holds.
    held = _still_held(tx, [p for p in asked if p.answer is not None or p.event or p.changed or p.miss])
    with hot.together(tx):
        _go_on.run(tx, [_of_poll(p, p.watch) for p in asked if p.watch is not None and p.watch.ended_at is None])
        usage.hold(tx, {p.claim.app_id for p in asked if p.watch is not None and p.watch.ended_at is not None})
        _end.run(tx, [_of_end(p, p.watch) for p in asked if p.watch is not None and p.watch.ended_at is not None])
        _save_answers(tx, [p for p in held if p.answer is not None])
        _save_changes(tx, [p for p in held if p.changed])
        _save_ends(tx, held)
    misses.save(tx, [(p.claim.id, p.miss) for p in held if p.miss])
    experiences.learn(tx, [_taught(p, p.lesson) for p in held if p.lesson], max((p.asked_at for p in held), default=0))
    return tell(tx, [(p.claim.id, p.claim.app_id, p.event) for p in held if p.event], allotment)


def _by_app(polled: Polled) -> tuple[str, str]:
    return polled.claim.app_id, polled.claim.id


def _still_held(tx: sa.Connection, polled: Sequence[Polled]) -> list[Polled]:
    """Lock the rows of these results, and return those results whose lease still holds.

    A result whose lease is lost may stand beside one of the same row whose lease holds: this process claimed it twice.
    """
    if not polled:
        return []
    leases: dict[str, str | None] = dict(_leases.rows(tx, {"ids": list({p.claim.id for p in polled})}))
    return [p for p in polled if leases.get(p.claim.id) == p.claim.lease]


def _released(polled: Polled) -> dict[str, Any]:
    return {"id": polled.claim.id, "lease": polled.claim.lease, "next_poll_at": polled.next_poll_at}


def _of_poll(polled: Polled, watch: Watch) -> dict[str, Any]:
    claim = polled.claim
    tells_progress = polled.event is not None and polled.event.type is EventType.PROGRESS
    return {
        "id": claim.id,
        "lease": claim.lease,
        "upstream_status": watch.upstream_status,
        "progress": watch.progress,
        "estimated_end": polled.estimated_end,
        "result": None if watch.result is None else orjson.dumps(watch.result).decode(),
        "error": None if watch.error is None else orjson.dumps(watch.error).decode(),
        "polls": watch.polls,
        "misses": watch.misses,
        "unknowns": watch.unknowns,
        "unknown_since": watch.doubted_since,
        "bares": watch.bares,
        "last_poll_at": polled.asked_at,
        "next_poll_at": polled.next_poll_at,
        "answer_hash": polled.answer_hash,
        "progress_told_at": polled.asked_at if tells_progress else claim.progress_told_at,
        "changes": claim.changes + polled.changed,
        "model": polled.model,
        "progress_at": polled.progress_at,
        "late_told_at": polled.late_told_at,
    }


def _of_end(polled: Polled, watch: Watch) -> dict[str, Any]:
    return _of_poll(polled, watch) | {"state": str(watch.state), "ended_at": watch.ended_at}


def _save_answers(tx: sa.Connection, polled: Sequence[Polled]) -> None:
    """Store answers, but for those that are in the event of an end as they came: an answer is stored once."""
    first: list[dict[str, Any]] = []
    later: list[dict[str, Any]] = []
    in_events: list[str] = []
    for p in polled:
        if p.answer_status == 200 and p.answer is not None and _is_in_end(p, p.answer):
            if p.claim.answer_hash is not None:
                in_events.append(p.claim.id)
            continue
        row = {"watch_id": p.claim.id, "body": p.answer, "at": p.asked_at, "status": p.answer_status}
        (first if p.claim.answer_hash is None else later).append(row)
    _first_answers.run(tx, first)
    _later_answers.run(tx, later)
    if in_events:
        _former_answers.run(tx, {"ids": in_events})


def _is_in_end(polled: Polled, answer: bytes) -> bool:
    event = polled.event
    return event is not None and event.key == END and repeats(event.body, answer)


def _save_changes(tx: sa.Connection, polled: Sequence[Polled]) -> None:
    rows = [
        {
            "watch_id": p.claim.id,
            "number": p.claim.changes + 1,
            "at": p.watch.ended_at or p.asked_at,
            "state": str(p.watch.state),
            "upstream_status": p.watch.upstream_status,
            "progress": p.watch.progress,
        }
        for p in polled
        if p.watch is not None and (p.claim.changes < MAX_CHANGES or p.watch.ended_at is not None)
    ]
    if rows:
        _new_changes.run(tx, rows)
        slack_messages.changed(tx, [p.claim.id for p in polled], max(p.asked_at for p in polled))
    announce_changes(tx, [p.claim.id for p in polled])


def _taught(polled: Polled, lesson: Lesson) -> experiences.Taught:
    claim = polled.claim
    progressed = polled.progress_at is not None
    return experiences.Taught(
        claim.id, claim.app_id, claim.provider, polled.model, claim.watch.created_at, lesson, progressed
    )


def _save_ends(tx: sa.Connection, polled: Sequence[Polled]) -> None:
    rows: list[dict[str, Any]] = [
        {"watch_id": p.claim.id, "at": p.watch.ended_at, "unseen_ms": detection_lag(p.claim, p.watch.ended_at)}
        for p in polled
        if p.watch is not None and p.watch.ended_at is not None
    ]
    if rows:
        _new_lags.run(tx, rows)
        slack_messages.ended(tx, [row["watch_id"] for row in rows])


def detection_lag(claim: PollClaim, ended_at: Millis) -> Millis:
    """Return how long the end of a watch may have gone unnoticed: since the query before, or its registration."""
    return max(0, ended_at - (claim.last_poll_at or claim.watch.created_at))
