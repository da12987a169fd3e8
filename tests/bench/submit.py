"""What a create call costs on its way through relay: the time that it takes beyond the same call made directly.

`python -m tests.bench.submit [--rounds 3] [--calls 300] [--postgresql]`

relay runs as `relay serve` on a core of its own with its database; upstream and client have another. Calls are made
one after the other, by turns directly and through relay, with an Idempotency-Key each: a group commit before the call
and one after it.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import uvloop

from relay.store import Database, migrate
from tests.bench import cores
from tests.bench.figures import Bench, Direction, Figure, Sample
from tests.bench.sizing import postgresql
from tests.support.deployment import environment
from tests.support.maker import making
from tests.support.processes import serve

ADDED = Figure(
    "ms that a create takes longer through relay, p50, SQLite; the call itself",
    Direction.AT_MOST,
    10,
    absolute=True,
    digits=1,
)

WARM_UP = 20
"""Calls before any is measured."""

BODY = {"model": "sora-2", "prompt": "a cat", "images": []}


async def _added(database_url: str, folder: Path, calls: int) -> tuple[float, float]:
    """Return how many ms a call takes longer, and how many it takes, in the middle."""
    db = Database(database_url)
    db.run_here(migrate.upgrade)
    db.close()
    direct: list[float] = []
    through: list[float] = []
    async with making() as maker:
        environ = environment(database_url, UNIFIED_VIDEO_BASE_URL=maker.url, RELAY_POLL_INTERVAL="60")
        with cores.pinned(cores.RELAY):
            process = serve(environ, folder)
            relay = await process.__aenter__()
        try:
            await relay.ready()
            async with httpx.AsyncClient(base_url=maker.url, verify=False) as upstream:
                for _ in range(calls + WARM_UP):
                    direct.append(await _timed(upstream))
                    through.append(await _timed(relay.http))
        finally:
            await process.__aexit__(None, None, None)
    middle = statistics.median(direct[WARM_UP:])
    return (statistics.median(through[WARM_UP:]) - middle) * 1000, middle * 1000


async def _timed(client: httpx.AsyncClient) -> float:
    """Return the seconds that a create takes."""
    started = time.perf_counter()
    answer = await client.post("/v1/video/create", json=BODY, headers={"Idempotency-Key": uuid.uuid4().hex})
    took = time.perf_counter() - started
    assert answer.status_code == 200, answer.text
    return took


def _run(database_url: str, folder: Path, calls: int) -> tuple[float, float]:
    with cores.pinned(cores.OTHERS), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_added(database_url, folder, calls))


def _measure() -> Iterator[Sample]:
    """Measure the added time once."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        added, direct = _run(f"sqlite:///{folder}/relay.db", Path(folder), 300)
        yield Sample(ADDED, added, direct)


BENCHES = (Bench("submit", (ADDED,), _measure),)


def main() -> None:
    """Print the figures of some rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--postgresql", action="store_true")
    given = parser.parse_args()
    for _ in range(given.rounds):
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            if given.postgresql:
                with postgresql(Path(folder)) as url:
                    added, direct = _run(url, Path(folder), given.calls)
            else:
                added, direct = _run(f"sqlite:///{folder}/relay.db", Path(folder), given.calls)
        print(f"directly {direct:.1f} ms, through relay {added:.1f} ms more")


if __name__ == "__main__":
    main()
