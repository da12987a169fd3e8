"""A watch as it happens: waited for, followed as a stream, and told only once per process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from relay.store import watches
from relay.web.api import watch_changes
from relay.wiring import now
from tests.support import loopback
from tests.support.deployment import Deployment, deployment, environment
from tests.support.parties import Answer, Receiver, Upstream, done, says, until
from tests.web.callers import Caller, caller, pointers, problem
from tests.web.conftest import NewDatabase

pytestmark = pytest.mark.anyio


@dataclass
class Told:
    """One event of a stream."""

    id: int
    event: str
    watch: dict[str, Any]


@dataclass
class Stream:
    """An open stream, event by event."""

    response: httpx.Response
    blocks: AsyncIterator[str]
    comments: list[str] = field(default_factory=list)

    async def next(self) -> Told | None:
        """The next event; None once the stream has ended."""
        async with asyncio.timeout(20):
            async for block in self.blocks:
                lines = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
                if "data" in lines:
                    return Told(int(lines["id"]), lines["event"], json.loads(lines["data"]))
                self.comments.append(block)
        return None

    async def rest(self) -> list[Told]:
        return [told async for told in self._rest()]

    async def _rest(self) -> AsyncIterator[Told]:
        while told := await self.next():
            yield told


async def blocks(response: httpx.Response) -> AsyncIterator[str]:
    text = ""
    async for more in response.aiter_text():
        *whole, text = (text + more).split("\n\n")
        for block in whole:
            yield block


@contextlib.asynccontextmanager
async def stream(relay: Caller, watch_id: str, **headers: str) -> AsyncIterator[Stream]:
    async with relay.http.stream("GET", f"/v1/watches/{watch_id}/events", headers=headers) as response:
        assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        yield Stream(response, blocks(response))


# The stream


async def test_a_stream_tells_progress_then_the_end_and_closes(
    relay: Caller, upstream: Upstream, receiver: Receiver, name: str
) -> None:
    go = asyncio.Event()
    steps = [says("queued"), says("processing", progress=10), says("processing", progress=60)]
    upstream.scripts[name] = lambda number: steps[min(number, 2)] if not go.is_set() else done()
    watch = await relay.register(name, f"{receiver.url}/{name}")
    async with stream(relay, watch["id"]) as opened:
        told = [await opened.next()]
        while told[-1] is not None and told[-1].watch["progress"] != 0.6:
            told.append(await opened.next())
        go.set()
        told += await opened.rest()
    assert opened.comments[0].startswith(": relay"), "a comment comes at once"
    heard = [one for one in told if one is not None]
    assert [one.event for one in heard] == ["progress"] * (len(heard) - 1) + ["task.completed"]
    assert [one.id for one in heard] == sorted({one.id for one in heard}), "ids grow"
    assert heard[-1].watch["result"]["url"] == "https://cdn.example/v.mp4"
    assert heard[-1].watch["id"] == watch["id"]


async def test_who_comes_back_hears_what_is_newer_and_after_the_end_nothing(
    relay: Caller, upstream: Upstream, receiver: Receiver, name: str
) -> None:
    upstream.scripts[name] = [says("queued"), says("processing", progress=50), done()]
    watch = await relay.register(name, f"{receiver.url}/{name}")
    await receiver.wait_for(1, f"/{name}")
    async with stream(relay, watch["id"], **{"Last-Event-ID": "1"}) as opened:
        (end,) = await opened.rest()
    assert (end.event, end.id) == ("task.completed", 3)
    for last, status in (("3", 204), ("99", 204), ("2", 200), ("nonsense", 200), ("-1", 200)):
        response = await relay.http.get(f"/v1/watches/{watch['id']}/events", headers={"Last-Event-ID": last})
        assert response.status_code == status, last
        assert ("task.completed" in response.text) == (status == 200)
    changed = await relay.relay.db.read(watches.history, watch["id"])
    assert [(one.number, one.state, one.upstream_status) for one in changed] == [
        (1, "watching", "queued"),
        (2, "watching", "processing"),
        (3, "completed", "completed"),
    ]


async def test_stopping_and_erasing_end_the_stream(api: Caller, name: str) -> None:
    for how, events in (("", ["progress", "task.cancelled"]), ("?erase=true", ["progress"])):
        watch = await api.register(f"{name}{how}", "https://app.example/x")
        async with stream(api, watch["id"]) as opened:
            told = [await opened.next()]
            assert (await api.http.delete(f"/v1/watches/{watch['id']}{how}")).status_code == 204
            told += await opened.rest()
        assert [one.event for one in told if one] == events


async def test_a_silent_stream_has_a_heartbeat(api: Caller, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert watch_changes.HEARTBEAT <= 20
    monkeypatch.setattr(watch_changes, "HEARTBEAT", 0.05)
    watch = await api.register(name, "https://app.example/x")
    async with stream(api, watch["id"]) as opened:
        await opened.next()
        before = len(opened.comments)
        async with asyncio.timeout(10):
            async for block in opened.blocks:
                assert block == ":"
                before += 1
                if before > 4:
                    break


async def test_a_stream_is_closed_after_a_while_so_that_the_key_is_asked_for_again(
    api: Caller, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_changes, "HEARTBEAT", 0.05)
    monkeypatch.setattr(watch_changes, "LIFETIME", 0.2)
    watch = await api.register(name, "https://app.example/x")
    async with stream(api, watch["id"]) as opened:
        assert [one.event for one in await opened.rest()] == ["progress"]


async def test_streams_end_when_the_process_is_told_to_stop(new_database: NewDatabase, upstream: Upstream) -> None:
    environ = environment(new_database(), UNIFIED_VIDEO_BASE_URL=upstream.url)
    async with deployment(environ, working=False) as running, caller(running) as relay:
        watch = await relay.register("task", "https://app.example/x")
        async with stream(relay, watch["id"]) as opened:
            await opened.next()
            waiting = asyncio.create_task(
                relay.http.get(f"/v1/watches/{watch['id']}", headers={"Prefer": "wait=25"}),
            )
            await until(lambda: asyncio.sleep(0, running.relay.feed.followers == 2))
            began = time.monotonic()
            await running.relay.halt()
            assert await opened.rest() == []
            assert (await waiting).status_code == 200
        assert time.monotonic() - began < 5, "nobody had to be waited for"
        async with stream(relay, watch["id"]) as late:
            assert [one.event for one in await late.rest()] == ["progress"], "and a late one ends at once"


async def test_a_change_in_another_process_is_heard(new_database: NewDatabase, upstream: Upstream, name: str) -> None:
    environ = environment(new_database(), UNIFIED_VIDEO_BASE_URL=upstream.url)
    go = asyncio.Event()
    upstream.scripts[name] = lambda _: done() if go.is_set() else says("processing")
    async with deployment(environ) as worker, deployment(environ, working=False) as web, caller(web) as relay:
        watch = await relay.register(name, "https://app.example/x")
        async with stream(relay, watch["id"]) as opened:
            while (told := await opened.next()) and told.watch["upstream_status"] != "processing":
                pass
            go.set()
            (end,) = await opened.rest()
        assert end.event == "task.completed"
        assert worker.relay.feed.followers == 0


async def test_many_streams_cost_no_query_each(
    relay: Caller, upstream: Upstream, receiver: Receiver, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many look at a watch, a change is read once."""
    go = asyncio.Event()
    upstream.scripts[name] = lambda _: done() if go.is_set() else says("processing")
    watch = await relay.register(name, f"{receiver.url}/{name}")
    read: list[tuple[str, ...]] = []
    read_many = watches.read_many
    monkeypatch.setattr(watches, "read_many", lambda tx, ids: read.append(tuple(ids)) or read_many(tx, ids))
    async with contextlib.AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(stream(relay, watch["id"])) for _ in range(50)]
        for one in opened:
            while (told := await one.next()) and told.watch["upstream_status"] != "processing":
                pass
        read.clear()
        go.set()
        ends = await asyncio.gather(*(one.rest() for one in opened))
    assert [[told.event for told in one] for one in ends] == [["task.completed"]] * 50
    assert 1 <= len(read) <= 4, "the end, and perhaps its deliveries"


# Prefer: wait, and ETag


async def test_an_etag_says_whether_anything_is_new_but_for_the_polls(
    relay: Caller, upstream: Upstream, receiver: Receiver, name: str
) -> None:
    go = asyncio.Event()
    upstream.scripts[name] = lambda _: done() if go.is_set() else says("processing")
    watch = await relay.register(name, f"{receiver.url}/{name}")
    path = f"/v1/watches/{watch['id']}"

    async def asked() -> httpx.Response | None:
        response = await relay.http.get(path)
        return response if response.json()["upstream_status"] == "processing" else None

    first = await until(asked)
    assert first.headers["etag"].startswith('W/"')
    await until(lambda: asyncio.sleep(0, len(upstream.asked[name]) > first.json()["polls"] + 2))
    for known in (
        first.headers["etag"],
        first.headers["etag"].removeprefix("W/"),
        f'"x", {first.headers["etag"]}',
        "*",
    ):
        again = await relay.http.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b""), known
        assert again.headers["etag"] == first.headers["etag"]
    waiting = asyncio.create_task(
        relay.http.get(path, headers={"If-None-Match": first.headers["etag"], "Prefer": "wait=20"})
    )
    await until(lambda: asyncio.sleep(0, relay.relay.feed.followers >= 1))
    go.set()
    changed = await waiting
    assert (changed.status_code, changed.json()["state"]) == (200, "completed")
    assert changed.headers["preference-applied"] == "wait=20"
    assert changed.headers["etag"] != first.headers["etag"]


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ("wait=1", 1),
        ("respond-async, wait=7", 7),
        ("WAIT = 100", 25),
        ('wait="3"', 3),
        ("wait=5;x=1", 5),
        ("wait=soon", 0),
        ("wait=-1", 0),
        ("wait=٣", 0),
        ("return=minimal", 0),
        ("", 0),
    ],
)
async def test_what_a_preference_means(prefer: str, seconds: int) -> None:
    scope = {"type": "http", "headers": [(b"prefer", prefer.encode())]}
    assert watch_changes.preferred_wait(Request(scope)) == seconds


async def test_a_wait_ends_with_the_watch_as_it_was(api: Caller, name: str) -> None:
    watch = await api.register(name, "https://app.example/x")
    path = f"/v1/watches/{watch['id']}"
    began = time.monotonic()
    first = await api.http.get(path, headers={"Prefer": "wait=1"})
    assert time.monotonic() - began >= 0.9
    assert (first.status_code, first.json()) == (200, watch)
    same = await api.http.get(path, headers={"Prefer": "wait=1", "If-None-Match": first.headers["etag"]})
    assert same.status_code == 304
    began = time.monotonic()
    other = await api.http.get(path, headers={"Prefer": "wait=25", "If-None-Match": '"of long ago"'})
    await api.http.delete(path)
    ended = await api.http.get(path, headers={"Prefer": "wait=25"})
    assert (other.status_code, ended.status_code, ended.json()["state"]) == (200, 200, "cancelled")
    assert time.monotonic() - began < 10, "what is known to differ, and what has ended, is answered at once"


async def test_a_watch_that_is_erased_meanwhile_is_not_found(api: Caller, name: str) -> None:
    watch = await api.register(name, "https://app.example/x")
    path = f"/v1/watches/{watch['id']}"
    waiting = asyncio.create_task(api.http.get(path, headers={"Prefer": "wait=25"}))
    await until(lambda: asyncio.sleep(0, api.relay.feed.followers >= 1))
    await api.http.delete(f"{path}?erase=true")
    problem(await waiting, 404)


async def test_another_app_is_shown_nothing(api: Caller, stranger: Caller, name: str) -> None:
    watch = await api.register(name, "https://app.example/x")
    for path, headers in (("/events", {}), ("", {"Prefer": "wait=25"})):
        problem(await stranger.http.get(f"/v1/watches/{watch['id']}{path}", headers=headers), 404)
    assert api.relay.feed.followers == 0


async def test_what_nobody_announced_is_found_although_much_else_is(api: Caller, name: str) -> None:
    """As behind a pooler, when another process has changed it and this one is busy."""
    busy, quiet = [(await api.register(f"{name}-{one}", "https://app.example/hook"))["id"] for one in ("busy", "quiet")]
    changes = api.relay.feed
    with changes.follow(busy), changes.follow(quiet) as follower:
        await api.relay.db.run(watches.cancel, api.app_id, quiet, now())

        async def found() -> bool:
            changes.announce([busy])
            return follower.watch is not None and follower.watch.row.state == "cancelled"

        await until(found, within=10)


# The mirror


async def test_a_watched_task_is_answered_byte_for_byte_without_a_call(
    relay: Caller, upstream: Upstream, receiver: Receiver, name: str
) -> None:
    body = b'{"id" : "task",\n "status":"completed","video_url":"https://cdn.example/v.mp4", "n": 1.50, "u":"\\u00e9"}'
    upstream.scripts[name] = Answer(body, headers={"Content-Type": "application/json"})
    watch = await relay.register(name, f"{receiver.url}/{name}")
    await receiver.wait_for(1, f"/{name}")
    asked = len(upstream.asked[name])
    mirrored = await relay.http.get("/v1/video/query", params={"id": name, "unheard-of": "1"})
    assert (mirrored.status_code, mirrored.content) == (200, body)
    assert mirrored.headers["relay-watch"] == watch["id"]
    assert 0 <= int(mirrored.headers["age"]) < 60
    assert mirrored.headers["content-type"] == "application/json"
    assert len(upstream.asked[name]) == asked


async def test_that_a_watched_task_is_unknown_is_answered_without_a_call_until_more_was_said(
    new_database: NewDatabase, upstream: Upstream, name: str
) -> None:
    environ = environment(new_database(), UNIFIED_VIDEO_BASE_URL=upstream.url)
    unknown, other = (Answer(b'{"code": "task_not_exist", "request_id": "%d"}' % n, 404) for n in (1, 2))
    known, error = says("processing"), says("error")
    for said, answered in ((unknown, unknown), (other, other), (known, known), (unknown, known), (error, known)):
        upstream.scripts[name] = said
        async with deployment(environ) as running:
            polls = (await running.register(name, "http://127.0.0.1:9/"))["polls"]
            await until(lambda polls=polls, running=running: more_polls(running, name, polls + 1))
        asked = len(upstream.asked[name])
        async with deployment(environ, working=False) as idle:
            mirrored = await idle.http.get("/v1/video/query", params={"id": name})
        assert (mirrored.status_code, mirrored.content) == (answered.status, answered.body)
        assert 0 <= int(mirrored.headers["age"]) < 60
        assert len(upstream.asked[name]) == asked


async def more_polls(relay: Deployment, task_id: str, polls: int) -> bool:
    (watch,) = (await relay.http.get("/v1/watches", params={"task_id": task_id})).json()["data"]
    return watch["polls"] > polls


async def test_an_unwatched_id_is_asked_for_once_however_many_ask(
    api: Caller, stranger: Caller, upstream: Upstream, name: str
) -> None:
    upstream.scripts[name] = Answer(b'{"status": "pending"}', after=0.5)
    callers = [api, api, stranger] * 5
    answers = await asyncio.gather(*(one.http.get("/v1/video/query", params={"id": name}) for one in callers))
    assert {(one.status_code, one.content) for one in answers} == {(200, b'{"status": "pending"}')}
    assert all("relay-watch" not in one.headers for one in answers)
    assert len(upstream.asked[name]) == 1
    await api.http.get("/v1/video/query", params={"id": name})
    assert len(upstream.asked[name]) == 2, "and again for who asks later"


async def test_an_upstreams_error_comes_as_it_is(api: Caller, upstream: Upstream, name: str) -> None:
    for status, body, headers in (
        (404, b'{"error": "no such task"}', {"Content-Type": "application/json"}),
        (500, b"<html>oops", {"Content-Type": "text/html", "Set-Cookie": "a=b", "X-Secret": "x"}),
        (429, b"slow down", {"Retry-After": "7", "Content-Type": "text/plain"}),
    ):
        task_id = f"{name}{status}"
        upstream.scripts[task_id] = Answer(body, status, headers)
        answer = await api.http.get("/v1/video/query", params={"id": task_id})
        assert (answer.status_code, answer.content) == (status, body)
        assert answer.headers["content-type"].startswith(headers["Content-Type"])
        assert answer.headers.get("retry-after") == headers.get("Retry-After")
        assert not {"set-cookie", "x-secret"} & set(answer.headers)


@pytest.mark.parametrize("refusal", [(429, b""), (403, b'{"error": {"code": "insufficient_quota"}}')])
async def test_an_upstream_that_refuses_the_mirror_pauses_the_lane_for_as_long_as_it_asks(
    new_database: NewDatabase, upstream: Upstream, name: str, refusal: tuple[int, bytes]
) -> None:
    status, body = refusal
    upstream.scripts[name] = Answer(body, status, {"Retry-After": "100"})
    async with deployment(environment(new_database(), UNIFIED_VIDEO_BASE_URL=upstream.url), working=False) as running:
        answers = [await running.http.get("/v1/video/query", params={"id": name}) for _ in range(4)]
    assert [one.status_code for one in answers] == [status, status, status, 429]
    assert len(upstream.asked[name]) == 3
    assert 90 < int(answers[3].headers["retry-after"]) <= 101


async def test_an_upstreams_header_that_is_not_ascii_is_not_passed_on(new_database: NewDatabase) -> None:
    head = "HTTP/1.1 503 Busy\r\nContent-Type: text/\u0436\r\nRetry-After: \u0663\r\nContent-Length: 4\r\n\r\n"
    async with loopback.serving(f"{head}busy".encode()) as server:
        environ = environment(new_database(), UNIFIED_VIDEO_BASE_URL=server.url(""))
        async with deployment(environ, working=False) as running:
            answer = await running.http.get("/v1/video/query", params={"id": "x"})
    assert (answer.status_code, answer.content) == (503, b"busy")
    assert answer.headers["content-type"] == "application/json"
    assert "retry-after" not in answer.headers


async def test_an_app_asks_with_its_own_key_and_hears_nothing_of_anothers_watch(
    relay: Caller, upstream: Upstream, receiver: Receiver, name: str
) -> None:
    upstream.scripts[name] = says("pending", of="the upstream")
    await relay.register(name, f"{receiver.url}/{name}", upstream_key="sk-of-this-app")
    await until(lambda: asyncio.sleep(0, upstream.asked[name]))
    async with caller(relay) as other:
        seen = len(upstream.heads)
        answer = await other.http.get("/v1/video/query", params={"id": name})
    assert "relay-watch" not in answer.headers
    keys = [heads["authorization"] for url, heads in upstream.heads[seen:] if name in url]
    assert "Bearer sk-upstream" in keys, "asked for with the deployment's key, not with the other app's"


@pytest.mark.parametrize("wrong", ["", "x" * 513, "a\0b", "a\nb", "..", "../account/keys", "a/./b", "..\\admin"])
async def test_a_mirror_takes_no_id_that_could_not_be_registered(api: Caller, upstream: Upstream, wrong: str) -> None:
    assert pointers(await api.http.get("/v1/video/query", params={"id": wrong})) == ["/id"]
    assert pointers(await api.http.get("/v1/video/query")) == ["/id"]
    assert wrong not in upstream.asked


async def test_a_mirror_without_an_upstream_says_so(new_database: NewDatabase) -> None:
    environ = environment(new_database(), UNIFIED_VIDEO_BASE_URL="http://127.0.0.1:9")
    async with deployment(environ, working=False) as running:
        answer = await running.http.get("/v1/video/query", params={"id": "x"})
    assert (answer.status_code, answer.json()["code"]) == (502, "upstream_unavailable")
    assert "connect" in answer.json()["detail"]


async def polled(relay: Caller, task_id: str) -> bool:
    watch = await relay.watch_of(task_id)
    return watch is not None and watch["polls"] > 0


async def test_both_documented_samples_come_back_byte_for_byte(
    relay: Caller, upstream: Upstream, receiver: Receiver, name: str
) -> None:
    bodies = Path(__file__).parent.parent / "answers" / "unified-video" / "bodies"
    for number, kind in enumerate(("pending", "completed")):
        sample = (bodies / f"documented-{kind}.json").read_bytes()
        task_id = f"{name}-{number}"
        upstream.scripts[task_id] = Answer(sample)
        await relay.register(task_id, f"{receiver.url}/{task_id}")
        await until(lambda task_id=task_id: polled(relay, task_id))
        watched = await relay.http.get("/v1/video/query", params={"id": task_id})
        async with caller(relay) as other:
            unwatched = await other.http.get("/v1/video/query", params={"id": task_id})
        assert watched.content == unwatched.content == sample
        assert "relay-watch" in watched.headers
