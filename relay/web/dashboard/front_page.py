"""The front page: what is under way, what has ended, what needs a look, and how the upstreams do."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa

from relay.model.event import EventType
from relay.model.times import Millis
from relay.model.watch import State
from relay.store import reports, submissions, troubles
from relay.store.schema import AnyRow
from relay.web.context import Context
from relay.web.dashboard import charts, rendering, words
from relay.web.dashboard.upstream_health import health
from relay.web.dashboard.window import WINDOWS, WindowCounter, WindowFigures, total

TOKEN = secrets.token_hex(16)
"""Stands for a form's token in the HTML that all open pages share.

It is random, so that no one outside can know it and plant it in what the page shows.
"""

ADDRESS = secrets.token_hex(16)
"""Stands for the address at which a reader reaches this deployment, in the same way."""

IN_FLIGHT = 50
ENDED = 15
ATTENTION = 20
"""Rows of each list."""

FIGURES_EVERY = 5.0
"""Seconds for which the counts are remembered, once all of the window is counted."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A watch that has ended, with its result and its error."""

    row: AnyRow
    result: dict[str, Any] | None
    error: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Figures:
    """The counts, made every few seconds."""

    counts: reports.Counts
    past: WindowFigures


@dataclass(frozen=True, slots=True)
class UpstreamInTrouble:
    """An upstream that needs attention, with what is known of it."""

    row: AnyRow
    provider: str
    status: int | None


class FrontPage:
    """Reads and renders the front page, once for all who look at one window of time.

    Args:
        context: of the deployment.
        window: the name of the window that its figures are about.
    """

    def __init__(self, context: Context, window: str) -> None:
        self._context = context
        self._window = window
        self._past = WindowCounter(context.db, WINDOWS[window])
        self._figures: tuple[float, Figures] | None = None

    async def read(self) -> str:
        """Return the contents of the page as they are now: HTML with `TOKEN` and `ADDRESS` in it."""
        now = self._context.clock()
        rows = await self._context.db.read(_rows, now)
        figures = await self._counted(now)
        past = figures.past
        upstreams = await health(self._context.upstreams, figures.counts, self._context.actions.learned)
        return rendering.render(
            "front_body.html",
            token=TOKEN,
            now=now,
            in_flight=rows.in_flight,
            ended=[_ended(row) for row in rows.ended],
            attention=rows.attention,
            troubles=[_trouble(row) for row in rows.troubles],
            unknown=rows.unknown,
            unknown_count=rows.unknown_count,
            counts=figures.counts,
            watching=figures.counts.watching,
            ends=total(past.ends, *State),
            completed=total(past.ends, State.COMPLETED),
            success=past.success(figures.counts.failing + figures.counts.held),
            health=upstreams,
            asked=any(upstream.kinds for upstream in upstreams),
            window=self._window,
            windows=WINDOWS,
            past=past,
            retention=round(self._context.settings.retention * 1000),
            charts=[charts.ends(past), charts.lag(past), charts.settled(past)],
            sandbox="sandbox" in self._context.upstreams,
            url=ADDRESS,
            why=words.why,
        )

    async def _counted(self, now: Millis) -> Figures:
        if self._figures is not None:
            made_at, figures = self._figures
            if figures.past.since is None and time.monotonic() - made_at <= FIGURES_EVERY:
                return figures
        figures = Figures(await self._context.db.read(reports.counts), await self._past.read(now))
        self._figures = (time.monotonic(), figures)
        return figures


@dataclass(frozen=True, slots=True)
class Rows:
    """The lists of the front page."""

    in_flight: list[AnyRow]
    ended: list[AnyRow]
    attention: list[AnyRow]
    troubles: Sequence[AnyRow]
    unknown: list[AnyRow]
    unknown_count: int


def _rows(tx: sa.Connection, now: Millis) -> Rows:
    return Rows(
        reports.in_flight(tx, IN_FLIGHT),
        reports.ended(tx, ENDED),
        reports.needing_attention(tx, now, ATTENTION),
        troubles.standing(tx, EventType.UPSTREAM_REFUSED),
        submissions.unknown(tx, ATTENTION),
        submissions.count_unknown(tx),
    )


def _trouble(row: AnyRow) -> UpstreamInTrouble:
    detail = orjson.loads(row.detail)
    return UpstreamInTrouble(row, detail["provider"], detail["status"])


def _ended(row: AnyRow) -> Ended:
    result = None if row.result is None else orjson.loads(row.result)
    error = None if row.error is None else orjson.loads(row.error)
    return Ended(row, result, error)
