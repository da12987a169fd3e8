"""What must hold at any moment, whatever was killed: nothing accepted is forgotten, nothing is told twice.

Each query below finds what breaks one sentence of it; on a sound database all find nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from relay.model import TERMINAL_EVENTS, DeliveryState, State
from relay.store.outbox import END
from relay.store.schema import ailments, deliveries, events, targets, watches

MOST = 100
"""Ids that are named of each kind of violation."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken sentence: which, and the ids of what breaks it."""

    what: str
    ids: tuple[str, ...]


def violations(tx: sa.Connection) -> list[Violation]:
    """Everything that is wrong; nothing on a sound database."""
    w, d, t, e = watches.c, deliveries.c, targets.c, events.c
    of_watch = sa.exists().where(e.watch_id == w.id, e.key == END)
    of_target = sa.exists().where(d.target_id == t.id, d.event_key == END)
    wanted = sa.literal(",").concat(t.events).concat(",").contains(sa.literal(",").concat(e.type).concat(","))
    open_, settled = (DeliveryState.PENDING,), (DeliveryState.DELIVERED, DeliveryState.DEAD, DeliveryState.HELD)
    unwell = sa.exists().where(ailments.c.place == d.place, ailments.c.probe_at.is_not(None))
    told = [(w.state == state) & (e.type == kind) for state, kind in TERMINAL_EVENTS.items()]
    checks = {
        "ended, and no event tells it": sa.select(w.id).where(w.state.in_(TERMINAL_EVENTS), ~of_watch),
        "not ended, and an event says so": sa.select(w.id).where(w.state.not_in(TERMINAL_EVENTS), of_watch),
        "its event tells another end": sa.select(w.id)
        .join(events, sa.and_(e.watch_id == w.id, e.key == END))
        .where(~sa.or_(*told)),
        "watched, and never polled again": sa.select(w.id).where(
            w.state == State.WATCHING, sa.or_(w.next_poll_at.is_(None), w.ended_at.is_not(None))
        ),
        "ended, and still polled": sa.select(w.id).where(
            w.state != State.WATCHING, sa.or_(w.next_poll_at.is_not(None), w.ended_at.is_(None))
        ),
        "a target that was not told": sa.select(t.id)
        .join(events, sa.and_(e.watch_id == t.watch_id, e.key == END))
        .where(wanted, ~of_target),
        "pending, and never sent again": sa.select(d.id).where(d.state.in_(open_), d.next_attempt_at.is_(None)),
        "held, and its place is well": sa.select(d.id).where(d.state == DeliveryState.HELD, ~unwell),
        "settled, and still sent": sa.select(d.id).where(d.state.in_(settled), d.next_attempt_at.is_not(None)),
        "in no known state": sa.select(d.id).where(d.state.not_in([*open_, *settled])),
    }
    found = {what: tuple(tx.execute(query.limit(MOST)).scalars()) for what, query in checks.items()}
    return [Violation(what, ids) for what, ids in found.items() if ids]
