"""The lists of watches and deliveries: filtered, page by page, and sent again as they are filtered."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from relay.store import finding
from relay.store.finding import Filter
from relay.store.schema import deliveries, watches
from relay.wiring import now
from tests.support import parties
from tests.web.callers import Caller
from tests.web.dashboard.visitors import token_of

pytestmark = pytest.mark.anyio

HOST = "https://app.example/hook"


def shown(page: httpx.Response) -> list[str]:
    """The ids of the watches or deliveries that a page lists, in their order."""
    assert page.status_code == 200, page.text
    return re.findall(r'<li id="[wd]-(\w+)"', page.text)


async def test_watches_are_filtered_by_everything(api: Caller, here: httpx.AsyncClient, name: str) -> None:
    begun = now()
    one = await api.register(f"{name}-100%_done", HOST, metadata={"order": "Éa-42"})
    other = await api.register(f"{name}-100xxdone", "https://other.example:8443/x", provider="sandbox")
    await api.http.delete(f"/v1/watches/{other['id']}")
    app = f"app {api.app_id}"

    async def found(**query: Any) -> list[str]:
        return shown(await here.get("/watches", params={"app": app, **query}))

    assert await found() == [other["id"], one["id"]], "the newest first"
    assert await found(order="oldest") == [one["id"], other["id"]]
    assert await found(state="watching") == [one["id"]]
    assert await found(provider="sandbox") == [other["id"]]
    assert await found(provider="sandbox", state="watching") == []
    assert await found(host="app.example") == [one["id"]]
    assert await found(host="other.example") == [other["id"]], "with any port"
    assert await found(host="other.example:8443") == [other["id"]]
    assert await found(host="other.example:1") == []
    assert await found(q=f"{name}-100%_D") == [one["id"]], "% and _ stand for themselves, and case does not matter"
    assert await found(q="a-42") == [one["id"]], "metadata"
    assert await found(q=one["id"]) == [one["id"]]
    assert await found(q="\\") == []
    since = f"{begun / 1000 - 5:.0f}"
    hour = "%Y-%m-%dT%H:%M"
    from datetime import UTC, datetime

    early = datetime.fromtimestamp(float(since) - 3600, UTC).strftime(hour)
    late = datetime.fromtimestamp(float(since) + 3600, UTC).strftime(hour)
    assert len(await found(since=early, until=late)) == 2
    assert await found(since=late) == []
    assert await found(until=early) == []
    assert shown(await here.get("/watches", params={"app": "nobody"})) == []


HOSTILE = (
    ("state", "?", 422),
    ("q", "\0", 422),
    ("q", "%_\\'\"<script>", 200),
    ("q", "x" * 513, 422),
    ("host", "%", 200),
    ("since", "soon", 422),
    ("since", "9999-12-31T23:59:59+14:00", 200),
    ("since", "0001-01-01T00:00", 200),
    ("until", "0001-01-01T00:00:00+14:00", 200),
    ("after", "wch_", 422),
    ("after", "' OR 1=1", 422),
    ("order", "sideways", 422),
    ("provider", "\ud800".encode("utf-8", "surrogatepass"), 200),
    ("place", "x", 200),
)


@pytest.mark.parametrize(
    ("path", "field", "value", "status"),
    [
        (path, *case)
        for path in ("/watches", "/deliveries", "/deliveries/again")
        for case in HOSTILE
        if (path, case[0]) != ("/deliveries/again", "after")  # it has no pages
    ],
)
async def test_hostile_filters_are_refused_or_find_nothing(
    here: httpx.AsyncClient, path: str, field: str, value: Any, status: int
) -> None:
    page = await here.get(path, params={field: value})
    assert page.status_code == status, page.text
    assert page.headers["content-type"].startswith("text/html")
    assert "<script>" not in page.text


@pytest.mark.parametrize("number", ["", "-1", "1.5", "9" * 40, "²", "\0"])
async def test_hostile_numbers_are_refused(here: httpx.AsyncClient, number: str) -> None:
    assert (await here.get("/deliveries/again", params={"at": number, "of": "1"})).status_code == 422
    assert (await here.get("/deliveries/again", params={"at": "1", "of": number})).status_code == 422


@pytest.mark.parametrize("order", ["newest", "oldest"])
async def test_pages_hold_everything_once(api: Caller, here: httpx.AsyncClient, name: str, order: str) -> None:
    body = {"watches": [{"task_id": f"{name}-{n}", "targets": [{"type": "webhook", "url": HOST}]} for n in range(120)]}
    registered = [one["watch"]["id"] for one in (await api.post("/v1/watches/batch", body)).json()["data"]]
    address: str | None = f"/watches?app=app+{api.app_id}&order={order}&q={name}"
    came: list[str] = []
    while address:
        page = await here.get(address)
        came += shown(page)
        more = re.search(r'class="target" href="([^"]*after=[^"]*)"', page.text)
        address = more[1].replace("&amp;", "&") if more else None
    assert came == sorted(registered, reverse=order == "newest")


async def test_a_page_says_that_only_so_many_were_looked_at(
    api: Caller, here: httpx.AsyncClient, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"watches": [{"task_id": f"{name}-{n}", "targets": [{"type": "webhook", "url": HOST}]} for n in range(12)]}
    registered = [one["watch"]["id"] for one in (await api.post("/v1/watches/batch", body)).json()["data"]]
    monkeypatch.setattr(finding, "LOOKED_AT", 5)
    wanted: dict[str, str] = {"app": f"app {api.app_id}", "q": f"{name}-0"}
    page = await here.get("/watches", params=wanted)
    assert shown(page) == []
    assert "The newest 5 watches of this page" in page.text
    for _ in range(2):
        further = re.search(r'href="([^"]*)">Look further', page.text)
        assert further
        page = await here.get(further[1].replace("&amp;", "&"))
    assert shown(page) == [sorted(registered)[0]]


async def dead_ones(relay: Caller, receiver: parties.Receiver, upstream: parties.Upstream, name: str) -> list[Any]:
    """Two dead deliveries to one path of a host and one to another."""
    receiver.scripts[f"/{name}/a"] = parties.Answer(b"no", 404)
    receiver.scripts[f"/{name}/b"] = parties.Answer(b"no", 500)
    for number, path in enumerate(("a", "a", "b")):
        upstream.scripts[f"{name}-{number}"] = parties.done()
        await relay.register(f"{name}-{number}", f"{receiver.url}/{name}/{path}")
    async with asyncio.timeout(30):
        while len(dead := await relay.deliveries(state="dead")) < 3:
            await asyncio.sleep(0.05)
    return dead


async def test_these_are_counted_by_place_and_reason_and_sent_again(
    relay: Caller, upstream: parties.Upstream, receiver: parties.Receiver, name: str
) -> None:
    dead = await dead_ones(relay, receiver, upstream, name)
    app = f"app {relay.app_id}"
    async with httpx.AsyncClient(base_url=relay.url, verify=False, timeout=30) as here:
        listed = await here.get("/deliveries", params={"app": app, "state": "dead"})
        assert sorted(shown(listed)) == sorted(one["id"] for one in dead)
        assert f"the receiver answered 404 at /{name}/a" in listed.text
        by_text = await here.get("/deliveries", params={"app": app, "q": f"{name}-2"})
        assert len(shown(by_text)) == 1
        for field in ("id", "webhook_id", "watch_id"):
            whole = await here.get("/deliveries", params={"q": dead[0][field]})
            assert shown(whole) == [dead[0]["id"]]

        asking = await here.get("/deliveries/again", params={"app": app, "state": "dead"})
        assert "Send 3 deliveries again?" in asking.text
        groups = re.findall(r'<a class="task words" href="([^"]*)">(\d+) to [\d.:]+([^<]*)</a>', asking.text)
        assert [(count, path) for _, count, path in groups] == [("2", f"/{name}/a"), ("1", f"/{name}/b")]
        narrowed = groups[0][0].replace("&amp;", "&")
        assert len(shown(await here.get(narrowed))) == 2

        before = len(receiver.to(f"/{name}/a"))
        receiver.scripts[f"/{name}/a"] = parties.Answer(b"ok")
        again = narrowed.replace("/deliveries?", "/deliveries/again?")
        sent = await here.post(again, data={"token": token_of(asking)})
        assert sent.status_code == 303
        assert "of=2" in sent.headers["location"]
        posts = await receiver.wait_for(before + 2, f"/{name}/a")
        ids = {one["webhook_id"] for one in dead}
        assert {post.webhook_id for post in posts[before:]} <= ids, "the same webhook-id"

        async def over() -> bool:
            progress = await here.get(sent.headers["location"])
            return "2 delivered" in progress.text and "2 of 2" in progress.text

        await parties.until(over)
        assert len(await relay.deliveries(state="dead")) == 1

        # A delivered one can be sent again as well.
        row = next(one for one in await relay.deliveries(state="delivered"))
        page = await here.get("/deliveries", params={"app": app, "state": "delivered"})
        before = len(receiver.to(f"/{name}/a"))
        notice = await here.post("/deliveries", data={"token": token_of(page), "delivery": row["id"]})
        assert "again" in notice.text
        await receiver.wait_for(before + 1, f"/{name}/a")


async def test_what_is_being_sent_at_this_moment_is_left_alone(api: Caller, name: str) -> None:
    """A state that has changed meanwhile, or a claim, keeps a delivery out."""
    from relay.store import deliveries as replay

    watch = await api.register(name, HOST)
    target = watch["targets"][0]["id"]
    row = {"app_id": api.app_id, "watch_id": watch["id"], "target_id": target, "event_type": "task.completed"}
    row |= {"place": "p", "host": "app.example", "attempts": 1, "counted": 1, "created_at": now(), "event_key": "end"}
    rows = [
        {**row, "id": f"dlv_{name}{n}", "webhook_id": f"evt_{name}{n}", "state": state, "lease": lease}
        for n, (state, lease) in enumerate((("dead", None), ("dead", "me.1"), ("delivered", None)))
    ]
    await api.relay.db.run(lambda tx: tx.execute(sa.insert(deliveries), rows).rowcount)
    ids = [one["id"] for one in rows]
    assert len(await api.relay.db.run(replay.retry_these, ids, "dead", now())) == 1
    assert len(await api.relay.db.run(replay.retry_these, ids, None, now())) == 2


async def test_a_state_is_found_in_the_index_of_each_app(api: Caller, stranger: Caller, name: str) -> None:
    """However many ended since, what is still under way is on the first page: no scan has to reach it."""
    ids = [(await one.register(name, HOST, provider="sandbox"))["id"] for one in (api, stranger)]
    wanted = Filter(state="watching", provider="sandbox")
    page = await api.relay.db.read(finding.find_watches, wanted, None, 200)
    assert set(ids) <= set(page.ids)
    assert page.looked_at is None
    plan = await api.relay.db.read(finding.find_watches, Filter(state="cancelled", provider="none"), None, 10)
    assert plan == finding.Page([], None)
    await api.relay.db.run(lambda tx: tx.execute(sa.update(watches).where(watches.c.id.in_(ids)).values(state="lost")))
    assert not set(ids) & set((await api.relay.db.read(finding.find_watches, wanted, None, 200)).ids)
