"""A simulated process: all of relay's parts as `relay.app` builds them, with faults between it and the database."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import random
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import OperationalError

from relay import app
from relay.actions import Actions
from relay.errors import StoreUnavailable
from relay.security.guard import Guard
from relay.settings.options import Settings
from relay.wiring import Ways
from relay.worker import heartbeat
from relay.worker.heartbeat import Heartbeat
from tests.simulation.virtual import HOST, Time
from tests.simulation.world import Wire, World

T = TypeVar("T")
log = structlog.stdlib.get_logger(__name__)

STEP = 0.02
"""Seconds between two runs of a job, as in `relay.worker.scheduler`."""


class Died(Exception):
    """The process that was asked has died, or stopped too soon: what it did of the request, nobody knows."""


@dataclass
class Site:
    """What the simulated processes share.

    Attributes:
        troubled: whether there are faults. Without them, the processes also look less often without a reason.
        errors: what relay has logged as such.
    """

    clock: Time
    dice: random.Random
    world: World
    settings: Settings
    environ: Mapping[str, str]
    troubled: bool = True
    errors: list[str] = field(default_factory=list)
    machines: list[Machine] = field(default_factory=list)


@dataclass
class Job:
    """A tick of relay's, and the event that wakes it."""

    name: str
    tick: Callable[[], Awaitable[float | None]]
    interval: float
    woken: asyncio.Event = field(default_factory=asyncio.Event)


class Alarms:
    """Does what `relay.worker.scheduler.Scheduler` does; APScheduler has a clock of its own, which cannot be set."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._jobs: dict[str, Job] = {}
        self._stopped = False
        self._tasks: list[asyncio.Task[None]] = []

    def add(self, name: str, tick: Callable[[], Awaitable[float | None]], interval: float) -> None:
        """Add a job."""
        self._jobs[name] = Job(name, tick, interval)

    def wake(self, name: str, wait: float = 0.0) -> None:
        """Run a job in `wait` seconds at the latest."""
        if name in self._jobs:
            asyncio.get_running_loop().call_later(max(STEP, wait), self._jobs[name].woken.set)

    def rearm(self) -> None:
        """Run every job at once."""
        for name in self._jobs:
            self.wake(name)

    def start(self) -> None:
        """Start all jobs."""
        self._tasks = [asyncio.create_task(self._run(job)) for job in self._jobs.values()]

    async def stop(self) -> None:
        """Start no more ticks, and wait for those that run."""
        self._stopped = True
        for job in self._jobs.values():
            job.woken.set()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def unwell(self) -> str | None:
        """Return that this clock never stops."""
        return None

    async def _run(self, job: Job) -> None:
        while not self._stopped:
            job.woken.clear()
            wait: float | None = None
            try:
                wait = await job.tick()
            except StoreUnavailable as error:
                wait = error.retry_after
            except Exception:
                log.exception("job broke", job=job.name)
            longest = job.interval * (20 if not self._site.troubled else 1 if job.name == "beat" else 4)
            try:
                async with asyncio.timeout(max(STEP, min(longest, longest if wait is None else wait))):
                    await job.woken.wait()
            except TimeoutError:
                pass


class Machine:
    """A process that can be slow, cut off from the database, stopped, and killed at any `await`.

    Attributes:
        lease_name: what its leases begin with.
        troubles: when it was late, cut off, buried or dead, in words: what explains that its work is done twice.
    """

    def __init__(self, site: Site, name: str) -> None:
        self._site = site
        self._name = name
        self._stopping = asyncio.Event()
        self._context = contextvars.copy_context()
        self._context.run(HOST.set, self)
        self.skew = site.dice.choice([0.0, 0.0, -0.4, 0.4])
        self.dead = False
        self.slow = self.cut_off = False
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self._requests: dict[asyncio.Task[Any], None] = {}
        self.troubles: list[tuple[float, str]] = []
        self.relay: app.Relay | None = None
        self.lease_name = ""
        site.machines.append(self)
        self._life = self._context.run(asyncio.ensure_future, self._run())

    def __str__(self) -> str:
        return self._name

    @property
    def ready(self) -> bool:
        """Return whether it takes requests."""
        return self.relay is not None and not self.dead and not self._stopping.is_set()

    def trouble(self, what: str) -> None:
        """Note what happens to it."""
        self.troubles.append((self._site.clock.now, what))
        self._site.world.note(f"{self} {what}")

    async def _run(self) -> None:
        try:
            await self._work()
        except StoreUnavailable as error:  # at its start; whoever runs processes starts another one
            self.trouble(f"does not start: {error.detail}")
            self.dead = True
            self._site.machines.remove(self)
            Machine(self._site, f"{self}'")

    async def _work(self) -> None:
        built = app.Relay(self._site.settings, self._site.environ)
        for engine in (built.db.engine, built.db._read_engine):
            connection = engine.raw_connection()
            connection.cursor().execute("PRAGMA synchronous=OFF")
            connection.close()
            sa.event.listen(engine, "begin", self._before)
            sa.event.listen(engine, "commit", self._commit)
        self.lease_name = built.poller._process.name
        async with built.listening(), built.working():
            self.relay = built
            await self._stopping.wait()
            await built.halt()
            await self._answer_the_last()
        await built.aclose()

    async def _answer_the_last(self) -> None:
        """Do what `web.server.serving` does at its end: requests under way have some seconds, and are cut then."""
        if self._requests:
            _, late = await asyncio.wait(self._requests, timeout=app.ANSWERING)
            for request in late:
                request.cancel()

    async def ask(self, call: Callable[[Actions], Awaitable[T]]) -> T:
        """Do something as its API does.

        Raises:
            Died: it has died meanwhile.
        """
        assert self.relay is not None
        actions = self.relay.context.actions

        async def served() -> T:
            return await call(actions)

        request = self._context.run(asyncio.ensure_future, served())
        self._requests[request] = None
        try:
            return await request
        except asyncio.CancelledError:
            raise Died(self._name) from None
        finally:
            del self._requests[request]

    def kill(self) -> None:
        """Vanish: of what it has under way, nothing goes on."""
        self.trouble("dies")
        self.dead = True
        for task in list(self.tasks):
            task.cancel()
        if self.relay is not None:
            self.relay.db.close()

    async def stop(self) -> None:
        """End as for a deployment: finish what is under way within the grace time."""
        self.trouble("stops")
        self._stopping.set()
        await asyncio.wait([self._life])
        self.dead = True

    # Faults

    def latency(self) -> tuple[float, float]:
        """Return the seconds before and after a transaction."""
        if not self._site.troubled:
            return 0.0, 0.0
        dice = self._site.dice
        if self.slow:
            return dice.choice([0.0, 2.0, 8.0, 25.0, 50.0]), dice.choice([0.0, 2.0, 8.0])
        return dice.choice([0.0, 0.0, 0.001, 0.01, 0.05]), dice.choice([0.0, 0.0, 0.002])

    def _before(self, _connection: sa.Connection) -> None:
        if self._site.troubled and (self.cut_off or self._site.dice.random() < 0.01):
            raise _failure("cannot connect")

    def _commit(self, connection: sa.Connection) -> None:
        """Let a commit fail: before it, or after it, when nobody learns that it has succeeded."""
        if not self._site.troubled:
            return
        chance = self._site.dice.random()
        if chance < 0.012:
            raise _failure("the commit failed")
        if chance < 0.024:
            connection.connection.commit()
            # A stale connection makes relay run the function again at once.
            raise _failure("committed, but the answer was lost", stale=chance < 0.018)


def _failure(what: str, *, stale: bool = False) -> OperationalError:
    return OperationalError(what, {}, sqlite3.OperationalError(what), connection_invalidated=stale)


async def _beating(beats: Heartbeat) -> None:
    """Do what `Heartbeat.start` does, without its thread, which would live in real time."""
    await beats.tick()

    async def go_on() -> None:
        while True:
            await asyncio.sleep(heartbeat.INTERVAL)
            with contextlib.suppress(StoreUnavailable):
                await beats.tick()

    beats._mover = asyncio.create_task(go_on())


def install(site: Site) -> None:
    """Have `relay.app` build processes of this site: their requests go into the world, and their clock is virtual."""
    app.open_ways = lambda _settings: Ways(Guard(()), *(Wire(site.world) for _ in range(4)))  # type: ignore[arg-type]
    heartbeat.Heartbeat.start = _beating  # type: ignore[method-assign]
    app.Scheduler = lambda: Alarms(site)  # type: ignore[assignment,misc]
    heartbeat.here = lambda: str(HOST.get())

    def note(_logger: Any, level: str, entry: MutableMapping[str, Any]) -> NoReturn:
        host = HOST.get()
        site.world.note(f"{host} logs {entry}")
        if level in ("error", "critical", "exception"):
            site.errors.append(f"{host}: {entry}")
        for process in site.machines:
            if entry.get("process") == process.lease_name:
                process.trouble(f"is dead, says {host}")
        raise structlog.DropEvent

    structlog.configure(
        processors=[structlog.processors.format_exc_info, note],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        cache_logger_on_first_use=False,
    )
