"""One app's rows against another app's key: every route of the API, with every id that there is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from relay.store import Database, apps, schema, watches
from relay.web.api.routes import OPERATIONS
from tests.support.deployment import deployment, environment
from tests.support.parties import Answer, Receiver, Upstream, done, says, until
from tests.web.callers import Caller, caller, problem

pytestmark = pytest.mark.anyio

HOOK = "https://app.example/hook"
ROUTES = [(operation.method, operation.path) for operation in OPERATIONS]


@pytest.fixture
async def victim(database_url: str, upstream: Upstream) -> AsyncIterator[Caller]:
    """An app whose rows are wanted; one of its tasks goes on, one has ended and could not be delivered."""
    async with (
        deployment(environment(database_url, UNIFIED_VIDEO_BASE_URL=upstream.url)) as running,
        caller(running) as found,
    ):
        yield found


@pytest.fixture
async def thief(victim: Caller) -> AsyncIterator[Caller]:
    async with caller(victim) as found:
        yield found


BY_THEMSELVES = ("processes", "lanes", "lane_leases")
"""Tables that change as time goes by: heartbeats, and what each process may take of a lane for a second."""


def everything(db: Database) -> dict[str, list[Any]]:
    """Every row of every table, but for those that nobody has to touch."""
    with db.engine.connect() as tx:
        tables = [table for table in schema.metadata.sorted_tables if table.name not in (*BY_THEMSELVES, "apps")]
        return {table.name: sorted(map(tuple, tx.execute(sa.select(table))), key=repr) for table in tables}


async def prepare(victim: Caller, upstream: Upstream, receiver: Receiver) -> dict[str, str]:
    """Rows of every kind; what is to be found nowhere else."""
    receiver.scripts["/dead"] = Answer(b"answer-of-the-victim", 500)
    receiver.scripts["/gone"] = Answer(b"answer-of-the-victim", 410)
    upstream.scripts["ended"] = done("https://cdn.example/of-the-victim.mp4")
    upstream.scripts["going-on"] = says("pending", note="of-the-victim")
    ended = await victim.register(
        "ended", f"{receiver.url}/dead", f"{receiver.url}/gone", metadata={"whose": "of-the-victim"}
    )
    going_on = await victim.register("going-on", HOOK, metadata={"whose": "of-the-victim"})

    async def settled() -> list[dict[str, Any]] | None:
        found = await victim.deliveries(watch_id=ended["id"], state="dead")
        return found if len(found) == 2 else None

    own = {"Relay-Key": victim.key, "Authorization": "Bearer sk-of-the-victim"}
    await victim.http.post("/v1/video/create", json={}, headers=own)
    (submission,) = (await victim.http.get("/v1/submissions")).json()["data"]
    dead, gone = sorted(await until(settled), key=lambda one: len(one["attempts"]), reverse=True)
    return {
        "ended": ended["id"],
        "watch": going_on["id"],
        "target": ended["targets"][0]["id"],
        "delivery": dead["id"],
        "gone": gone["id"],
        "event": dead["webhook_id"],
        "submission": submission["id"],
        "app": victim.app_id,
    }


async def asked(thief: Caller, method: str, path: str, body: Any = None) -> httpx.Response:
    return await thief.http.request(method, path, json=body)


async def test_no_route_shows_or_changes_another_apps_rows(
    victim: Caller, thief: Caller, upstream: Upstream, receiver: Receiver
) -> None:
    ids = await prepare(victim, upstream, receiver)
    await victim.http.delete(f"/v1/watches/{ids['watch']}")  # so that nothing moves by itself
    before, posts = everything(victim.relay.db), len(receiver.posts)
    walked: set[tuple[str, str]] = set()

    async def attack(method: str, path: str, query: str = "", body: Any = None, **where: str) -> httpx.Response:
        walked.add((method, path))
        response = await asked(thief, method, path.format(**where) + query, body)
        told = response.text
        assert "of-the-victim" not in told
        # Of an id, only what was asked for comes back, in the words of a 404.
        hidden = [one for one in ids.values() if one not in (*where.values(), query.rpartition("=")[2])]
        assert not [one for one in hidden if one in told], told
        return response

    for one in ids.values():
        for method, path in ROUTES:
            if "{id}" in path:
                for query in ("", "?erase=true") if method == "DELETE" else ("",):
                    problem(await attack(method, path, query, id=one), 404)
        for name in ("cursor", "watch_id", "task_id", "state", "provider"):
            for path in ("/v1/watches", "/v1/deliveries", "/v1/submissions"):
                response = await attack("GET", path, f"?{name}={one}")
                assert response.status_code == 422 or response.json() == {"data": [], "next_cursor": None}
    for path in ("/v1/watches", "/v1/deliveries"):
        for query in ("", "?limit=200", "?state=dead", "?state=completed", "?task_id=ended", "?provider=unified-video"):
            response = await attack("GET", path, query)
            assert response.status_code == 422 or response.json() == {"data": [], "next_cursor": None}
    for state in ("dead", "delivered", "pending", "held"):
        for more in ({}, {"host": receiver.url.removeprefix("http://")}, {"since": "2000-01-01T00:00:00Z"}):
            response = await attack("POST", "/v1/deliveries/retry", body={"state": state, **more})
            assert (response.status_code, response.json()) == (202, {"retried": 0})
    for extra in ({"app_id": ids["app"]}, {"id": ids["ended"]}, {"watch_id": ids["ended"]}):
        for path, body in (
            ("/v1/watches", {"task_id": "x", "targets": [{"type": "webhook", "url": HOOK}], **extra}),
            ("/v1/deliveries/retry", extra),
            ("/v1/targets/test", {"type": "webhook", "url": HOOK, **extra}),
        ):
            problem(await attack("POST", path, body=body), 422)
    response = await attack("POST", "/v1/watches/batch", body={"watches": [{"id": ids["ended"]}]})
    assert response.json()["data"][0]["status"] == 422
    assert "of-the-victim" not in (await attack("GET", "/v1/providers")).text
    upstream.default, upstream.scripts = says("pending"), {}  # whoever asks it hears it; not what relay has stored
    for task_id in ("ended", "going-on"):
        response = await attack("GET", "/v1/video/query", f"?id={task_id}")
        assert (response.status_code, "relay-watch" in response.headers) == (200, False)
    assert walked == set(ROUTES)
    assert everything(victim.relay.db) == before
    assert len(receiver.posts) == posts


async def test_the_same_task_of_two_apps_is_two_watches(
    victim: Caller, thief: Caller, upstream: Upstream, receiver: Receiver
) -> None:
    """Even with the same target, key and metadata: each hears of it itself, signed with its own secret."""
    upstream.scripts["shared"] = [says("pending")] * 3 + [done()]
    url = f"{receiver.url}/shared"
    mine = await thief.register("shared", url, upstream_key="sk-of-the-thief")
    theirs = await victim.register("shared", url, metadata={"whose": "of-the-victim"}, upstream_key="sk-of-the-victim")
    assert mine["id"] != theirs["id"]
    assert mine["targets"][0]["id"] != theirs["targets"][0]["id"]
    assert (await thief.register("shared", url))["id"] == mine["id"]
    posts = await receiver.wait_for(2, "/shared")
    by_watch = {post.event["data"]["watch_id"]: post for post in posts}
    assert set(by_watch) == {mine["id"], theirs["id"]}
    assert by_watch[mine["id"]].event["data"]["metadata"] == {}
    for app, watch in ((thief, mine), (victim, theirs)):
        receiver.posts = [by_watch[watch["id"]]]
        receiver.verify(app.secret)
    keys = {head["authorization"] for link, head in upstream.heads if link.endswith("=shared")}
    assert keys == {"Bearer sk-of-the-thief", "Bearer sk-of-the-victim"}

    first = await thief.register("again", HOOK)
    second = await victim.register("again", HOOK)
    assert (await asked(thief, "DELETE", f"/v1/watches/{first['id']}")).status_code == 204
    assert (await victim.watch(second["id"]))["state"] == "watching"
    assert (await asked(thief, "DELETE", f"/v1/watches/{first['id']}?erase=true")).status_code == 204
    assert (await victim.watch(second["id"]))["state"] == "watching"


async def test_a_replay_of_many_is_of_ones_own(
    victim: Caller, thief: Caller, upstream: Upstream, receiver: Receiver
) -> None:
    """With dead deliveries of both to the same place, which one app's replay must not open for the other."""
    ids = await prepare(victim, upstream, receiver)
    await victim.http.delete(f"/v1/watches/{ids['watch']}")
    upstream.scripts["mine"] = done()
    own = await thief.register("mine", f"{receiver.url}/dead", f"{receiver.url}/gone")

    async def settled() -> bool:
        return len(await thief.deliveries(state="dead")) == 2

    await until(settled)
    before = [await victim.http.get(f"/v1/deliveries/{ids[one]}") for one in ("delivery", "gone")]
    watch = await victim.watch(ids["ended"])
    count = len(receiver.posts)
    receiver.scripts["/dead"] = receiver.scripts["/gone"] = Answer(b"ok")
    response = await asked(thief, "POST", "/v1/deliveries/retry", {})
    assert response.json() == {"retried": 2}

    async def delivered() -> bool:
        return len(await thief.deliveries(state="delivered")) == 2

    await until(delivered)
    assert {post.event["data"]["watch_id"] for post in receiver.posts[count:]} == {own["id"]}
    after = [await victim.http.get(f"/v1/deliveries/{ids[one]}") for one in ("delivery", "gone")]
    assert [one.json() for one in after] == [one.json() for one in before]
    assert await victim.watch(ids["ended"]) == watch


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_disabled_app_and_a_rotated_key_are_out_within_seconds_and_nobody_else_is(
    victim: Caller, thief: Caller, upstream: Upstream, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a disabled app was promised waits until it is enabled again."""
    monkeypatch.setattr("relay.web.context.APP_CACHE", 0.5)  # which is the "within seconds"
    upstream.default = says("pending")
    watch = await thief.register("promised", f"{receiver.url}/promised")
    db, now = victim.relay.db, victim.relay.context.clock()
    async with caller(victim) as rotated:
        assert (await rotated.http.get("/v1/watches")).status_code == 200
        await db.run(lambda tx: apps.change(tx, thief.app_id, disabled_at=now))
        await db.run(lambda tx: apps.change(tx, rotated.app_id, key_hash=b"of another key"))
        for app in (thief, rotated):

            async def out(app: Caller = app) -> bool:
                return (await app.http.get("/v1/watches")).status_code == 401

            await until(out, within=5)
            for method, path in ROUTES:
                body = {} if method == "POST" else None
                problem(await asked(app, method, path.format(id=watch["id"]), body), 401)
    upstream.default = done()
    assert (await victim.http.get("/v1/watches")).status_code == 200
    await victim.register("of-another", f"{receiver.url}/of-another")
    await receiver.wait_for(1, "/of-another")
    (stored,) = await db.read(watches.load, [watch["id"]])
    assert (stored.row.state, receiver.to("/promised")) == ("watching", [])
    await db.run(lambda tx: apps.change(tx, thief.app_id, disabled_at=None))
    assert (await thief.http.get("/v1/watches")).status_code == 200  # a refusal is not remembered
    await receiver.wait_for(1, "/promised")
