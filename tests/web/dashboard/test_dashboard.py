"""The dashboard over HTTP: whatever is shown is text, the buttons work, and open pages hear what happens."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from starlette.requests import Request

from relay.store.schema import watches
from relay.web.dashboard import rendering
from relay.web.dashboard.sessions import client_address
from relay.web.dashboard.window import WINDOWS
from relay.wiring import now
from tests.support import parties
from tests.support.deployment import Deployment, deployment, environment
from tests.web.callers import Caller
from tests.web.conftest import NewDatabase
from tests.web.dashboard.visitors import PAGES, PASSWORD, send, token_of

pytestmark = pytest.mark.anyio

# --------------------------------------------------------------------------------------------------------------- pages


async def test_every_page_carries_the_headers_and_nothing_inline(
    api: Caller, here: httpx.AsyncClient, name: str
) -> None:
    watch = await api.register(name, "https://app.example/hook")
    paths = [*PAGES, f"/watches/{watch['id']}"]
    for path in paths:
        page = await here.get(path)
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        policy = page.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';")
        assert "unsafe" not in policy
        assert page.headers["cache-control"] == "no-store"
        assert page.headers["x-content-type-options"] == "nosniff"
        assert not re.search(r"<script(?! src=)|<style|\sstyle=|\son\w+=|javascript:", page.text), path
        for address in re.findall(r'(?:src|href)="([^"#]*)"', page.text):
            assert address.startswith("/"), f"{path} asks elsewhere: {address}"
            if address.startswith("/static/"):
                file = await here.get(address)
                assert file.status_code == 200
                assert file.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert (await here.get("/static/other/dashboard.css")).status_code == 404
    assert (await here.get(f"/static/{rendering.VERSION}/../templates/base.html")).status_code == 404
    assert (await here.get(f"/static/{rendering.VERSION}/%2e%2e/templates/base.html")).status_code == 404


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7 * 7 }}"
LINKS = (
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    " javascript:alert(1)",
    "data:text/html,<script>1</script>",
    "//evil",
)


@pytest.mark.parametrize("link", LINKS)
async def test_whatever_is_stored_is_shown_as_text(api: Caller, here: httpx.AsyncClient, name: str, link: str) -> None:
    """The readers refuse such links too; here they are in the database all the same."""
    done = await api.register(f"{name}-done {HOSTILE}", "https://app.example/hook", metadata={HOSTILE: HOSTILE})
    failed = await api.register(f"{name}-failed", "https://app.example/hook")
    result = {"url": link, "thumbnail_url": link, "preview_url": link, "width": None, "height": None}
    result |= {"enhanced_prompt": HOSTILE, "expires_at": HOSTILE}
    result |= {"urls": [link, link], "text": HOSTILE * 20, "ref": HOSTILE, "key_needed": True}
    error = {"code": HOSTILE, "message": HOSTILE}
    for watch_id, state, key, value in (
        (done["id"], "completed", "result", result),
        (failed["id"], "failed", "error", error),
    ):
        ended = {
            "state": state,
            "upstream_status": HOSTILE,
            key: json.dumps(value),
            "ended_at": now(),
            "next_poll_at": None,
        }
        change = sa.update(watches).where(watches.c.id == watch_id).values(**ended)
        await api.relay.db.run(lambda tx, change=change: tx.execute(change).rowcount)
    for path in ("/", f"/watches/{done['id']}", f"/watches/{failed['id']}", "/search?q=" + "%3Cscript%3E"):
        page = await here.get(path, headers={"HX-Request": "true"})
        assert page.status_code == 200
        assert "<script>alert" not in page.text
        assert "<img src=x" not in page.text
        assert path.startswith("/search") or "{{ 7 * 7 }}" in page.text
        assert not re.search(r'(?:href|src|action)="\s*(?:javascript|data|//)', page.text, re.IGNORECASE), path
    shown = (await here.get(f"/watches/{done['id']}")).text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown
    assert link.strip().replace("<", "&lt;").replace(">", "&gt;") in shown


async def test_the_timeline_tells_what_happened_in_order(
    relay: Caller, upstream: parties.Upstream, receiver: parties.Receiver, name: str
) -> None:
    upstream.scripts[name] = [
        parties.says("queued"),
        parties.says("processing", progress=0.2),
        parties.says("processing", progress=0.2),
        parties.says("processing", progress=0.65),
        parties.done(),
    ]
    watch = await relay.register(name, f"{receiver.url}/{name}")
    await receiver.wait_for(1, f"/{name}")
    async with httpx.AsyncClient(base_url=relay.url, verify=False) as here, asyncio.timeout(10):
        while "badge delivered" not in (text := (await here.get(f"/watches/{watch['id']}")).text):
            await asyncio.sleep(0.02)
    story = re.search(r'<ol class="timeline">(.*)</ol>\n</section>', text, re.DOTALL)
    assert story
    told = re.sub(r"<time[^>]*>[^<]*</time>", "@", story[1])
    told = " ".join(re.sub(r"<[^>]*>", " ", told).split())
    assert re.match(
        r"Registered by the app 'app \S+' @ The upstream says queued @ "
        r"The upstream says processing 20 % to 65 % @ 2 readings @ 20 % @ 65 % "
        r"Ended: completed after \S+ \w+ and 5 queries @ "
        r"delivered task.completed to 127.0.0.1:\d+/\w+ What was sent @ "
        r"1. 200 in \d+ ms · @ Verdict delivered Answer ok Send again to 127.0.0.1:\d+/\w+$",
        told,
    ), told


async def test_a_link_opens_elsewhere_and_tells_nothing(api: Caller, here: httpx.AsyncClient, name: str) -> None:
    watch = await api.register(name, "https://app.example/hook")
    result = {"url": "https://cdn.example/v.mp4?a=1&b=2", "thumbnail_url": None, "preview_url": None}
    result |= {"enhanced_prompt": None, "expires_at": "2030-01-01T00:00:00.000Z"}
    ended = {"state": "completed", "result": json.dumps(result), "ended_at": now(), "next_poll_at": None}
    change = sa.update(watches).where(watches.c.id == watch["id"]).values(**ended)
    await api.relay.db.run(lambda tx: tx.execute(change).rowcount)
    page = (await here.get(f"/watches/{watch['id']}")).text
    assert 'href="https://cdn.example/v.mp4?a=1&amp;b=2" rel="noreferrer noopener" target="_blank"' in page
    assert '<time datetime="2030-01-01T00:00:00.000Z"' in page


@pytest.mark.parametrize("text", ["A tide comes in.", "A tide comes in. " * 50])
async def test_a_whole_result_is_shown_and_what_it_is(
    api: Caller, here: httpx.AsyncClient, name: str, text: str
) -> None:
    watch = await api.register(name, "https://app.example/hook")
    links = [f"https://cdn.example/{number}.mp4" for number in range(3)]
    result = {"url": links[0], "urls": links, "thumbnail_url": None, "preview_url": None, "enhanced_prompt": None}
    result |= {"expires_at": None, "text": text, "ref": "s3://bucket/out", "key_needed": True}
    ended = {"state": "completed", "result": json.dumps(result), "ended_at": now(), "next_poll_at": None}
    change = sa.update(watches).where(watches.c.id == watch["id"]).values(**ended)
    await api.relay.db.run(lambda tx: tx.execute(change).rowcount)
    page = (await here.get(f"/watches/{watch['id']}")).text
    assert "Video · Unified video query" in page
    assert "<small>Unified video query · Video</small>" in (await here.get("/")).text
    assert all(f'href="{link}"' in page for link in links)
    assert "<code>s3://bucket/out</code>" in page
    assert "opens only with the provider's key" in page
    assert text in page
    assert ('<details id="text">' in page) is (len(text) > 300)


async def test_a_watch_whose_provider_is_gone_can_be_looked_at(api: Caller, here: httpx.AsyncClient, name: str) -> None:
    watch = await api.register(name, "https://app.example/hook")
    change = sa.update(watches).where(watches.c.id == watch["id"]).values(provider="of-yesterday")
    await api.relay.db.run(lambda tx: tx.execute(change).rowcount)
    assert "Its provider's file is gone" in (await here.get(f"/watches/{watch['id']}")).text


@pytest.mark.parametrize("path", ["/", "/providers"])
async def test_the_window_of_the_figures_stands_in_the_address(api: Caller, here: httpx.AsyncClient, path: str) -> None:
    for window in ("1h", "24h", "7d", "30d"):
        page = await here.get(path, params={"window": window})
        assert f'<a class="target" href="{path}?window={window}" aria-current="true">' in page.text
        assert page.text.count("aria-current") == 1
        assert f"in the last {WINDOWS[window].words}" in page.text or f"The last {WINDOWS[window].words}" in page.text
    assert (await here.get(path)).text.count('?window=24h" aria-current') == 1
    for wrong in ("", "24", "1d", "<script>", "\0"):
        refused = await here.get(path, params={"window": wrong})
        assert refused.status_code == 422
        assert "must be one of 1h, 24h, 7d, 30d" in refused.text


async def test_a_page_that_looks_again_keeps_its_window(here: httpx.AsyncClient) -> None:
    assert 'hx-get="/?window=7d"' in (await here.get("/?window=7d")).text


async def test_what_is_deleted_already_is_not_counted_and_the_page_says_so(new_database: NewDatabase) -> None:
    async with deployment(environment(new_database(), RELAY_RETENTION="3d"), working=False) as relay:
        for path in ("/", "/providers"):
            assert "deleted after 3 d" in (await relay.http.get(f"{path}?window=7d")).text
            assert "deleted after" not in (await relay.http.get(path)).text


@pytest.mark.parametrize("path", ["/watches/%00", "/watches/a%20b", "/live?watch=%00", "/live?watch=", "/search?q=%00"])
async def test_ids_that_cannot_be_are_not_looked_for(here: httpx.AsyncClient, path: str) -> None:
    assert (await here.get(path)).status_code == (200 if path.startswith("/search") else 404)


async def test_a_page_that_is_not_there_is_a_page(here: httpx.AsyncClient) -> None:
    page = await here.get("/watches/wch_none")
    assert page.status_code == 404
    assert "there is no watch" in page.text
    assert page.headers["content-type"].startswith("text/html")


async def test_an_empty_deployment_says_what_to_do_first(operator: httpx.AsyncClient, locked: Deployment) -> None:
    page = (await operator.get("/")).text
    assert f"curl {locked.url}/v1/watches" in page
    assert "sandbox:complete-in-" in page
    behind = {"Host": "relay.example", "X-Forwarded-Proto": "https"}
    assert "curl https://relay.example/v1/watches" in (await operator.get("/", headers=behind)).text
    forged = (await operator.get("/", headers={"Host": "<b>$(rm)"})).text
    assert f"curl {locked.relay.settings.public_url}/v1/watches" in forged


async def test_search_finds_by_every_id(relay: Caller, receiver: parties.Receiver, name: str) -> None:
    """A task's id, a watch's, a delivery's and a `webhook-id`; also of a task that nobody watches any more."""
    sandbox = {"provider": "sandbox"}
    watch = await relay.register(f"sandbox:complete-in-0s#{name}", f"{receiver.url}/{name}", **sandbox)
    await receiver.wait_for(1, f"/{name}")
    (delivery,) = await relay.deliveries(watch_id=watch["id"])
    stopped = await relay.register(f"{name}-stopped", f"{receiver.url}/{name}")
    await relay.http.delete(f"/v1/watches/{stopped['id']}")
    async with httpx.AsyncClient(base_url=relay.url, verify=False) as here:
        for text in (watch["task_id"], watch["id"], delivery["id"], delivery["webhook_id"]):
            found = await here.get("/search", params={"q": f" {text} "})
            assert (found.status_code, found.headers["location"]) == (303, f"/watches/{watch['id']}")
        found = await here.get("/search", params={"q": f"{name}-stopped"})
        assert found.headers["location"] == f"/watches/{stopped['id']}"
        again = await relay.register(f"{name}-stopped", f"{receiver.url}/{name}")
        both = (await here.get("/search", params={"q": f"{name}-stopped"})).text
        assert both.index(again["id"]) < both.index(stopped["id"]), "the newest first"
        assert "There is no watch" in (await here.get("/search", params={"q": "\0no-such-task"})).text


# ------------------------------------------------------------------------------------------------------------- buttons


async def test_the_buttons_do_what_the_api_does(
    relay: Caller, upstream: parties.Upstream, receiver: parties.Receiver, name: str
) -> None:
    upstream.scripts[name] = parties.done()
    receiver.scripts[f"/{name}"] = parties.Answer(b"no", 500)
    watch = await relay.register(name, f"{receiver.url}/{name}")
    async with asyncio.timeout(20):
        while not (dead := await relay.deliveries(watch_id=watch["id"], state="dead")):
            await asyncio.sleep(0.02)
    async with httpx.AsyncClient(base_url=relay.url, verify=False, timeout=20) as here:
        front = (await here.get("/")).text
        assert front.index("Deliveries that need attention") < front.index('id="flight-title"')
        assert dead[0]["id"] in front

        tested = await send(here, f"/watches/{watch['id']}", do="test", target=watch["targets"][0]["id"])
        assert "The test event did not arrive: http_500" in tested.text
        assert receiver.to(f"/{name}")[-1].event["type"] == "relay.test"
        receiver.scripts[f"/{name}"] = parties.Answer(b"ok")
        sent = len(receiver.to(f"/{name}"))
        again = await send(here, "/", delivery=dead[0]["id"])
        assert again.status_code == 200
        assert "again" in again.text
        post = (await receiver.wait_for(sent + 1, f"/{name}"))[-1]
        assert post.webhook_id == dead[0]["webhook_id"]

        other = await relay.register(f"{name}-on", f"{receiver.url}/{name}")
        stopped = await send(here, f"/watches/{other['id']}", do="stop", sure="1")
        assert "Stopped watching" in stopped.text
        assert (await relay.watch(other["id"]))["state"] == "cancelled"
        token = token_of(stopped)
        for wrong in ({"do": "retry", "delivery": "dlv_none"}, {"do": "test", "target": "tgt_none"}):
            answer = await here.post(f"/watches/{other['id']}", data={"token": token, **wrong})
            assert answer.status_code == 404
        assert (await here.post(f"/watches/{other['id']}", data={"token": token, "do": "?"})).status_code == 422


# ---------------------------------------------------------------------------------------------------------------- live


async def test_a_page_hears_that_something_changed_and_that_it_is_over(new_database: NewDatabase) -> None:
    environ = environment(new_database(), RELAY_ADMIN_PASSWORD=PASSWORD)
    async with (
        deployment(environ, working=False) as relay,
        httpx.AsyncClient(base_url=relay.url, verify=False, timeout=10) as client,
    ):
        await send(client, "/login", password=PASSWORD)
        async with client.stream("GET", "/live") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            lines = stream.aiter_lines()
            await heard(lines)
            await relay.register("a-task", "https://app.example/hook", provider="sandbox")
            await heard(lines)
            await relay.relay.halt()
            async with asyncio.timeout(5):
                async for _ in lines:
                    pass


async def test_a_page_hears_what_another_process_does(new_database: NewDatabase, upstream: parties.Upstream) -> None:
    """`relay web` shows it, `relay worker` works."""
    upstream.scripts["elsewhere"] = parties.done()
    environ = environment(new_database(), UNIFIED_VIDEO_BASE_URL=upstream.url)
    async with (
        deployment(environ, working=False) as web,
        httpx.AsyncClient(base_url=web.url, verify=False, timeout=10) as client,
        client.stream("GET", "/live") as stream,
    ):
        watch = await web.register("elsewhere", "https://app.example/hook")
        lines = stream.aiter_lines()
        async with deployment(environ), asyncio.timeout(20):
            while f'id="e-{watch["id"]}"' not in (await client.get("/", headers={"HX-Request": "true"})).text:
                await heard(lines)


async def heard(lines: AsyncIterator[str]) -> None:
    async with asyncio.timeout(5):
        async for line in lines:
            if line == "event: changed":
                return
    pytest.fail("the stream ended")


async def test_a_hundred_open_pages_read_the_database_as_often_as_one(api: Caller, here: httpx.AsyncClient) -> None:
    reads = 0

    def count(*_: Any) -> None:
        nonlocal reads
        reads += 1

    engine = api.relay.db._read_engine
    await here.get("/", headers={"HX-Request": "true"})
    sa.event.listen(engine, "begin", count)
    try:
        begun = asyncio.get_running_loop().time()
        answers = await asyncio.gather(*(here.get("/", headers={"HX-Request": "true"}) for _ in range(100)))
        took = asyncio.get_running_loop().time() - begun
    finally:
        sa.event.remove(engine, "begin", count)
    assert {answer.status_code for answer in answers} == {200}
    assert reads <= 3 * (took + 2), f"{reads} transactions in {took:.1f} s"


@pytest.mark.parametrize(
    ("hops", "forwarded", "client"),
    [
        (0, [], "192.0.2.1"),
        (0, ["198.51.100.7"], "192.0.2.1"),
        (1, [], "192.0.2.1"),
        (1, ["198.51.100.7"], "198.51.100.7"),
        (1, ["10.0.0.1, 198.51.100.7"], "198.51.100.7"),
        (1, ["10.0.0.1", "198.51.100.7"], "198.51.100.7"),
        (2, ["10.0.0.1, 198.51.100.7, 203.0.113.9"], "198.51.100.7"),
        (2, ["198.51.100.7"], "192.0.2.1"),
    ],
)
async def test_who_asks_is_whom_the_last_trusted_proxy_heard_from(hops: int, forwarded: list[str], client: str) -> None:
    headers = [(b"x-forwarded-for", one.encode()) for one in forwarded]
    request = Request({"type": "http", "headers": headers, "client": ("192.0.2.1", 1)})
    assert client_address(request, hops) == client


# ------------------------------------------------------------------------------------------------------------- trouble


async def test_queries_that_tell_nothing_are_shown_with_what_came_and_it_can_be_asked_at_once(
    new_database: NewDatabase, upstream: parties.Upstream, name: str
) -> None:
    """The upstream refuses with a page that repeats the key. Then it is mended, and the operator does not wait."""
    upstream.scripts[name] = parties.Answer(b"<h1>Not for sk-upstream</h1>", 403)
    environ = environment(new_database(), UNIFIED_VIDEO_BASE_URL=upstream.url, RELAY_POLL_INTERVAL="0.1-3600")
    async with deployment(environ) as relay, httpx.AsyncClient(base_url=relay.url, verify=False) as browser:
        watch = await relay.register(name, "https://app.example/hook")

        async def missed() -> str | None:
            page = (await browser.get(f"/watches/{watch['id']}")).text
            return page if "told nothing" in page else None

        page = await parties.until(missed)
        assert "What came: HTTP 403" in page
        assert "&lt;h1&gt;Not for" in page
        assert "sk-upstream" not in page
        await relay.relay.db.run(lambda tx: tx.execute(sa.update(watches).values(next_poll_at=now() + 3_600_000)))
        upstream.scripts[name] = parties.done()
        answer = await send(browser, f"/watches/{watch['id']}", do="ask")
        assert "Asking now." in answer.text

        async def ended() -> bool:
            return bool((await relay.watch(watch["id"]))["state"] == "completed")

        await parties.until(ended)
        page = (await browser.get(f"/watches/{watch['id']}")).text
        assert "told nothing" in page, "it stays in the history"
