"""The clock: APScheduler runs a few fixed jobs, each woken early when something comes due sooner.

Not a job per task: a row already says when, and a job store must not be shared by processes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

from relay.errors import StoreUnavailable

log = structlog.stdlib.get_logger(__name__)

STEP = 0.02
"""Seconds between two runs of a job, at least: what comes due within one is claimed together."""

LATE = 30.0
"""Seconds by which a tick may be late before the clock is not well."""

Tick = Callable[[], Awaitable[float | None]]
"""A job. It says in how many seconds it wants to run again; None leaves that to its interval."""


@dataclass(slots=True)
class _Job:
    """A tick and how it is doing: the task that runs it, the earliest wait asked for meanwhile, when it last ended."""

    tick: Tick
    interval: float
    running: asyncio.Task[None] | None = None
    woken: float | None = None
    ended: float = field(default_factory=time.monotonic)


class Scheduler:
    """Runs ticks, each one never twice at once, at its interval or sooner."""

    def __init__(self) -> None:
        self._scheduler = AsyncIOScheduler(
            timezone=UTC,
            # None: a tick that is late is run all the same. By default APScheduler drops it after a second.
            # An instance is a firing, which ends at once; were it 1, a loop that stalls would be warned of for nothing.
            job_defaults={"max_instances": 10, "coalesce": True, "misfire_grace_time": None},
        )
        self._jobs: dict[str, _Job] = {}

    def add(self, name: str, tick: Tick, interval: float) -> None:
        """Adds a job that runs every `interval` seconds, and sooner when `wake` says so."""
        job = self._jobs[name] = _Job(tick, interval)

        async def fire() -> None:
            # APScheduler only fires. Were the tick awaited here, a firing that falls on its last moments would be
            # skipped for good, and at the end of the process it would be cancelled.
            if job.running is None:
                job.running = asyncio.create_task(self._run(name, job))

        self._scheduler.add_job(fire, IntervalTrigger(seconds=interval), id=name, next_run_time=datetime.now(UTC))

    async def _run(self, name: str, job: _Job) -> None:
        structlog.contextvars.clear_contextvars()  # of the request that woke it
        job.woken = None
        try:
            wait = await job.tick()
        except StoreUnavailable as error:
            log.warning("database away", job=name, error=error.detail)
            wait = error.retry_after
        except Exception:
            log.exception("job broke", job=name)
            wait = None
        job.running, job.ended = None, time.monotonic()
        wait = min((w for w in (wait, job.woken) if w is not None), default=None)
        if wait is not None:
            self.wake(name, wait)

    def wake(self, name: str, wait: float = 0.0) -> None:
        """Runs a job in `wait` seconds, unless it runs sooner anyway; one that this process has not is no matter."""
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
        """Runs every job at once: due times of APScheduler are wall-clock times too, and the clock was set."""
        for name in self._jobs:
            self._scheduler.modify_job(name, next_run_time=datetime.now(UTC))

    def start(self) -> None:
        """Starts the clock on the running event loop."""
        self._scheduler.start()

    async def stop(self) -> None:
        """Starts no more ticks, and waits for those that run."""
        if self._scheduler.running:  # a process that only serves HTTP never starts it
            self._scheduler.pause()
            await asyncio.sleep(0)  # a firing that has not run yet would be cancelled, and logged as an error
            self._scheduler.shutdown(wait=False)
        jobs, self._jobs = self._jobs, {}
        if running := [job.running for job in jobs.values() if job.running is not None]:
            await asyncio.wait(running)

    def unwell(self) -> str | None:
        """Why the clock cannot be relied on, in words; None while it ticks."""
        now = time.monotonic()
        lates = ((now - job.ended - job.interval, name) for name, job in self._jobs.items())
        late, name = max(lates, default=(0.0, ""))
        return f"the clock is not well: '{name}' is {late:.0f} s late" if late > LATE else None
