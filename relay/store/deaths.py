"""How many processes in a row have died while they worked on a watch or a delivery.

An exception is an outcome of a claim; a process that is killed, by a fault of native code or for its memory, leaves
none. Its rows come due again at once, and the one that kills would kill every process that comes, and take the work
beside it along. So the process that buries another one marks its rows. The marks stand where the lease was, the next
claim takes them over into its own lease, and every save, which ends the lease, ends them: no poll costs more for it.

The first death may be an accident: the rows are claimed again at once. After another one they come due one by one, so
that the work that died beside the row that kills is done between its deaths. After `MOST` the claim is a fault.
"""

from __future__ import annotations

import random

import sqlalchemy as sa

from relay.model.times import Millis
from relay.store.schema import deliveries, every_row, watches

MARK = "+"

NOTED_IN = (watches, deliveries)
"""The tables whose claims keep the marks."""

MOST = 3
"""Deaths in a row that are counted."""

SPREAD = 5_000
"""Milliseconds over which rows come due that have seen more than one."""


def of(lease: str) -> int:
    """Return how many processes in a row have died over a claimed row, up to `MOST`."""
    return lease.count(MARK)


def one_more(lease: sa.Column[str | None]) -> sa.ColumnElement[str]:
    """Return what stands in the place of a dead process's lease."""
    known = {MARK * count: MARK * min(count + 1, MOST) for count in range(MOST, 0, -1)}
    return sa.case(*((lease.endswith(marks), more) for marks, more in known.items()), else_=MARK)


def spread(tx: sa.Connection, due: sa.Column[int], now: Millis) -> None:
    """Have the rows that are due `now`, and have seen more than one death, come due one by one."""
    c = due.table.c
    chosen = tx.execute(sa.select(c.id).where(every_row(due.table), due == now, c.lease.startswith(2 * MARK))).scalars()
    rows = [{"chosen": row_id, "at": now + random.randrange(SPREAD)} for row_id in chosen]  # noqa: S311
    if rows:
        change = sa.update(due.table).where(c.id == sa.bindparam("chosen"))
        tx.execute(change.values({due.key: sa.bindparam("at")}), rows)


def with_deaths(new: sa.ColumnElement[str], old: sa.Column[str | None]) -> sa.ColumnElement[str]:
    """Return a new lease with the marks of the row that it claims."""
    return new.concat(sa.case((old.startswith(MARK), old), else_=""))
