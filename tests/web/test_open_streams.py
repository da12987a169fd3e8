"""How many streams an app may hold open, what a change costs for all of them, and when they end."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from relay.store import apps
from relay.web import sse
from relay.web.api import views, watch_changes
from relay.web.context import Context
from relay.web.sse import EventStream, OpenStreams
from relay.wiring import now
from tests.support.deployment import Deployment
from tests.support.parties import until
from tests.web.callers import Caller
from tests.web.test_sse import Stream, stream

pytestmark = pytest.mark.anyio


async def refused(client: httpx.AsyncClient, path: str, **headers: str) -> None:
    async with asyncio.timeout(10):  # a stream that is let in would go on
        answer = await client.get(path, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
    assert int(answer.headers["retry-after"]) > 0


async def test_an_app_has_so_many_streams_and_another_app_is_not_locked_out(
    api: Caller, stranger: Caller, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "PER_APP", 2)
    mine, theirs = [await app.register(name, "https://app.example/x") for app in (api, stranger)]
    async with stream(api, mine["id"]) as first:
        await first.next()
        waiting = asyncio.create_task(api.http.get(f"/v1/watches/{mine['id']}", headers={"Prefer": "wait=25"}))
        await until(lambda: asyncio.sleep(0, api.relay.feed.followers == 2))
        path = f"/v1/watches/{mine['id']}/events"
        await refused(api.http, path)
        assert (await api.http.get(path)).headers["connection"] == "close"
        await refused(api.http, f"/v1/watches/{mine['id']}", Prefer="wait=25")
        assert (await api.http.get(f"/v1/watches/{mine['id']}")).status_code == 200
        assert (await api.http.head(f"/v1/watches/{mine['id']}/events")).status_code == 200
        async with stream(stranger, theirs["id"]) as other:
            assert await other.next()
        await api.http.delete(f"/v1/watches/{mine['id']}")
        assert (await waiting).status_code == 200
    await until(lambda: asyncio.sleep(0, api.relay.feed.followers == 0))
    async with stream(api, mine["id"]) as again:
        assert await again.next()


def test_all_apps_share_a_quarter_of_the_descriptors_and_one_has_half_of_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (16, 16))
    streams = OpenStreams()
    with contextlib.ExitStack() as held:
        for app in ("a", "a", "b"):
            streams.require_room(app)
            held.enter_context(streams.hold(app))
        with pytest.raises(sse.TooManyRequests, match="an app may have 2"):
            streams.require_room("a")
        held.enter_context(streams.hold("c"))
        with pytest.raises(sse.TooManyRequests, match="this process"):
            streams.require_room("d")
    streams.require_room("a")


async def test_a_stream_whose_client_is_gone_before_it_begins_gives_its_place_back() -> None:
    streams = OpenStreams()

    async def events() -> AsyncIterator[bytes]:
        yield b""

    async def gone(*_: Any) -> Any:
        raise OSError("the connection is closed")

    with contextlib.suppress(OSError, ExceptionGroup):
        await EventStream(events(), streams.hold("app"))({"type": "http", "asgi": {}}, gone, gone)
    assert not streams._held


async def test_a_change_is_rendered_once_for_all_its_streams(
    api: Caller, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = 0

    def count(*args: Any) -> Any:
        nonlocal rendered
        rendered += 1
        return views.show_watch(*args)

    monkeypatch.setattr(watch_changes, "show_watch", count)
    watch = await api.register(name, "https://app.example/x")
    async with contextlib.AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(stream(api, watch["id"])) for _ in range(20)]
        for one in opened:
            await one.next()
        assert rendered == 20, "each reads the watch when it begins"
        await api.http.delete(f"/v1/watches/{watch['id']}")
        ends = await asyncio.gather(*(one.rest() for one in opened))
    assert [[told.event for told in one] for one in ends] == [["task.cancelled"]] * 20
    assert rendered <= 22


@pytest.mark.parametrize("how", ["disabled", "another key"])
async def test_streams_end_within_seconds_when_the_key_is_no_longer_valid(
    api: Caller, stranger: Caller, name: str, how: str
) -> None:
    mine, theirs = [await app.register(name, "https://app.example/x") for app in (api, stranger)]
    change: dict[str, Any] = {"disabled_at": now()} if how == "disabled" else {"key_hash": name.encode()}
    async with stream(api, mine["id"]) as ends, stream(stranger, theirs["id"]) as goes_on:
        await began(ends)
        await began(goes_on)
        await api.relay.db.run(apps.change, api.app_id, **change)
        async with asyncio.timeout(20):
            assert await ends.rest() == []
        await stranger.http.delete(f"/v1/watches/{theirs['id']}")
        assert [told.event for told in await goes_on.rest()] == ["task.cancelled"]


async def began(opened: Stream) -> None:
    assert await opened.next()


async def test_pages_of_the_operator_are_bounded_too(
    locked: Deployment, operator: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "PER_APP", 1)
    context: Context = locked.relay.context
    async with operator.stream("GET", "/live") as first:
        assert first.status_code == 200
        assert (await operator.get("/live")).status_code == 429
    await until(lambda: asyncio.sleep(0, not context.streams._held))
