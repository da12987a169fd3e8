"""The last answer about a task: for the mirror, for events that a deadline ends, for the page of a watch.

While a watch is under way, a row of its own has the answer. Once the task has ended, the event has it, too, so there it
is stored alone: byte for byte, because a mirrored answer must be the upstream's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from relay.model.event import Upstream, answer_in
from relay.model.times import Millis
from relay.model.watch import State
from relay.store.outbox import END
from relay.store.schema import CUT, REPAIRED, answers, cancelled_id, events, watches
from relay.store.watches import WatchFilter, newest_ids

NEWEST = 50
"""Watches of one task that are looked at: an app may have registered and stopped it ever so often."""


@dataclass(frozen=True, slots=True)
class LastAnswer:
    """The last answer about a task that an app watches.

    Attributes:
        body: the upstream's last answer, if it has given one, `at` when it last gave it, and its `status` of HTTP;
            `TOO_LARGE` where that was not kept.
        holds: whether that is still how things stand, and is what came: relay goes on asking, or the upstream has
            said its last word.
    """

    watch_id: str
    provider: str
    upstream_key: bytes | None
    upstream_base: str | None
    inline: bytes | None
    body: bytes | None
    at: Millis
    status: int
    holds: bool


def last_answer(tx: sa.Connection, app_id: str, task_id: str, provider: str) -> LastAnswer | None:
    """Return the last answer about a task that the app watches, of `provider` if possible, else of any.

    Of watches that were stopped, it knows the newest ones.
    """
    c = watches.c
    asking = (c.provider, c.upstream_key, c.upstream_base, c.inline)
    columns = (c.id, *asking, c.state, c.last_poll_at, c.misses, c.unknowns)
    of_task = sa.and_(c.app_id == app_id, c.task_id == task_id, cancelled_id == "")
    known = tx.execute(sa.select(c.id).where(of_task, c.provider == provider)).scalars().all()
    if not known:
        known = newest_ids(tx, app_id, NEWEST, None, WatchFilter(task_id=task_id))
    query = (
        sa.select(*columns, answers.c.body, answers.c.at, answers.c.status)
        .join(answers, answers.c.watch_id == c.id, isouter=True)
        .where(c.id.in_(known))
        .order_by(sa.case((c.provider == provider, 0), else_=1), c.id.desc())
        .limit(1)
    )
    row = tx.execute(query).first()
    if row is None:
        return None
    body = _answer_in_end(tx, row.id) if row.body is None else row.body
    # An answer is stored only when it differs. It came again if the last poll got an answer about the task.
    came_again = row.last_poll_at and row.misses == row.unknowns == 0
    at = row.last_poll_at if came_again else row.at or 0
    holds = row.state in (State.WATCHING, State.COMPLETED, State.FAILED) and row.status not in (REPAIRED, CUT)
    asked = (row.provider, row.upstream_key, row.upstream_base, row.inline)
    return LastAnswer(row.id, *asked, body, at, row.status or 200, holds)


def answer(tx: sa.Connection, watch_id: str) -> Upstream | None:
    """Return the upstream's last JSON answer about a watched task; `TOO_LARGE` where that was not stored."""
    row = tx.execute(sa.select(answers.c.body, answers.c.status).where(answers.c.watch_id == watch_id)).first()
    if row is not None:
        return Upstream(row.body, repaired=row.status == REPAIRED)
    body = _answer_in_end(tx, watch_id)
    return None if body is None else Upstream(body)


def _answer_in_end(tx: sa.Connection, watch_id: str) -> bytes | None:
    """Return the last answer about a task that has ended, if it is stored in the event of the end alone."""
    of_end = sa.and_(events.c.watch_id == watch_id, events.c.key == END)
    body = tx.execute(sa.select(events.c.body).where(of_end)).scalar()
    return None if body is None else answer_in(body)
