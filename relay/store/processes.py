"""Every query about the processes that claim: who lives, and what a dead one had claimed."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from relay.model import Millis
from relay.store.schema import deliveries, messages, processes, watches

MAX_LEASE = 60_000
"""Milliseconds that any claim may hold: what is claimed comes due within this time."""


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
    """Says that `me` lives, and returns the others."""
    c, clock = processes.c, _clock(tx, now)
    change = sa.update(processes).where(c.name == me.name).values(seen_at=clock)
    if not tx.execute(change).rowcount:
        tx.execute(sa.insert(processes).values(name=me.name, host=me.host, pid=me.pid, seen_at=clock))
    query = sa.select(c.name, c.host, c.pid, (clock - c.seen_at).label("silent")).where(c.name != me.name)
    return [Member(row.name, row.host, row.pid, row.silent) for row in tx.execute(query)]


def _clock(tx: sa.Connection, now: Millis) -> sa.ColumnElement[int]:
    """Milliseconds by a clock that all processes share."""
    if tx.dialect.name == "postgresql":
        epoch = sa.extract("epoch", sa.func.clock_timestamp())
        return sa.cast(epoch * 1000, sa.BigInteger)
    return sa.literal(now, sa.BigInteger)


def bury(tx: sa.Connection, name: str, now: Millis) -> int:
    """Makes due at once whatever a process had claimed, and forgets it. Its late saves will find another lease.

    Returns:
        How many claims it had.
    """
    tx.execute(sa.delete(processes).where(processes.c.name == name))
    freed = 0
    for table, due in (
        (watches, watches.c.next_poll_at),
        (deliveries, deliveries.c.next_attempt_at),
        (messages, messages.c.edit_at),
    ):
        # The due time bounds the search: a claim is due within the lease, and due times are indexed.
        claimed = sa.and_(due <= now + MAX_LEASE, table.c.lease.startswith(f"{name}."))
        freed += tx.execute(sa.update(table).where(claimed).values({due.key: now, "lease": None})).rowcount
    return freed
