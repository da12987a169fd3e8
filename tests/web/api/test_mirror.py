"""Odd, unreadable and large answers of an upstream, as the mirror passes them on."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import httpx
import orjson
import pytest

from tests.support import loopback
from tests.support.deployment import Deployment, deployment, environment
from tests.support.parties import Answer, Receiver, Upstream, says, until
from tests.web.callers import Caller
from tests.web.conftest import NewDatabase

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def mirroring(new_database: NewDatabase, answers: Mapping[str, bytes]) -> AsyncIterator[Deployment]:
    """A relay whose upstream answers with these bytes, by the id that is asked about."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(answers[server.request_line.partition("id=")[2].split(" ")[0]])

    async with loopback.serving(answer) as server:
        environ = environment(new_database(), UNIFIED_VIDEO_BASE_URL=server.url(""))
        async with deployment(environ, working=False) as running:
            yield running


async def ask(relay: Deployment, task_id: str) -> httpx.Response:
    return await relay.http.get("/v1/video/query", params={"id": task_id})


async def test_a_status_of_http_comes_as_it_is(new_database: NewDatabase) -> None:
    odd = (300, 302, 303, 305, 307, 399, 418, 520, 599)
    answers = {str(status): b"HTTP/1.1 %d Odd\r\nContent-Length: 2\r\n\r\n{}" % status for status in odd}
    bare = {str(status): b"HTTP/1.1 %d Odd\r\n\r\n" % status for status in (204, 304)}
    async with mirroring(new_database, answers | bare) as relay:
        for status in answers | bare:
            answer = await ask(relay, status)
            assert (str(answer.status_code), answer.content) == (status, b"{}" if status in answers else b"")


async def test_a_status_that_http_does_not_have_is_told_in_words(new_database: NewDatabase) -> None:
    odd = (600, 700, 999)
    answers = {str(status): b"HTTP/1.1 %d Odd\r\nContent-Length: 2\r\n\r\n{}" % status for status in odd}
    async with mirroring(new_database, answers) as relay:
        for status in answers:
            answer = await ask(relay, status)
            assert (answer.status_code, answer.json()["code"]) == (502, "upstream_unavailable")
            assert answer.json()["detail"] == f"the upstream answered {status}, which is no status of HTTP"


async def test_a_coding_that_relay_does_not_read_stays_on_the_answer(new_database: NewDatabase) -> None:
    body = gzip.compress(b"not really brotli")
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: x-odd, gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with mirroring(new_database, {"x": head + body}) as relay:
        answer = await ask(relay, "x")
        assert (answer.headers["content-encoding"], answer.content) == ("x-odd", b"not really brotli")


@pytest.mark.parametrize("size", [100_000, 3_000_000])
async def test_a_large_answer_comes_whole(new_database: NewDatabase, size: int) -> None:
    body = b'{"status": "completed", "video_url": "https://cdn.example/v.mp4", "poster": "%b"}' % (b"A" * size)
    packed = gzip.compress(body)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    async with mirroring(new_database, {"x": head + packed}) as relay:
        answers = await asyncio.gather(*(ask(relay, "x") for _ in range(3)))
        assert {answer.content for answer in answers} == {body}
        assert {answer.headers["content-length"] for answer in answers} == {str(len(body))}


async def test_of_a_watched_task_whose_last_answer_was_too_large_to_keep_the_upstream_is_asked(
    relay: Caller, upstream: Upstream, receiver: Receiver, name: str
) -> None:
    large = orjson.dumps({"status": "pending", "n": 1, "input": "A" * 1_500_000})
    upstream.scripts[name] = [says("pending", n=0), Answer(large)]
    watch = await relay.register(name, f"{receiver.url}/{name}")
    await until(lambda: asyncio.sleep(0, len(upstream.asked[name]) > 3))

    async def newest() -> bool:
        return (await ask(relay, name)).content == large

    await until(newest)
    asked = len(upstream.asked[name])
    answer = await ask(relay, name)
    assert (answer.content, answer.headers["age"]) == (large, "0")
    assert answer.headers["relay-watch"] == watch["id"]
    assert len(upstream.asked[name]) > asked
    upstream.scripts[name] = says("pending", n=2)

    async def small() -> bool:
        return b'"n": 2' in (await ask(relay, name)).content

    await until(small)


@pytest.mark.parametrize("status", ["completed", "failed"])
async def test_the_end_of_a_task_is_told_whatever_is_as_large_beside_it(
    relay: Caller, upstream: Upstream, receiver: Receiver, name: str, status: str
) -> None:
    answer = {"status": status, "video_url": "https://cdn.example/v.mp4", "poster": "A" * 1_500_000}
    upstream.scripts[name] = Answer(orjson.dumps(answer))
    await relay.register(name, f"{receiver.url}/{name}")
    (post,) = await receiver.wait_for(1, f"/{name}")
    assert post.event["type"] == f"task.{status}"
    assert post.event["data"]["upstream_omitted"] == "too_large"
    assert "upstream" not in post.event["data"]
    if status == "completed":
        assert post.event["data"]["result"]["url"] == "https://cdn.example/v.mp4"


async def test_an_expired_task_whose_last_answer_was_too_large_says_so(
    relay: Caller, upstream: Upstream, receiver: Receiver, name: str
) -> None:
    """Not what the upstream said before that."""
    upstream.scripts[name] = [
        says("pending"),
        Answer(orjson.dumps({"status": "pending", "input": "A" * 1_500_000})),
        Answer(b"busy", 503),
    ]
    await relay.register(name, f"{receiver.url}/{name}", expires_in=1)
    (post,) = await receiver.wait_for(1, f"/{name}")
    assert post.event["type"] == "task.expired"
    assert post.event["data"]["upstream_omitted"] == "too_large"
