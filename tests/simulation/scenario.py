"""One run: clients that ask, processes that fail, until everything is quiet; then the oracle judges."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from relay.actions import Actions
from relay.channels.watch_request import WatchRequest
from relay.channels.webhook import WebhookTarget
from relay.errors import NotFound, RelayError, StoreUnavailable
from relay.model.delivery import DeliveryState
from relay.security import app_keys
from relay.security.vault import Vault
from relay.settings.sources import load
from relay.store import Database, apps, processes
from relay.store.deliveries import Selection
from tests.simulation import machine, virtual, world
from tests.simulation.machine import Died, Machine, Site
from tests.support.databases import migrated_file

T = TypeVar("T")

SECRET = "whsec_" + "c2ltdWxhdGlvbi1zZWNyZXQtMzItYnl0ZXMtbG9uZy4="
APPS = ("app_00000000000000000000000001", "app_00000000000000000000000002")
ENDS = ["task.completed", "task.failed", "task.expired", "task.lost"]
SCHEDULE = (0, 2, 5, 20, 60)

PATIENCE = 2 * 3600.0
"""Seconds after the last fault within which everything must be quiet."""

LONGEST = 60.0
"""Seconds that a claim may still be under way once nothing is due."""


@dataclass(frozen=True)
class Promise:
    """A registration that was answered with success: this target will hear the end."""

    app: str
    task: str
    watch_id: str
    url: str
    events: tuple[str, ...]


@dataclass
class Book:
    """What the clients have asked for, and what they were promised.

    Attributes:
        stopping, erasing: the watches for which that was asked.
        stopped, erased: those for which it was answered, and when.
        replays: when deliveries were sent again.
    """

    promises: list[Promise] = field(default_factory=list)
    watches: list[tuple[str, str]] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    stopping: set[str] = field(default_factory=set)
    erasing: set[str] = field(default_factory=set)
    stopped: dict[str, float] = field(default_factory=dict)
    erased: dict[str, float] = field(default_factory=dict)
    replays: list[float] = field(default_factory=list)


@dataclass
class Run:
    """A run of one seed, and what the oracle looks at.

    Attributes:
        calm: whether no process dies and no clock is set, so that nothing may be done twice.
        reader: a way into the database that has no faults.
    """

    seed: str
    site: Site
    reader: Database
    calm: bool
    book: Book = field(default_factory=Book)
    problems: list[str] = field(default_factory=list)

    def rows(self, query: str) -> list[dict[str, Any]]:
        """Return what a query of the database finds."""
        return self.reader.run_here(lambda tx: [dict(row._mapping) for row in tx.execute(sa.text(query))])


class Clients:
    """Apps that register, register again, stop, erase and send again, at any process that answers."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._site = run.site
        self._dice = run.site.dice
        self._book = run.book

    async def run(self) -> None:
        """Live."""
        for number in range(self._dice.choice([2, 4, 8])):
            task = f"task{number}"
            ending = self._dice.choice(["completed"] * 4 + ["failed", "lost", "never"])
            self._site.world.scripts[task] = world.Script(ending, self._site.clock.now + self._dice.uniform(0, 80))
            await self._register(task)
            await asyncio.sleep(self._dice.uniform(0, 4))
            if self._dice.random() < 0.3:
                await asyncio.sleep(self._dice.uniform(0, 30))
                await self._register(self._dice.choice(list(self._site.world.scripts)))
            if self._book.watches:
                await self._something_else()

    async def _something_else(self) -> None:
        app, watch_id = self._dice.choice(self._book.watches)
        chance = self._dice.random()
        if chance < 0.06:
            self._book.stopping.add(watch_id)
            if await self._asked("stop", lambda actions: actions.stop(app, watch_id)) is not None:
                self._book.stopped.setdefault(watch_id, self._site.clock.now)
        elif chance < 0.10:
            self._book.erasing.add(watch_id)
            await self._asked("erase", lambda actions: actions.erase(app, watch_id))
            self._book.erased[watch_id] = self._site.clock.now
        elif chance < 0.18:
            state = self._dice.choice(list(DeliveryState)[1:])
            await self._sent_again(lambda actions: actions.send_many_again(app, Selection(state)))
        elif chance < 0.26:
            found = self._run.rows(f"SELECT id FROM deliveries WHERE watch_id = '{watch_id}' ORDER BY id LIMIT 1")
            for delivery in found:
                await self._sent_again(lambda actions, of=delivery["id"]: actions.send_again(app, of))

    async def _sent_again(self, call: Callable[[Actions], Awaitable[Any]]) -> None:
        self._book.replays.append(self._site.clock.now)
        await self._asked("send again", call)
        self._book.replays.append(self._site.clock.now)

    def _target(self) -> WebhookTarget:
        kind = self._dice.choice(["ok", "ok", "ok", "ok", "gone", "never"])
        url = f"https://h{self._dice.randrange(3)}.example/{self._dice.randrange(4)}-{kind}"
        more = ["task.progress"] if self._dice.random() < 0.3 else []
        events = ENDS if self._dice.random() < 0.8 else ["task.completed", "task.failed"]
        return WebhookTarget(type="webhook", url=url, events=[*events, *more])

    async def _register(self, task: str) -> None:
        app = self._dice.choice(APPS)
        targets = [self._target() for _ in range(self._dice.choice([1, 1, 2, 4]))]
        expires_in = self._dice.choice([20, 60, 200, 200, 200])
        metadata = f'{{"of":"{app[-1]}/{task}"}}'
        request = WatchRequest(task, targets, metadata=metadata, expires_in=expires_in)
        got = await self._asked("register", lambda actions: actions.register(app, request))
        if got is None:
            return
        watch_id = got.watch.row.id
        self._book.watches.append((app, watch_id))
        self._book.metadata.setdefault(watch_id, metadata)
        for target in targets:
            self._book.promises.append(Promise(app, task, watch_id, target.url, tuple(target.events)))

    async def _asked(self, what: str, call: Callable[[Actions], Awaitable[T]]) -> T | None:
        """Return the answer; a client repeats what was not answered. None where relay refuses."""
        while True:
            ready = [process for process in self._site.machines if process.ready]
            try:
                if ready:
                    answer = await self._dice.choice(ready).ask(call)
                    self._site.world.note(f"client: {what}")
                    return answer
            except (StoreUnavailable, Died):
                pass
            except NotFound:
                return None
            except RelayError as error:
                self._site.world.note(f"client: {what}: {error.detail}")
                return None
            await asyncio.sleep(0.5)


class Chaos:
    """What happens to processes and clocks."""

    def __init__(self, run: Run) -> None:
        self._site = run.site
        self._dice = run.site.dice
        self._born = 0
        for _ in range(self._dice.choice([1, 2, 3])):
            self.birth()
        self._most = 0 if run.calm else self._dice.choice([2, 4, 7])

    def birth(self) -> None:
        """Start one more process."""
        self._born += 1
        Machine(self._site, f"p{self._born}")

    async def run(self) -> None:
        """Do one harm after the other."""
        harms = (self._kill, self._kill, self._stop, self._slow, self._cut, self._bury, self._back)
        for _ in range(self._most):
            await asyncio.sleep(self._dice.uniform(1, 25))
            alive = [process for process in self._site.machines if process.ready]
            if not alive:
                self.birth()
                continue
            await self._dice.choice(harms)(self._dice.choice(alive))

    async def _kill(self, process: Machine) -> None:
        process.kill()
        await asyncio.sleep(self._dice.choice([0, 0.5, 4]))
        self.birth()

    async def _stop(self, process: Machine) -> None:
        self.birth()
        await process.stop()

    async def _slow(self, process: Machine) -> None:
        process.trouble("is slow")
        process.slow = True
        await asyncio.sleep(self._dice.uniform(5, 60))
        process.slow = False
        process.trouble("was slow")

    async def _cut(self, process: Machine) -> None:
        process.trouble("has no database")
        process.cut_off = True
        await asyncio.sleep(self._dice.uniform(1, 20))
        process.cut_off = False
        process.trouble("had no database")

    async def _bury(self, process: Machine) -> None:
        """Take a process for dead that lives, as one on another host does that has not heard of it for long."""
        process.trouble("is buried alive")
        others = [other for other in self._site.machines if other.ready and other is not process]
        if others and process.relay is not None:
            db, name = others[0].relay.db, process.lease_name  # type: ignore[union-attr]
            now = round(self._site.clock.time() * 1000)
            others[0]._context.run(asyncio.ensure_future, db.persist(processes.bury, name, now))

    async def _back(self, _process: Machine) -> None:
        seconds = self._dice.choice([10, 90])
        for process in self._site.machines:
            process.trouble(f"clock set back by {seconds} s")
        self._site.clock.wall -= seconds


def _prepared(folder: Path, clock: virtual.Time) -> tuple[dict[str, str], Database]:
    """Return the environment of the processes, and an open database that they find."""
    (folder / "providers").mkdir()
    (folder / "providers" / "p.toml").write_text(world.PROVIDER)
    url = f"sqlite:///{folder / 'relay.db'}"
    environ = {
        "DATABASE_URL": url,
        "RELAY_SECRET_KEY": "the-secret-key-of-the-simulation",
        "RELAY_CONFIG": str(folder),
        "RELAY_PROVIDER": "p",
        "RELAY_RETRY_SCHEDULE": ",".join(f"{seconds}s" for seconds in SCHEDULE),
        "P_API_KEY": "sk-upstream-of-the-simulation",
    }
    db = Database(migrated_file(folder / "relay.db"))
    vault = Vault([environ["RELAY_SECRET_KEY"]])
    for number, app in enumerate(APPS):
        sealed = app_keys.sealed(vault, app, [{"secret": SECRET, "expires_at": None}])
        db.run_here(apps.create, app, f"app{number}", app.encode(), sealed, round(clock.time() * 1000))
    return environ, db


async def _quiet(run: Run) -> None:
    """Wait until nothing is left to do."""
    site = run.site
    give_up = site.clock.now + PATIENCE
    watching = "SELECT id, task_id, polls, next_poll_at, expires_at, lease FROM watches WHERE state = 'watching'"
    pending = "SELECT id, attempts, counted, next_attempt_at, lease FROM deliveries WHERE state = 'pending'"
    while left := run.rows(watching) or run.rows(pending):
        if site.clock.now > give_up:
            run.problems.append(f"not done {PATIENCE:g} s after the last fault: {left}")
            return
        await asyncio.sleep(5)
    for process in site.machines:
        if (relay := process.relay) is None or not process.ready:
            continue
        try:
            async with asyncio.timeout(LONGEST):  # a task may have been stopped while its upstream was asked
                await relay.poller.drain()
                await relay.dispatcher.drain()
        except TimeoutError:
            busy = relay.poller.under_way + relay.dispatcher.under_way
            run.problems.append(f"{process} has {busy} claims under way, and nothing is due")


async def _live(run: Run) -> None:
    from tests.simulation import oracle

    audit = asyncio.ensure_future(oracle.audit(run))
    chaos = Chaos(run)
    await asyncio.gather(Clients(run).run(), chaos.run())
    run.site.troubled = run.site.world.troubled = False
    run.site.world.note("no more faults")
    if not any(process.ready for process in run.site.machines):
        chaos.birth()
    await _quiet(run)
    audit.cancel()
    await asyncio.wait([audit])
    run.problems += oracle.judge(run)
    for process in run.site.machines:
        if not process.dead:
            process.kill()
    await asyncio.sleep(0.1)


def simulate(seed: str) -> Run:
    """Run one seed, and return the run with its problems. The clocks of this Python process are virtual from now on."""
    clock, loop = virtual.begin(seed)
    dice = random.Random(f"world {seed}")
    with tempfile.TemporaryDirectory(prefix="relay-simulation-") as folder:
        environ, reader = _prepared(Path(folder), clock)
        site = Site(clock, dice, world.World(clock, dice), load(environ), environ)
        machine.install(site)
        run = Run(seed, site, reader, calm=dice.random() < 0.25)
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(_live(run))
        finally:
            loop.close()
            reader.close()
    run.problems += [f"logged by {error}" for error in site.errors]
    return run
