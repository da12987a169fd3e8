"""The invariants of the database: no accepted task is forgotten, and no end is sent twice, whichever process died.

Each query below finds the rows that violate one of them. On a sound database no query finds a row. Apart from these,
`find_faults` finds the rows whose last step a fault of relay's own has interrupted: nothing is lost, but it is a bug.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import orjson
import sqlalchemy as sa

from relay.model.delivery import DeliveryState
from relay.model.event import TERMINAL_EVENTS
from relay.model.providers import INLINE
from relay.model.reading import INTERNAL
from relay.model.watch import State
from relay.store import submissions, usage
from relay.store.outbox import END
from relay.store.schema import ailments, attempts, deliveries, events, targets, watches

MOST = 100
"""Ids that are listed of each kind of violation."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A violated invariant: what is wrong, and the ids of the rows."""

    what: str
    ids: tuple[str, ...]


def find_violations(tx: sa.Connection) -> list[Violation]:
    """Find the violated invariants. On a sound database there are none."""
    rows = _of_watches() | _of_targets() | _of_deliveries() | _of_apps()
    return _found(tx, rows | {"create call still being sent by a process that is gone": submissions.orphans(tx)})


def find_faults(tx: sa.Connection) -> list[Violation]:
    """Find the rows whose last poll or attempt a fault of relay's own has interrupted. It reads all of them."""
    last = sa.and_(attempts.c.delivery_id == deliveries.c.id, attempts.c.number == deliveries.c.attempts)
    return _found(
        tx,
        {
            "relay itself failed at the last poll": sa.select(watches.c.id).where(
                watches.c.state.in_((State.WATCHING, State.EXPIRED)), watches.c.error == orjson.dumps(INTERNAL).decode()
            ),
            "relay itself failed at the last attempt": (
                sa.select(deliveries.c.id).join(attempts, last).where(attempts.c.error == INTERNAL["code"])
            ),
        },
    )


def find_orphans(tx: sa.Connection, providers: Collection[str], *, inline: bool) -> list[Violation]:
    """Find the watches under way that no process can ask about: without a file, or inline where that is off.

    Args:
        providers: those that have a file.
        inline: whether inline definitions are switched on.
    """
    w = watches.c
    is_inline = w.provider.startswith(INLINE)
    watching = w.state == State.WATCHING
    orphans = sa.and_(watching, w.provider.not_in(providers), ~is_inline)
    gone = tx.execute(sa.select(w.provider).where(orphans).distinct().order_by(w.provider)).scalars().all()
    checks = {
        f"watching, but there is no file of the provider '{name}'": sa.select(w.id).where(watching, w.provider == name)
        for name in gone
    }
    if not inline:
        switched_off = "watching by an inline definition, but RELAY_INLINE_PROVIDERS is off"
        checks[switched_off] = sa.select(w.id).where(watching, is_inline)
    return _found(tx, checks)


def _found(tx: sa.Connection, checks: Mapping[str, sa.Select[str]]) -> list[Violation]:
    violations = [Violation(what, tuple(tx.execute(query.limit(MOST)).scalars())) for what, query in checks.items()]
    return [violation for violation in violations if violation.ids]


def _of_apps() -> dict[str, sa.Select[str]]:
    return {"app with another count than rows": usage.miscounted()}


def violations_where(tx: sa.Connection, table: sa.Table, chosen: sa.ColumnElement[bool]) -> int:
    """Count the violations among some rows of `watches`, `targets` or `deliveries`."""
    checks = {watches: _of_watches, targets: _of_targets, deliveries: _of_deliveries}[table]()
    return sum(len(tx.execute(query.where(chosen).limit(MOST)).all()) for query in checks.values())


def _of_watches() -> dict[str, sa.Select[str]]:
    w = watches.c
    e = events.c
    has_event = sa.exists().where(e.watch_id == w.id, e.key == END)
    right_event = sa.or_(*((w.state == state) & (e.type == type_) for state, type_ in TERMINAL_EVENTS.items()))
    with_event = sa.select(w.id).join(events, sa.and_(e.watch_id == w.id, e.key == END))
    return {
        "ended without an event": sa.select(w.id).where(w.state.in_(TERMINAL_EVENTS), ~has_event),
        "not ended, with the event of an end": sa.select(w.id).where(w.state.not_in(TERMINAL_EVENTS), has_event),
        "ended, with the event of another end": with_event.where(~right_event),
        "watching, but never polled again": sa.select(w.id).where(
            w.state == State.WATCHING, sa.or_(w.next_poll_at.is_(None), w.ended_at.is_not(None))
        ),
        "ended, but still polled": sa.select(w.id).where(
            w.state != State.WATCHING, sa.or_(w.next_poll_at.is_not(None), w.ended_at.is_(None))
        ),
    }


def _of_targets() -> dict[str, sa.Select[str]]:
    t = targets.c
    e = events.c
    has_delivery = sa.exists().where(deliveries.c.target_id == t.id, deliveries.c.event_key == END)
    wants_event = sa.literal(",").concat(t.events).concat(",").contains(sa.literal(",").concat(e.type).concat(","))
    with_event = sa.select(t.id).join(events, sa.and_(e.watch_id == t.watch_id, e.key == END))
    return {"target without a delivery of the end": with_event.where(wants_event, ~has_delivery)}


def _of_deliveries() -> dict[str, sa.Select[str]]:
    d = deliveries.c
    settled = (DeliveryState.DELIVERED, DeliveryState.DEAD, DeliveryState.HELD)
    is_unwell = sa.exists().where(ailments.c.place == d.place, ailments.c.probe_at.is_not(None))
    return {
        "pending, but never sent again": sa.select(d.id).where(
            d.state == DeliveryState.PENDING, d.next_attempt_at.is_(None)
        ),
        "held, but its place is well": sa.select(d.id).where(d.state == DeliveryState.HELD, ~is_unwell),
        "settled, but still sent": sa.select(d.id).where(d.state.in_(settled), d.next_attempt_at.is_not(None)),
        "in an unknown state": sa.select(d.id).where(d.state.not_in([DeliveryState.PENDING, *settled])),
    }
