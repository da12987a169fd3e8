"""One process: build its parts from the settings, start its roles, and end them cleanly."""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
import signal
import time
from collections.abc import AsyncIterator, Mapping
from enum import Flag, auto
from typing import TYPE_CHECKING

import structlog

from relay import __version__
from relay.actions import Actions
from relay.channels import open_channels
from relay.channels.alerts import declare_alerts
from relay.channels.base import DEADLINE, Resources, TargetTransport
from relay.channels.sender import Sender
from relay.channels.slack.channel import SlackChannel
from relay.channels.targets import Targets
from relay.channels.urls import UrlCheck
from relay.errors import StoreUnavailable
from relay.outbound.descriptors import limit, raise_limit
from relay.outbound.leases import Leases
from relay.outbound.receivers import ReceiverLanes
from relay.settings.options import Settings
from relay.store import migrate, notifications
from relay.store.change_feed import ChangeFeed
from relay.store.clock_reset import rebase
from relay.submissions.submitting import Submissions
from relay.telemetry import metrics
from relay.telemetry.tracing import open_tracing
from relay.web.context import Context
from relay.web.dashboard.shared_read import SharedRead
from relay.web.server import link_to, listen, serving
from relay.wiring import (
    EVERYWHERE,
    declare_default_app,
    load_providers,
    open_database,
    open_upstreams,
    open_vault,
    open_ways,
    warn_at_start,
)
from relay.worker.claim_loop import Process
from relay.worker.clock import SharedClock, watch_clock
from relay.worker.dispatcher import Dispatcher
from relay.worker.heartbeat import Heartbeat
from relay.worker.poller import Poller
from relay.worker.scheduler import Scheduler, Tick
from relay.worker.slack_editor import SlackEditor
from relay.worker.slack_eraser import SlackEraser
from relay.worker.troubles import EVERY as TROUBLES_EVERY
from relay.worker.troubles import TroubleNotes
from relay.worker.upkeep import PROBE_EVERY, PRUNE_EVERY, Upkeep

if TYPE_CHECKING:
    from starlette.types import ASGIApp

log = structlog.stdlib.get_logger(__name__)

INTERVAL = 1.0
"""Seconds between two looks at the database when nothing says that something comes due sooner."""

ANSWERING = DEADLINE + 1
"""Seconds of the grace time that requests in flight may have: more than the one attempt that one may wait for."""

LOOK_EVERY = 1.0
"""Seconds for which the state of the database is remembered: anyone may ask for it, as often as they like."""

START_PATIENCE = 30.0
"""Seconds that a process waits for the database at its start."""


class Role(Flag):
    """What a process does."""

    WEB = auto()
    WORK = auto()


class Relay:
    """One process: its parts, built and connected.

    Args:
        settings: the effective configuration.
        environ: where providers find their addresses and keys.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self.settings = settings
        self.db = open_database(settings)
        self.vault = open_vault(settings)
        self.ways = open_ways(settings)
        providers = load_providers(settings, self.ways.upstreams, environ, self.ways.creates)
        migrate.ensure(self.db)
        name = secrets.token_hex(4)
        self.clock = SharedClock(self.db, name)
        self.clock.look_here()
        now = self.clock.now
        urls = UrlCheck(self.ways.guard)
        self.upstreams = open_upstreams(settings, providers, self.ways, urls, now)
        declare_default_app(self.db, self.vault, settings, now())
        self.scheduler = Scheduler()
        self._database = SharedRead(self._database_unwell, LOOK_EVERY)
        self.feed = ChangeFeed(self.db)
        self.wake = notifications.Wake(self.scheduler.wake)
        self.tracing = open_tracing(settings.otlp_endpoint)
        process = Process(name, now, self.db, self.wake, self.feed, self.tracing)
        self.leases = None if self.db.embedded else Leases(self.upstreams.lanes, self.db, name)
        resources = Resources(
            settings,
            TargetTransport(self.ways.encrypted, self.ways.plain),
            urls,
            EVERYWHERE if settings.egress_proxy else self.ways.guard,
            self.db,
            name,
            now,
            self.upstreams.noun_of,
        )
        self.channels = open_channels(resources)
        slack = next(channel for channel in self.channels.values() if isinstance(channel, SlackChannel))
        self.slack = slack.api
        sender = Sender(self.channels, self.db, self.vault, now, self.tracing)
        targets = Targets(self.channels, self.vault)
        declare_alerts(self.db, self.vault, settings, targets, now())
        actions = Actions(
            settings, self.db, self.vault, self.upstreams, targets, sender, ReceiverLanes(), self.wake, self.feed, now
        )
        self.dispatcher = Dispatcher(process, sender, actions.lanes, settings.retry_schedule)
        interval = settings.poll_interval
        self.poller = Poller(process, self.upstreams, self.vault, interval, self.dispatcher, actions.learned)
        self.editor = SlackEditor(process, slack.living, self.vault)
        self.eraser = SlackEraser(process, slack.erased)
        self.heartbeat = Heartbeat(process)
        under_way = {"poll": lambda: self.poller.under_way, "delivery": lambda: self.dispatcher.under_way}
        self.upkeep = Upkeep(self.db, now, settings.retention, under_way)
        self.troubles = TroubleNotes(process, self.upstreams.troubles, settings.retention)
        self._stop_by: float | None = None
        self._beats = False
        self.submissions = Submissions(actions, name, now)
        self.context = Context(
            settings,
            self.db,
            self.vault,
            self.upstreams,
            targets,
            actions,
            self.feed,
            now,
            unwell=self.unwell,
            measure=self.upkeep.measure,
            tracing=self.tracing,
            slack=self.slack,
            submissions=self.submissions,
        )

    async def unwell(self) -> list[str]:
        """Return why this process cannot do its work; nothing if it can. Waiting work is no reason: see the metrics."""
        reasons = (await self._database.get(LOOK_EVERY), self.scheduler.unwell(), self.clock.unwell())
        return [reason for reason in reasons if reason]

    async def _database_unwell(self) -> str | None:
        """Return why nothing can be written, in words, or None."""
        try:
            unready = await self.db.run(migrate.unready)
        except StoreUnavailable as error:
            return error.detail
        return unready or self.db.outage.no_room

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Poll and deliver while inside; on the way out, finish what is in flight within the grace time."""
        jobs: dict[str, tuple[Tick, float]] = {
            notifications.POLL: (self._by_the_clock(self.poller.tick), INTERVAL),
            notifications.DELIVER: (self._by_the_clock(self.dispatcher.tick), INTERVAL),
            "probe": (self._by_the_clock(self.upkeep.probe), PROBE_EVERY),
            "prune": (self._by_the_clock(self.upkeep.prune), PRUNE_EVERY),
            "troubles": (self._by_the_clock(self.troubles.tick), TROUBLES_EVERY),
        }
        if self.slack.has_bot:
            jobs[notifications.EDIT] = (self._by_the_clock(self.editor.tick), INTERVAL)
            jobs[notifications.ERASE] = (self._by_the_clock(self.eraser.tick), INTERVAL)
        if self.clock.right:
            await self.db.persist(rebase, self.clock.now())
        await self._beat()
        for name, (tick, interval) in jobs.items():
            self.scheduler.add(name, tick, interval)
        self.scheduler.start()
        try:
            yield
        finally:
            await self.halt()
            try:
                async with asyncio.timeout_at(self._stop_by):
                    for loop in (self.poller, self.dispatcher, self.editor, self.eraser):
                        await loop.drain()
            except TimeoutError:
                log.warning("grace time over; what is in flight is given back")
            await self._give_back()
            await self._leave()

    async def _beat(self) -> None:
        """Show from now on that this process lives. What dead ones of this host had begun is settled first."""
        if not self._beats:
            self._beats = True
            await self.heartbeat.start()

    async def _leave(self) -> None:
        """Finish the create calls under way, and say that this process goes."""
        await self.submissions.drain()
        if self._beats:
            self._beats = False
            with contextlib.suppress(StoreUnavailable):
                await self.heartbeat.leave()

    def _by_the_clock(self, tick: Tick) -> Tick:
        """Return a job that does nothing while the clock of this machine is wrong: it plans, and deletes, by it."""

        async def when_right() -> float | None:
            return await tick() if self.clock.right else None

        return when_right

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Listen to other processes, watch the clock and the provider files, while inside; then end every stream."""
        clock = watch_clock(self.clock, self.scheduler.rearm, self._righted, metrics.LOOP_LAG.set)
        tasks = [asyncio.create_task(self._listen()), asyncio.create_task(clock)]
        await self._beat()
        try:
            with self.upstreams.files_followed():
                yield
        finally:
            await self.halt()
            await self._leave()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _listen(self) -> None:
        if not self.db.embedded:
            await notifications.listen(self.db.url, self.scheduler.wake, self.feed.announce)
            self.feed.blind = True

    async def halt(self) -> None:
        """Claim nothing more and end every stream; the grace time begins."""
        self.feed.close()
        if self._stop_by is None:
            self._stop_by = asyncio.get_running_loop().time() + self.settings.grace
            self.submissions.halt(self._stop_by)
            for loop in (self.poller, self.dispatcher, self.editor, self.eraser):
                loop.halt()
            await self.scheduler.stop()

    async def _righted(self) -> None:
        """Plan anew what was planned by the clock as it was, and run every job at once: the clock is right again."""
        await self.db.persist(rebase, self.clock.now())
        self.scheduler.rearm()

    async def _give_back(self) -> None:
        """Let the other processes have what this one may take of the lanes."""
        if self.leases is not None:
            await self.leases.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._give_back()
        for channel in self.channels.values():
            await channel.aclose()
        await self.ways.aclose()
        await self.db.aclose()
        await asyncio.to_thread(self.tracing.close)


async def _started(settings: Settings, environ: Mapping[str, str], stop: asyncio.Event) -> Relay:
    """Return the process once the database answers: a start outlives a restart of it, unless told to `stop`."""
    give_up = time.monotonic() + START_PATIENCE
    logged = None
    while True:
        try:
            return await asyncio.to_thread(Relay, settings, environ)
        except StoreUnavailable as error:
            if time.monotonic() > give_up or stop.is_set():
                raise
            if error.detail != logged:
                log.warning("waiting for the database", error=error.detail, at_most=START_PATIENCE)
                logged = error.detail
            await asyncio.sleep(0.5)


def _build_health(context: Context) -> ASGIApp:
    from relay.web import ops

    return ops.site_of_worker(context)


def _build_site(context: Context) -> ASGIApp:
    from relay.web import site

    return site.build(context)


async def run(settings: Settings, environ: Mapping[str, str], roles: Role) -> None:
    """Run one process until a signal stops it: SIGTERM, SIGINT, or SIGHUP of a terminal that closes."""
    signals = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup makes the process ignore it
        signals.append(signal.SIGHUP)
    raise_limit()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in signals:
        loop.add_signal_handler(name, stop.set)
    listener = listen(settings.bind, settings.port) if Role.WEB in roles else None
    relay = await _started(settings, environ, stop)
    try:
        async with contextlib.AsyncExitStack() as stack:
            at = {}
            await stack.enter_async_context(relay.listening())
            if Role.WORK in roles:
                await stack.enter_async_context(relay.working())
            if listener is not None:
                answering = math.ceil(min(ANSWERING, settings.grace))
                # Only now, and in a thread: no poll needs what the site imports, and the polls of a process that was
                # killed are overdue. Callers wait for that long, but are not refused: the listener is open.
                site = await asyncio.to_thread(_build_site, relay.context)
                await stack.enter_async_context(serving(site, listener, answering, settings.keep_alive))
                at = {"url": link_to(listener)}
            elif settings.metrics_port is not None:
                health = listen(settings.bind, settings.metrics_port, "RELAY_METRICS_PORT")
                await stack.enter_async_context(serving(await asyncio.to_thread(_build_health, relay.context), health))
                at = {"url": f"{link_to(health)}/metrics"}
            warn_at_start(settings, relay.upstreams, environ)
            database = "sqlite" if settings.embedded else "postgresql"
            log.info("ready", version=__version__, **at, database=database, descriptors=limit())
            await stop.wait()
            log.info("stopping")
            await relay.halt()
            await relay.submissions.drain()  # while callers can still be answered
    finally:
        await relay.aclose()
        # A platform may send SIGTERM again and again; the last steps must not be cut short by it.
        for name in signals:
            loop.remove_signal_handler(name)
            signal.signal(name, signal.SIG_IGN)
