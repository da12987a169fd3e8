"""Turns at Slack: what Slack limits is shared by all processes, so each call takes its turn in the database first.

Each function is the inside of one transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import sqlalchemy as sa

from relay.model.times import Millis
from relay.store.shared_schema import turns

LONGEST_WAIT = 15_000
"""Milliseconds until a caller's turn, at most: it then asks again, and may have its turn sooner than it seemed."""

STRAY = 250
"""Milliseconds by which a caller may be late for its turn before one of a lower rank may take it."""


class Rank(IntEnum):
    """What goes first: what shows an end, then the replies below ends, then everything else."""

    END = 0
    REPLY = 1
    REST = 2


@dataclass(frozen=True, slots=True)
class TurnQueue:
    """A queue for calls that Slack limits.

    Attributes:
        spacing: milliseconds from the start of one call to the next.
        ahead: milliseconds by which ends may run ahead of that.
        apart: milliseconds from the answer to a call to the next.
    """

    name: str
    spacing: Millis
    ahead: Millis = 0
    apart: Millis = 0


def turn(tx: sa.Connection, lane: TurnQueue, rank: Rank, now: Millis, *, invited: bool) -> Millis:
    """Take the turn for a call that is made now.

    A caller that waits keeps callers of lower ranks from its turn. Callers of one rank get turns one after the other.

    Args:
        invited: this caller was given a turn for now. Others queue behind those that were.

    Returns:
        0 if the call may be made now, else the milliseconds after which to ask again.
    """
    c = turns.c
    row = tx.execute(sa.select(turns).where(c.lane == lane.name).with_for_update()).first()
    if row is None:
        tx.execute(sa.insert(turns).values(lane=lane.name, next_at=0, ends_until=0, replies_until=0, rest_until=0))
    waiting_until = (row.ends_until, row.replies_until, row.rest_until) if row else (0, 0, 0)
    next_at = row.next_at if row else 0
    change = sa.update(turns).where(c.lane == lane.name)
    ahead = lane.ahead if rank is Rank.END else 0
    before = waiting_until[: rank + (not invited)]
    earliest = max([next_at - ahead, *(until + STRAY for until in before)])
    if earliest <= now:
        tx.execute(change.values(next_at=max(next_at, now) + lane.spacing))
        return 0
    a_little_early = invited and earliest - now < lane.spacing
    until = earliest if a_little_early else max(waiting_until[rank] + lane.spacing, earliest)
    until = min(until, now + LONGEST_WAIT)
    column = ("ends_until", "replies_until", "rest_until")[rank]
    tx.execute(change.values({column: max(until, waiting_until[rank])}))
    return int(until - now)


def pause(tx: sa.Connection, lane: TurnQueue, until: Millis) -> None:
    """Let no call of this lane be made before then."""
    c = turns.c
    change = sa.update(turns).where(c.lane == lane.name, c.next_at < until).values(next_at=until)
    tx.execute(change)


def learn(tx: sa.Connection, lane: TurnQueue, channel: str) -> None:
    """Note Slack's id of the channel that a lane leads to."""
    c = turns.c
    is_new = sa.or_(c.channel.is_(None), c.channel != channel)
    tx.execute(sa.update(turns).where(c.lane == lane.name, is_new).values(channel=channel))


def channel_of(tx: sa.Connection, lane: TurnQueue) -> str | None:
    """Return Slack's id of the channel that a lane leads to, if a post has told it."""
    return tx.execute(sa.select(turns.c.channel).where(turns.c.lane == lane.name)).scalar()
