"""The outbox, replays, tests of targets and the list of providers, as the app that owns them sees them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from relay.channels.base import KEPT_ANSWER, MAX_ANSWER
from relay.outbound.callers import CallKind
from relay.outbound.lane import APP_SHARE, SHARES
from relay.outbound.receivers import PER_APP
from relay.security import signing
from relay.store import schema
from tests.support.deployment import deployment, environment
from tests.support.parties import Answer, Post, Receiver, Upstream, done, says, until
from tests.web.callers import TIME, Caller, caller, pointers, problem
from tests.web.conftest import NewDatabase

pytestmark = pytest.mark.anyio


async def told(relay: Caller, upstream: Upstream, task_id: str, *urls: str, state: str = "delivered") -> list[Any]:
    """The deliveries of a task that has completed, once all are in a state; oldest first."""
    upstream.scripts[task_id] = done()
    watch = await relay.register(task_id, *urls)

    async def settled() -> list[Any] | None:
        found = await relay.deliveries(watch_id=watch["id"], state=state)
        return found[::-1] if len(found) == len(urls) else None

    return await until(settled)


async def read(relay: Caller, delivery_id: str) -> dict[str, Any]:
    response = await relay.http.get(f"/v1/deliveries/{delivery_id}")
    assert response.status_code == 200, response.text
    return response.json()


async def retry(relay: Caller, **body: Any) -> int:
    response = await relay.post("/v1/deliveries/retry", body)
    assert response.status_code == 202, response.text
    assert set(response.json()) == {"retried"}
    return response.json()["retried"]


# The outbox


async def test_a_delivery_with_every_attempt(relay: Caller, upstream: Upstream, receiver: Receiver, name: str) -> None:
    receiver.scripts[f"/{name}"] = [Answer(b"not now", 503), Answer(b"taken", 201)]
    (delivery,) = await told(relay, upstream, name, f"{receiver.url}/{name}")
    posts = receiver.to(f"/{name}")
    watch = await relay.watch_of(name)
    assert watch is not None
    assert {post.webhook_id for post in posts} == {delivery["webhook_id"]}
    first, second = delivery["attempts"]
    assert delivery == {
        "id": delivery["id"],
        "webhook_id": posts[0].webhook_id,
        "watch_id": watch["id"],
        "target_id": watch["targets"][0]["id"],
        "event": "task.completed",
        "host": receiver.url.removeprefix("http://"),
        "state": "delivered",
        "reason": None,
        "attempts": [first, second],
        "attempt_count": 2,
        "next_attempt_at": None,
        "created_at": delivery["created_at"],
        "settled_at": delivery["settled_at"],
    }
    assert delivery["id"].startswith("dlv_")
    assert first == {
        "number": 1,
        "at": first["at"],
        "latency_ms": first["latency_ms"],
        "verdict": "retry",
        "status": 503,
        "error": "http_503",
        "note": None,
        "answer": "not now",
        "truncated": False,
    }
    expected = {"number": 2, "verdict": "delivered", "status": 201, "error": None, "answer": "taken"}
    assert second | expected == second
    times = [delivery["created_at"], first["at"], second["at"], delivery["settled_at"]]
    assert times == sorted(times)
    assert all(TIME.fullmatch(at) for at in times)
    assert all(0 <= attempt["latency_ms"] < 10_000 for attempt in delivery["attempts"])
    assert await read(relay, delivery["id"]) == delivery
    assert (watch["targets"][0]["delivery"], watch["targets"][0]["reason"]) == ("delivered", None)


async def test_a_delivery_is_pending_then_dead_and_sent_again_it_is_the_same_event(
    relay: Caller, upstream: Upstream, receiver: Receiver, name: str
) -> None:
    def answer(number: int) -> Answer:
        # The second one takes long enough for the state after the first to be seen.
        return Answer(f"no {number + 1}".encode(), 500 if number < 6 else 200, after=2.0 if number == 1 else 0.0)

    receiver.scripts[f"/{name}"] = answer
    upstream.scripts[name] = done()
    watch = await relay.register(name, f"{receiver.url}/{name}")

    async def tried() -> Any:
        found = await relay.deliveries(watch_id=watch["id"])
        return found[0] if found and found[0]["attempts"] else None

    pending = await until(tried)
    assert (pending["state"], pending["settled_at"], pending["reason"]) == ("pending", None, "http_500")
    assert TIME.fullmatch(pending["next_attempt_at"])
    (dead,) = await until(lambda: relay.deliveries(watch_id=watch["id"], state="dead"))
    assert [attempt["answer"] for attempt in dead["attempts"]] == ["no 1", "no 2", "no 3", "no 4"]
    assert [attempt["number"] for attempt in dead["attempts"]] == [1, 2, 3, 4]
    assert (dead["reason"], dead["next_attempt_at"]) == ("http_500", None)
    assert TIME.fullmatch(dead["settled_at"])
    (target,) = (await relay.watch(watch["id"]))["targets"]
    assert (target["delivery"], target["reason"]) == ("dead", "http_500")

    response = await relay.http.post(f"/v1/deliveries/{dead['id']}/retry")
    assert response.status_code == 202
    again = response.json()
    assert (again["id"], again["state"], again["settled_at"], again["reason"]) == (dead["id"], "pending", None, None)
    (delivered,) = await until(lambda: relay.deliveries(watch_id=watch["id"], state="delivered"))
    posts = receiver.to(f"/{name}")
    assert len(posts) == 7  # the schedule began anew
    assert {(post.webhook_id, post.body) for post in posts} == {(dead["webhook_id"], posts[0].body)}
    assert [attempt["number"] for attempt in delivered["attempts"]] == [1, 2, 3, 4, 5, 6, 7]
    assert delivered["attempts"][:4] == dead["attempts"]


async def test_gone_ends_the_target_at_once(relay: Caller, upstream: Upstream, receiver: Receiver, name: str) -> None:
    receiver.scripts[f"/{name}"] = Answer(b"", 410)
    (dead,) = await told(relay, upstream, name, f"{receiver.url}/{name}", state="dead")
    assert [attempt["verdict"] for attempt in dead["attempts"]] == ["give_up"]
    assert "410" in dead["reason"]
    watch = await relay.watch_of(name)
    assert watch is not None
    assert watch["targets"][0]["reason"] == dead["reason"]


async def test_the_first_16_kib_of_an_answer_are_kept(
    relay: Caller, upstream: Upstream, receiver: Receiver, name: str
) -> None:
    answers = {
        "exact": (b"x" * KEPT_ANSWER, "x" * KEPT_ANSWER, False),
        "more": (b"y" * (KEPT_ANSWER + 1), "y" * KEPT_ANSWER, True),
        "much": (b"z" * (MAX_ANSWER + 100_000), "z" * KEPT_ANSWER, True),
        "odd": (b"\xff\0<b>\xc3\xa9", "\ufffd\0<b>é", False),
        "none": (b"", "", False),
    }
    for leaf, (body, _, _) in answers.items():
        receiver.scripts[f"/{name}/{leaf}"] = Answer(body)
    urls = [f"{receiver.url}/{name}/{leaf}" for leaf in answers]
    deliveries = [await read(relay, listed["id"]) for listed in await told(relay, upstream, name, *urls)]
    watch = await relay.watch_of(name)
    assert watch is not None
    leaf_of = {target["id"]: target["url"].rpartition("/")[2] for target in watch["targets"]}
    kept = {leaf_of[d["target_id"]]: (d["attempts"][0]["answer"], d["attempts"][0]["truncated"]) for d in deliveries}
    assert kept == {leaf: (answer, truncated) for leaf, (_, answer, truncated) in answers.items()}


async def test_the_outbox_in_pages_and_filtered(
    relay: Caller, upstream: Upstream, receiver: Receiver, name: str
) -> None:
    for leaf in ("3", "7"):
        receiver.scripts[f"/{name}/{leaf}"] = Answer(b"", 410)
    upstream.scripts[name] = done()
    watch = await relay.register(name, *(f"{receiver.url}/{name}/{leaf}" for leaf in range(10)))
    await told(relay, upstream, f"{name}-2", f"{receiver.url}/{name}/other")

    async def settled() -> bool:
        found = await relay.deliveries()
        return len(found) == 11 and not {d["state"] for d in found} & {"pending", "held"}

    await until(settled)
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 4}
    while True:
        page = (await relay.http.get("/v1/deliveries", params=query)).json()
        seen += [delivery["id"] for delivery in page["data"]]
        if page["next_cursor"] is None:
            break
        assert page["next_cursor"] == seen[-1]
        query["cursor"] = page["next_cursor"]
    assert seen == sorted(seen, reverse=True)
    assert len(set(seen)) == 11
    assert len(await relay.deliveries(watch_id=watch["id"])) == 10
    assert len(await relay.deliveries(watch_id=watch["id"], state="delivered")) == 8
    assert len(await relay.deliveries(state="dead")) == 2
    assert await relay.deliveries(state="pending") == await relay.deliveries(watch_id="wch_unknown") == []
    for wrong, pointer in (
        ("state=done", "/state"),
        ("limit=0", "/limit"),
        ("limit=201", "/limit"),
        (f"cursor={watch['id']}", "/cursor"),
        ("task_id=x", "/task_id"),
    ):
        assert pointers(await relay.http.get(f"/v1/deliveries?{wrong}")) == [pointer]


async def test_progress_for_an_unwell_place_is_dead_at_once_and_the_end_is_held(
    relay: Caller, upstream: Upstream, receiver: Receiver, name: str
) -> None:
    """Sent behind the end it would be worse than unsaid."""
    target = {"type": "webhook", "url": f"{receiver.url}/{name}", "events": ["task.progress", "task.completed"]}
    watch = await relay.register(name, target)
    place = sa.select(schema.targets.c.place).where(schema.targets.c.watch_id == watch["id"]).scalar_subquery()
    unwell = {"since": 0, "exhausted": 3, "probe_at": round(time.time() * 1000) + 3_600_000}
    await relay.relay.db.run(lambda tx: tx.execute(sa.insert(schema.ailments).values(place=place, **unwell)))
    upstream.scripts[name] = [says("processing", progress=40), done()]
    (end,) = await until(lambda: relay.deliveries(watch_id=watch["id"], state="held"))
    (progress,) = await until(lambda: relay.deliveries(watch_id=watch["id"], state="dead"))
    assert (end["event"], progress["event"]) == ("task.completed", "task.progress")
    assert end["reason"].removeprefix("held: ") == progress["reason"]
    assert "failing for long" in progress["reason"]
    assert TIME.fullmatch(progress["settled_at"])
    assert await retry(relay, state="held") == 1
    (delivered,) = await until(lambda: relay.deliveries(watch_id=watch["id"], state="delivered"))
    assert delivered["id"] == end["id"]
    assert [post.event["type"] for post in receiver.to(f"/{name}")] == ["task.completed"]


# Replays


async def test_a_delivered_one_sent_again_is_the_same_event(
    relay: Caller, upstream: Upstream, receiver: Receiver, name: str
) -> None:
    (delivery,) = await told(relay, upstream, name, f"{receiver.url}/{name}")
    for count in (2, 3):
        assert (await relay.http.post(f"/v1/deliveries/{delivery['id']}/retry")).status_code == 202
        await receiver.wait_for(count, f"/{name}")
        await until(lambda: relay.deliveries(state="delivered"))
    posts = receiver.to(f"/{name}")
    assert {(post.webhook_id, post.body) for post in posts} == {(delivery["webhook_id"], posts[0].body)}
    for post in posts:
        signing.verify(relay.secret, post.headers, post.body, time.time())
    assert len((await read(relay, delivery["id"]))["attempts"]) == 3


async def test_what_ended_at_410_can_be_sent_again(
    relay: Caller, upstream: Upstream, receiver: Receiver, name: str
) -> None:
    receiver.scripts[f"/{name}"] = [Answer(b"", 410), Answer()]
    (dead,) = await told(relay, upstream, name, f"{receiver.url}/{name}", state="dead")
    assert (await relay.http.post(f"/v1/deliveries/{dead['id']}/retry")).status_code == 202
    await until(lambda: relay.deliveries(state="delivered"))
    watch = await relay.watch_of(name)
    assert watch is not None
    assert (watch["targets"][0]["delivery"], watch["targets"][0]["reason"]) == ("delivered", None)


async def test_what_is_being_sent_cannot_be_sent_again(
    relay: Caller, upstream: Upstream, receiver: Receiver, name: str
) -> None:
    receiver.scripts[f"/{name}"] = Answer(after=0.7)
    upstream.scripts[name] = done()
    await relay.register(name, f"{receiver.url}/{name}")
    await receiver.wait_for(1, f"/{name}")
    (delivery,) = await relay.deliveries()
    body = problem(await relay.http.post(f"/v1/deliveries/{delivery['id']}/retry"), 409)
    assert "being sent" in body["detail"]
    assert await retry(relay, state="pending") == 0
    await until(lambda: relay.deliveries(state="delivered"))
    assert len(receiver.to(f"/{name}")) == 1


async def test_many_are_sent_again_by_state_time_and_host(
    relay: Caller, upstream: Upstream, receiver: Receiver, name: str
) -> None:
    """Three dead of three times, the last of them at another host, and one delivered."""
    host = receiver.url.removeprefix("http://")
    elsewhere = host.replace("127.0.0.1", "127.0.0.2")
    dead = []
    for leaf, at in (("a", host), ("b", host), ("c", elsewhere)):
        receiver.scripts[f"/{name}/{leaf}"] = [Answer(b"", 410), Answer()]
        dead += await told(relay, upstream, f"{name}-{leaf}", f"http://{at}/{name}/{leaf}", state="dead")
    await told(relay, upstream, f"{name}-d", f"{receiver.url}/{name}/d")
    times = [one["created_at"] for one in dead]

    async def settled(*still_dead: str) -> None:
        async def as_expected() -> bool:
            states = {d["id"]: d["state"] for d in await relay.deliveries()}
            return all(states[one["id"]] == ("dead" if leaf in still_dead else "delivered") for leaf, one in of.items())

        of = dict(zip("abc", dead, strict=True))
        await until(as_expected)

    assert await retry(relay, since=times[2], until=times[1]) == 0
    for other in ("app.example", "127.0.0.2:1", "127.0.0", "127.0.0._", f"{host}0"):
        assert await retry(relay, host=other) == 0
    assert await retry(relay, until=times[0]) == 0
    assert await retry(relay, state="held") == await retry(relay, state="pending") == 0
    assert await retry(relay, until=times[1]) == 1
    await settled("b", "c")
    assert await retry(relay, since=times[1].replace("Z", "000+00:00").lower(), host=host) == 1
    await settled("c")
    assert await retry(relay, state="dead", host="127.0.0.2") == 1, "at any port"
    await settled()
    assert await retry(relay) == 0
    assert await retry(relay, state="delivered", since=times[0]) == 4
    for leaf, count in (("a", 3), ("b", 3), ("c", 3), ("d", 2)):
        posts = await receiver.wait_for(count, f"/{name}/{leaf}")
        assert (len(posts), len({post.webhook_id for post in posts})) == (count, 1)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"state": "waiting"}, "/state"),
    ({"state": None}, "/state"),
    ({"since": "yesterday"}, "/since"),
    ({"since": 1759763651}, "/since"),
    ({"until": "2025-13-01T00:00:00Z"}, "/until"),
    ({"since": "2025-10-06"}, "/since"),
    ({"since": "2025-10-06T15:14:11"}, "/since"),
    ({"until": "20251006T151411Z"}, "/until"),
    ({"until": "2025-10-06T15:14Z"}, "/until"),
    ({"until": "2025-10-06T15:14:11+02"}, "/until"),
    ({"host": "x" * 254}, "/host"),
    ({"status": "dead"}, "/status"),
]


@pytest.mark.parametrize("path", ["/v1/deliveries/{id}/retry", "/v1/deliveries/retry"])
async def test_who_looks_at_a_watch_notices_at_once_that_something_is_sent_again(
    relay: Caller, upstream: Upstream, receiver: Receiver, name: str, path: str
) -> None:
    """Before the receiver, which takes long, has answered."""
    receiver.scripts[f"/{name}"] = [Answer(status=410), Answer(after=10)]
    (dead,) = await told(relay, upstream, name, f"{receiver.url}/{name}", state="dead")
    with relay.relay.feed.any() as looking:
        async with waiting_for_a_change(relay, dead["watch_id"]) as changed:
            looking.clear()
            assert (await relay.post(path.format(id=dead["id"]), {})).status_code == 202
            assert looking.is_set(), "a page that shows all watches is told too"
    assert changed.result().json()["targets"][0]["delivery"] == "pending"


@pytest.mark.parametrize("new_database", ["postgresql"], indirect=True)
async def test_who_looks_in_another_process_notices_at_once_too(
    new_database: NewDatabase, upstream: Upstream, receiver: Receiver, name: str
) -> None:
    receiver.scripts[f"/{name}"] = [Answer(status=410), Answer(after=10)]
    environ = environment(new_database(), UNIFIED_VIDEO_BASE_URL=upstream.url)
    async with deployment(environ) as worker, deployment(environ, working=False) as web, caller(worker) as relay:
        (dead,) = await told(relay, upstream, name, f"{receiver.url}/{name}", state="dead")
        async with httpx.AsyncClient(base_url=web.url, headers=relay.http.headers, verify=False) as http:
            elsewhere = replace(relay, relay=web.relay, http=http)
            async with waiting_for_a_change(elsewhere, dead["watch_id"]) as changed:
                assert await retry(relay) == 1
        assert changed.result().json()["targets"][0]["delivery"] == "pending"


@contextlib.asynccontextmanager
async def waiting_for_a_change(relay: Caller, watch_id: str) -> AsyncIterator[asyncio.Task[httpx.Response]]:
    """A request that is answered when the watch changes: on the way out it must be, within a few seconds."""
    path = f"/v1/watches/{watch_id}"
    headers = {"Prefer": "wait=20", "If-None-Match": (await relay.http.get(path)).headers["etag"]}
    waiting = asyncio.create_task(relay.http.get(path, headers=headers))

    async def followed() -> bool:
        return relay.relay.feed.followers == 1

    await until(followed)
    yield waiting
    async with asyncio.timeout(5):
        await waiting


async def test_a_retry_that_is_wrong_is_refused(api: Caller) -> None:
    for body, pointer in WRONG:
        assert pointers(await api.post("/v1/deliveries/retry", body)) == [pointer], body


# Tests of targets


async def test_a_test_event_is_signed_like_any_other(api: Caller, receiver: Receiver, name: str) -> None:
    receiver.scripts[f"/{name}"] = Answer(b"hello", 202)
    target = {"type": "webhook", "url": f"{receiver.url}/{name}", "headers": {"X-Shop": "1"}}
    response = await api.post("/v1/targets/test", target)
    assert response.status_code == 200
    (post,) = receiver.to(f"/{name}")
    signing.verify(api.secret, post.headers, post.body, time.time())
    assert post.event["type"] == "relay.test"
    assert set(post.event) == {"type", "timestamp", "data"}
    assert TIME.fullmatch(post.event["timestamp"])
    assert post.headers["content-type"] == "application/json"
    assert post.headers["user-agent"].startswith("relay/")
    assert post.headers["x-shop"] == "1"
    answer = response.json()
    assert answer == {"webhook_id": post.webhook_id, "delivered": True, "attempt": answer["attempt"]}
    expected = {"number": 1, "verdict": "delivered", "status": 202, "error": None, "answer": "hello"}
    assert answer["attempt"] | expected == answer["attempt"]
    assert await api.deliveries() == []


async def test_a_test_that_fails_says_how(api: Caller, receiver: Receiver, name: str) -> None:
    receiver.scripts[f"/{name}"] = Answer(b"x" * 20_000, 500)
    receiver.scripts[f"/{name}/moved"] = Answer(b"", 302, {"location": "https://app.example/new"})
    receiver.scripts[f"/{name}/as-before"] = Answer(b"", 304)
    cases: list[tuple[str, dict[str, Any]]] = [
        (f"{receiver.url}/{name}", {"status": 500, "error": "http_500", "verdict": "retry", "truncated": True}),
        (f"{receiver.url}/{name}/moved", {"status": 302, "error": "http_302", "verdict": "retry"}),
        (f"{receiver.url}/{name}/as-before", {"note": "304 is no success: the receiver must answer 2xx"}),
        ("http://127.0.0.1:9/nobody", {"status": None, "error": "connect", "verdict": "retry"}),
        ("https://hook.invalid/", {"status": None, "error": "dns", "verdict": "retry"}),
        (receiver.url.replace("http", "https"), {"status": None, "error": "tls", "verdict": "retry"}),
    ]
    for url, expected in cases:
        response = await api.post("/v1/targets/test", {"type": "webhook", "url": url})
        assert response.status_code == 200, url
        answer = response.json()
        assert (answer["delivered"], answer["attempt"] | expected) == (False, answer["attempt"]), url
        assert answer["attempt"]["note"] or answer["attempt"]["status"] == 500, url
    assert len(receiver.to(f"/{name}")) == len(receiver.to(f"/{name}/moved")) == 1


async def test_few_tests_are_on_their_way_to_one_host_at_once(api: Caller, stranger: Caller, name: str) -> None:
    held = 0
    over = asyncio.Event()

    async def hang(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal held
        held += 1
        await over.wait()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    def tries(of: Caller, count: int) -> list[asyncio.Task[httpx.Response]]:
        urls = [f"http://127.0.0.1:{port if n % 2 else f'0{port}'}/{n}" for n in range(count)]
        return [asyncio.create_task(of.post("/v1/targets/test", {"type": "webhook", "url": url})) for url in urls]

    async with server:
        tests = tries(api, 20)
        few = int(int(PER_APP.concurrency * SHARES[CallKind.TEST]) * APP_SHARE)
        await until(lambda: asyncio.sleep(0, sum(test.done() for test in tests) == 20 - few))
        refused = [test.result() for test in tests if test.done()]
        assert {(one.status_code, one.json()["code"]) for one in refused} == {(429, "rate_limited")}
        assert all(int(one.headers["retry-after"]) >= 1 for one in refused)
        (other,) = tries(stranger, 1)
        await until(lambda: asyncio.sleep(0, held == few + 1))
        over.set()
        assert {response.status_code for response in await asyncio.gather(*tests, other)} == {200, 429}


# Providers


async def test_the_providers_of_this_deployment(api: Caller) -> None:
    data = (await api.http.get("/v1/providers")).json()["data"]
    names = [one["name"] for one in data]
    assert names == sorted(file.stem for file in (Path(__file__).parents[3] / "config/providers").glob("*.toml"))
    video = data[names.index("unified-video")]
    assert (video["title"], video["default"], video["configured"]) == ("Unified video query", True, True)
    assert "completed" in video["statuses"]["completed"]
    assert [one["name"] for one in data if one["default"]] == ["unified-video"]
    assert all(set(one) == {"name", "title", "default", "configured", "statuses"} for one in data)
    meanings = {"pending", "completed", "failed", "unknown_task"}
    assert all(set(one["statuses"]) == meanings for one in data), "statuses of HTTP are no words"


# Whose they are


async def test_another_apps_ids_are_404_and_its_lists_empty(
    relay: Caller, upstream: Upstream, receiver: Receiver, name: str
) -> None:
    receiver.scripts[f"/{name}"] = Answer(b"", 410)
    (dead,) = await told(relay, upstream, name, f"{receiver.url}/{name}", state="dead")
    watch = await relay.watch(dead["watch_id"])
    async with caller(relay) as other:
        foreign: list[httpx.Response] = []
        for method, path in (
            ("GET", f"/v1/watches/{watch['id']}"),
            ("HEAD", f"/v1/watches/{watch['id']}"),
            ("DELETE", f"/v1/watches/{watch['id']}"),
            ("DELETE", f"/v1/watches/{watch['id']}?erase=true"),
            ("GET", f"/v1/deliveries/{dead['id']}"),
            ("POST", f"/v1/deliveries/{dead['id']}/retry"),
        ):
            foreign.append(await other.http.request(method, path))
            unknown = await other.http.request(method, path.replace(watch["id"], "wch_x").replace(dead["id"], "dlv_x"))
            assert foreign[-1].status_code == unknown.status_code == 404, path
            if method != "HEAD":
                shown, blank = problem(foreign[-1], 404), problem(unknown, 404)
                for one in (watch["id"], dead["id"], "wch_x", "dlv_x"):
                    shown["detail"], blank["detail"] = (
                        shown["detail"].replace(one, ""),
                        blank["detail"].replace(one, ""),
                    )
                assert shown["detail"] == blank["detail"]
        for query in ("", f"?task_id={name}", f"?cursor={watch['id'][:-1]}Z"):
            assert (await other.http.get(f"/v1/watches{query}")).json() == {"data": [], "next_cursor": None}
        for query in ("", f"?watch_id={watch['id']}", "?state=dead"):
            assert (await other.http.get(f"/v1/deliveries{query}")).json() == {"data": [], "next_cursor": None}
        assert await retry(other) == 0
        assert await retry(other, state="delivered") == 0
        mine = await other.register(name, f"{receiver.url}/{name}/mine")
        assert mine["id"] != watch["id"]
        (post,) = await receiver.wait_for(1, f"/{name}/mine")
        assert_signed_for(other, relay, post)
    assert await relay.watch(watch["id"]) == watch
    assert await relay.deliveries() == [dead]
    (post,) = receiver.to(f"/{name}")
    assert_signed_for(relay, other, post)


def assert_signed_for(app: Caller, other: Caller, post: Post) -> None:
    signing.verify(app.secret, post.headers, post.body, time.time())
    with pytest.raises(signing.BadSignature):
        signing.verify(other.secret, post.headers, post.body, time.time())
