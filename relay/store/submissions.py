"""Submissions: a row before a create call is sent, and what is known of it afterwards.

`answered_submissions` writes down what became of it. Each function is the inside of one transaction. Whatever dies in
between leaves a row that says `sending`; whoever finds that its process is gone makes it `unknown`, so that nobody
sends it again and somebody looks after it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import sqlalchemy as sa

from relay.errors import NotFound, RelayError, SubmitNotAllowed
from relay.model.event import EventType
from relay.model.submission import SubmissionState
from relay.model.times import Millis
from relay.model.trouble import Trouble, unknown_subject
from relay.store import apps, hot, troubles, usage
from relay.store.schema import AnyRow, watches
from relay.store.shared_schema import processes, submissions
from relay.store.usage import Quota

SHOWN = (
    submissions.c.id,
    submissions.c.provider,
    submissions.c.path,
    submissions.c.state,
    submissions.c.status,
    submissions.c.task_id,
    submissions.c.watch_id,
    submissions.c.created_at,
    submissions.c.answered_at,
)


@dataclass(frozen=True, slots=True)
class NewSubmission:
    """A create call that is about to be sent.

    Attributes:
        process: that sends it.
        key_digest, request_digest: of its Idempotency-Key and of the request; None where it has no key.
        targets: that its watch will have.
        alone: it spends the deployment's key, which only an app may that is the only one: nobody has said which may.
    """

    id: str
    app_id: str
    provider: str
    method: str
    path: str
    process: str
    key_digest: bytes | None
    request_digest: bytes | None
    targets: int
    alone: bool = False


@dataclass(frozen=True, slots=True)
class KeyHolder:
    """The submission that has taken a key.

    Attributes:
        until: when it gives the key back; None while that is not known.
    """

    id: str
    state: SubmissionState
    request_digest: bytes
    answer: bytes | None
    watch_id: str | None
    until: Millis | None = None

    def has_it(self, now: Millis) -> bool:
        """Return whether the key is still taken."""
        return self.until is None or self.until >= now


class Made(NamedTuple):
    """How a create call stands, and the watch that its task has."""

    state: SubmissionState
    watch_id: str | None


_NEW = hot.Insert(
    submissions,
    (
        "id",
        "app_id",
        "provider",
        "method",
        "path",
        "state",
        "created_at",
        "process",
        "key_digest",
        "request_digest",
    ),
)


_PRESENT = hot.Statement(sa.select(submissions.c.id).where(hot.among(submissions.c.id, "ids")))


def begin(
    tx: sa.Connection, wanted: Sequence[NewSubmission], now: Millis, quota: Quota
) -> list[KeyHolder | RelayError | None]:
    """Write down create calls before they are sent. Of each, return None if it may be sent, else why not."""
    app_ids = {one.app_id for one in wanted}
    used = usage.lock(tx, app_ids)
    for app_id, count in _under_way(tx, app_ids).items():
        used[app_id].watches += count
    taken: set[tuple[str, bytes]] = set()
    rows = []
    answers: list[KeyHolder | RelayError | None] = []
    for one in wanted:
        holder: KeyHolder | RelayError | None = None
        if one.key_digest is not None:
            holder = _holder(tx, one.app_id, one.key_digest, now)
            if holder is not None and holder.id == one.id:
                holder = None  # of a run before this one, whose commit nobody heard of
            elif holder is None and (one.app_id, one.key_digest) in taken:
                holder = KeyHolder("", SubmissionState.SENDING, one.request_digest or b"", None, None)
        if holder is None and one.alone and not apps.is_only_one(tx):
            holder = SubmitNotAllowed()
        holder = holder or used[one.app_id].refusal(quota, 1, one.targets)
        if holder is None:
            used[one.app_id].watches += 1
            used[one.app_id].targets += one.targets
            if one.key_digest is not None:
                taken.add((one.app_id, one.key_digest))
            rows.append(_row(one, now))
        answers.append(holder)
    present = {submission_id for (submission_id,) in _PRESENT.rows(tx, {"ids": [one.id for one in wanted]})}
    _NEW.run(tx, [row for row in rows if row["id"] not in present])
    return answers


def _row(one: NewSubmission, now: Millis) -> dict[str, object]:
    return {
        "id": one.id,
        "app_id": one.app_id,
        "provider": one.provider,
        "method": one.method,
        "path": one.path,
        "state": SubmissionState.SENDING,
        "created_at": now,
        "process": one.process,
        "key_digest": one.key_digest,
        "request_digest": one.request_digest,
    }


_UNDER_WAY = hot.Statement(
    sa.select(submissions.c.app_id, sa.func.count())
    .where(submissions.c.process.is_not(None), hot.among(submissions.c.app_id, "app_ids"))
    .group_by(submissions.c.app_id)
)


def _under_way(tx: sa.Connection, app_ids: set[str]) -> Counter[str]:
    return Counter(dict(_UNDER_WAY.rows(tx, {"app_ids": list(app_ids)})))


_HELD = hot.Statement(
    sa.select(
        submissions.c.id,
        submissions.c.state,
        submissions.c.request_digest,
        submissions.c.answer,
        submissions.c.watch_id,
        submissions.c.key_until,
    ).where(
        submissions.c.app_id == sa.bindparam("app_id"),
        submissions.c.key_digest == sa.bindparam("key_digest"),
        submissions.c.key_digest.is_not(None),  # so that the partial index serves
    )
)


def _holder(tx: sa.Connection, app_id: str, key_digest: bytes, now: Millis) -> KeyHolder | None:
    """Return who has taken a key. One whose time is over gives it back."""
    holder = _held(tx, app_id, key_digest)
    if holder is None or holder.has_it(now):
        return holder
    freed = sa.update(submissions).where(submissions.c.id == holder.id)
    tx.execute(freed.values(key_digest=None, answer=None, key_until=None))
    return None


def find(tx: sa.Connection, app_id: str, key_digest: bytes, now: Millis) -> KeyHolder | None:
    """Return the submission that has taken a key of an app; None if it is free."""
    holder = _held(tx, app_id, key_digest)
    return holder if holder is not None and holder.has_it(now) else None


def _held(tx: sa.Connection, app_id: str, key_digest: bytes) -> KeyHolder | None:
    for row in _HELD.rows(tx, {"app_id": app_id, "key_digest": key_digest}):
        submission_id, state, request_digest, answer, watch_id, until = row
        sealed = None if answer is None else bytes(answer)
        return KeyHolder(submission_id, SubmissionState(state), bytes(request_digest), sealed, watch_id, until)
    return None


def id_beside(watch_id: str) -> str:
    """Return the id of the create call that is sent with the id of a watch to be."""
    return f"sub_{watch_id.removeprefix('wch_')}"


def made_for(tx: sa.Connection, watch_id: str) -> Made | None:
    """Return what became of the create call that was sent with the id of a watch; None if none was."""
    c = submissions.c
    row = tx.execute(sa.select(c.state, c.watch_id).where(c.id == id_beside(watch_id))).first()
    return None if row is None else Made(SubmissionState(row.state), row.watch_id)


def forget(tx: sa.Connection, submission_id: str) -> None:
    """Delete a submission of which nothing was sent: nobody heard whether it was written down."""
    tx.execute(sa.delete(submissions).where(submissions.c.id == submission_id))


def abandon(tx: sa.Connection, process: str, now: Millis) -> int:
    """Note that nobody knows what became of the calls that a process, which is gone, was sending. Return how many."""
    return _abandon(tx, submissions.c.process == process, now)


def abandon_orphans(tx: sa.Connection, now: Millis) -> int:
    """Do what `abandon` does, for every process that is not known any more."""
    living = sa.select(processes.c.name)
    return _abandon(tx, sa.and_(submissions.c.process.is_not(None), submissions.c.process.not_in(living)), now)


SILENCE: Millis = 15_000
"""Milliseconds without a sign of life after which nobody is left who would have noticed that a process is gone."""


def orphans(tx: sa.Connection) -> sa.Select[str]:
    """Return the query of the calls that no living process is sending."""
    clock: sa.ColumnElement[int] = sa.cast((sa.func.julianday("now") - 2440587.5) * 86_400_000, sa.BigInteger)
    if tx.dialect.name == "postgresql":
        clock = sa.cast(sa.extract("epoch", sa.func.clock_timestamp()) * 1000, sa.BigInteger)
    living = sa.exists().where(processes.c.name == submissions.c.process, processes.c.seen_at > clock - SILENCE)
    return sa.select(submissions.c.id).where(submissions.c.state == SubmissionState.SENDING, ~living)


def _abandon(tx: sa.Connection, chosen: sa.ColumnElement[bool], now: Millis) -> int:
    c = submissions.c
    query = sa.select(c.id).where(chosen, c.state == SubmissionState.SENDING)
    ids = list(tx.execute(query.with_for_update()).scalars())
    if ids:
        change = sa.update(submissions).where(c.id.in_(ids), c.state == SubmissionState.SENDING)
        tx.execute(change.values(state=SubmissionState.UNKNOWN, answered_at=now, process=None))
        alarm(tx, ids, now)
    return len(ids)


def alarm(tx: sa.Connection, ids: Sequence[str], now: Millis) -> None:
    """Tell the operator of submissions that have become unknown: somebody has to look after them."""
    c = submissions.c
    query = sa.select(c.id, c.provider, c.app_id, c.path).where(c.id.in_(ids)).order_by(c.id)
    for row in tx.execute(query).all():
        trouble = Trouble(
            unknown_subject(row.id),
            EventType.SUBMISSION_UNKNOWN,
            now,
            f"nobody knows whether {row.provider} took the create call {row.id}",
            "look at the upstream whether it made a task, before the call is sent again",
            {"submission": row.id, "provider": row.provider, "app_id": row.app_id, "path": row.path},
        )
        troubles.begin(tx, trouble, now)


# What an app, and the operator, see


def page(
    tx: sa.Connection, app_id: str, most: int, before: str | None = None, state: SubmissionState | None = None
) -> list[AnyRow]:
    """Return the newest submissions of an app.

    Args:
        before: the id after which the page begins.
    """
    query = sa.select(*SHOWN).where(submissions.c.app_id == app_id).order_by(submissions.c.id.desc()).limit(most)
    if before is not None:
        query = query.where(submissions.c.id < before)
    if state is not None:
        query = query.where(submissions.c.state == state)
    return list(tx.execute(query))


def read(tx: sa.Connection, app_id: str, submission_id: str) -> AnyRow:
    """Return a submission.

    Raises:
        NotFound: the app has no such submission.
    """
    c = submissions.c
    row = tx.execute(sa.select(*SHOWN).where(c.app_id == app_id, c.id == submission_id)).first()
    if row is None:
        raise NotFound(f"there is no submission '{submission_id[:64]}'")
    return row


def unknown(tx: sa.Connection, most: int) -> list[AnyRow]:
    """Return the newest submissions, of all apps, of which nobody knows what became of them."""
    c = submissions.c
    query = sa.select(*SHOWN).where(c.state == sa.literal_column("'unknown'")).order_by(c.id.desc()).limit(most)
    return list(tx.execute(query))


def count_unknown(tx: sa.Connection) -> int:
    """Return how many there are of these."""
    c = submissions.c
    query = sa.select(sa.func.count()).select_from(submissions).where(c.state == sa.literal_column("'unknown'"))
    return int(tx.execute(query).scalar_one())


# Forgetting


def erase(tx: sa.Connection, app_id: str, watch_id: str) -> None:
    """Forget what was answered about the task of a watch. The key stays taken: it must not be sent again."""
    c = submissions.c
    change = sa.update(submissions).where(c.app_id == app_id, c.watch_id == watch_id)
    tx.execute(change.values(answer=None, task_id=None, watch_id=None))


def prune(tx: sa.Connection, before: Millis, now: Millis, most: int) -> int:
    """Forget keys and answers whose time is over, and submissions that ended before a time. Return how many rows.

    A submission with a watch stays as long as that.
    """
    c = submissions.c
    over = sa.select(c.id).where(c.key_until < now).limit(most)
    freed = sa.update(submissions).where(c.id.in_(over)).values(key_digest=None, answer=None, key_until=None)
    watched = sa.exists().where(watches.c.id == c.watch_id)
    old = sa.select(c.id).where(c.answered_at < before, ~watched).order_by(c.answered_at).limit(most)
    ids = list(tx.execute(old).scalars())
    troubles.forget(tx, [unknown_subject(one) for one in ids])
    return tx.execute(freed).rowcount + tx.execute(sa.delete(submissions).where(c.id.in_(ids))).rowcount
