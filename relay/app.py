"""The composition root: settings in, a running process out, and a clean end of it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator, Mapping
from enum import Flag, auto
from ipaddress import ip_network
from pathlib import Path

import httpx
import sqlalchemy as sa
import structlog

from relay import __version__, keyring, liveness, metrics
from relay.channels.base import DEADLINE, Channel
from relay.channels.slack import SlackChannel
from relay.channels.webhook import WebhookChannel
from relay.dispatcher import Dispatcher
from relay.errors import ConfigError, Conflict, StoreUnavailable
from relay.ids import new_id
from relay.jumps import watch_clock
from relay.model import Millis
from relay.outbound import Guard, Transport
from relay.poller import Poller
from relay.provider import MAX_ANSWER, SANDBOX, Provider, load_definition, variable
from relay.sandbox import Played
from relay.scheduler import Scheduler
from relay.settings import Settings, from_environment
from relay.store import Database, apps, health, invariant, migrate, notify, retention, totals
from relay.store.notify import DELIVER, POLL
from relay.store.rebase import rebase
from relay.sweep import Process
from relay.vault import Vault
from relay.web import site
from relay.web.addresses import Addresses
from relay.web.context import Context, hash_key
from relay.web.server import listen, serving

log = structlog.stdlib.get_logger(__name__)

WHAT = ("poll", "delivery")
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


def now() -> Millis:
    """The wall clock."""
    return time.time_ns() // 1_000_000


def open_vault(settings: Settings) -> Vault:
    """The vault with the configured keys, or with one that is made once and kept in `relay.key` beside SQLite's file.

    Raises:
        ConfigError: a deployment, or a database that others share, has no RELAY_SECRET_KEY; or the file cannot be used.
    """
    if settings.secret_key:
        return Vault(settings.secret_key)
    if settings.deployed or not settings.embedded:
        raise ConfigError(
            "RELAY_SECRET_KEY is not set: it seals what relay stores, must outlive this machine and be the same in all "
            f"processes. Set it once, to something like {secrets.token_urlsafe(32)}"
        )
    file = _key_file(settings)
    try:
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as new:
                new.write(secrets.token_urlsafe(32))
        return Vault([file.read_text("utf-8").strip()])
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}; set RELAY_SECRET_KEY instead") from None


def _key_file(settings: Settings) -> Path:
    database = sa.make_url(settings.database_url).database
    return Path(database).with_name("relay.key") if database else Path("relay.key")


def open_database(settings: Settings) -> Database:
    """The database, refused where it would be thrown away.

    Raises:
        ConfigError: SQLite on a platform whose disk does not last.
    """
    if settings.embedded and settings.deployed and not settings.ephemeral:
        raise ConfigError(
            "this platform throws its disk away at each restart, and the database with it: add PostgreSQL "
            "('heroku addons:create heroku-postgresql'), which sets DATABASE_URL, or set RELAY_EPHEMERAL=1 for a demo"
        )
    return Database(settings.database_url, settings.database_pool)


EVERYWHERE = Guard((ip_network("0.0.0.0/0"), ip_network("::/0")))
"""The guard of connections to an egress proxy: what lies behind it is the proxy's to refuse."""


def open_transports(settings: Settings) -> tuple[Guard, Transport, Transport]:
    """The guard, and two ways out: for everything, and for targets without TLS, which only allowed networks may be."""
    guard = Guard(settings.allowed_networks)
    proxy = settings.egress_proxy
    ways = [
        Transport(EVERYWHERE if proxy else one, timeout=30.0, max_bytes=MAX_ANSWER, proxy=proxy)
        for one in (guard, guard.plain())
    ]
    return guard, ways[0], ways[1]


def load_providers(
    settings: Settings, transport: httpx.AsyncBaseTransport, environ: Mapping[str, str]
) -> dict[str, Provider]:
    """Every declared upstream, by name.

    Raises:
        ConfigError: a definition is wrong, or RELAY_PROVIDER names none.
    """
    providers = {}
    for file in sorted((settings.config / "providers").glob("*.toml")):
        definition = load_definition(file, environ)
        played = definition.request.base_url == SANDBOX
        if played and not settings.sandbox_on:
            continue
        key = from_environment(variable(definition.name, "API_KEY"), environ) or ("sandbox" if played else None)
        providers[definition.name] = Provider(definition, key, Played() if played else transport)
    if settings.provider not in providers:
        raise ConfigError(f"RELAY_PROVIDER: '{settings.provider}' is not declared in {settings.config}/providers")
    return providers


def declare_default_app(db: Database, vault: Vault, settings: Settings) -> None:
    """Makes the app `default` what RELAY_API_KEY and RELAY_SIGNING_SECRET say.

    A secret that the environment has replaced signs along for a while, as if it had been rotated.
    """
    if settings.api_key is None or settings.signing_secret is None:
        return
    for last in (False, True):  # of processes that start together, the second look finds what the first made
        found = db.run_here(apps.by_name, apps.DEFAULT)
        app_id, secrets_ = (found.id, keyring.opened(vault, found)) if found else (new_id("app"), [])
        if not secrets_ or secrets_[0]["secret"] != settings.signing_secret:
            secrets_ = keyring.rotated(secrets_, settings.signing_secret, now(), keyring.OVERLAP)
        sealed = keyring.sealed(vault, app_id, secrets_)
        try:
            db.run_here(apps.declare, app_id, hash_key(settings.api_key), sealed, now())
            return
        except Conflict:
            if last:
                raise


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
        self.slack = SlackChannel(dialled, settings.slack_bot_token, settings.slack_api_url, settings.egress_proxy)
        self.scheduler = Scheduler()
        self._stop_by: float | None = None
        self._counted_at = float("-inf")
        process = Process(secrets.token_hex(4), now)
        self.liveness = liveness.Liveness(self.db, process, self._wake_all)
        channels: dict[str, Channel] = {"webhook": WebhookChannel(self.transport, self.plain), "slack": self.slack}
        self.dispatcher = Dispatcher(
            self.db,
            process,
            channels,
            self.vault,
            settings.retry_schedule,
            lambda wait: self.scheduler.wake(DELIVER, wait),
        )
        self.poller = Poller(
            self.db,
            process,
            self.providers,
            self.vault,
            settings.poll_interval,
            told=lambda: self.scheduler.wake(DELIVER),
            wake=lambda wait: self.scheduler.wake(POLL, wait),
        )
        self.context = Context(
            settings,
            self.db,
            self.vault,
            self.providers,
            Addresses(settings, guard, self.vault),
            self.dispatcher,
            now,
            due=lambda wait: self.scheduler.wake(POLL, wait),
            told=lambda: self.scheduler.wake(DELIVER),
            unwell=self.unwell,
            measure=self.measure,
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
            "beat": (self.liveness.tick, liveness.INTERVAL),
            "probe": (self._probe, PROBE_INTERVAL),
            "prune": (self._prune, PRUNE_INTERVAL),
        }
        await self.db.persist(rebase, now())
        await self.liveness.tick()
        for name, (tick, interval) in jobs.items():
            self.scheduler.add(name, tick, interval)
        self.scheduler.start()
        listening = [asyncio.create_task(watch_clock(self._jumped, metrics.LOOP_LAG.set))]
        if not self.db.embedded:
            listening.append(asyncio.create_task(notify.listen(self.db.url, self.scheduler.wake)))
        try:
            yield
        finally:
            await self.halt()
            for task in listening:
                task.cancel()
            await asyncio.wait(listening)
            try:
                async with asyncio.timeout_at(self._stop_by):
                    await self.poller.drain()
                    await self.dispatcher.drain()
            except TimeoutError:
                log.warning("grace time over; what is in flight is given back")
            with contextlib.suppress(StoreUnavailable):
                await self.liveness.leave()

    async def halt(self) -> None:
        """Claims nothing more; the grace time begins."""
        if self._stop_by is None:
            self._stop_by = asyncio.get_running_loop().time() + self.settings.grace
            self.poller.halt()
            self.dispatcher.halt()
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
        """Closes every connection."""
        await self.slack.aclose()
        await self.transport.aclose()
        await self.plain.aclose()
        await self.db.aclose()


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
