"""How soon a process that was killed polls again: from its start to the first query of an overdue watch.

The process has a core of its own; the upstream is this one. The baseline is an interpreter that imports the libraries
that every relay process needs, and does nothing: what a start costs before relay has done anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from relay.store import Database, migrate
from tests.bench import cores
from tests.bench.figures import Bench, Direction, Figure, Sample
from tests.bench.sizing import postgresql, register
from tests.bench.upstream import Pending
from tests.support.deployment import environment
from tests.support.processes import serve

GOAL = 0.8
LIBRARIES = "apscheduler.schedulers.asyncio, httpx, pydantic, sqlalchemy, starlette.applications, structlog, uvicorn"
ON_SQLITE = Figure(
    "seconds from the start of a killed process to its first overdue poll, SQLite; the import of its libraries alone",
    Direction.AT_MOST,
    GOAL,
    absolute=True,
    digits=2,
)
ON_POSTGRESQL = Figure(
    "seconds to the first overdue poll, PostgreSQL; the same", Direction.AT_MOST, GOAL, absolute=True, digits=2
)


class Listener(Pending):
    """An upstream that knows when it was first asked."""

    asked: asyncio.Future[float]

    def data_received(self, data: bytes) -> None:
        if not self.asked.done():
            self.asked.set_result(time.monotonic())
        super().data_received(data)


async def first_poll(database_url: str, folder: Path) -> float:
    """Kill a process with watches under way, and start another once all are overdue; return the seconds it took."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Listener, "127.0.0.1", 0)
    async with server, contextlib.AsyncExitStack() as stack:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        environ = environment(database_url, UNIFIED_VIDEO_BASE_URL=url, RELAY_POLL_INTERVAL="1", RELAY_HOST="127.0.0.1")
        Listener.asked = loop.create_future()
        with cores.pinned(cores.RELAY):
            process = await stack.enter_async_context(serve(environ, folder))
        await process.ready()
        await register(process.http, 1000)
        async with asyncio.timeout(30):
            await Listener.asked
        process.kill()
        await process.process.wait()
        await asyncio.sleep(2)
        Listener.asked = loop.create_future()
        started = time.monotonic()
        with cores.pinned(cores.RELAY):
            await stack.enter_async_context(serve(environ, folder))
        async with asyncio.timeout(30):
            return await Listener.asked - started


def libraries() -> float:
    """Return the seconds in which an interpreter imports the libraries."""
    with cores.pinned(cores.RELAY):
        started = time.monotonic()
        subprocess.run([sys.executable, "-c", f"import os, {LIBRARIES}; os._exit(0)"], check=True, env={})
        return time.monotonic() - started


def on_sqlite() -> Iterator[Sample]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        baseline = libraries()
        yield Sample(ON_SQLITE, asyncio.run(first_poll(f"sqlite:///{folder}/bench.db", Path(folder))), baseline)


def on_postgresql() -> Iterator[Sample]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))
        with cores.pinned(cores.RELAY):
            url = stack.enter_context(postgresql(folder))
        db = Database(url)
        db.run_here(migrate.upgrade)
        db.close()
        baseline = libraries()
        yield Sample(ON_POSTGRESQL, asyncio.run(first_poll(url, folder)), baseline)


BENCHES = (
    Bench("start-sqlite", (ON_SQLITE,), on_sqlite),
    Bench("start-postgresql", (ON_POSTGRESQL,), on_postgresql),
)
