"""Every query about the processes that claim: which of them live, and what a dead one had claimed."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from relay.model.times import Millis
from relay.store import deaths, submissions
from relay.store.schema import AnyRow, deliveries, erased_messages, every_row, messages, watches
from relay.store.shared_schema import lane_leases, processes

MAX_LEASE = 60_000
"""Milliseconds that any claim may hold: what is claimed comes due within this time."""

NOTABLE: Millis = 2000
"""Milliseconds by which the clock of a process may differ from the database's before relay warns."""


SERVER_TIME = sa.cast(sa.extract("epoch", sa.func.clock_timestamp()) * 1000, sa.BigInteger)
"""PostgreSQL's own time at the moment when it is read, in milliseconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Member:
    """A process that claims.

    Attributes:
        host: where its `pid` means something.
        silent: milliseconds since its last beat, by the database's own clock where it has one.
    """

    name: str
    host: str
    pid: int
    silent: Millis = 0


def beat(tx: sa.Connection, me: Member, now: Millis) -> list[Member]:
    """Note that `me` lives, and return the other processes."""
    c = processes.c
    clock = _clock(tx, now)
    change = sa.update(processes).where(c.name == me.name).values(seen_at=clock)
    if not tx.execute(change).rowcount:
        tx.execute(sa.insert(processes).values(name=me.name, host=me.host, pid=me.pid, seen_at=clock))
    rows = tx.execute(sa.select(c.name, c.host, c.pid, c.seen_at, clock.label("at"))).all()
    return [Member(row.name, row.host, row.pid, row.at - row.seen_at) for row in rows if row.name != me.name]


def shared_clock(tx: sa.Connection, name: str, ahead: Millis) -> Millis:
    """Return the time of the clock that all processes share, on PostgreSQL.

    Args:
        name: the process that asks.
        ahead: by how much its own clock is ahead, as far as it knows; 0 if that is not worth a warning.
    """
    c = processes.c
    tx.execute(sa.update(processes).where(c.name == name, c.ahead != ahead).values(ahead=ahead))
    return int(tx.execute(sa.select(_clock(tx, 0))).scalar_one())


def wrong_clocks(tx: sa.Connection) -> list[AnyRow]:
    """Return the processes whose clocks differ from the database's: `name`, `host`, and `ahead` in milliseconds."""
    c = processes.c
    return list(tx.execute(sa.select(c.name, c.host, c.ahead).where(c.ahead != 0).order_by(c.name)))


def _clock(tx: sa.Connection, now: Millis) -> sa.ColumnElement[int]:
    """Return the milliseconds of a clock that all processes share."""
    if tx.dialect.name == "postgresql":
        return SERVER_TIME
    return sa.literal(now, sa.BigInteger)


def bury(tx: sa.Connection, name: str, now: Millis, *, died: bool = True) -> int:
    """Make everything that a process had claimed due, and forget the process. Its late saves are no-ops.

    Of the create calls that it was sending, nobody knows what became of them.

    It comes due at once. Rows over which several processes in a row have died come due one by one: see `store/deaths`.

    Args:
        died: while it worked on them; else it gives them back.

    Returns:
        How many claims it had.
    """
    tx.execute(sa.delete(processes).where(processes.c.name == name))
    tx.execute(sa.update(lane_leases).where(lane_leases.c.process == name).values(places=0))
    submissions.abandon(tx, name, now)
    freed = 0
    for table, due in (
        (watches, watches.c.next_poll_at),
        (deliveries, deliveries.c.next_attempt_at),
        (messages, messages.c.edit_at),
        (erased_messages, erased_messages.c.edit_at),
    ):
        # The due time bounds the search: a claim is due within the lease, and due times are indexed.
        claimed = sa.and_(every_row(table), due <= now + MAX_LEASE, table.c.lease.startswith(f"{name}."))
        noted = died and table in deaths.NOTED_IN
        lease = deaths.one_more(table.c.lease) if noted else None
        freed += tx.execute(sa.update(table).where(claimed).values({due.key: now, "lease": lease})).rowcount
        if noted:
            deaths.spread(tx, due, now)
    return freed
