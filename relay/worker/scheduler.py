"""The clock: APScheduler runs a few fixed jobs, and each can be woken early when a row comes due sooner.

There is no job per task: each row has its due time, and processes must not share a job store.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger

from relay.errors import StoreUnavailable
from relay.telemetry import metrics

log = structlog.stdlib.get_logger(__name__)

STEP = 0.02
"""The least number of seconds between two runs of a job: rows that come due within it are claimed together."""

LATE = 30.0
"""Seconds that a tick may be late before the process counts as not ready."""

Tick = Callable[[], Awaitable[float | None]]
"""A job. It returns the seconds after which it wants to run again; None leaves that to its interval."""


class Every(BaseTrigger):  # type: ignore[misc]  # APScheduler has no types
    """Fires once per interval, counted from now.

    APScheduler's own interval trigger counts from the previous firing and lists every firing since then. After the
    clock was set a year ahead these are millions, which take all memory and minutes.
    """

    def __init__(self, seconds: float) -> None:
        self._interval = timedelta(seconds=seconds)

    def get_next_fire_time(self, _previous: datetime | None, now: datetime) -> datetime:
        """Return the time of the next firing."""
        return now + self._interval


@dataclass(slots=True)
class _Job:
    """A tick and its state: the task that runs it, the earliest wait asked for meanwhile, when it last ended."""

    tick: Tick
    interval: float
    running: asyncio.Task[float | None] | None = None
    woken: float | None = None
    ended: float = field(default_factory=time.monotonic)


class Scheduler:
    """Runs each tick at its interval or sooner, and never twice at the same time."""

    def __init__(self) -> None:
        self._scheduler = AsyncIOScheduler(
            timezone=UTC,
            # misfire_grace_time None: run a tick that is late. By default APScheduler drops it after a second.
            # max_instances: an instance is a firing, which ends at once. With 1, a stalled loop would log warnings.
            job_defaults={"max_instances": 10, "coalesce": True, "misfire_grace_time": None},
        )
        self._jobs: dict[str, _Job] = {}

    def add(self, name: str, tick: Tick, interval: float) -> None:
        """Add a job that runs every `interval` seconds, and sooner when `wake` asks for it."""
        job = self._jobs[name] = _Job(tick, interval)

        async def fire() -> None:
            # APScheduler only fires. If it awaited the tick, a firing during the last moments of a tick would be
            # skipped, and the end of the process would cancel the tick.
            if job.running is None:
                job.running = asyncio.create_task(self._run(job))
                job.running.add_done_callback(partial(self._ended, name, job))

        self._scheduler.add_job(fire, Every(interval), id=name, next_run_time=datetime.now(UTC))

    @staticmethod
    async def _run(job: _Job) -> float | None:
        structlog.contextvars.clear_contextvars()  # drop those of the request that woke this job
        job.woken = None
        return await job.tick()

    def _ended(self, name: str, job: _Job, task: asyncio.Task[float | None]) -> None:
        """Plan the next run of a job, however the last one has ended."""
        job.running = None
        job.ended = time.monotonic()
        if task.cancelled():
            return
        wait = None
        error = task.exception()
        if isinstance(error, StoreUnavailable):  # which the database logs
            wait = error.retry_after
        elif error is not None:
            metrics.INTERNAL_ERRORS.labels(name).inc()
            log.error("job broke", job=name, exc_info=error)
        else:
            wait = task.result()
        wait = min((w for w in (wait, job.woken) if w is not None), default=None)
        if wait is not None:
            self.wake(name, wait)

    def wake(self, name: str, wait: float = 0.0) -> None:
        """Run a job in `wait` seconds, unless it runs sooner anyway. Ignore a job that this process does not have."""
        job = self._jobs.get(name)
        if job is None:
            return
        if job.running is not None:
            job.woken = wait if job.woken is None else min(job.woken, wait)
            return
        fired = self._scheduler.get_job(name)
        at = datetime.now(UTC) + timedelta(seconds=max(STEP, wait))
        if fired.next_run_time is None or at < fired.next_run_time:
            fired.modify(next_run_time=at)

    def rearm(self) -> None:
        """Run every job at once: the clock was set, and due times of APScheduler are wall-clock times."""
        for name in self._jobs:
            self._scheduler.modify_job(name, next_run_time=datetime.now(UTC))

    def start(self) -> None:
        """Start the clock on the running event loop."""
        self._scheduler.start()

    async def stop(self) -> None:
        """Start no more ticks, and wait for those that run."""
        if self._scheduler.running:  # a process that only serves HTTP never starts it
            self._scheduler.pause()
            await asyncio.sleep(0)  # let pending firings run: shutdown would cancel them and log an error
            self._scheduler.shutdown(wait=False)
        jobs, self._jobs = self._jobs, {}
        if running := [job.running for job in jobs.values() if job.running is not None]:
            await asyncio.wait(running)

    def unwell(self) -> str | None:
        """Return why the clock cannot be relied on, in words, or None while it ticks."""
        now = time.monotonic()
        lates = ((now - job.ended - job.interval, name) for name, job in self._jobs.items())
        late, name = max(lates, default=(0.0, ""))
        return f"the clock is not well: '{name}' is {late:.0f} s late" if late > LATE else None
