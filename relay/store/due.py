"""What comes due, by app: a claim takes a share of each app's rows, in the order of an index.

Nothing here reads more rows than a claim may take, however many are due. The rows of disabled apps wait.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from relay.model.times import Millis
from relay.store import deaths
from relay.store.hot import HotRow, Statement
from relay.store.schema import apps

ANY_APP = ""
"""Stands for all apps, where their rows are claimed in one order: messages, for which Slack has limits of its own."""


@dataclass(frozen=True, slots=True)
class Allotment:
    """What a transaction may claim: of each app so many rows, under a lease until they come due again."""

    lease: str
    until: Millis
    shares: Mapping[str, int] = field(default_factory=dict)


def due_of_any_app(tx: sa.Connection, due: sa.Column[int], now: Millis, most: int) -> dict[str, int]:
    """Return how many rows are due, counted up to `most`, where no app has a part of its own."""
    some = sa.select(due).where(due <= now).order_by(due).limit(most).subquery()
    count = tx.execute(sa.select(sa.func.count()).select_from(some)).scalar_one()
    return {ANY_APP: count} if count else {}


def next_of_any_app(tx: sa.Connection, due: sa.Column[int], without: Collection[str]) -> Millis | None:
    """Return when the next row comes due, or its claim runs out; None while there is no room for any."""
    return None if without else tx.execute(sa.select(sa.func.min(due)).where(due.is_not(None))).scalar()


class DueRows:
    """The rows of a table that come due.

    Args:
        due: the column that says when.
        returning: the columns that a claim returns.
        ranks: conditions, each with its own index over app and due time. Rows of the first rank are claimed first.
    """

    def __init__(
        self,
        due: sa.Column[int],
        returning: Sequence[sa.Column[Any]],
        ranks: Sequence[sa.ColumnElement[bool]] = (sa.true(),),
    ) -> None:
        oldest: list[sa.ColumnElement[Any]] = []
        counts: list[sa.ColumnElement[Any]] = []
        for rank in ranks:
            of_app = sa.and_(due.table.c.app_id == apps.c.id, due.is_not(None), rank)
            oldest.append(sa.select(sa.func.min(due)).where(of_app).correlate(apps).scalar_subquery())
            some = sa.select(due).where(of_app, due <= sa.bindparam("now"))
            few = some.order_by(due).limit(sa.bindparam("most")).correlate(apps).subquery()
            counts.append(sa.select(sa.func.count()).select_from(few).correlate(apps).scalar_subquery())
        enabled = apps.c.disabled_at.is_(None)
        self._oldest = Statement(sa.select(apps.c.id, *oldest).where(enabled))
        self._counts = Statement(sa.select(apps.c.id, *oldest, *counts).where(enabled))
        self._claims = [Statement(_claim(due, returning, rank)) for rank in ranks]

    def count(self, tx: sa.Connection, now: Millis, most: int) -> dict[str, int]:
        """Return how many rows each app has due, counted up to `most`; the app that has waited longest comes first."""
        apps_due: list[tuple[Millis, str, int]] = []
        for app_id, *figures in self._counts.rows(tx, {"now": now, "most": most}):
            oldest, counts = figures[: len(self._claims)], figures[len(self._claims) :]
            if rows := sum(counts):
                apps_due.append((_first(oldest), app_id, min(rows, most)))
        return {app_id: rows for _, app_id, rows in sorted(apps_due)}

    def claim(
        self, tx: sa.Connection, now: Millis, until: Millis, lease: str, shares: Mapping[str, int]
    ) -> list[HotRow]:
        """Claim of each app up to its share of due rows, the longest overdue first. They come due again at `until`.

        Rows that another process is claiming at this moment are skipped. The lease that is written also says when the
        row was due: see `due_of`.
        """
        claimed: list[HotRow] = []
        for app_id, share in shares.items():
            most = len(claimed) + share
            for claim in self._claims:
                if (left := most - len(claimed)) > 0:
                    values = {"app": app_id, "now": now, "until": until, "by": lease, "most": left}
                    claimed += claim.rows(tx, values)
        return claimed

    def next(self, tx: sa.Connection, without: Collection[str] = ()) -> Millis | None:
        """Return when the next row comes due, or its claim runs out; of all apps but some."""
        rows = [figures for app_id, *figures in self._oldest.rows(tx) if app_id not in without]
        return min((_first(oldest) for oldest in rows if any(oldest)), default=None)


def due_of(lease: str) -> Millis:
    """Return when the row was due that a claim of `DueRows` has under this lease.

    The claim overwrites the due time. In the lease, it costs neither a column nor a second statement.
    """
    return int(lease.rpartition(".")[2].rstrip(deaths.MARK))


def _first(times: Sequence[Millis | None]) -> Millis:
    return min(at for at in times if at is not None)


def _claim(due: sa.Column[int], returning: Sequence[sa.Column[Any]], rank: sa.ColumnElement[bool]) -> sa.UpdateBase:
    table = due.table
    chosen = (
        sa.select(table.c.id)
        .where(table.c.app_id == sa.bindparam("app"), due.is_not(None), rank, due <= sa.bindparam("now"))
        .order_by(due)
        .limit(sa.bindparam("most"))
        .with_for_update(skip_locked=True)
        .cte("chosen")
    )
    change = sa.update(table).where(table.c.id.in_(sa.select(chosen.c.id)))
    lease = sa.bindparam("by", type_=sa.Text) + "." + sa.cast(due, sa.Text)
    lease = deaths.with_deaths(lease, table.c.lease)
    return change.values({due.key: sa.bindparam("until"), "lease": lease}).returning(*returning)
