"""After the clock was set back: rows planned by the old clock would wait until the new one reaches their due time."""

from __future__ import annotations

import sqlalchemy as sa

from relay.model.times import Millis
from relay.store.processes import MAX_LEASE
from relay.store.schema import attempts, deliveries, erased_messages, every_row, messages, watches
from relay.store.shared_schema import turns

TOLERANCE = 5000
"""Milliseconds by which the clocks of several hosts may differ before relay acts on it."""

LONGEST_PAUSE = 3_600_000
"""Milliseconds that Slack may ask for."""


def rebase(tx: sa.Connection, now: Millis) -> int:
    """Plan anew, from `now`, what was planned at a time that this clock has not reached yet.

    A second run does no harm: what it finds again comes due at once. A claim stays with the process that works on it,
    which plans anew when it saves; it only ends no later than any claim may.

    Returns:
        How many rows it planned anew.
    """
    w = watches.c
    d = deliveries.c
    polled = sa.func.coalesce(w.last_poll_at, w.created_at)
    tried = sa.select(sa.func.max(attempts.c.at)).where(attempts.c.delivery_id == d.id).scalar_subquery()
    rows = 0
    for table, due, planned in (
        (watches, w.next_poll_at, polled),
        (deliveries, d.next_attempt_at, sa.func.coalesce(tried, d.created_at)),
    ):
        every = every_row(table)
        fresh = sa.case((due > planned, now + due - planned), else_=now)
        free = sa.update(table).where(every, table.c.lease.is_(None), due > now, planned > now + TOLERANCE)
        rows += tx.execute(free.values({due.key: fresh})).rowcount
        claimed = sa.update(table).where(every, table.c.lease.is_not(None), due > now + MAX_LEASE)
        rows += tx.execute(claimed.values({due.key: now + MAX_LEASE})).rowcount
    m = messages.c
    e = erased_messages.c
    t = turns.c
    planned_late = sa.update(messages).where(m.edit_at > now, m.lease.is_(None), m.changed_at > now + TOLERANCE)
    rows += tx.execute(planned_late.values(edit_at=now, changed_at=now, quiet_until=now)).rowcount
    # How long one was put off is not known: none waits for more than the longest pause.
    rows += tx.execute(sa.update(erased_messages).where(e.edit_at > now + LONGEST_PAUSE).values(edit_at=now)).rowcount
    return rows + tx.execute(sa.delete(turns).where(t.next_at > now + LONGEST_PAUSE)).rowcount
