"""Figures about everything stored, for metrics and /readyz; not per app."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from relay.model import Millis
from relay.store.schema import deliveries, watches


@dataclass(frozen=True, slots=True)
class Totals:
    """How many there are of each.

    Attributes:
        watches: by (provider, state).
        deliveries: by state.
    """

    watches: dict[tuple[str, str], int]
    deliveries: dict[str, int]


def totals(tx: sa.Connection) -> Totals:
    """Counts everything: one pass over each table, so not for every request."""
    w, d = watches.c, deliveries.c
    of_watches = sa.select(w.provider, w.state, sa.func.count()).group_by(w.provider, w.state)
    of_deliveries = sa.select(d.state, sa.func.count()).group_by(d.state)
    return Totals(
        {(provider, state): count for provider, state, count in tx.execute(of_watches)},
        dict(row._tuple() for row in tx.execute(of_deliveries)),
    )


def overdue(tx: sa.Connection, now: Millis) -> tuple[float, float]:
    """Seconds for which the longest overdue (poll, delivery) has been due and not taken; 0 when none is. Cheap."""
    ages = []
    for due in (watches.c.next_poll_at, deliveries.c.next_attempt_at):
        oldest = tx.execute(sa.select(sa.func.min(due))).scalar()
        ages.append(0.0 if oldest is None else max(0.0, (now - oldest) / 1000))
    return ages[0], ages[1]
