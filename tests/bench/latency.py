"""How fast an end is told: many tasks asked about once a second, which end at times of a lognormal distribution.

`python -m tests.bench.latency [--tasks 1000] [--seconds 20] [--postgresql]`

The id of a task says when it ends, and the upstream's last answer says when that and it itself came to be. Events
repeat that answer, so the receiver knows two figures of each: the *lag*, from the end to the answer that tells it
(half a second on average, where nobody can do better), and the *telling*, from that answer to the webhook.

relay and its database have one core; upstream, receiver and client have another. The bare aiohttp loop asks and posts
as fast, and keeps nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import orjson
import uvloop

from relay.store import Database, migrate
from tests.bench import cores, ending
from tests.bench.figures import Bench, Direction, Figure, Sample
from tests.bench.receiver import listening
from tests.bench.sizing import cpu, postgresql
from tests.support.deployment import API_KEY, environment
from tests.support.processes import serve

MEDIAN, SPREAD = 6.0, 0.8
"""Seconds that a task takes in the middle, and how far the logarithms are from that."""

WARM_UP = 6.0
"""Seconds before the measurement, in which the tasks spread over the second."""


def task() -> str:
    """Return the id of a task that ends at a time of its own, in seconds of the monotonic clock."""
    return f"task_{time.monotonic() + random.lognormvariate(0, SPREAD) * MEDIAN:.6f}"


@dataclass
class Times:
    """What the receiver has learned: seconds.

    Attributes:
        cpu: of relay, for 1,000 ends.
    """

    lag: list[float] = field(default_factory=list)
    telling: list[float] = field(default_factory=list)
    cpu: float = 0.0

    def take(self, _path: bytes, body: bytes) -> None:
        """Note an event, or the answer that the bare loop posts."""
        now = time.monotonic()
        posted = orjson.loads(body)
        answer = posted["data"]["upstream"] if "data" in posted else posted
        self.lag.append(answer["answered_at"] - float(answer["id"][5:]))
        self.telling.append(now - answer["answered_at"])

    async def warmed_up(self) -> None:
        """Wait until the measurement may begin: a while after the first end."""
        async with asyncio.timeout(60):
            while not self.lag:
                await asyncio.sleep(0.1)
        await asyncio.sleep(WARM_UP)
        self.lag.clear()
        self.telling.clear()


def part(values: Sequence[float], share: float) -> float:
    """Return the value below which a share of them lies."""
    return sorted(values)[int(len(values) * share)]


async def whole(upstream: str, database_url: str, folder: Path, tasks: int, seconds: float) -> Times:
    """Measure relay: a process of its own, to which new tasks are registered as others end."""
    db = Database(database_url)
    db.run_here(migrate.upgrade)
    db.close()
    environ = environment(database_url, UNIFIED_VIDEO_BASE_URL=upstream, RELAY_POLL_INTERVAL="1")
    del environ["RELAY_RETRY_SCHEDULE"]
    times = Times()
    receiver = await listening(lambda path, body: times.take(path, body))
    hook = f"http://127.0.0.1:{receiver.sockets[0].getsockname()[1]}/hook"
    with cores.pinned(cores.RELAY):
        process = serve(environ, folder)
        running = await process.__aenter__()
    try:
        await running.ready()
        async with _registering(running.url, hook, times, tasks):
            await times.warmed_up()
            used = cpu(running.process.pid)
            await asyncio.sleep(seconds)
            times.cpu = (cpu(running.process.pid) - used) * 1000 / len(times.lag)
    finally:
        await process.__aexit__(None, None, None)
        receiver.close()
    return times


@contextlib.asynccontextmanager
async def _registering(url: str, hook: str, times: Times, tasks: int) -> AsyncIterator[None]:
    """Register the tasks, and one for each that ends, while inside."""
    target = {"type": "webhook", "url": hook}

    async def register(session: aiohttp.ClientSession, count: int) -> None:
        for start in range(0, count, 1000):
            new = [{"task_id": task(), "targets": [target]} for _ in range(start, min(count, start + 1000))]
            async with session.post(f"{url}/v1/watches/batch", json={"watches": new}) as answer:
                assert answer.status == 200, await answer.text()

    async def replace(session: aiohttp.ClientSession) -> None:
        seen = 0
        while True:
            await asyncio.sleep(0.05)
            ended = len(times.lag) if len(times.lag) < seen else len(times.lag) - seen
            seen = len(times.lag)
            if ended:
                await register(session, ended)

    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {API_KEY}"}) as session:
        await register(session, tasks)
        replacing = asyncio.create_task(replace(session))
        try:
            yield
        finally:
            replacing.cancel()
            await asyncio.wait([replacing])


async def bare(upstream: str, tasks: int, seconds: float) -> Times:
    """Measure the bare loop, which is a process of its own, too."""
    times = Times()
    receiver = await listening(lambda path, body: times.take(path, body))
    port = receiver.sockets[0].getsockname()[1]
    with cores.pinned(cores.RELAY):
        command = [sys.executable, "-m", "tests.bench.latency", "loop", upstream, str(port), str(tasks)]
        child = subprocess.Popen(command)  # noqa: ASYNC220  # it takes a moment, before the measurement
    try:
        await times.warmed_up()
        await asyncio.sleep(seconds)
    finally:
        child.terminate()
        child.wait()
        receiver.close()
    return times


async def loop(upstream: str, port: str, tasks: int) -> None:
    """Ask about each task once a second, and post the answer that tells its end."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def watch(task_id: str) -> str:
            async with session.get(f"{upstream}/v1/video/query?id={task_id}") as answer:
                body = await answer.read()
            if orjson.loads(body)["status"] != "completed":
                return task_id
            async with session.post(f"http://127.0.0.1:{port}/hook", data=body) as taken:
                await taken.read()
            return task()

        async def watching(start: float) -> None:
            task_id = task()
            while True:
                start += 1
                await asyncio.sleep(start - time.monotonic())
                task_id = await watch(task_id)

        now = time.monotonic()
        await asyncio.gather(*(watching(now + number / tasks) for number in range(tasks)))


LAG_50 = Figure("lag, p50 of 1,000 tasks asked once a second, s; the bare loop", Direction.AT_MOST, 0.52, True, 3)
LAG_99 = Figure("lag, p99, s", Direction.AT_MOST, 1.02, True, 3)
TOLD_50 = Figure("poll → webhook there, p50, ms", Direction.AT_MOST, 12, True, 1)
TOLD_99 = Figure("poll → webhook there, p99, ms", Direction.AT_MOST, 60, True, 1)
MORE_50 = Figure("poll → webhook with 5,000 tasks, p50, ms", Direction.AT_MOST, 60, True, 1)
MORE_99 = Figure("poll → webhook with 5,000 tasks, p99, ms", Direction.AT_MOST, 200, True, 1)


def _measured(tasks: int) -> tuple[Times, Times]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, cores.pinned(cores.OTHERS), ending.running() as port:
        url = f"http://127.0.0.1:{port}"
        loop_times = uvloop.run(bare(url, tasks, 10))
        return loop_times, uvloop.run(whole(url, f"sqlite:///{folder}/bench.db", Path(folder), tasks, 15))


def of_a_thousand() -> Iterator[Sample]:
    loop_times, relay = _measured(1000)
    yield Sample(LAG_50, part(relay.lag, 0.5), part(loop_times.lag, 0.5))
    yield Sample(LAG_99, part(relay.lag, 0.99), part(loop_times.lag, 0.99))
    yield Sample(TOLD_50, part(relay.telling, 0.5) * 1000, part(loop_times.telling, 0.5) * 1000)
    yield Sample(TOLD_99, part(relay.telling, 0.99) * 1000, part(loop_times.telling, 0.99) * 1000)


def of_five_thousand() -> Iterator[Sample]:
    loop_times, relay = _measured(5000)
    yield Sample(MORE_50, part(relay.telling, 0.5) * 1000, part(loop_times.telling, 0.5) * 1000)
    yield Sample(MORE_99, part(relay.telling, 0.99) * 1000, part(loop_times.telling, 0.99) * 1000)


BENCHES = (
    Bench("latency-1000", (LAG_50, LAG_99, TOLD_50, TOLD_99), of_a_thousand),
    Bench("latency-5000", (MORE_50, MORE_99), of_five_thousand),
)


def main() -> None:
    """Print the comparison."""
    if sys.argv[1:2] == ["loop"]:
        uvloop.run(loop(sys.argv[2], sys.argv[3], int(sys.argv[4])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--postgresql", action="store_true")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))
        database_url = f"sqlite:///{folder}/bench.db"
        if given.postgresql:
            with cores.pinned(cores.RELAY):
                database_url = stack.enter_context(postgresql(folder))
        stack.enter_context(cores.pinned(cores.OTHERS))
        url = f"http://127.0.0.1:{stack.enter_context(ending.running())}"
        both = {
            "bare loop": uvloop.run(bare(url, given.tasks, given.seconds / 2)),
            "relay": uvloop.run(whole(url, database_url, folder, given.tasks, given.seconds)),
        }
    for name, times in both.items():
        lag = f"lag p50 {part(times.lag, 0.5):.3f} s, p99 {part(times.lag, 0.99):.3f} s"
        telling = [seconds * 1000 for seconds in times.telling]
        told = f"poll to webhook p50 {part(telling, 0.5):.1f} ms, p99 {part(telling, 0.99):.1f} ms"
        print(f"{name:10} {len(times.lag):6} ends   {lag}   {told}")
    print(f"relay's CPU for 1,000 ends, with their polls: {both['relay'].cpu:.2f} s")


if __name__ == "__main__":
    main()
