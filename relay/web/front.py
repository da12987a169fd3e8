"""The front page: what is under way, what has ended, what needs a look, and how the upstreams do."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa

from relay.model import Millis, State
from relay.store import overview
from relay.store.schema import AnyRow
from relay.web import charts, pages
from relay.web.context import Context
from relay.web.day import Day, LastDay, total
from relay.web.health import health

TOKEN, ADDRESS = secrets.token_hex(16), secrets.token_hex(16)
"""Stand, in what all open pages share, for a form's token, and for where a reader reaches this deployment.

Nobody outside can know them, and so none can plant them.
"""

IN_FLIGHT, ENDED, ATTENTION = 50, 15, 20
"""Rows of each list."""

FIGURES_EVERY = 5.0
"""Seconds for which what is counted is believed."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A watch that has ended, its result and its error read."""

    row: AnyRow
    result: dict[str, Any] | None
    error: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Figures:
    """What is counted, every few seconds."""

    counts: overview.Counts
    day: LastDay


class Front:
    """Reads and renders the front page, for all who look at it together.

    Args:
        context: of the deployment.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._day = Day(context.db)
        self._figures: tuple[float, Figures] | None = None

    async def read(self) -> str:
        """The page's contents as they are now: HTML with `TOKEN` and `ADDRESS` in it."""
        context, now = self._context, self._context.clock()
        rows = await context.db.read(_rows, now)
        figures = await self._counted(now)
        day, found = figures.day, health(context.providers, context.budget, figures.counts)
        return pages.render(
            "front_body.html",
            token=TOKEN,
            now=now,
            in_flight=rows.in_flight,
            ended=[_ended(row) for row in rows.ended],
            attention=rows.attention,
            counts=figures.counts,
            watching=sum(count for count, _ in figures.counts.in_flight.values()),
            ends=total(day.ends, *State),
            completed=total(day.ends, State.COMPLETED),
            success=day.success,
            health=found,
            asked=any(one.kinds for one in found),
            charts=[charts.ends(day), charts.lag(day), charts.settled(day)],
            sandbox="sandbox" in context.providers,
            url=ADDRESS,
        )

    async def _counted(self, now: Millis) -> Figures:
        if self._figures is None or time.monotonic() - self._figures[0] > FIGURES_EVERY:
            counts = await self._context.db.read(overview.counts)
            self._figures = time.monotonic(), Figures(counts, await self._day.read(now))
        return self._figures[1]


@dataclass(frozen=True, slots=True)
class Rows:
    """The lists of the front page."""

    in_flight: list[AnyRow]
    ended: list[AnyRow]
    attention: list[AnyRow]


def _rows(tx: sa.Connection, now: Millis) -> Rows:
    return Rows(
        overview.in_flight(tx, IN_FLIGHT),
        overview.ended(tx, ENDED),
        overview.needing_attention(tx, now, ATTENTION),
    )


def _ended(row: AnyRow) -> Ended:
    return Ended(row, *(None if text is None else orjson.loads(text) for text in (row.result, row.error)))
