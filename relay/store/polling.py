"""Every query of polling: claim what is due, save what came of it. Each function is the inside of one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa

from relay.model import Event, EventType, Millis, State, Watch
from relay.store import messages
from relay.store.notify import announce_changes
from relay.store.outbox import tell
from relay.store.schema import answers, changes, lags, watches

MAX_CHANGES = 500
"""Changes of one watch that are kept; of those after it only the end."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A watch that is ours to poll until its lease runs out."""

    id: str
    app_id: str
    provider: str
    task_id: str
    lease: str
    metadata: str
    upstream_key: bytes | None
    wants_progress: bool
    progress_told_at: Millis | None
    answer_hash: int | None
    last_poll_at: Millis | None
    changes: int
    watch: Watch


_due = (
    sa.select(watches.c.id)
    .where(watches.c.next_poll_at <= sa.bindparam("now"))
    .order_by(watches.c.next_poll_at)
    .limit(sa.bindparam("most"))
    .with_for_update(skip_locked=True)
    .cte("due")
)
_claim = (
    sa.update(watches)
    .where(watches.c.id.in_(sa.select(_due.c.id)))
    .values(next_poll_at=sa.bindparam("until"), lease=sa.bindparam("by"))
    .returning(
        watches.c.id,
        watches.c.app_id,
        watches.c.provider,
        watches.c.task_id,
        watches.c.lease,
        watches.c.metadata,
        watches.c.upstream_key,
        watches.c.wants_progress,
        watches.c.progress_told_at,
        watches.c.answer_hash,
        watches.c.last_poll_at,
        watches.c.changes,
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
    )
)


def claim(tx: sa.Connection, now: Millis, until: Millis, lease: str, most: int) -> list[Claim]:
    """Takes up to `most` due watches that nobody else is taking, longest overdue first; they come due again `until`."""
    rows = tx.execute(_claim, {"now": now, "until": until, "by": lease, "most": most}).all()
    return [_claimed(*row) for row in rows]


def _claimed(*row: Any) -> Claim:
    """The columns of `_claim` in their order: first the claim's own, then the watch's."""
    created_at, expires_at, status, progress, error, *counts = row[12:]
    known = Watch(created_at, expires_at, State.WATCHING, status, progress, None, _json(error), *counts)
    return Claim(*(*row[:12], known))


def _json(text: str | None) -> Any:
    return None if text is None else orjson.loads(text)


def next_due(tx: sa.Connection) -> Millis | None:
    """When the next watch comes due, or its claim runs out."""
    return tx.execute(sa.select(sa.func.min(watches.c.next_poll_at))).scalar()


@dataclass(frozen=True, slots=True)
class Polled:
    """What came of a claim.

    Attributes:
        watch: what it has become, or None if it was not asked after all.
        next_poll_at: None once ended.
        answer: the upstream's answer if it is to be stored, and `answer_status` the status of HTTP that it came with.
        answer_hash: of what is stored then.
        event: what is to be told, if anything.
        changed: whether the reading said something new.
    """

    claim: Claim
    watch: Watch | None
    asked_at: Millis
    next_poll_at: Millis | None
    estimated_end: Millis | None = None
    answer: bytes | None = None
    answer_status: int = 200
    answer_hash: int | None = None
    event: Event | None = None
    changed: bool = False


_mine = (watches.c.id == sa.bindparam("claimed"), watches.c.lease == sa.bindparam("by"))
_release = sa.update(watches).where(*_mine).values(next_poll_at=sa.bindparam("due"), lease=None)
_save = (
    sa.update(watches)
    .where(*_mine)
    .values(
        {
            name: sa.bindparam(f"new_{name}")
            for name in (
                "state",
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
                "ended_at",
            )
        }
        | {"lease": None}
    )
)


def save(tx: sa.Connection, polled: Sequence[Polled]) -> int:
    """Writes what came of many claims, and with every end its event and deliveries, in this one transaction.

    What was claimed by somebody else meanwhile, or stopped, is left alone.

    Returns:
        How many deliveries were made.
    """
    released = [p for p in polled if p.watch is None]
    if released:
        tx.execute(_release, [{"claimed": p.claim.id, "by": p.claim.lease, "due": p.next_poll_at} for p in released])
    heard = [p for p in polled if p.watch is not None]
    # Whoever writes beside the row itself must know that the lease still holds.
    mine = _still_mine(tx, [p.claim for p in heard if p.answer is not None or p.event is not None or p.changed])
    if heard:
        tx.execute(_save, [_saved(p, p.watch) for p in heard if p.watch is not None])
    _keep_answers(tx, [p for p in heard if p.answer is not None and p.claim.id in mine])
    _keep_changes(tx, [p for p in heard if p.changed and p.claim.id in mine])
    _keep_ends(tx, [p for p in heard if p.claim.id in mine])
    return tell(tx, [(p.claim.id, p.claim.app_id, p.event) for p in heard if p.event and p.claim.id in mine])


def _still_mine(tx: sa.Connection, claims: Sequence[Claim]) -> set[str]:
    if not claims:
        return set()
    leases = {one.id: one.lease for one in claims}
    query = sa.select(watches.c.id, watches.c.lease).where(watches.c.id.in_(leases)).order_by(watches.c.id)
    return {row.id for row in tx.execute(query.with_for_update()) if row.lease == leases[row.id]}


def _saved(polled: Polled, watch: Watch) -> dict[str, Any]:
    claim = polled.claim
    told = polled.event is not None and polled.event.type is EventType.PROGRESS
    return {
        "claimed": claim.id,
        "by": claim.lease,
        "new_state": watch.state,
        "new_upstream_status": watch.upstream_status,
        "new_progress": watch.progress,
        "new_estimated_end": polled.estimated_end,
        "new_result": None if watch.result is None else orjson.dumps(watch.result).decode(),
        "new_error": None if watch.error is None else orjson.dumps(watch.error).decode(),
        "new_polls": watch.polls,
        "new_misses": watch.misses,
        "new_unknowns": watch.unknowns,
        "new_unknown_since": watch.unknown_since,
        "new_bares": watch.bares,
        "new_last_poll_at": polled.asked_at,
        "new_next_poll_at": polled.next_poll_at,
        "new_answer_hash": polled.answer_hash,
        "new_progress_told_at": polled.asked_at if told else claim.progress_told_at,
        "new_changes": claim.changes + polled.changed,
        "new_ended_at": watch.ended_at,
    }


def _keep_answers(tx: sa.Connection, polled: Sequence[Polled]) -> None:
    first = [p for p in polled if p.claim.answer_hash is None]
    again = [p for p in polled if p.claim.answer_hash is not None]
    if first:
        rows = [{"watch_id": p.claim.id, "body": p.answer, "at": p.asked_at, "status": p.answer_status} for p in first]
        tx.execute(sa.insert(answers), rows)
    if again:
        change = sa.update(answers).where(answers.c.watch_id == sa.bindparam("of"))
        change = change.values({name: sa.bindparam(f"new_{name}") for name in ("body", "at", "status")})
        new = [
            {"of": p.claim.id, "new_body": p.answer, "new_at": p.asked_at, "new_status": p.answer_status} for p in again
        ]
        tx.execute(change, new)


def _keep_changes(tx: sa.Connection, polled: Sequence[Polled]) -> None:
    rows = [
        {
            "watch_id": p.claim.id,
            "number": p.claim.changes + 1,
            "at": p.watch.ended_at or p.asked_at,
            "state": p.watch.state,
            "upstream_status": p.watch.upstream_status,
            "progress": p.watch.progress,
        }
        for p in polled
        if p.watch is not None and (p.claim.changes < MAX_CHANGES or p.watch.ended_at is not None)
    ]
    if rows:
        tx.execute(sa.insert(changes), rows)
        messages.changed(tx, [p.claim.id for p in polled], max(p.asked_at for p in polled))
    announce_changes(tx, [p.claim.id for p in polled])


@dataclass(frozen=True, slots=True)
class LastAnswer:
    """What is known of a task that an app watches.

    Attributes:
        body: the upstream's last answer, if it has given one, `at` when it last gave it, and its `status` of HTTP.
        holds: whether that is still how things stand: relay goes on asking, or the upstream has said its last word.
    """

    watch_id: str
    provider: str
    upstream_key: bytes | None
    body: bytes | None
    at: Millis
    status: int
    holds: bool


def last_answer(tx: sa.Connection, app_id: str, task_id: str, provider: str) -> LastAnswer | None:
    """The last answer about a task, if the app watches it: as one of `provider`, else of any."""
    c = watches.c
    polled = c.last_poll_at, c.misses, c.unknowns
    query = (
        sa.select(c.id, c.provider, c.upstream_key, c.state, *polled, answers.c.body, answers.c.at, answers.c.status)
        .join(answers, answers.c.watch_id == c.id, isouter=True)
        .where(c.app_id == app_id, c.task_id == task_id)
        .order_by(sa.case((c.provider == provider, 0), else_=1), c.id.desc())
        .limit(1)
    )
    row = tx.execute(query).first()
    if row is None:
        return None
    # An answer is stored when it differs: it was given again if the last poll brought one about the task.
    again = row.last_poll_at and row.misses == row.unknowns == 0
    at = row.last_poll_at if again else row.at or 0
    holds = row.state in (State.WATCHING, State.COMPLETED, State.FAILED)
    return LastAnswer(row.id, row.provider, row.upstream_key, row.body, at, row.status or 200, holds)


def _keep_ends(tx: sa.Connection, polled: Sequence[Polled]) -> None:
    rows: list[dict[str, Any]] = [
        {"watch_id": p.claim.id, "at": p.watch.ended_at, "unseen_ms": unseen(p.claim, p.watch.ended_at)}
        for p in polled
        if p.watch is not None and p.watch.ended_at is not None
    ]
    if rows:
        tx.execute(sa.insert(lags), rows)
        messages.ended(tx, [row["watch_id"] for row in rows])


def unseen(claim: Claim, ended_at: Millis) -> Millis:
    """For how long the end of a claimed watch may have gone unnoticed: since the query before, or its registration."""
    return max(0, ended_at - (claim.last_poll_at or claim.watch.created_at))


def answer(tx: sa.Connection, watch_id: str) -> bytes | None:
    """The upstream's last JSON answer about a watched task."""
    return tx.execute(sa.select(answers.c.body).where(answers.c.watch_id == watch_id)).scalar()
