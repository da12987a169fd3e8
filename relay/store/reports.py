"""The queries of the dashboard. They see the rows of all apps, because the dashboard belongs to the operator.

Each reads a limited number of rows through an index, because an open page runs them again and again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from relay.errors import NotFound
from relay.model.delivery import DeliveryState
from relay.model.times import Millis
from relay.model.watch import State
from relay.store import deliveries as replay
from relay.store import last_answers, misses, next_polls, outbox, polling
from relay.store import watches as watches_
from relay.store.next_polls import COUNTED
from relay.store.outbox import SINGLE_ATTEMPT
from relay.store.schema import EACH_APP, NEVER_ENDED, AnyRow, apps, cancelled_id, changes, deliveries, usage, watches

WINDOW = 1000
"""Rows that are searched for what has no index of its own."""

MAX_DELIVERIES = 50
"""Deliveries of one watch that its page shows; the newest ones."""

LONG_PENDING: Millis = 300_000
"""The age from which a delivery that is still being tried needs attention."""

_card = (
    watches.c.id,
    watches.c.task_id,
    watches.c.provider,
    watches.c.state,
    watches.c.upstream_status,
    watches.c.progress,
    watches.c.estimated_end,
    watches.c.result,
    watches.c.error,
    watches.c.misses,
    watches.c.last_poll_at,
    watches.c.next_poll_at,
    watches.c.lease,
    watches.c.expires_at,
    watches.c.created_at,
    watches.c.ended_at,
    apps.c.name.label("app"),
    sa.select(changes.c.at)
    .where(changes.c.watch_id == watches.c.id, changes.c.number == watches.c.changes)
    .scalar_subquery()
    .label("changed_at"),
)


def _literal(state: State | DeliveryState) -> sa.ColumnElement[str]:
    """Write a state into the text of the query. A partial index is used only if the query names its state."""
    return sa.literal_column(f"'{state.value}'", sa.Text)


def _cards(chosen: Sequence[str]) -> sa.Select[Any]:
    return sa.select(*_card).join(apps, apps.c.id == watches.c.app_id).where(watches.c.id.in_(chosen))


def cards(tx: sa.Connection, chosen: Sequence[str]) -> list[AnyRow]:
    """Return watches as lists show them, in the order of `chosen`."""
    rows = {row.id: row for row in tx.execute(_cards(chosen))}
    return [rows[watch_id] for watch_id in chosen if watch_id in rows]


def in_flight(tx: sa.Connection, most: int) -> list[AnyRow]:
    """Return watches that are still watching, newest first.

    When there are more than `most`, these are the newest ones, and then those that are polled next.
    """
    c = watches.c
    newest = sa.select(c.id, c.state).order_by(c.id.desc()).limit(WINDOW).subquery()
    watching = sa.select(newest.c.id).where(newest.c.state == State.WATCHING).order_by(newest.c.id.desc()).limit(most)
    chosen = list(tx.execute(watching).scalars())
    if len(chosen) < most:
        chosen = list(dict.fromkeys([*chosen, *next_polls.first(tx, most)]))[:most]
    return list(tx.execute(_cards(chosen).order_by(c.id.desc())))


def ended(tx: sa.Connection, most: int) -> list[AnyRow]:
    """Return watches that have ended, the latest end first."""
    c = watches.c
    last = sa.select(c.id).where(c.ended_at > NEVER_ENDED).order_by(c.ended_at.desc()).limit(most)
    return list(tx.execute(_cards(list(tx.execute(last).scalars())).order_by(c.ended_at.desc(), c.id.desc())))


def needing_attention(tx: sa.Connection, now: Millis, most: int) -> list[AnyRow]:
    """Return deliveries that need the operator's attention: first dead ones, then held ones, then long pending ones."""
    queries = (_dead(most), _held(most), _long_pending(now, most))
    chosen = [delivery_id for query in queries for delivery_id in tx.execute(query).scalars()][:most]
    rows = {row.id: row for row in tx.execute(_delivery_rows(chosen))}
    return [rows[delivery_id] for delivery_id in dict.fromkeys(chosen) if delivery_id in rows]


def _dead(most: int) -> sa.Select[str]:
    c = deliveries.c
    dead = sa.select(c.id).where(c.state == _literal(DeliveryState.DEAD), c.event_type.not_in(SINGLE_ATTEMPT))
    return dead.order_by(c.settled_at.desc()).limit(most)


def _held(most: int) -> sa.Select[str]:
    c = deliveries.c
    return sa.select(c.id).where(c.state == _literal(DeliveryState.HELD)).order_by(c.place).limit(most)


def _long_pending(now: Millis, most: int) -> sa.Select[str]:
    c = deliveries.c
    pending = sa.select(c.id, c.created_at, c.attempts, c.event_type).where(c.next_attempt_at.is_not(None))
    due_first = pending.order_by(c.next_attempt_at).limit(WINDOW).subquery().c
    return (
        sa.select(due_first.id)
        .where(due_first.created_at <= now - LONG_PENDING, due_first.attempts > 0)
        .where(due_first.event_type.not_in(SINGLE_ATTEMPT))
        .order_by(due_first.created_at)
        .limit(most)
    )


def _delivery_rows(chosen: Sequence[str]) -> sa.Select[Any]:
    c = deliveries.c
    return (
        sa.select(
            c.id,
            c.state,
            c.reason,
            c.event_type,
            c.host,
            c.attempts,
            c.next_attempt_at,
            c.lease,
            c.created_at,
            c.settled_at,
            c.watch_id,
            watches.c.task_id,
            watches.c.provider,
            apps.c.name.label("app"),
        )
        .join(watches, watches.c.id == c.watch_id)
        .join(apps, apps.c.id == c.app_id)
        .where(c.id.in_(chosen))
    )


@dataclass(frozen=True, slots=True)
class Counts:
    """The counts at the top of the pages.

    Attributes:
        watching: watches under way.
        in_flight: by provider: how many are watching, and of how many of them the last answers told nothing. Of more
            than `COUNTED`, some.
        dead, held, failing: deliveries, counted up to `COUNTED`; failing ones are still tried.
    """

    watching: int
    in_flight: dict[str, tuple[int, int]]
    dead: int
    held: int
    failing: int = 0


def counts(tx: sa.Connection) -> Counts:
    """Count what is under way and what is stuck, through partial indexes, and up to `COUNTED`."""
    d = deliveries.c
    under_way = sa.select(usage.c.app_id, usage.c.watching).where(usage.c.watching > 0)
    watching: dict[str, int] = {row.app_id: row.watching for row in tx.execute(under_way)}
    dead = sa.select(d.settled_at).where(d.state == _literal(DeliveryState.DEAD)).order_by(d.settled_at)
    held = sa.select(d.place).where(d.state == _literal(DeliveryState.HELD)).order_by(d.place)
    again = sa.and_(d.next_attempt_at.is_not(None), d.attempts > sa.literal_column("0", sa.Integer))
    failing = sa.select(d.id).where(again, d.event_type.not_in(SINGLE_ATTEMPT)).order_by(d.app_id, d.next_attempt_at)
    # Each in the order of its partial index: without one, SQLite may walk another index from end to end.
    some = (query.limit(COUNTED).subquery() for query in (dead, held, failing))
    stuck = [tx.execute(sa.select(sa.func.count()).select_from(rows)).scalar_one() for rows in some]
    return Counts(sum(watching.values()), next_polls.by_provider(tx, watching), *stuck)


@dataclass(frozen=True, slots=True)
class WatchHistory:
    """Everything that is stored about one watch.

    Attributes:
        app: the name of its app.
        answer: the upstream's last answer.
        missed: the last queries in a row that told nothing.
    """

    app: str
    watch: watches_.StoredWatch
    history: list[AnyRow]
    deliveries: list[replay.StoredDelivery]
    answer: bytes | None
    missed: AnyRow | None


def watch_history(tx: sa.Connection, watch_id: str) -> WatchHistory:
    """Return a watch of any app with its changes and its deliveries, oldest first.

    Raises:
        NotFound: there is no watch of that id.
    """
    watch = watches_.read_many(tx, [watch_id]).get(watch_id)
    if watch is None:
        raise NotFound(f"there is no watch '{watch_id[:64]}'")
    app_id = watch.row.app_id
    upstream = last_answers.answer(tx, watch_id)
    return WatchHistory(
        tx.execute(sa.select(apps.c.name).where(apps.c.id == app_id)).scalar_one(),
        watch,
        watches_.history(tx, watch_id),
        replay.newest(tx, app_id, MAX_DELIVERIES, watch_id=watch_id)[::-1],
        upstream and upstream.body,
        misses.of_watch(tx, watch_id),
    )


def owner(tx: sa.Connection, delivery_id: str) -> tuple[str, str]:
    """Return the ids of the app and the watch that a delivery belongs to.

    Raises:
        NotFound: there is no delivery of that id.
    """
    query = sa.select(deliveries.c.app_id, deliveries.c.watch_id).where(deliveries.c.id == delivery_id)
    row = tx.execute(query).first()
    if row is None:
        raise NotFound(f"there is no delivery '{delivery_id[:64]}'")
    return row.app_id, row.watch_id


def search(tx: sa.Connection, text: str, most: int) -> list[AnyRow]:
    """Return the watches of a task id, newest first; or the watch of a watch id, a delivery id or a `webhook-id`."""
    w = watches.c
    d = deliveries.c
    by_id = {
        "wch": sa.select(w.id).where(w.id == text),
        "dlv": sa.select(d.watch_id).where(d.id == text),
        "evt": sa.select(d.watch_id).where(d.webhook_id == text),
    }
    chosen: list[str] = []
    if (query := by_id.get(text.partition("_")[0])) is not None:
        chosen = list(tx.execute(query).scalars())
    if not chosen:
        of_task = sa.select(w.id).where(EACH_APP, w.task_id == text, cancelled_id == "")
        cancelled = sa.select(w.id).where(w.task_id == text, w.state == _literal(State.CANCELLED))
        # Of the first there are few. In the order of an index, PostgreSQL might walk all watches to find them.
        for query_of_task in (of_task.order_by(w.id.concat("").desc()), cancelled.order_by(w.id.desc())):
            chosen += tx.execute(query_of_task.limit(most)).scalars()
    return list(tx.execute(_cards(chosen).order_by(w.id.desc()).limit(most)))


def overdue(tx: sa.Connection, now: Millis) -> tuple[float, float]:
    """Return for how many seconds the oldest due poll and the oldest due delivery have been due; 0 if none is."""
    oldest = (polling.next_due(tx), outbox.next_due(tx))
    polls, sends = (0.0 if due is None else max(0.0, (now - due) / 1000) for due in oldest)
    return polls, sends
