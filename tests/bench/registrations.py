"""Registrations per second over HTTP, one at a time and in batches, against a server that only commits two rows each.

`python -m tests.bench.registrations [--rounds 3] [--seconds 3] [--postgresql]`

relay runs as `relay serve` on a core of its own, with its database; the client has another. The bare server is relay's
own HTTP server around an application that reads the JSON, writes a row for the watch and one for the target, commits
them in one transaction with those of other requests, and answers. It decides nothing, seals nothing, shows nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import secrets
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import uvloop

from relay.model.ids import new_id
from relay.store.batches import Batcher
from relay.web.server import listen, serving
from tests.bench import cores
from tests.bench.figures import Bench, Direction, Figure, Sample
from tests.bench.sizing import cpu, postgresql
from tests.support.deployment import API_KEY, environment
from tests.support.processes import serve

SINGLE = Figure("single registrations/s over HTTP, 50 connections, SQLite", Direction.AT_LEAST, 0.3)
SINGLE_RATE = Figure("the same, by itself", Direction.AT_LEAST, 3500, absolute=True)
BATCHES = Figure("watches/s in batches of 1,000, SQLite", Direction.AT_LEAST, 9000, absolute=True)
SINGLE_POSTGRESQL = Figure(
    "single registrations/s, 50 connections, PostgreSQL", Direction.AT_LEAST, 2000, absolute=True
)
BATCHES_POSTGRESQL = Figure("watches/s in batches of 1,000, PostgreSQL", Direction.AT_LEAST, 5000, absolute=True)

CONNECTIONS = 50
BATCH = 1000
WARM_UP = 0.5
"""Seconds of load before any is measured."""

Server = tuple[int, int]
"""Process id and port."""


@dataclass(frozen=True)
class Rate:
    """What a server has done.

    Attributes:
        rate: registrations per second.
        cpu: microseconds of its process for each.
    """

    rate: float
    cpu: float


class Bare:
    """What any server must do that promises a commit: an ASGI application."""

    def __init__(self, file: Path) -> None:
        self._threads = ThreadPoolExecutor(1)
        self._db = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.execute("CREATE TABLE watches (id TEXT PRIMARY KEY, task_id TEXT UNIQUE, next_poll_at BIGINT)")
        self._db.execute("CREATE TABLE targets (id TEXT PRIMARY KEY, watch_id TEXT, url TEXT)")
        self._rows = Batcher(self._commit, gather=0.001, most=200)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        body = bytearray()
        more = True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        given = orjson.loads(body)
        made = [(new_id("wch"), item["task_id"], item["targets"][0]["url"]) for item in given.get("watches", [given])]
        await self._rows.put(made)
        answer = orjson.dumps([{"id": watch_id, "task_id": task_id} for watch_id, task_id, _ in made])
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 201, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def _commit(self, groups: Sequence[Sequence[tuple[str, str, str]]]) -> Sequence[None]:
        rows = [row for group in groups for row in group]
        await asyncio.get_running_loop().run_in_executor(self._threads, self._write, rows)
        return [None] * len(groups)

    def _write(self, rows: Sequence[tuple[str, str, str]]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany("INSERT INTO watches VALUES (?, ?, 0)", [row[:2] for row in rows])
        self._db.executemany("INSERT INTO targets VALUES (?, ?, ?)", [(row[0], row[0], row[2]) for row in rows])
        self._db.execute("COMMIT")


async def serve_bare(file: Path) -> None:
    """Serve the bare application, and print its port."""
    listener = listen("127.0.0.1", 0)
    async with serving(Bare(file), listener):
        print(listener.getsockname()[1], flush=True)
        await asyncio.Event().wait()


class Load:
    """So many connections that register for some seconds, or one that registers so many at once."""

    def __init__(self, connections: int, batch: int, seconds: float) -> None:
        self.path = "/v1/watches/batch" if batch else "/v1/watches"
        self._connections = connections
        self._batch = batch
        self._until = time.monotonic() + seconds
        self._run = secrets.token_hex(6)
        self._asked = 0
        self._done = 0
        self._over = asyncio.Event()

    async def run(self, port: int) -> float:
        """Return how many were registered per second."""
        loop = asyncio.get_running_loop()
        started = time.monotonic()
        for _ in range(self._connections):
            await loop.create_connection(lambda: Client(self), "127.0.0.1", port)
        await self._over.wait()
        return self._done / (time.monotonic() - started)

    def body(self) -> bytes | None:
        """Return the next request, or None if there is none any more."""
        if time.monotonic() > self._until:
            return None
        items = [self._item() for _ in range(self._batch or 1)]
        return b'{"watches":[%b]}' % b",".join(items) if self._batch else items[0]

    def _item(self) -> bytes:
        self._asked += 1
        target = f'{{"type":"webhook","url":"https://app.example/hooks/{self._asked}"}}'
        task_id = f"sora-2:task_{self._run}{self._asked:012d}"
        return f'{{"task_id":"{task_id}","targets":[{target}],"metadata":{{"order":"42"}}}}'.encode()

    def answered(self, status: bytes, body: bytes) -> None:
        """Count what is registered; end at once if anything is refused."""
        if status not in (b"201", b"200") or b'"error":{' in body:
            print(status.decode(), body[:500].decode(), file=sys.stderr, flush=True)
            os._exit(1)
        self._done += self._batch or 1

    def closed(self) -> None:
        """Count a connection that is over."""
        self._connections -= 1
        if not self._connections:
            self._over.set()


class Client(asyncio.Protocol):
    """One connection that asks again whenever it is answered: the cheapest client, so that the server is measured."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._head = f"POST {load.path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {API_KEY}\r\n"
        self._answer = bytearray()

    def connection_made(self, transport: Any) -> None:
        """Ask for the first time."""
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        """Ask again once the answer is whole."""
        self._answer += data
        head, end, body = bytes(self._answer).partition(b"\r\n\r\n")
        if not end or len(body) < int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            return
        self._load.answered(head[9:12], body)
        self._answer.clear()
        self._ask()

    def _ask(self) -> None:
        if (body := self._load.body()) is None:
            self._transport.close()
            self._load.closed()
        else:
            head = f"{self._head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            self._transport.write(head.encode() + body)


async def measured(server: Server, connections: int, batch: int, seconds: float) -> Rate:
    """Return what a server does for a client in a process of its own."""
    pid, port = server
    await _load(port, connections, batch, WARM_UP)
    used = cpu(pid)
    rate = await _load(port, connections, batch, seconds)
    return Rate(rate, (cpu(pid) - used) * 1e6 / (rate * seconds))


async def _load(port: int, connections: int, batch: int, seconds: float) -> float:
    with cores.pinned(cores.OTHERS):
        child = await _child("load", str(port), str(connections), str(batch), str(seconds))
    output, _ = await child.communicate()
    assert child.returncode == 0
    return float(output)


async def _child(*words: str) -> asyncio.subprocess.Process:
    module = "tests.bench.registrations"
    return await asyncio.create_subprocess_exec(sys.executable, "-m", module, *words, stdout=subprocess.PIPE)


@contextlib.asynccontextmanager
async def bare(folder: Path) -> AsyncIterator[Server]:
    """Run the bare server."""
    child = await _child("bare", str(folder / f"bare-{secrets.token_hex(4)}.db"))
    try:
        assert child.stdout is not None
        yield child.pid, int(await child.stdout.readline())
    finally:
        child.kill()
        await child.communicate()


@contextlib.asynccontextmanager
async def relay(url: str, folder: Path) -> AsyncIterator[Server]:
    """Run relay. What it watches is not due before the end."""
    most = str(10_000_000)
    limits = {"RELAY_RATE_LIMIT": most, "RELAY_MAX_WATCHES": most, "RELAY_MAX_TARGETS": most}
    environ = environment(url, **limits, UNIFIED_VIDEO_BASE_URL="http://127.0.0.1:9", RELAY_POLL_INTERVAL="3600")
    async with serve(environ, folder) as process:
        await process.ready()
        yield process.process.pid, int(process.url.rpartition(":")[2])


@contextlib.contextmanager
def _database(engine: str, folder: Path) -> Iterator[str]:
    if engine == "sqlite":
        yield f"sqlite:///{folder / 'relay.db'}"
    else:
        with postgresql(folder) as url:
            yield url


def rates(engine: str, seconds: float = 3.0) -> dict[str, Rate]:
    """Measure both servers once, in both ways: by `single`, `bare single`, `batches`, `bare batches`."""

    async def both(url: str, folder: Path) -> dict[str, Rate]:
        async with bare(folder) as baseline, relay(url, folder) as server:
            return {
                "bare single": await measured(baseline, CONNECTIONS, 0, seconds),
                "single": await measured(server, CONNECTIONS, 0, seconds),
                "bare batches": await measured(baseline, 1, BATCH, seconds),
                "batches": await measured(server, 1, BATCH, seconds),
            }

    with tempfile.TemporaryDirectory(prefix="relay-bench-", dir="/tmp") as name, cores.pinned(cores.RELAY):
        folder = Path(name)
        with _database(engine, folder) as url:
            return asyncio.run(both(url, folder))


def samples(engine: str, single: Sequence[Figure], batches: Figure) -> Iterator[Sample]:
    """Measure figures once."""
    measured = rates(engine)
    for figure in single:
        yield Sample(figure, measured["single"].rate, measured["bare single"].rate)
    yield Sample(batches, measured["batches"].rate, measured["bare batches"].rate)


def _bench(engine: str, single: tuple[Figure, ...], batches: Figure) -> Bench:
    measure: Callable[[], Iterator[Sample]] = partial(samples, engine, single, batches)
    return Bench(f"registrations-{engine}", (*single, batches), measure)


BENCHES = (
    _bench("sqlite", (SINGLE, SINGLE_RATE), BATCHES),
    _bench("postgresql", (SINGLE_POSTGRESQL,), BATCHES_POSTGRESQL),
)


def main() -> None:
    """Prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--postgresql", action="store_true")
    given = parser.parse_args()
    rounds = [rates("postgresql" if given.postgresql else "sqlite", given.seconds) for _ in range(given.rounds)]
    for kind in ("single", "batches"):
        rate = statistics.median(one[kind].rate for one in rounds)
        baseline = statistics.median(one[f"bare {kind}"].rate for one in rounds)
        costs = [statistics.median(one[name].cpu for one in rounds) for name in (kind, f"bare {kind}")]
        both = " and ".join(f"{cost:.0f}" for cost in costs)
        print(f"{kind:8} {rate:8,.0f}/s   bare {baseline:8,.0f}/s   ratio {rate / baseline:.2f}   {both} µs CPU each")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["bare", file]:
            uvloop.run(serve_bare(Path(file)))
        case ["load", port, connections, batch, seconds]:
            load = Load(int(connections), int(batch), float(seconds))
            print(uvloop.run(load.run(int(port))))
        case _:
            main()
