"""After the clock was set back: due times that were reckoned by the old one would mean silence until it catches up."""

from __future__ import annotations

import sqlalchemy as sa

from relay.model import Millis
from relay.store.schema import attempts, deliveries, messages, turns, watches

TOLERANCE = 5000
"""Milliseconds by which clocks of several hosts may differ without anything being done about it."""


LONGEST_PAUSE = 3_600_000
"""Milliseconds that Slack may ask for."""


def rebase(tx: sa.Connection, now: Millis) -> int:
    """Reckons anew, from `now`, what was planned in what is the future by this clock; returns how many rows.

    Done twice it does no harm: what it finds again comes due at once.
    """
    w, d = watches.c, deliveries.c
    polled = sa.func.coalesce(w.last_poll_at, w.created_at)
    tried = sa.select(sa.func.max(attempts.c.at)).where(attempts.c.delivery_id == d.id).scalar_subquery()
    rows = 0
    for table, due, planned in (
        (watches, w.next_poll_at, polled),
        (deliveries, d.next_attempt_at, sa.func.coalesce(tried, d.created_at)),
    ):
        fresh = sa.case((due > planned, now + due - planned), else_=now)
        change = sa.update(table).where(due.is_not(None), due > now, planned > now + TOLERANCE)
        rows += tx.execute(change.values({due.key: fresh})).rowcount
    m, t = messages.c, turns.c
    planned_late = sa.update(messages).where(m.edit_at > now, m.lease.is_(None), m.changed_at > now + TOLERANCE)
    rows += tx.execute(planned_late.values(edit_at=now, changed_at=now, quiet_until=now)).rowcount
    return rows + tx.execute(sa.delete(turns).where(t.next_at > now + LONGEST_PAUSE)).rowcount
