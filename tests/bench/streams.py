"""What open event streams cost: memory each, and how much later polls and deliveries are, against the same run without.

`python -m tests.bench.streams [--streams 100] [--changes 50] [--seconds 15]`

relay runs in a process of its own (SQLite, `relay serve`); this one plays the upstream, the receiver and the streams'
readers. Watches change at the given rate, and some end every second. The lag is from the answer that says so to the
webhook: what relay adds, without the poll interval.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import httpx

from tests.support.deployment import API_KEY, environment
from tests.support.parties import Answer, Receiver, Upstream, done, receiver, says, until, upstream
from tests.support.processes import serve

INTERVAL = 2.0
ENDS = 10
"""Watches that end per second."""


class Story:
    """An upstream whose tasks change with every answer, or end at their first."""

    def __init__(self, party: Upstream) -> None:
        self.done_at: dict[str, float] = {}
        self._party = party

    def changing(self, task_id: str) -> None:
        self._party.scripts[task_id] = lambda number: says(f"step {number}", progress=number % 100)

    def ending(self, task_id: str) -> None:
        def answer(_: int) -> Answer:
            self.done_at.setdefault(task_id, time.monotonic())
            return done()

        self._party.scripts[task_id] = answer


def memory_of(pid: int) -> float:
    """Resident kB of a process."""
    return float(subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, check=True).stdout)


async def lags(client: httpx.AsyncClient, story: Story, to: Receiver, name: str, seconds: float) -> list[float]:
    """Milliseconds from each end's answer to its webhook."""
    before = len(to.posts)
    for second in range(int(seconds)):
        started = time.monotonic()
        for number in range(ENDS):
            task_id = f"{name}-{second}-{number}"
            story.ending(task_id)
            target = {"type": "webhook", "url": f"{to.url}/{task_id}"}
            (await client.post("/v1/watches", json={"task_id": task_id, "targets": [target]})).raise_for_status()
        await asyncio.sleep(max(0.0, started + 1 - time.monotonic()))
    await to.wait_for(before + int(seconds) * ENDS)
    return [(post.at - story.done_at[post.path[1:]]) * 1000 for post in to.posts[before:]]


class Readers:
    """Open streams, on bare sockets so that reading them costs this process little."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._url, self.events = client.base_url, 0
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self, watch_id: str) -> None:
        reader, writer = await asyncio.open_connection(self._url.host, self._url.port)
        head = f"GET /v1/watches/{watch_id}/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {API_KEY}\r\n\r\n"
        writer.write(head.encode())
        assert b" 200 " in await reader.readline()
        self._tasks.append(asyncio.create_task(self._read(reader, writer)))

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            while more := await reader.read(65536):
                self.events += more.count(b"\nevent: ") + more.startswith(b"event: ")

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def told(name: str, figures: list[float]) -> str:
    p95 = statistics.quantiles(figures, n=20)[-1]
    return f"{name:<16} lag from answer to webhook: median {statistics.median(figures):6.1f} ms, p95 {p95:6.1f} ms"


async def main() -> None:
    """Prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--changes", type=float, default=50)
    parser.add_argument("--seconds", type=float, default=15)
    given = parser.parse_args()
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        party, to = await stack.enter_async_context(upstream()), await stack.enter_async_context(receiver())
        environ = environment(
            f"sqlite:///{folder}/bench.db",
            UNIFIED_VIDEO_BASE_URL=party.url,
            RELAY_POLL_INTERVAL=f"{INTERVAL:g}",
            RELAY_HOST="127.0.0.1",
            RELAY_RATE_LIMIT="5000",
            LOG_LEVEL="warning",
        )
        process = await stack.enter_async_context(serve(environ, Path(folder)))
        await process.ready()
        client, pid = process.http, process.process.pid
        story, ids = Story(party), []
        for number in range(round(given.changes * INTERVAL)):
            task_id = f"changing-{number}"
            story.changing(task_id)
            body = {"task_id": task_id, "targets": [{"type": "webhook", "url": f"{to.url}/never"}]}
            ids.append((await client.post("/v1/watches", json=body)).json()["id"])
        await until(lambda: asyncio.sleep(0, all(len(party.asked[f"changing-{n}"]) > 1 for n in range(len(ids)))))
        await lags(client, story, to, "warm", 3)
        without = await lags(client, story, to, "without", given.seconds)
        memory = memory_of(pid)
        readers = Readers(client)
        stack.push_async_callback(readers.close)
        for watch_id in itertools.islice(itertools.cycle(ids), given.streams):
            await readers.open(watch_id)
        await until(lambda: asyncio.sleep(0, readers.events >= given.streams))
        grown = (memory_of(pid) - memory) / given.streams
        events = readers.events
        with_ = await lags(client, story, to, "with", given.seconds)
        rate = (readers.events - events) / given.seconds
        print(told("without streams", without))
        print(told(f"{given.streams:,} streams", with_))
        print(f"ratio            {statistics.median(with_) / statistics.median(without):.2f} of the median lag")
        print(f"memory           {grown:.1f} kB per stream")
        print(f"events           {rate:,.0f} told per second")


if __name__ == "__main__":
    asyncio.run(main())
