"""A process with few descriptors: it lives within what there is, and nobody is told that it has none."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.support.deployment import API_KEY, environment
from tests.support.parties import Receiver, Upstream, done, until
from tests.support.processes import Serve, serve

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors in /proc"),
]

FEW = 512
RECEIVERS = 1000


@contextlib.asynccontextmanager
async def running(folder: Path, upstream: Upstream, limit: tuple[int, int] = (FEW, FEW)) -> AsyncIterator[Serve]:
    environ = environment(
        f"sqlite:///{folder / 'relay.db'}", UNIFIED_VIDEO_BASE_URL=upstream.url, RELAY_RETRY_SCHEDULE="0s,300s"
    )
    async with serve(environ, folder, descriptors=limit) as relay:
        await relay.ready()
        yield relay


class Watcher:
    """Looks at a process all the while: a new caller each time, and how many descriptors there are.

    Attributes:
        waits: seconds that each caller waited for /healthz.
        most: descriptors at once.
    """

    def __init__(self, relay: Serve) -> None:
        self._relay = relay
        self.waits: list[float] = []
        self.most = 0

    async def look(self) -> None:
        while True:
            started = time.monotonic()
            async with httpx.AsyncClient(base_url=self._relay.url, timeout=20, verify=False) as new:
                assert (await new.get("/healthz")).status_code == 200
            self.waits.append(time.monotonic() - started)
            self.most = max(self.most, self._relay.descriptors)
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def watching(relay: Serve) -> AsyncIterator[Watcher]:
    watcher = Watcher(relay)
    task = asyncio.create_task(watcher.look())
    yield watcher
    assert not task.done() or task.result() is None
    task.cancel()
    await asyncio.wait([task])


async def test_a_thousand_healthy_receivers_at_512_descriptors(
    tmp_path: Path, upstream: Upstream, receiver: Receiver
) -> None:
    upstream.default = done()
    port = receiver.url.rpartition(":")[2]
    async with running(tmp_path, upstream) as relay, watching(relay) as watcher:
        hosts = [f"127.1.{n // 250}.{1 + n % 250}" for n in range(RECEIVERS)]
        for start in range(0, RECEIVERS, 100):
            targets = [{"type": "webhook", "url": f"http://{host}:{port}/"} for host in hosts[start : start + 50]]
            more = [{"type": "webhook", "url": f"http://{host}:{port}/"} for host in hosts[start + 50 : start + 100]]
            watches = [{"task_id": f"t{start}", "targets": targets}, {"task_id": f"u{start}", "targets": more}]
            answer = await relay.http.post("/v1/watches/batch", json={"watches": watches})
            assert {item["status"] for item in answer.json()["data"]} == {201}
        await receiver.wait_for(RECEIVERS)

        async def all_delivered() -> bool:
            pending = await relay.http.get("/v1/deliveries?state=pending&limit=1")
            return not pending.json()["data"]

        await until(all_delivered)
        dead = await relay.http.get("/v1/deliveries?state=dead&limit=1")
        assert not dead.json()["data"]
    assert len({post.webhook_id for post in receiver.posts}) == len(receiver.posts) == RECEIVERS
    assert watcher.most < FEW / 2
    assert sorted(watcher.waits)[len(watcher.waits) * 9 // 10] < 0.5


async def test_callers_that_sit_there_are_closed_for_new_ones(tmp_path: Path, upstream: Upstream) -> None:
    async with running(tmp_path, upstream) as relay, watching(relay) as watcher:
        url = httpx.URL(relay.url)
        lines = []
        try:
            for number in range(2 * FEW):
                _, writer = await asyncio.open_connection(url.host, url.port)
                lines.append(writer)
                if number % 2:
                    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            seen = len(watcher.waits)

            async def looked_again() -> bool:
                return len(watcher.waits) > seen + 5

            await until(looked_again)
            answer = await relay.http.get("/v1/watches", headers={"Authorization": f"Bearer {API_KEY}"})
            assert answer.status_code == 200
        finally:
            for writer in lines:
                writer.transport.abort()
    assert watcher.most < FEW / 2


async def test_a_low_limit_is_raised_as_far_as_it_may_be_and_shown(tmp_path: Path, upstream: Upstream) -> None:
    async with running(tmp_path, upstream, (256, 1024)) as relay:
        assert resource.prlimit(relay.process.pid, resource.RLIMIT_NOFILE) == (1024, 1024)

        async def shown() -> bool:
            return "descriptors=1024" in relay.log.read_text()

        await until(shown)
