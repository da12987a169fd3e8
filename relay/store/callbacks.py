"""A callback of an upstream makes its watch due. Each function runs inside one transaction."""

from __future__ import annotations

from enum import Enum, auto

import sqlalchemy as sa

from relay.errors import NotFound
from relay.model.submission import SubmissionState
from relay.model.times import Millis
from relay.model.watch import State
from relay.store import submissions
from relay.store.notifications import POLL, announce
from relay.store.schema import watches

BETWEEN: Millis = 1000
"""Milliseconds between two queries that callbacks cause, at least."""


class Woken(Enum):
    """What a callback has come to: the watch is due, its query is under way at this moment, or it has ended."""

    DUE = auto()
    CLAIMED = auto()
    ENDED = auto()


def wake(tx: sa.Connection, watch_id: str, now: Millis) -> Woken:
    """Make a watch due now, or a second after the query before.

    The id may be the one that a create call was sent with, whose task turned out to be watched already: then that watch
    is woken. While the call is under way, there is nothing to wake: the watch that it makes is asked about anyway.

    The answer to a query that is under way may be older than the callback: then it is to be woken afterwards.

    Raises:
        NotFound: there is no such watch any more.
    """
    c = watches.c
    columns = (c.id, c.state, c.lease, c.next_poll_at, c.last_poll_at)
    row = tx.execute(sa.select(*columns).where(c.id == watch_id)).first()
    if row is None and (known := submissions.made_for(tx, watch_id)):
        if known.state is SubmissionState.SENDING:
            return Woken.ENDED
        row = tx.execute(sa.select(*columns).where(c.id == known.watch_id)).first()
    if row is None:
        raise NotFound("there is no such watch any more")
    if row.state != State.WATCHING:
        return Woken.ENDED
    if row.lease is not None:
        return Woken.CLAIMED
    due = max(now, (row.last_poll_at or 0) + BETWEEN)
    if row.next_poll_at > due:
        free = sa.update(watches).where(c.id == row.id, c.lease.is_(None), c.next_poll_at > due)
        woken_from = sa.func.coalesce(c.woken_from, c.next_poll_at)
        if not tx.execute(free.values(next_poll_at=due, woken_from=woken_from)).rowcount:
            return Woken.CLAIMED
        announce(tx, POLL, (due - now) / 1000)
    return Woken.DUE
