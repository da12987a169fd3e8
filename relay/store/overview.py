"""Every query of the dashboard, named by its intent. They see all apps: the dashboard is the operator's.

Each touches a bounded number of rows by an index, however much is stored, because an open page asks again and again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from relay.errors import NotFound
from relay.model import DeliveryState, Millis, State
from relay.store import polling, replay
from relay.store import watches as watches_
from relay.store.outbox import SINGLE_ATTEMPT
from relay.store.schema import AnyRow, apps, deliveries, lags, watches

WINDOW = 1000
"""Rows among which something is looked for that has no index of its own."""

LAG = ("count", "sum", "most")
"""What is known of the detection lags of one slice of time."""

MAX_DELIVERIES = 50
"""Deliveries of one watch that its page shows, the newest."""

LONG_PENDING: Millis = 300_000
"""Milliseconds after which a delivery that is still being tried deserves a look."""

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
)


def _literal(state: State | DeliveryState) -> sa.ColumnElement[str]:
    """A state as text of the query: an index of only some states is used where the query says which it means."""
    return sa.literal_column(f"'{state.value}'", sa.Text)


def _cards(chosen: Sequence[str]) -> sa.Select[Any]:
    return sa.select(*_card).join(apps, apps.c.id == watches.c.app_id).where(watches.c.id.in_(chosen))


def in_flight(tx: sa.Connection, most: int) -> list[AnyRow]:
    """Watches that are still watching, newest first: of very many, the newest and those that are polled next."""
    c = watches.c
    newest = sa.select(c.id, c.state).order_by(c.id.desc()).limit(WINDOW).subquery()
    chosen = list(
        tx.execute(
            sa.select(newest.c.id).where(newest.c.state == State.WATCHING).order_by(newest.c.id.desc()).limit(most)
        ).scalars()
    )
    if len(chosen) < most:
        next_ones = sa.select(c.id).where(c.next_poll_at.is_not(None)).order_by(c.next_poll_at).limit(most)
        known = set(chosen)
        chosen += [one for one in tx.execute(next_ones).scalars() if one not in known][: most - len(chosen)]
    return list(tx.execute(_cards(chosen).order_by(c.id.desc())))


def ended(tx: sa.Connection, most: int) -> list[AnyRow]:
    """Watches that have ended, the last one first."""
    c = watches.c
    last = sa.select(c.id).where(c.ended_at.is_not(None)).order_by(c.ended_at.desc()).limit(most)
    return list(tx.execute(_cards(list(tx.execute(last).scalars())).order_by(c.ended_at.desc(), c.id.desc())))


def needing_attention(tx: sa.Connection, now: Millis, most: int) -> list[AnyRow]:
    """Deliveries that somebody should look at: dead ones first, then held ones, then those that take long."""
    c = deliveries.c
    told = c.event_type.not_in(SINGLE_ATTEMPT)
    dead = (
        sa.select(c.id).where(c.state == _literal(DeliveryState.DEAD), told).order_by(c.settled_at.desc()).limit(most)
    )
    held = sa.select(c.id).where(c.state == _literal(DeliveryState.HELD)).order_by(c.place).limit(most)
    tried = sa.select(c.id, c.created_at, c.attempts, c.event_type).where(c.next_attempt_at.is_not(None))
    tried_ = tried.order_by(c.next_attempt_at).limit(WINDOW).subquery()
    long = (
        sa.select(tried_.c.id)
        .where(tried_.c.created_at <= now - LONG_PENDING, tried_.c.attempts > 0)
        .where(tried_.c.event_type.not_in(SINGLE_ATTEMPT))
        .order_by(tried_.c.created_at)
        .limit(most)
    )
    chosen = [one for query in (dead, held, long) for one in tx.execute(query).scalars()][:most]
    query = (
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
    of_id = {row.id: row for row in tx.execute(query)}
    return [of_id[one] for one in dict.fromkeys(chosen) if one in of_id]


@dataclass(frozen=True, slots=True)
class Counts:
    """How many there are of what the pages tell first.

    Attributes:
        in_flight: by provider: how many are watching, and of how many of them the last answers told nothing.
        dead, held: deliveries.
    """

    in_flight: dict[str, tuple[int, int]]
    dead: int
    held: int


def counts(tx: sa.Connection) -> Counts:
    """Counts what is under way and what is stuck, by the indexes of just these."""
    w, d = watches.c, deliveries.c
    silent = sa.func.sum(sa.case((w.misses > 0, 1), else_=0))
    under_way = sa.select(w.provider, sa.func.count(), silent).where(w.next_poll_at.is_not(None)).group_by(w.provider)
    in_state = [
        tx.execute(sa.select(sa.func.count()).where(d.state == _literal(state))).scalar_one()
        for state in (DeliveryState.DEAD, DeliveryState.HELD)
    ]
    found = {provider: (count, int(misses)) for provider, count, misses in tx.execute(under_way)}
    return Counts(found, *map(int, in_state))


@dataclass(frozen=True, slots=True)
class Past:
    """What became of watches and deliveries, by slice of time and state: how many.

    Attributes:
        lags: in place of a state: `count` of ends, `sum` and `most` of the milliseconds that they went unnoticed.
    """

    ends: dict[tuple[int, str], int]
    settled: dict[tuple[int, str], int]
    lags: dict[tuple[int, str], int]


def past(tx: sa.Connection, since: Millis, slice_: Millis) -> Past:
    """Ends and settled deliveries since a time, counted by slice: the number of the slice is its time // `slice_`."""
    w, d = watches.c, deliveries.c

    def by_slice(
        at: sa.Column[int], state: sa.Column[str], *more: sa.ColumnElement[bool]
    ) -> dict[tuple[int, str], int]:
        # As a literal: PostgreSQL must see that what is selected is what is grouped by.
        number = at // sa.literal_column(str(slice_), sa.BigInteger)
        query = sa.select(number, state, sa.func.count()).where(at >= since, *more).group_by(number, state)
        return {(int(number), state): int(count) for number, state, count in tx.execute(query)}

    number, ms = lags.c.at // sa.literal_column(str(slice_), sa.BigInteger), lags.c.unseen_ms
    unseen = sa.select(number, sa.func.count(), sa.func.sum(ms), sa.func.max(ms)).where(lags.c.at >= since)
    found: dict[tuple[int, str], int] = {}
    for row in tx.execute(unseen.group_by(number)):
        found |= {(int(row[0]), name): int(value) for name, value in zip(LAG, row[1:], strict=True)}
    return Past(
        by_slice(w.ended_at, w.state),
        by_slice(d.settled_at, d.state, d.event_type.not_in(SINGLE_ATTEMPT)),
        found,
    )


# One watch


@dataclass(frozen=True, slots=True)
class Story:
    """All that is stored about one watch.

    Attributes:
        answer: the upstream's last one.
    """

    app: str
    watch: watches_.Found
    history: list[AnyRow]
    deliveries: list[replay.Found]
    answer: bytes | None


def story(tx: sa.Connection, watch_id: str) -> Story:
    """A watch, whosever it is, with its past and its deliveries, oldest first.

    Raises:
        NotFound: there is none of that id.
    """
    found = watches_.read_many(tx, [watch_id]).get(watch_id)
    if found is None:
        raise NotFound(f"there is no watch '{watch_id[:64]}'")
    app_id = found.row.app_id
    return Story(
        tx.execute(sa.select(apps.c.name).where(apps.c.id == app_id)).scalar_one(),
        found,
        watches_.history(tx, watch_id),
        replay.newest(tx, app_id, MAX_DELIVERIES, watch_id=watch_id)[::-1],
        polling.answer(tx, watch_id),
    )


def owner(tx: sa.Connection, delivery_id: str) -> tuple[str, str]:
    """Whose a delivery is: the ids of its app and its watch.

    Raises:
        NotFound: there is none of that id.
    """
    query = sa.select(deliveries.c.app_id, deliveries.c.watch_id).where(deliveries.c.id == delivery_id)
    row = tx.execute(query).first()
    if row is None:
        raise NotFound(f"there is no delivery '{delivery_id[:64]}'")
    return row.app_id, row.watch_id


def search(tx: sa.Connection, text: str, providers: Sequence[str], most: int) -> list[AnyRow]:
    """Watches of a task id, newest first; or the one of a watch's, a delivery's or a `webhook-id`.

    Args:
        providers: those that are declared, since task ids are kept under them.
    """
    w, d = watches.c, deliveries.c
    by_id = {"wch": sa.select(w.id).where(w.id == text)}
    by_id["dlv"] = sa.select(d.watch_id).where(d.id == text)
    by_id["evt"] = sa.select(d.watch_id).where(d.webhook_id == text)
    chosen: list[str] = []
    if (query := by_id.get(text.partition("_")[0])) is not None:
        chosen = list(tx.execute(query).scalars())
    if not chosen:
        task = sa.and_(w.app_id.in_(sa.select(apps.c.id)), w.provider.in_(providers), w.task_id == text)
        under = sa.select(w.id).where(task, w.state != State.CANCELLED)
        stopped = sa.select(w.id).where(w.task_id == text, w.state == _literal(State.CANCELLED))
        for one in (under, stopped):
            chosen += tx.execute(one.order_by(w.id.desc()).limit(most)).scalars()
    return list(tx.execute(_cards(chosen).order_by(w.id.desc()).limit(most)))
