"""Upkeep: probe what was unwell, forget what ended long ago, keep the gauges of the metrics up to date."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

import structlog

from relay.errors import StoreUnavailable
from relay.model.times import Millis
from relay.store import Database, census, cleanup, lane_leases, reports, submissions, target_health
from relay.telemetry import metrics

log = structlog.stdlib.get_logger(__name__)

COUNT_EVERY = 60.0
"""Seconds between two counts of everything stored."""

COUNT_PATIENCE = 1.0
"""Seconds for which the metrics wait for a count; after them, they show the one before."""

PROBE_EVERY = 30.0
"""Seconds between two looks at the places that are unwell."""

PRUNE_EVERY = 60.0
"""Seconds between two looks at what may be forgotten."""

PRUNE_BATCH = 100
"""Watches that are forgotten in one transaction, at most: others wait for the end of it."""

PRUNE_PAUSE = 0.1
"""Seconds between two such transactions, while there is more."""


class Upkeep:
    """What a process does beside its main loops.

    Args:
        db: the database.
        clock: milliseconds since the epoch.
        retention: seconds for which ended watches are kept.
        under_way: counts the claims under way, by what they are for.
    """

    def __init__(
        self, db: Database, clock: Callable[[], Millis], retention: float, under_way: Mapping[str, Callable[[], int]]
    ) -> None:
        self._db = db
        self._clock = clock
        self._retention = retention
        self._under_way = under_way
        self._counted_at = float("-inf")
        self._counting: asyncio.Task[None] | None = None

    async def probe(self) -> None:
        """Let unwell places whose time has come be tried again."""
        await self._db.run(target_health.probe, self._clock())

    async def prune(self) -> float | None:
        """Forget one batch of what ended long ago.

        Returns:
            Seconds until the next batch, if there is more.
        """
        before = self._clock() - round(self._retention * 1000)
        if await self._db.run(cleanup.thin_old, before, PRUNE_BATCH):
            return PRUNE_PAUSE
        pruned = await self._db.run(cleanup.prune, before, PRUNE_BATCH)
        pruned += await self._db.run(submissions.prune, before, self._clock(), PRUNE_BATCH)
        await self._db.run(cleanup.shrink)
        if not self._db.embedded:
            await self._db.run(lane_leases.forget, self._clock())
        if pruned:
            return PRUNE_PAUSE
        await self._db.run(cleanup.empty_log)
        return None

    async def measure(self) -> None:
        """Bring the gauges about everything stored up to date."""
        overdue = await self._db.read(reports.overdue, self._clock())
        for (work, under_way), age in zip(self._under_way.items(), overdue, strict=True):
            metrics.OLDEST_DUE.labels(work).set(age)
            metrics.IN_FLIGHT.labels(work).set(under_way())
        if self._counting is None and time.monotonic() - self._counted_at >= COUNT_EVERY:
            self._counting = asyncio.create_task(self._count())
        if self._counting is not None:
            await asyncio.wait([self._counting], timeout=COUNT_PATIENCE)

    async def _count(self) -> None:
        """Count everything stored. With very many rows, `measure` does not wait for it."""
        try:
            found = await census.take(self._db)
        except StoreUnavailable as error:
            log.debug("not counted", error=error.detail)
            return
        finally:
            self._counted_at = time.monotonic()
            self._counting = None
        metrics.WATCHES.clear()
        for (provider, state), count in found.watches.items():
            metrics.WATCHES.labels(provider, state).set(count)
        for state in ("pending", "held", "delivered", "dead"):
            metrics.DELIVERIES.labels(state).set(found.deliveries[state])
        metrics.VIOLATIONS.set(found.violations)
        metrics.SUBMISSIONS_UNKNOWN.set(found.unknown)
