"""What a watch takes of the disk once it has ended and its target was notified, in all and by table.

`python -m tests.bench.ended [--watches 10000] [--postgresql]`

A real process asks an upstream that gives the documented answer of 1.8 kB, and posts to a receiver. The watches are
registered through the API, with one webhook target each. The log of SQLite is not counted: it has a size of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sqlite3
import tempfile
import time
from pathlib import Path

import psycopg

from relay.store import Database, migrate
from tests.bench import ending
from tests.bench.receiver import listening
from tests.bench.sizing import postgresql
from tests.support.deployment import environment
from tests.support.processes import serve


def sizes(url: str) -> dict[str, int]:
    """Return the bytes of each table with its indexes."""
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as tx:
            tx.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            rows = tx.execute(
                "SELECT tbl_name, sum(pgsize) FROM dbstat JOIN sqlite_schema USING (name) GROUP BY tbl_name"
            ).fetchall()
    else:
        with psycopg.connect(url) as tx:
            rows = tx.execute(
                "SELECT relname, pg_total_relation_size(oid) FROM pg_class"
                " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
            ).fetchall()
    return {str(name): int(size) for name, size in rows}


async def measure(url: str, folder: Path, count: int) -> None:
    """Print the figures."""
    db = Database(url)
    db.run_here(migrate.upgrade)
    db.close()
    before = sizes(url)
    arrived: list[bytes] = []
    receiver = await listening(lambda _path, body: arrived.append(body))
    target = {"type": "webhook", "url": f"http://127.0.0.1:{receiver.sockets[0].getsockname()[1]}/hook"}
    with ending.running() as port:
        environ = environment(url, UNIFIED_VIDEO_BASE_URL=f"http://127.0.0.1:{port}", RELAY_RATE_LIMIT="100000")
        async with serve(environ, folder) as process:
            await process.ready()
            for start in range(0, count, 500):
                tasks = [f"task_{time.monotonic():.6f}{number:05}" for number in range(start, min(count, start + 500))]
                body = {"watches": [{"task_id": task, "targets": [target]} for task in tasks]}
                answer = await process.http.post("/v1/watches/batch", json=body, timeout=120)
                assert answer.status_code == 200, answer.text
            while len(arrived) < count:
                await asyncio.sleep(0.5)
            await process.stop()
    receiver.close()
    print(f"an event has {sum(map(len, arrived)) / len(arrived) / 1000:.1f} kB")
    after = {name: (size - before.get(name, 0)) / count for name, size in sizes(url).items()}
    print(f"{sum(after.values()) / 1000:.1f} kB per ended watch")
    for name, size in sorted(after.items(), key=lambda item: -item[1]):
        if size > 1:
            print(f"  {name:<12} {size / 1000:.2f} kB")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--watches", type=int, default=10_000)
    parser.add_argument("--postgresql", action="store_true")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-ended-", dir="/tmp")))
        url = stack.enter_context(postgresql(folder)) if given.postgresql else f"sqlite:///{folder / 'relay.db'}"
        asyncio.run(measure(url, folder, given.watches))


if __name__ == "__main__":
    main()
