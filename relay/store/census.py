"""Counts everything that is stored, and looks for violated invariants: slice by slice, between other reads."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import sqlalchemy as sa

from relay.model.providers import family
from relay.store import invariants, submissions
from relay.store.database import Database
from relay.store.schema import deliveries, targets, watches

SLICE = 5000
"""Rows that one transaction reads."""


@dataclass(slots=True)
class Census:
    """How many rows there are in each state.

    Attributes:
        watches: by (provider, state).
        deliveries: by state.
        violations: rows that violate an invariant.
        unknown: create calls whose outcome is unknown.
    """

    watches: Counter[tuple[str, str]] = field(default_factory=Counter)
    deliveries: Counter[str] = field(default_factory=Counter)
    violations: int = 0
    unknown: int = 0


async def take(db: Database, most: int = SLICE) -> Census:
    """Count everything. Rows that change meanwhile are counted as they were, or as they are."""
    census = Census()
    census.unknown = await db.read(submissions.count_unknown)
    for table in (watches, targets, deliveries):
        after: str | None = ""
        while after is not None:
            after = await db.read(_add_slice, census, table, after, most)
    return census


def _add_slice(tx: sa.Connection, census: Census, table: sa.Table, after: str, most: int) -> str | None:
    """Add the rows behind an id to a census; return the id of the last one, or None when there is none."""
    ids = sa.select(table.c.id).where(table.c.id > after).order_by(table.c.id).limit(most).subquery()
    last: str | None = tx.execute(sa.select(sa.func.max(ids.c.id))).scalar()
    if last is None:
        return None
    in_slice = sa.and_(table.c.id > after, table.c.id <= last)
    census.violations += invariants.violations_where(tx, table, in_slice)
    if table is watches:
        kind = watches.c.provider, watches.c.state
        of_watches = sa.select(*kind, sa.func.count()).where(in_slice).group_by(*kind)
        for provider, state, count in tx.execute(of_watches):
            census.watches[family(provider), state] += count
    elif table is deliveries:
        column = deliveries.c.state
        of_deliveries = sa.select(column, sa.func.count()).where(in_slice).group_by(column)
        for state, count in tx.execute(of_deliveries):
            census.deliveries[state] += count
    return last
