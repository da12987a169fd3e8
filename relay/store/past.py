"""What has ended in a window of time, counted for the dashboard: of all apps, by slice of time, or by provider.

A window may hold a million ends. So each function counts a bounded number of rows, through the indexes of times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import sqlalchemy as sa

from relay.model.providers import INLINE, family
from relay.model.times import Millis
from relay.model.watch import State
from relay.store.outbox import SINGLE_ATTEMPT
from relay.store.schema import deliveries, lags, watches

MOST = "most"

LAG = ("count", "sum", MOST)
"""The figures about the detection lags in a slice of time."""

SliceCounts: TypeAlias = dict[tuple[int, str], int]
"""How many, by the number of a slice and the state."""

NEWEST = 20_000
"""Ends from which the figures of providers are made: the newest ones of a window."""


@dataclass(frozen=True, slots=True)
class Past:
    """How many watches and deliveries ended in each state, by slice of time and state.

    Attributes:
        lags: has figures in place of states: the `count` of ends, and `sum` and `most` of their detection lags.
    """

    ends: SliceCounts
    settled: SliceCounts
    lags: SliceCounts


def reach(tx: sa.Connection, slice_: Millis, first: int, last: int, most: int) -> int:
    """Return from which slice on, up to `last`, about `most` rows of each kind can be counted.

    It is at least the last one, however many rows it has, and none before `first`.
    """
    reached = first
    for at in (watches.c.ended_at, deliveries.c.settled_at, lags.c.at):
        within = sa.select(at).where(at >= first * slice_, at < (last + 1) * slice_)
        beyond = tx.execute(within.order_by(at.desc()).offset(most).limit(1)).scalar()
        reached = reached if beyond is None else max(reached, beyond // slice_ + 1)
    return min(reached, last)


def count(tx: sa.Connection, slice_: Millis, first: int, last: int | None = None) -> Past:
    """Count ends and settled deliveries by slice, from one slice to another, or to the end.

    The number of a slice is its time // `slice_`.
    """
    # A literal, because PostgreSQL must see that the selected expression is the one to group by.
    divisor = sa.literal_column(str(slice_), sa.BigInteger)

    def within(at: sa.Column[int]) -> sa.ColumnElement[bool]:
        return at >= first * slice_ if last is None else at.between(first * slice_, (last + 1) * slice_ - 1)

    def by_slice(at: sa.Column[int], state: sa.Column[str], *more: sa.ColumnElement[bool]) -> SliceCounts:
        number = at // divisor
        query = sa.select(number, state, sa.func.count()).where(within(at), *more).group_by(number, state)
        return {(int(number), state): int(count) for number, state, count in tx.execute(query)}

    number = lags.c.at // divisor
    ms = lags.c.unseen_ms
    lag_query = sa.select(number, sa.func.count(), sa.func.sum(ms), sa.func.max(ms)).where(within(lags.c.at))
    lags_by_slice: SliceCounts = {}
    for slice_number, *figures in tx.execute(lag_query.group_by(number)):
        lags_by_slice |= {(int(slice_number), name): int(figure) for name, figure in zip(LAG, figures, strict=True)}
    retried = deliveries.c.event_type.not_in(SINGLE_ATTEMPT)
    return Past(
        ends=by_slice(watches.c.ended_at, watches.c.state),
        settled=by_slice(deliveries.c.settled_at, deliveries.c.state, retried),
        lags=lags_by_slice,
    )


@dataclass(frozen=True, slots=True)
class ProviderPast:
    """What became of one provider's tasks. Times are milliseconds.

    Attributes:
        since: the first of these ends.
        completed, failed, others: how many ended so.
        took, took_p95: within which half, and 95 %, of the completed and failed ones ended after their registration.
        noticed, noticed_p95: within which half, and 95 %, of the ends were noticed.
    """

    since: Millis
    completed: int
    failed: int
    others: int
    took: Millis | None
    took_p95: Millis | None
    noticed: Millis | None
    noticed_p95: Millis | None


def of_providers(tx: sa.Connection, since: Millis) -> dict[str, ProviderPast]:
    """Return what became of the tasks of each provider that have ended since a time: of the newest `NEWEST` of them."""
    w = watches.c
    its_end = w.state.in_([State.COMPLETED, State.FAILED])
    newest = (
        sa.select(
            # Inline definitions have a name each: they are counted together.
            sa.case((w.inline.is_not(None), family(INLINE)), else_=w.provider).label("provider"),
            w.state,
            w.ended_at,
            sa.case((its_end, w.ended_at - w.created_at)).label("took"),
            lags.c.unseen_ms.label("lag"),
        )
        .outerjoin_from(watches, lags, lags.c.watch_id == w.id)
        .where(w.ended_at >= since)
        .order_by(w.ended_at.desc())
        .limit(NEWEST)
        .subquery()
    )
    ranks = [*_ranked(newest.c.provider, newest.c.took), *_ranked(newest.c.provider, newest.c.lag)]
    ranked = sa.select(newest, *ranks).subquery().c
    completed, failed = (sa.func.count().filter(ranked.state == state) for state in (State.COMPLETED, State.FAILED))
    query = sa.select(
        ranked.provider,
        sa.func.min(ranked.ended_at),
        completed,
        failed,
        sa.func.count() - completed - failed,
        *(_within(ranked, name, part) for name in ("took", "lag") for part in (50, 95)),
    )
    rows = tx.execute(query.group_by(ranked.provider))
    return {provider: ProviderPast(*figures) for provider, *figures in rows}


def _ranked(provider: sa.ColumnElement[str], value: sa.ColumnElement[int]) -> list[sa.ColumnElement[int]]:
    """Return the rank of a value among those of its provider, and how many there are."""
    rank = sa.func.row_number().over(partition_by=provider, order_by=value.asc().nulls_last())
    of = sa.func.count(value).over(partition_by=provider)
    return [rank.label(f"{value.key}_rank"), of.label(f"{value.key}_of")]


def _within(ranked: sa.ColumnCollection[str, sa.ColumnElement[int]], name: str, percent: int) -> sa.ColumnElement[int]:
    """Return the least value that so many percent of the values do not exceed."""
    reached = ranked[f"{name}_rank"] * 100 >= ranked[f"{name}_of"] * percent
    return sa.func.min(sa.case((reached, ranked[name])))
