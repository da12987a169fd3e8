"""The composition root: settings in, a running process out, and a clean end of it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
import signal
import time
from collections.abc import AsyncIterator, Mapping
from enum import Flag, auto

import structlog

from relay import __version__, liveness, metrics
from relay.changes import Changes
from relay.channels.base import DEADLINE, Channel
from relay.channels.slack import SlackChannel
from relay.channels.slack_api import SlackApi
from relay.channels.slack_face import Look
from relay.channels.slack_living import LivingMessages
from relay.channels.webhook import WebhookChannel
from relay.dispatcher import Dispatcher
from relay.editor import Editor
from relay.errors import StoreUnavailable
from relay.jumps import watch_clock
from relay.parts import (
    EVERYWHERE,
    declare_default_app,
    load_providers,
    now,
    open_database,
    open_transports,
    open_vault,
)
from relay.poller import Poller
from relay.scheduler import Scheduler
from relay.settings import Settings
from relay.store import health, invariant, migrate, notify, retention, totals
from relay.store.notify import DELIVER, POLL
from relay.store.rebase import rebase
from relay.sweep import Process
from relay.tracing import open_tracing
from relay.web import site
from relay.web.addresses import Addresses
from relay.web.context import Context
from relay.web.server import listen, serving

log = structlog.stdlib.get_logger(__name__)

WHAT = ("poll", "delivery")
EDIT = "edit"
COUNT_EVERY = 60.0
"""Seconds between two counts of everything stored."""

INTERVAL = 1.0
"""Seconds between two looks at the database when nothing says that something comes due sooner."""

ANSWERING = DEADLINE + 1
"""Seconds of the grace time that requests in flight may have: more than the one attempt that one may wait for."""

START_PATIENCE = 30.0
"""Seconds that a process waits for the database at its start."""

PROBE_INTERVAL, PRUNE_INTERVAL = 30.0, 60.0
PRUNE_BATCH, PRUNE_PAUSE = 500, 0.5


class Role(Flag):
    """What a process does."""

    WEB = auto()
    WORK = auto()


class Relay:
    """One process's parts, wired.

    Args:
        settings: the effective configuration.
        environ: where providers find their addresses and keys.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self.settings = settings
        self.db = open_database(settings)
        self.vault = open_vault(settings)
        guard, self.transport, self.plain = open_transports(settings)
        self.providers = load_providers(settings, self.transport, environ)
        migrate.ensure(self.db)
        declare_default_app(self.db, self.vault, settings)
        dialled = EVERYWHERE if settings.egress_proxy else guard
        self.slack = SlackApi(dialled, settings.slack_bot_token, settings.slack_api_url, settings.egress_proxy)
        self.tracing = open_tracing(settings.otlp_endpoint)
        self.scheduler = Scheduler()
        self.changes = Changes(self.db)
        self._stop_by: float | None = None
        self._counted_at = float("-inf")
        process = Process(secrets.token_hex(4), now)
        self.liveness = liveness.Liveness(self.db, process, self._wake_all)
        look = Look(settings.base_url, settings.slack_signing_secret is not None)
        living = LivingMessages(self.db, self.slack, process.name, now, look)
        channels: dict[str, Channel] = {
            "webhook": WebhookChannel(self.transport, self.plain),
            "slack": SlackChannel(self.slack, living, settings.base_url),
        }
        self.editor = Editor(self.db, process, living, self.vault, lambda wait: self.scheduler.wake(EDIT, wait))
        self.dispatcher = Dispatcher(
            self.db,
            process,
            channels,
            self.vault,
            settings.retry_schedule,
            self.changes.announce,
            lambda wait: self.scheduler.wake(DELIVER, wait),
            self.tracing,
        )
        self.poller = Poller(
            self.db,
            process,
            self.providers,
            self.vault,
            settings.poll_interval,
            told=lambda: self.scheduler.wake(DELIVER),
            changed=self.changes.announce,
            wake=lambda wait: self.scheduler.wake(POLL, wait),
            tracing=self.tracing,
        )
        self.context = Context(
            settings,
            self.db,
            self.vault,
            self.providers,
            Addresses(settings, guard, self.vault),
            self.dispatcher,
            self.changes,
            self.poller.budget,
            now,
            due=lambda wait: self.scheduler.wake(POLL, wait),
            told=lambda: self.scheduler.wake(DELIVER),
            unwell=self.unwell,
            measure=self.measure,
            tracing=self.tracing,
            slack=self.slack,
        )

    def _wake_all(self) -> None:
        self.scheduler.wake(POLL)
        self.scheduler.wake(DELIVER)

    async def unwell(self) -> list[str]:
        """Why this process cannot do its work; nothing if it can. Waiting work is no reason, but see the metrics."""
        try:
            behind = await self.db.read(migrate.behind)
        except StoreUnavailable as error:
            return [error.detail]
        return [reason for reason in (behind, self.scheduler.unwell()) if reason]

    async def measure(self) -> None:
        """Brings the gauges about everything stored up to date."""
        for what, age in zip(WHAT, await self.db.read(totals.overdue, now()), strict=True):
            metrics.OLDEST_DUE.labels(what).set(age)
        for what, under_way in zip(WHAT, (self.poller.under_way, self.dispatcher.under_way), strict=True):
            metrics.IN_FLIGHT.labels(what).set(under_way)
        if time.monotonic() - self._counted_at < COUNT_EVERY:
            return
        self._counted_at = time.monotonic()
        counted = await self.db.read(totals.totals)
        metrics.WATCHES.clear()
        for (provider, state), count in counted.watches.items():
            metrics.WATCHES.labels(provider, state).set(count)
        for state in ("pending", "held", "delivered", "dead"):
            metrics.DELIVERIES.labels(state).set(counted.deliveries.get(state, 0))
        metrics.VIOLATIONS.set(sum(len(one.ids) for one in await self.db.read(invariant.violations)))

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Polls and delivers while inside; on the way out finishes what is in flight within the grace time."""
        jobs = {
            POLL: (self.poller.tick, INTERVAL),
            DELIVER: (self.dispatcher.tick, INTERVAL),
            **({EDIT: (self.editor.tick, INTERVAL)} if self.slack.has_bot else {}),
            "beat": (self.liveness.tick, liveness.INTERVAL),
            "probe": (self._probe, PROBE_INTERVAL),
            "prune": (self._prune, PRUNE_INTERVAL),
        }
        await self.db.persist(rebase, now())
        await self.liveness.tick()
        for name, (tick, interval) in jobs.items():
            self.scheduler.add(name, tick, interval)
        self.scheduler.start()
        clock = asyncio.create_task(watch_clock(self._jumped, metrics.LOOP_LAG.set))
        try:
            yield
        finally:
            await self.halt()
            clock.cancel()
            await asyncio.wait([clock])
            try:
                async with asyncio.timeout_at(self._stop_by):
                    await self.poller.drain()
                    await self.dispatcher.drain()
                    await self.editor.drain()
            except TimeoutError:
                log.warning("grace time over; what is in flight is given back")
            with contextlib.suppress(StoreUnavailable):
                await self.liveness.leave()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Hears, while inside, what other processes announce; on the way out lets everybody go who looks."""
        task = asyncio.create_task(self._listen())
        try:
            yield
        finally:
            self.changes.close()
            task.cancel()
            await asyncio.wait([task])

    async def _listen(self) -> None:
        if not self.db.embedded:
            await notify.listen(self.db.url, self.scheduler.wake, self.changes.announce)
            self.changes.blind = True

    async def halt(self) -> None:
        """Claims nothing more and ends every stream; the grace time begins."""
        self.changes.close()
        if self._stop_by is None:
            self._stop_by = asyncio.get_running_loop().time() + self.settings.grace
            self.poller.halt()
            self.dispatcher.halt()
            self.editor.halt()
            await self.scheduler.stop()

    async def _probe(self) -> None:
        await self.db.run(health.probe, now())

    async def _prune(self) -> float | None:
        """Forgets one batch of what ended long ago; the next one follows soon, if there is more."""
        before = now() - round(self.settings.retention * 1000)
        pruned = await self.db.run(retention.prune, before, PRUNE_BATCH)
        await self.db.run(retention.shrink)
        return PRUNE_PAUSE if pruned == PRUNE_BATCH else None

    async def _jumped(self, seconds: float) -> None:
        """Somebody set the clock: what was planned by the old one is planned anew, and every job looks at once."""
        log.warning("the clock was set", by_seconds=round(seconds))
        await self.db.persist(rebase, now())
        self.scheduler.rearm()

    async def aclose(self) -> None:
        """Finishes what goes on after a request within the grace time, and closes every connection."""
        try:
            async with asyncio.timeout_at(self._stop_by):
                await self.context.errands.drain()
        except TimeoutError:
            log.warning("grace time over; what was asked for in Slack is left")
        await self.slack.aclose()
        await self.transport.aclose()
        await self.plain.aclose()
        await self.db.aclose()
        await asyncio.to_thread(self.tracing.close)


async def _started(settings: Settings, environ: Mapping[str, str], stop: asyncio.Event) -> Relay:
    """The process's parts, once the database answers: a start must outlive its restart, too; until told to `stop`."""
    give_up = time.monotonic() + START_PATIENCE
    while True:
        try:
            return await asyncio.to_thread(Relay, settings, environ)
        except StoreUnavailable as error:
            if time.monotonic() > give_up or stop.is_set():
                raise
            log.warning("waiting for the database", error=error.detail)
            await asyncio.sleep(0.5)


async def run(settings: Settings, environ: Mapping[str, str], roles: Role) -> None:
    """Runs one process until it is told to stop (SIGTERM, SIGINT)."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    listener = listen(settings.bind, settings.port) if Role.WEB in roles else None
    relay = await _started(settings, environ, stop)
    try:
        async with contextlib.AsyncExitStack() as stack:
            url = None
            await stack.enter_async_context(relay.listening())
            if Role.WORK in roles:
                await stack.enter_async_context(relay.working())
            if listener is not None:
                answering = math.ceil(min(ANSWERING, settings.grace))
                await stack.enter_async_context(serving(site.build(relay.context), listener, answering))
                url = f"http://{settings.bind}:{listener.getsockname()[1]}"
            log.info("ready", version=__version__, url=url, database="sqlite" if settings.embedded else "postgresql")
            await stop.wait()
            log.info("stopping")
            await relay.halt()
    finally:
        await relay.aclose()
        # A platform may send SIGTERM again and again; the last steps must not be cut short by it.
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(name)
            signal.signal(name, signal.SIG_IGN)
