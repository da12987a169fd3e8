"""What was learned of durations, as a process knows it: read again every few seconds, made into plans when needed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from dataclasses import dataclass

from relay.errors import StoreUnavailable
from relay.model.cadence import Cadence, first_poll
from relay.model.experience import ENOUGH, Experience, merged, together
from relay.model.plan import Plan, plan
from relay.model.times import Millis
from relay.store import Database, experiences

FRESH = 5.0
"""Seconds for which what is known counts as new."""

OVERLAP: Millis = 60_000
"""Milliseconds that are read again each time: a transaction commits a while after the time that it writes."""

P95 = "p95"
"""`late_after` where what was learned is to say after how long a task is late: 95 % of the tasks end before."""

MAX_PLANS = 10_000
"""Plans that are remembered."""


ALL_APPS = ""
"""Stands for all apps together."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of some tasks.

    Attributes:
        plan: when to ask about them; None where too little is known.
        stamp: tells whether anything has been learned since.
    """

    plan: Plan | None
    experience: Experience
    stamp: tuple[int, Millis] = (0, 0)

    def usual(self, part: float) -> float | None:
        """Return the seconds within which that part of the tasks ends; None where too little is known."""
        return None if self.plan is None else self.experience.durations.quantile(part)


NOTHING = Known(None, Experience())


class Learned:
    """What the processes of a deployment have learned.

    Args:
        db: where it is kept.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._known: dict[str, dict[str, dict[str, tuple[Millis, Experience]]]] = defaultdict(dict)
        self._newest: Millis = 0
        self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        self._plans: dict[tuple[str, str, str, Cadence], tuple[float, Known]] = {}

    async def refresh(self) -> None:
        """Read what is new, if the last look was a while ago. Those that come meanwhile share one look."""
        if time.monotonic() - self._read_at < FRESH:
            return
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
            self._reading.add_done_callback(self._has_read)
        await asyncio.shield(self._reading)

    def _has_read(self, _: asyncio.Task[None]) -> None:
        self._reading = None

    async def _read(self) -> None:
        with contextlib.suppress(StoreUnavailable):
            for (app_id, provider, model), at, known in await self._db.read(
                experiences.changed_since, self._newest - OVERLAP
            ):
                self._known[provider].setdefault(model, {})[app_id] = (at, known)
                self._newest = max(self._newest, at)
        self._read_at = time.monotonic()

    def of(self, app_id: str, provider: str, model: str | None, cadence: Cadence) -> Known:
        """Return what is known of the tasks of an app: what it has seen itself, or else what all apps have."""
        if not cadence.learn or provider not in self._known:
            return NOTHING
        key = (app_id, provider, experiences.name_of(model), cadence)
        made_at, known = self._plans.get(key, (float("-inf"), NOTHING))
        if made_at < self._read_at:
            if len(self._plans) >= MAX_PLANS:
                self._plans.clear()
            known = self._made(app_id, provider, key[2], cadence, known)
            self._plans[key] = (time.monotonic(), known)
        return known

    def of_all(self, provider: str) -> Experience:
        """Return what all apps have learned of a provider, together: for its operator."""
        by_model = self._known.get(provider, {})
        return merged(known for of_app in by_model.values() for _, known in of_app.values())

    def outlook(
        self,
        app_id: str,
        provider: str,
        cadence: Cadence,
        late_after: int | str | None,
        now: Millis,
        chance: float | None,
    ) -> tuple[Millis, Millis | None]:
        """Return when to ask first about a task that is registered now, and when it is late.

        Args:
            late_after: seconds, or `P95`, of which nothing comes while too little is known; None for never.
            chance: as `first_poll` takes it.
        """
        known = self.of(app_id, provider, None, cadence)
        first = first_poll(cadence, now, chance, known.plan)
        seconds = known.usual(0.95) if late_after == P95 else late_after
        if seconds is None:
            return first, None
        late_at = now + round(float(seconds) * 1000)
        return min(first, late_at), late_at

    def _made(self, app_id: str, provider: str, model: str, cadence: Cadence, before: Known) -> Known:
        """Return what an app knows, or all together, without planning again what has not changed."""
        by_model = self._known[provider]
        rows = [by_model.get(model, {})] if model else list(by_model.values())
        seen: defaultdict[str, list[tuple[Millis, Experience]]] = defaultdict(list)
        for of_app in rows:
            for app, row in of_app.items():
                if app_id in (ALL_APPS, app):
                    seen[app].append(row)
        if app_id != ALL_APPS and sum(known.count for _, known in seen[app_id]) < ENOUGH:
            return self.of(ALL_APPS, provider, model, cadence)
        learned = [row for its_rows in seen.values() for row in its_rows]
        stamp = (len(learned), max((at for at, _ in learned), default=0))
        if stamp == before.stamp:
            return before
        apps = [merged(known for _, known in its_rows) for its_rows in seen.values()]
        experience = apps[0] if app_id != ALL_APPS else together(apps)
        return Known(plan(cadence, experience), experience, stamp)
