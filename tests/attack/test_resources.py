"""What an app can use up of the process itself: threads, descriptors, memory. Its neighbours must not notice."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from relay.channels import base, urls
from relay.outbound.descriptors import limit, parts
from relay.outbound.shares import on_behalf_of
from relay.settings.sources import load
from relay.web import bodies
from relay.wiring import open_ways
from tests.support.deployment import API_KEY, Deployment, deployment, environment
from tests.support.parties import Receiver, Upstream, done, until
from tests.web.callers import caller

pytestmark = pytest.mark.anyio

SILENT = 200
"""Names of one app whose servers do not answer: more than there are threads, fewer than deliveries are under way."""


@dataclass
class Posting:
    """A request whose body is under way."""

    writer: asyncio.StreamWriter
    answer: asyncio.Task[bytes]


@pytest.fixture
def silence(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A resolver that does not answer about what is below `slow.example`; names below `good.example` are loopback."""
    over, look_up = threading.Event(), socket.getaddrinfo

    def getaddrinfo(host: Any, *more: Any, **options: Any) -> list[Any]:
        if str(host).endswith(".slow.example"):
            over.wait(120)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        if str(host).startswith("gone."):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return look_up("127.0.0.1" if str(host).endswith(".good.example") else host, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield
    over.set()


@pytest.fixture
async def relay(tmp_path: Path, upstream: Upstream) -> AsyncIterator[Deployment]:
    port = upstream.url.rpartition(":")[2]
    environ = environment(
        f"sqlite:///{tmp_path / 'relay.db'}",
        UNIFIED_VIDEO_BASE_URL=f"http://upstream.good.example:{port}",
        RELAY_RETRY_SCHEDULE="0s,60s",
        RELAY_GRACE="1s",
        SLACK_SIGNING_SECRET="a-secret-of-slack",
    )
    async with deployment(environ) as running:
        yield running


@pytest.mark.usefixtures("silence")
async def test_silent_names_of_one_app_hinder_neither_polls_nor_anothers_deliveries(
    relay: Deployment, upstream: Upstream, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "DEADLINE", 120.0)  # so that none of the silent ones is given up before the end
    upstream.default = done()
    for start in range(0, SILENT, 50):
        targets = [{"type": "webhook", "url": f"https://{n}.slow.example/"} for n in range(start, start + 50)]
        await relay.register(f"silent:{start}", *targets)

    async def all_under_way() -> bool:
        return relay.relay.dispatcher.under_way >= SILENT

    await until(all_under_way)
    port = receiver.url.rpartition(":")[2]
    async with caller(relay) as neighbour:
        for number in range(5):
            await neighbour.register(f"neighbour:{number}", f"http://{number}.good.example:{port}/")
        posts = await receiver.wait_for(5, within=30)
    assert {post.event["type"] for post in posts} == {"task.completed"}
    assert relay.relay.dispatcher.under_way >= SILENT


@pytest.mark.usefixtures("silence")
async def test_silent_names_of_many_apps_leave_upstreams_lookups_of_their_own(upstream: Upstream) -> None:
    ways = open_ways(load(environment("sqlite:///relay.db")))
    silent = []
    for number in range(parts(limit()).lookups):
        with on_behalf_of(f"app-{number}"):
            call = ways.encrypted.handle_async_request(httpx.Request("GET", f"https://{number}.slow.example/"))
            silent.append(asyncio.create_task(call))
    try:
        await asyncio.sleep(0)  # each of them has its thread
        url = upstream.url.replace("127.0.0.1", "upstream.good.example")
        answer = await ways.upstreams.handle_async_request(httpx.Request("GET", f"{url}/v1/video/query?id=task"))
        assert answer.status_code == 200
    finally:
        for call in silent:
            call.cancel()
        await asyncio.wait(silent)
        await ways.aclose()


@contextlib.asynccontextmanager
async def posting(relay: Deployment, path: str, head: str) -> AsyncIterator[Posting]:
    """A request by hand, its head sent."""
    url = httpx.URL(relay.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode())
    answer = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
    try:
        yield Posting(writer, answer)
    finally:
        writer.transport.abort()
        await asyncio.wait([answer])
        answer.cancelled() or answer.exception()


BATCH = f"Authorization: Bearer {API_KEY}\r\nContent-Type: application/json\r\n"


async def test_bodies_of_one_app_take_half_of_their_memory_and_no_more(relay: Deployment) -> None:
    """Batches of the largest size that never end. The others are refused before they have sent anything."""
    large = {"watches": [{"task_id": "t", "metadata": {"m": "x" * 9_000_000}}]}
    head = f"{BATCH}Content-Length: {bodies.MAX_BATCH_BODY}\r\n"
    async with contextlib.AsyncExitStack() as stack:
        posts = [await stack.enter_async_context(posting(relay, "/v1/watches/batch", head)) for _ in range(25)]

        async def all_but_two() -> bool:
            return sum(post.answer.done() for post in posts) >= 23

        await until(all_but_two, within=15)  # before bodies are given up
        refused = [post.answer.result() for post in posts if post.answer.done()]
        assert len(refused) == 23
        assert all(b" 503 " in answer and b"retry-after: " in answer for answer in refused)
        small = await relay.http.post("/v1/watches", json={"task_id": "t", "targets": []})
        assert small.status_code == 422
        assert (await relay.http.post("/v1/watches/batch", json=large)).status_code == 503
        async with caller(relay) as neighbour:
            taken = await neighbour.post("/v1/watches/batch", large)
            assert taken.json()["data"][0]["status"] == 413  # it was read: a registration of this size is refused

    async def is_free_again() -> bool:
        return (await relay.http.post("/v1/watches/batch", json=large)).status_code == 200

    await until(is_free_again)


async def test_a_body_without_a_length_takes_memory_as_it_comes(relay: Deployment) -> None:
    chunk = b"%x\r\n%b\r\n" % (100_000, b" " * 100_000)
    head = f"{BATCH}Transfer-Encoding: chunked\r\n"
    async with contextlib.AsyncExitStack() as stack:
        posts = [await stack.enter_async_context(posting(relay, "/v1/watches/batch", head)) for _ in range(6)]
        for _ in range(bodies.MAX_BATCH_BODY // 100_000 - 1):
            for post in posts:
                if not post.answer.done():
                    post.writer.write(chunk)
                    await post.writer.drain()

        async def some_are_refused() -> bool:
            return sum(post.answer.done() for post in posts) >= 4

        await until(some_are_refused)
        assert {post.answer.result()[:12] for post in posts if post.answer.done()} == {b"HTTP/1.1 503"}


@pytest.mark.parametrize(
    "head",
    [
        "",
        "X-Slack-Request-Timestamp: {now}\r\n",
        "X-Slack-Request-Timestamp: {now}\r\nX-Slack-Signature: v0=00\r\n",
        "X-Slack-Request-Timestamp: soon\r\nX-Slack-Signature: v0={zeros}\r\n",
        "X-Slack-Request-Timestamp: {past}\r\nX-Slack-Signature: v0={zeros}\r\n",
    ],
)
async def test_what_slack_cannot_have_sent_is_answered_before_its_body(relay: Deployment, head: str) -> None:
    now = int(time.time())
    claimed = head.format(now=now, past=now - 301, zeros="0" * 64)
    async with posting(relay, "/slack/commands", f"{claimed}Content-Length: 200000\r\n") as post:
        assert b" 401 " in await asyncio.wait_for(post.answer, 10)


@pytest.mark.usefixtures("silence")
async def test_a_resolver_that_is_away_is_no_fault_of_the_registration(
    relay: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urls, "RESOLVE_TIMEOUT", 0.2)
    given = {"task_id": "t", "targets": [{"type": "webhook", "url": "http://hook.slow.example/"}]}
    refused = await relay.http.post("/v1/watches", json=given)
    assert (refused.status_code, refused.json()["code"]) == (503, "resolver_unavailable")
    assert int(refused.headers["retry-after"]) >= 1
    batch = await relay.http.post("/v1/watches/batch", json={"watches": [given]})
    assert batch.json()["data"][0]["status"] == 503
    given["targets"] = [{"type": "webhook", "url": "http://gone.example/"}]
    assert (await relay.http.post("/v1/watches", json=given)).status_code == 422


@pytest.mark.usefixtures("silence")
async def test_silent_names_of_registrations_do_not_delay_anothers_registration(relay: Deployment) -> None:
    silent = [
        asyncio.create_task(
            relay.http.post(
                "/v1/watches",
                json={"task_id": "t", "targets": [{"type": "webhook", "url": f"http://{n}.slow.example/"}]},
            )
        )
        for n in range(4 * urls.LOOKUPS)
    ]
    async with caller(relay) as neighbour:
        for number in range(10):
            await neighbour.register(f"neighbour:{number}", f"http://{number}.good.example/")
    assert {answer.status_code for answer in await asyncio.gather(*silent)} == {503}
