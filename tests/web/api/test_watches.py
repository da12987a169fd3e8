"""Registering and reading watches: the contract's §2, "Register" and "The watch", sentence by sentence."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from relay.security.vault import Vault
from relay.store import Database, registrations, schema
from tests.support.deployment import deployment, environment
from tests.support.parties import Answer, Receiver, Upstream, done, says, until
from tests.web.callers import TIME, Caller, caller, pointers, problem, problem_item

pytestmark = pytest.mark.anyio

HOOK = "https://app.example/hooks"
ALL_ENDS = ["task.completed", "task.failed", "task.expired", "task.lost"]


def webhook(url: str = HOOK, **fields: Any) -> dict[str, Any]:
    return {"type": "webhook", "url": url, **fields}


def wanted(task_id: Any = "task", *targets: Any, **fields: Any) -> dict[str, Any]:
    """A registration; with one target unless it says otherwise."""
    return {"task_id": task_id, "targets": list(targets) or [webhook()], **fields}


def seconds(later: str, earlier: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


def rows(db: Database) -> dict[str, list[tuple[Any, ...]]]:
    """All that a database holds, by table."""

    def read(tx: sa.Connection) -> dict[str, list[tuple[Any, ...]]]:
        return {t.name: [tuple(row) for row in tx.execute(sa.select(t))] for t in schema.metadata.sorted_tables}

    return db.run_here(read)


def holding(db: Database, *needles: str) -> dict[str, int]:
    """How many rows of each table hold one of the texts, tables without left out."""
    found = {
        table: sum(any(needle in repr(value) for value in row for needle in needles) for row in content)
        for table, content in rows(db).items()
    }
    return {table: number for table, number in found.items() if number}


# A new watch


async def test_a_new_watch_is_201_at_its_location_and_committed(api: Caller, name: str) -> None:
    response = await api.post("/v1/watches", wanted(name))
    watch = response.json()
    assert response.status_code == 201
    assert response.headers["location"] == f"/v1/watches/{watch['id']}"
    assert watch["id"].startswith("wch_")
    (target,) = watch["targets"]
    assert watch == {
        "id": watch["id"],
        "task_id": name,
        "provider": "unified-video",
        "state": "watching",
        "upstream_status": None,
        "progress": None,
        "estimated_end": None,
        "callback_url": None,
        "result": None,
        "error": None,
        "metadata": {},
        "targets": [target],
        "polls": 0,
        "last_poll_at": None,
        "next_poll_at": watch["next_poll_at"],
        "expires_at": watch["expires_at"],
        "created_at": watch["created_at"],
        "ended_at": None,
    }
    assert target["id"].startswith("tgt_")
    assert target == {
        "id": target["id"],
        "type": "webhook",
        "url": HOOK,
        "headers": {},
        "events": ALL_ENDS,
        "delivery": "waiting",
        "reason": None,
    }
    assert all(TIME.fullmatch(watch[at]) for at in ("next_poll_at", "expires_at", "created_at"))
    assert seconds(watch["expires_at"], watch["created_at"]) == pytest.approx(86400, abs=1)
    assert (await api.http.get(response.headers["location"])).json() == watch
    other = Database(api.relay.settings.database_url)
    try:
        assert holding(other, watch["id"]) == {"watches": 1, "targets": 1}
    finally:
        other.close()


async def test_a_deadline_of_ones_own_up_to_30_days(api: Caller, name: str) -> None:
    for expires_in in (1, 60, 30 * 86400):
        watch = await api.register(f"{name}-{expires_in}", HOOK, expires_in=expires_in)
        assert seconds(watch["expires_at"], watch["created_at"]) == pytest.approx(expires_in, abs=1)
        assert watch["next_poll_at"] <= watch["expires_at"], "the task is asked by then"


# The same task again


async def test_the_same_task_again_is_the_same_watch_with_the_new_targets_added(api: Caller, name: str) -> None:
    first = await api.register(name, HOOK, metadata={"order": 1})
    again = await api.post(
        "/v1/watches", wanted(name, webhook(), webhook(HOOK + "/2"), metadata={"order": 2}, expires_in=60)
    )
    assert again.status_code == 200
    assert "location" not in again.headers
    watch = again.json()
    assert [t["url"] for t in watch["targets"]] == [HOOK, HOOK + "/2"]
    assert watch["targets"][0] == first["targets"][0]
    assert {**watch, "targets": None} == {**first, "targets": None}


async def test_what_was_just_sealed_is_not_opened_for_the_answer(
    api: Caller, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def counted(sealed: bytes, owner: str) -> bytes:
        opened.append(owner)
        return Vault.open(api.relay.vault, sealed, owner)

    monkeypatch.setattr(api.relay.vault, "open", counted)
    targets: list[dict[str, Any]] = [
        {"type": "webhook", "url": "https://app.example/hook?x=1", "headers": {"X-B": "secret", "X-A": "secret"}},
        {"type": "slack", "channel": "#renders"},
        {"type": "slack", "webhook_url": "https://hooks.slack.com/services/T/B/secret"},
    ]
    asked = {"task_id": name, "targets": targets, "upstream_key": "sk-secret"}
    first = await api.post("/v1/watches", asked)
    assert (first.status_code, opened) == (201, [])
    read = await api.http.get(f"/v1/watches/{first.json()['id']}")
    assert read.content == first.content
    ids = [target["id"] for target in first.json()["targets"]]
    assert sorted(opened) == sorted(ids)

    opened.clear()
    more = await api.post("/v1/watches", {**asked, "targets": [*targets, {"type": "slack", "channel": "#more"}]})
    assert [target.get("channel") for target in more.json()["targets"]] == [None, "#renders", None, "#more"]
    assert sorted(opened) == sorted(ids), "of an old watch, the targets that it had before"

    opened.clear()
    twice = [{**asked, "task_id": f"{name}-twice"}, {"task_id": f"{name}-twice", "targets": [targets[1], targets[2]]}]
    batch = await api.post("/v1/watches/batch", {"watches": twice})
    assert [len(item["watch"]["targets"]) for item in batch.json()["data"]] == [3, 3]
    assert opened == []


async def test_what_makes_two_targets_identical(api: Caller, name: str) -> None:
    order = ["task.failed", "task.completed"]
    same = [
        webhook(),
        webhook(events=ALL_ENDS),
        webhook(events=ALL_ENDS[::-1]),
        webhook(headers={}),
        webhook(events=[*ALL_ENDS, "task.lost"]),
    ]
    other = [
        webhook(events=order),
        webhook(headers={"X-Shop": "1"}),
        webhook(headers={"X-Shop": "2"}),
        webhook(HOOK + "/"),
        {"type": "slack", "channel": "#renders"},
        {"type": "slack", "webhook_url": "https://hooks.slack.com/services/T/B/x"},
    ]
    watch = await api.register(name, *same, *other)
    assert len(watch["targets"]) == 1 + len(other)
    again = await api.register(name, *reversed([*same, *other]), webhook(events=order[::-1]))
    assert again == watch


async def test_the_same_task_of_another_provider_or_app_is_another_watch(
    api: Caller, stranger: Caller, name: str
) -> None:
    mine, sandboxed = await api.register(name, HOOK), await api.register(name, HOOK, provider="sandbox")
    theirs = await stranger.register(name, HOOK)
    assert len({mine["id"], sandboxed["id"], theirs["id"]}) == 3
    assert [t["url"] for t in (await api.register(name, HOOK))["targets"]] == [HOOK]


async def test_registered_by_twenty_at_once_and_by_two_processes_it_is_one_watch(
    api: Caller, upstream: Upstream, name: str
) -> None:
    environ = environment(api.relay.settings.database_url, UNIFIED_VIDEO_BASE_URL=upstream.url)
    async with deployment(environ, working=False) as second:
        urls = [api.url, second.url] * 10
        answers = await asyncio.gather(
            *(
                api.http.post(f"{url}/v1/watches", json=wanted(name, webhook(), webhook(f"{HOOK}/{number}")))
                for number, url in enumerate(urls)
            )
        )
        # Two transactions that both find nothing: the one that commits last must look again.
        for attempt in range(5):
            batch = {"watches": [wanted(f"{name}-{attempt}-{number}") for number in range(20)]}
            pair = await asyncio.gather(
                *(api.http.post(f"{url}/v1/watches/batch", json=batch) for url in (api.url, second.url))
            )
            for one, other in zip(*(response.json()["data"] for response in pair), strict=True):
                assert {one["status"], other["status"]} == {200, 201}
                assert one["watch"]["id"] == other["watch"]["id"]
    assert sorted(a.status_code for a in answers) == [200] * 19 + [201]
    assert len({a.json()["id"] for a in answers}) == 1
    watch = await api.watch_of(name)
    assert watch is not None
    assert sorted(t["url"] for t in watch["targets"]) == sorted([HOOK, *(f"{HOOK}/{n}" for n in range(20))])


async def test_late_targets_of_an_ended_task_are_told_at_once(
    relay: Caller, upstream: Upstream, receiver: Receiver, name: str
) -> None:
    upstream.scripts[name] = done()
    first = await relay.register(name, f"{receiver.url}/{name}/early", metadata={"order": 7})
    (early,) = await receiver.wait_for(1, f"/{name}/early")
    polls = len(upstream.asked[name])

    late = webhook(f"{receiver.url}/{name}/late")
    answer = await relay.post("/v1/watches", wanted(name, late, webhook(HOOK, events=["task.failed"])))
    assert (answer.status_code, answer.json()["id"], answer.json()["state"]) == (200, first["id"], "completed")
    assert [t["delivery"] for t in answer.json()["targets"]][1:] == ["pending", "waiting"]
    (post,) = await receiver.wait_for(1, f"/{name}/late")
    assert post.body == early.body
    assert post.webhook_id != early.webhook_id

    assert (await relay.post("/v1/watches", wanted(name, late))).status_code == 200
    of_watch = {"watch_id": first["id"]}

    async def both() -> list[dict[str, Any]] | None:
        found = await relay.deliveries(**of_watch, state="delivered")
        return found if len(found) == 2 else None

    deliveries = await until(both)
    assert {d["webhook_id"] for d in deliveries} == {early.webhook_id, post.webhook_id}
    (delivery,) = [d for d in deliveries if d["webhook_id"] == post.webhook_id]
    assert (await relay.http.post(f"/v1/deliveries/{delivery['id']}/retry")).status_code == 202
    posts = await receiver.wait_for(2, f"/{name}/late")
    assert [p.webhook_id for p in posts] == [post.webhook_id] * 2
    assert len(await relay.deliveries(**of_watch)) == 2
    assert len(upstream.asked[name]) == polls


async def test_a_target_that_is_dead_and_registered_again_is_told_after_all(
    relay: Caller, upstream: Upstream, receiver: Receiver, name: str
) -> None:
    """A 2xx is a promise that every target will hear the end."""
    receiver.scripts[f"/{name}/gone"] = [Answer(status=410), Answer()]
    receiver.scripts[f"/{name}/broken"] = lambda number: Answer(status=500 if number < 4 else 200)
    upstream.scripts[name] = done()
    gone, broken, well = (webhook(f"{receiver.url}/{name}/{leaf}") for leaf in ("gone", "broken", "well"))
    watch = await relay.register(name, gone, broken, well)

    async def told(*expected: str) -> bool:
        return [t["delivery"] for t in (await relay.watch(watch["id"]))["targets"]] == list(expected)

    await until(lambda: told("dead", "dead", "delivered"))
    again = await relay.post("/v1/watches", wanted(name, gone, gone, well))
    assert (again.status_code, again.json()["id"]) == (200, watch["id"])
    assert [(t["delivery"], t["reason"]) for t in again.json()["targets"]][::2] == [
        ("pending", None),
        ("delivered", None),
    ]
    await until(lambda: told("delivered", "dead", "delivered"))
    batch = await relay.post("/v1/watches/batch", {"watches": [wanted(name, broken), wanted(name, well)]})
    assert [item["status"] for item in batch.json()["data"]] == [200, 200]
    await until(lambda: told("delivered", "delivered", "delivered"))
    for leaf, count in (("gone", 2), ("broken", 5), ("well", 1)):
        posts = receiver.to(f"/{name}/{leaf}")
        assert (len(posts), len({post.webhook_id for post in posts})) == (count, 1), leaf


async def test_a_target_that_ended_before_its_task_and_is_registered_again_is_told_the_end(
    relay: Caller, upstream: Upstream, receiver: Receiver, name: str
) -> None:
    receiver.scripts[f"/{name}"] = [Answer(status=410), Answer()]
    upstream.scripts[name] = says("processing", progress=40)
    target = webhook(f"{receiver.url}/{name}", events=["task.progress", "task.completed"])
    watch = await relay.register(name, target)

    async def ended() -> bool:
        return (await relay.watch(watch["id"]))["targets"][0]["delivery"] == "dead"

    await until(ended)
    again = await relay.register(name, target)
    assert (again["targets"][0]["delivery"], again["targets"][0]["reason"]) == ("waiting", None)
    upstream.scripts[name] = done()
    posts = await receiver.wait_for(2, f"/{name}")
    assert [post.event["type"] for post in posts] == ["task.progress", "task.completed"]


# Stopping


async def test_a_cancelled_watch_tells_nobody_and_makes_room_for_a_new_one(
    relay: Caller, upstream: Upstream, receiver: Receiver, name: str
) -> None:
    old = await relay.register(name, f"{receiver.url}/{name}/old")
    stopped = await relay.http.delete(f"/v1/watches/{old['id']}")
    assert (stopped.status_code, stopped.content) == (204, b"")
    upstream.scripts[name] = done()
    answer = await relay.post("/v1/watches", wanted(name, webhook(f"{receiver.url}/{name}/new")))
    assert answer.status_code == 201
    assert answer.json()["id"] != old["id"]
    await receiver.wait_for(1, f"/{name}/new")

    watch = await relay.watch(old["id"])
    assert (watch["state"], watch["next_poll_at"], watch["estimated_end"]) == ("cancelled", None, None)
    assert TIME.fullmatch(watch["ended_at"])
    assert (await relay.http.delete(f"/v1/watches/{old['id']}")).status_code == 204
    assert await relay.watch(old["id"]) == watch
    assert receiver.to(f"/{name}/old") == []
    assert await relay.deliveries(watch_id=old["id"]) == []


async def test_stopping_what_has_ended_leaves_it_as_it_is(relay: Caller, upstream: Upstream, name: str) -> None:
    upstream.scripts[name] = says("failed", error="no")
    registered = await relay.register(name, webhook(events=["task.expired"]))

    async def ended() -> dict[str, Any] | None:
        watch = await relay.watch(registered["id"])
        return watch if watch["state"] != "watching" else None

    watch = await until(ended)
    assert (watch["state"], watch["error"]["message"]) == ("failed", "no")
    assert (await relay.http.delete(f"/v1/watches/{watch['id']}")).status_code == 204
    assert await relay.watch(watch["id"]) == watch


async def test_erasing_removes_every_trace_of_the_task_and_nothing_else(
    relay: Caller, upstream: Upstream, receiver: Receiver, name: str
) -> None:
    erased, kept = f"{name}-erased", f"{name}-kept"
    watches = {}
    for task_id in (erased, kept):
        upstream.scripts[task_id] = done(f"https://cdn.example/{task_id}.mp4")
        watches[task_id] = await relay.register(
            task_id, webhook(f"{receiver.url}/{task_id}", headers={"X-Of": task_id}), metadata={"of": task_id}
        )
        await until(lambda task_id=task_id: relay.deliveries(watch_id=watches[task_id]["id"], state="delivered"))
    traces = {task_id: [task_id, watch["id"]] for task_id, watch in watches.items()}
    for task_id, watch in watches.items():
        (delivery,) = await relay.deliveries(watch_id=watch["id"])
        traces[task_id] += [delivery["id"], delivery["webhook_id"], watch["targets"][0]["id"]]
    everywhere = dict.fromkeys(  # but in `answers`: the answer is in the event
        ("watches", "changes", "lags", "targets", "events", "deliveries", "attempts"), 1
    )
    assert holding(relay.relay.db, *traces[erased]) == everywhere

    response = await relay.http.delete(f"/v1/watches/{watches[erased]['id']}?erase=true")
    assert (response.status_code, response.content) == (204, b"")
    assert holding(relay.relay.db, *traces[erased]) == {}
    assert holding(relay.relay.db, *traces[kept]) == everywhere
    for path in (f"watches/{watches[erased]['id']}", f"deliveries/{traces[erased][2]}"):
        problem(await relay.http.get(f"/v1/{path}"), 404)
    problem(await relay.http.delete(f"/v1/watches/{watches[erased]['id']}?erase=true"), 404)
    assert (await relay.post("/v1/watches", wanted(erased))).status_code == 201


async def test_erase_is_true_or_false(api: Caller, name: str) -> None:
    watch = await api.register(name, HOOK)
    for wrong in ("yes", "1", "", "TRUE"):
        assert pointers(await api.http.delete(f"/v1/watches/{watch['id']}?erase={wrong}")) == ["/erase"]
    assert pointers(await api.http.delete(f"/v1/watches/{watch['id']}?force=true")) == ["/force"]
    assert (await api.watch(watch["id"]))["state"] == "watching"
    assert (await api.http.delete(f"/v1/watches/{watch['id']}?erase=false")).status_code == 204
    assert (await api.watch(watch["id"]))["state"] == "cancelled"
    assert (await api.http.delete(f"/v1/watches/{watch['id']}?erase=true")).status_code == 204
    problem(await api.http.get(f"/v1/watches/{watch['id']}"), 404)


# Batches


def counted(api: Caller, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Counts the transactions of a relay that register something, from now on."""
    seen: list[object] = []
    register = registrations.register

    def noted(tx: sa.Connection, *given: Any) -> Any:
        tx.info[id(seen)] = True
        return register(tx, *given)

    def committed(tx: sa.Connection) -> None:
        if tx.info.pop(id(seen), False):
            seen.append(tx)

    monkeypatch.setattr(registrations, "register", noted)
    sa.event.listen(api.relay.db.engine, "commit", committed)
    return lambda: len(seen)


async def test_a_thousand_in_one_transaction_each_judged_by_itself_and_answered_in_order(
    api: Caller, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch: list[Any] = [wanted(f"{name}-{number}", metadata={"number": number}) for number in range(1000)]
    batch[1] = wanted("")
    batch[10] = wanted(f"{name}-10", webhook("http://10.0.0.1/"))
    batch[100] = "not an object"
    batch[500] = {**wanted(f"{name}-500"), "tasks_id": "typo"}
    batch[998] = wanted(f"{name}-998", provider="nobody")
    batch[999] = wanted(f"{name}-0", webhook(HOOK + "/2"))
    errors = {
        1: "/task_id",
        10: "/targets/0/url",
        100: "",
        500: "/tasks_id",
        998: "/provider",
    }
    commits = counted(api, monkeypatch)
    response = await api.post("/v1/watches/batch", {"watches": batch})
    assert commits() == 1

    assert response.status_code == 200
    data = response.json()["data"]
    assert len(data) == 1000
    for number, item in enumerate(data):
        if number in errors:
            assert set(item) == {"status", "error"}
            problem_item(item["error"], 422)
            assert [one["pointer"] for one in item["error"]["errors"]] == [errors[number]]
            assert (item["status"], item["error"]["request_id"]) == (422, response.headers["x-request-id"])
        elif number == 999:
            assert (item["status"], item["watch"]["id"]) == (200, data[0]["watch"]["id"])
            assert [t["url"] for t in item["watch"]["targets"]] == [HOOK, HOOK + "/2"]
        else:
            assert set(item) == {"status", "watch"}
            assert (item["status"], item["watch"]["metadata"]) == (201, {"number": number})
            assert item["watch"]["task_id"] == f"{name}-{number}"
    assert data[100]["error"]["detail"] == "the item must be a JSON object"
    assert await api.watch(data[997]["watch"]["id"]) == data[997]["watch"]
    assert await api.watch_of(f"{name}-500") is None


async def test_a_batch_has_one_to_a_thousand_items(api: Caller, name: str) -> None:
    for watches in ([], [wanted(f"{name}-{number}") for number in range(1001)], {"0": wanted(name)}, None):
        assert pointers(await api.post("/v1/watches/batch", {"watches": watches})) == ["/watches"]
    assert pointers(await api.post("/v1/watches/batch", {})) == ["/watches"]
    assert pointers(await api.post("/v1/watches/batch", {"watches": [wanted(name)], "x": 1})) == ["/x"]
    assert (await api.http.get("/v1/watches")).json() == {"data": [], "next_cursor": None}


async def test_batches_at_once_have_a_transaction_each(api: Caller, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Together they would name more ids than one statement may, and keep everybody else waiting."""
    commits = counted(api, monkeypatch)
    batches = [{"watches": [wanted(f"{name}-{batch}-{number}") for number in range(3)]} for batch in range(8)]
    answers = await asyncio.gather(*(api.post("/v1/watches/batch", batch) for batch in batches))
    assert [[item["status"] for item in a.json()["data"]] for a in answers] == [[201] * 3] * 8
    assert commits() == 8


# Lists


async def test_pages_lead_to_the_last_one_without_doubles_while_new_ones_are_added(api: Caller, name: str) -> None:
    async def add(*numbers: int) -> None:
        body = {"watches": [wanted(f"{name}-{number}") for number in numbers]}
        assert (await api.post("/v1/watches/batch", body)).status_code == 200

    await add(*range(30))
    seen: list[str] = []
    cursor, new = None, 30
    while True:
        query = {"limit": 10} | ({"cursor": cursor} if cursor else {})
        page = (await api.http.get("/v1/watches", params=query)).json()
        seen += [watch["task_id"] for watch in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
        await add(new, new + 1)
        new += 2
    assert seen == [f"{name}-{number}" for number in reversed(range(30))]
    default = (await api.http.get("/v1/watches")).json()
    assert (len(default["data"]), default["next_cursor"]) == (34, None)
    assert default["data"][0]["task_id"] == f"{name}-33"


async def test_a_list_is_filtered(api: Caller, name: str) -> None:
    ids = {}
    for task_id, provider in (("a", "unified-video"), ("a", "sandbox"), ("b", "sandbox"), ("c", "sandbox")):
        watch = await api.register(f"{name}-{task_id}", HOOK, provider=provider)
        ids[task_id, provider] = watch["id"]
    await api.http.delete(f"/v1/watches/{ids['c', 'sandbox']}")

    async def found(**query: Any) -> set[tuple[str, str]]:
        response = await api.http.get("/v1/watches", params=query)
        assert response.status_code == 200, response.text
        return {key for key, watch_id in ids.items() if watch_id in {w["id"] for w in response.json()["data"]}}

    assert await found() == set(ids)
    assert await found(task_id=f"{name}-a") == {("a", "unified-video"), ("a", "sandbox")}
    assert await found(task_id=f"{name}-a", provider="sandbox") == {("a", "sandbox")}
    assert await found(provider="sandbox", state="watching") == {("a", "sandbox"), ("b", "sandbox")}
    assert await found(state="cancelled") == {("c", "sandbox")}
    assert await found(state="completed") == await found(provider="nobody") == await found(task_id="x" * 5000) == set()
    assert await found(provider="sandbox", limit=1, cursor=ids["b", "sandbox"]) == {("a", "sandbox")}


QUERIES = [
    *((f"limit={limit}", "/limit") for limit in ("0", "201", "-1", "1.5", "ten", "", "1e2", "٣", "9" * 5000)),
    *((f"state={state}", "/state") for state in ("done", "", "WATCHING", "pending")),
    *((f"cursor={cursor}", "/cursor") for cursor in ("", "x", "dlv_01K6X15VHRFF09DKKQJRZWHM60", "wch_%00", "wch_")),
    ("status=watching", "/status"),
    ("task_id=a%00b", "/task_id"),
    ("provider=%00", "/provider"),
]


async def test_a_query_that_is_wrong_is_refused(api: Caller) -> None:
    for query, pointer in QUERIES:
        assert pointers(await api.http.get(f"/v1/watches?{query}")) == [pointer], query


async def test_the_bounds_of_limit(api: Caller, name: str) -> None:
    batch = {"watches": [wanted(f"{name}-{number}") for number in range(201)]}
    await api.post("/v1/watches/batch", batch)
    for limit, expected in (("1", 1), ("200", 200), (None, 50)):
        page = (await api.http.get("/v1/watches", params={"limit": limit} if limit else {})).json()
        assert len(page["data"]) == expected
        assert page["next_cursor"] == page["data"][-1]["id"]


# Ids


@pytest.mark.parametrize("blank", ["", " ", "   ", "\u00a0", "\u200b", "\u3000", "\t\r\n", "\ufeff\u2060"])
async def test_an_id_of_blanks_is_refused_and_blanks_around_one_are_no_part_of_it(
    api: Caller, name: str, blank: str
) -> None:
    refusal = await api.post("/v1/watches", wanted(blank))
    assert pointers(refusal) == ["/task_id"]
    watch = await api.register(name, HOOK)
    around = f"{blank}{name}{blank}"
    again = await api.post("/v1/watches", wanted(around, webhook(HOOK)))
    assert (again.status_code, again.json()["id"], again.json()["task_id"]) == (200, watch["id"], name)
    batch = {"watches": [wanted(around, webhook(HOOK)), wanted(blank)]}
    kept, refused = (await api.post("/v1/watches/batch", batch)).json()["data"]
    assert (kept["status"], kept["watch"]["id"], refused["status"]) == (200, watch["id"], 422)
    listed = (await api.http.get("/v1/watches", params={"task_id": around})).json()["data"]
    assert [one["id"] for one in listed] == [watch["id"]]
    assert pointers(await api.http.get("/v1/video/query", params={"id": blank})) == ["/id"]
    mirrored = await api.http.get("/v1/video/query", params={"id": around})
    assert mirrored.headers["relay-watch"] == watch["id"]


ODD_IDS = [
    "sora-2:task_01k6x15vhrff09dkkqjrzwhm60",
    "a/b//c/",
    "..a/b..",
    "a\\b",
    "a?b=c&d=e;f",
    "x#fragment",
    "100%",
    "%2F%00",
    "a+b c",
    ' "quoted" \\',
    "日本語:タスク",
    "🎬",
    "e\u0301 is not \u00e9",
    "\u202eleft",
    "x" * 512,
    "🎬" * 512,
]


async def test_odd_ids_are_kept_found_asked_and_told_as_they_are(
    relay: Caller, upstream: Upstream, receiver: Receiver, name: str
) -> None:
    ids = [name + task_id if len(task_id) < 512 else task_id for task_id in ODD_IDS]
    asked = {task_id: len(upstream.asked[task_id]) for task_id in ids}
    for task_id in ids:
        upstream.scripts[task_id] = done()
    body = {"watches": [wanted(task_id, webhook(f"{receiver.url}/{name}")) for task_id in ids]}
    data = (await relay.post("/v1/watches/batch", body)).json()["data"]
    assert [item["watch"]["task_id"] for item in data] == ids
    posts = await receiver.wait_for(len(ids), f"/{name}")
    assert sorted(post.event["data"]["task_id"] for post in posts) == sorted(ids)
    assert all(len(upstream.asked[task_id]) > asked[task_id] for task_id in ids)
    for task_id in ids:
        watch = await relay.watch_of(task_id)
        assert watch is not None
        assert watch["task_id"] == task_id


NO_IDS = ["", "x" * 513, "x" * 5000, "a\0b", "a\nb", "\x7f", "..", "a/./b", "../admin"]
NO_IDS += ["..\\admin", "a\\..\\b", "a\\.", "%2e%2e/admin", "a%2F..%2Fb", "..%5Cadmin", "%252e%252E%255Cadmin"]


async def test_ids_that_no_query_could_carry_are_refused(api: Caller) -> None:
    for task_id in NO_IDS:
        assert pointers(await api.post("/v1/watches", wanted(task_id))) == ["/task_id"], task_id


# Fields


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"tasks_id": "x"}, "/tasks_id"),
    ({"": 1}, "/"),
    ({"a/b~c": 1}, "/a~1b~0c"),
    *(({"task_id": value}, "/task_id") for value in (None, 1, True, [], {}, ["x"])),
    *(({"provider": value}, "/provider") for value in (1, [], "nobody", "", "a\0b", "x" * 64)),
    *(({"expires_in": value}, "/expires_in") for value in ("60", True, 1.5, 60.0, 0, -1, 30 * 86400 + 1, 2**70, [])),
    *(({"metadata": value}, "/metadata") for value in (None, "x", [], 1)),
    *(({"upstream_key": value}, "/upstream_key") for value in ("", 1, "a b", "ä", "a\r\nX: y", "x" * 4097)),
    *(({"targets": value}, "/targets") for value in (None, {}, "x", [], [webhook()] * 101)),
    *(
        ({"targets": [webhook(), value]}, "/targets/1")
        for value in (None, "x", [], {}, {"type": "email"}, {"url": HOOK})
    ),
]


async def test_a_field_that_is_wrong_is_named_and_nothing_is_kept(api: Caller, name: str) -> None:
    for fields, pointer in WRONG:
        response = await api.post("/v1/watches", wanted(name) | fields)
        assert pointers(response) == [pointer], fields
        assert pointer in response.json()["detail"], fields
    assert (await api.http.get("/v1/watches")).json()["data"] == []


@pytest.mark.parametrize("missing", ["task_id", "targets"])
async def test_a_field_that_is_missing_is_named(api: Caller, missing: str) -> None:
    body = wanted()
    del body[missing]
    response = await api.post("/v1/watches", body)
    assert response.json()["errors"] == [{"pointer": f"/{missing}", "detail": "is required"}]


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({"task_id": 5}, "must be a string"),
        ({"expires_in": "60"}, "must be an integer"),
        ({"targets": []}, "must have at least 1 item, not 0"),
        ({"targets": "https://app.example/"}, "must be an array"),
        ({"targets": ["https://app.example/"]}, "must be an object"),
        ({"targets": [{"url": "https://app.example/"}]}, "must have a 'type' of 'webhook' or 'slack'"),
        (
            {"targets": [{"type": "slack", "channel": "#a b"}]},
            "must be the name of a channel, such as '#renders', or its id",
        ),
        ({"metadata": []}, "must be an object"),
        ({"tragets": []}, "is not a field here; check its spelling"),
    ],
)
async def test_what_is_wrong_is_said_in_plain_words(api: Caller, fields: dict[str, Any], detail: str) -> None:
    response = await api.post("/v1/watches", wanted() | fields)
    assert [error["detail"] for error in response.json()["errors"]] == [detail]


async def test_every_wrong_field_is_named(api: Caller) -> None:
    body = wanted("", webhook("ftp://x"), webhook(event=["task.failed"]), {"type": "slack"}, expires_in="60")
    assert pointers(await api.post("/v1/watches", body)) == [
        "/task_id",
        "/targets/0/url",
        "/targets/1/event",
        "/targets/2",
        "/expires_in",
    ]


TARGETS: list[tuple[dict[str, Any], str]] = [
    (webhook(webhook=HOOK), "/webhook"),
    ({"type": "webhook"}, "/url"),
    ({"type": "webhook", "webhook_url": HOOK, "url": HOOK}, "/webhook_url"),
    ({"type": "webhook", "channel": "#x", "url": HOOK}, "/channel"),
    *((webhook(value), "/url") for value in (None, 1, "", "https://x/" + "y" * 2048)),
    *((webhook(events=value), "/events") for value in (None, [], "task.failed", {})),
    *((webhook(events=[value]), "/events/0") for value in ("task.done", "relay.test", "task.cancelled", "", 1, None)),
    *((webhook(headers=value), "/headers") for value in (None, [], "X: y", {str(n): "x" for n in range(11)})),
    (webhook(headers={"X-A": 1}), "/headers/X-A"),
    (webhook(headers={"X-A": None}), "/headers/X-A"),
    ({"type": "slack"}, ""),
    ({"type": "slack", "channel": "#x", "webhook_url": "https://hooks.slack.com/services/x"}, ""),
    ({"type": "slack", "url": HOOK, "channel": "#x"}, "/url"),
    *(
        ({"type": "slack", "channel": value}, "/channel")
        for value in ("", "#", "two words", "#" + "x" * 81, "<!channel>", "a,b", 1)
    ),
]


async def test_a_target_that_is_wrong_is_named(api: Caller, name: str) -> None:
    for target, pointer in TARGETS:
        response = await api.post("/v1/watches", wanted(name, webhook(), target))
        assert pointers(response) == [f"/targets/1{pointer}"], target
        assert pointers(await api.post("/v1/targets/test", target)) == [pointer], target


async def test_a_watch_has_at_most_a_hundred_targets_however_they_come(api: Caller, name: str) -> None:
    def some(first: int, last: int) -> list[dict[str, Any]]:
        return [webhook(f"{HOOK}/{number}") for number in range(first, last)]

    assert len((await api.register(name, *some(0, 60)))["targets"]) == 60
    assert pointers(await api.post("/v1/watches", wanted(name, *some(50, 101)))) == ["/targets"]
    batch = {"watches": [wanted(name, *some(60, 101)), wanted(name, *some(20, 100))]}
    refused, kept = (await api.post("/v1/watches/batch", batch)).json()["data"]
    assert (refused["status"], kept["status"], len(kept["watch"]["targets"])) == (422, 200, 100)
    assert refused["error"]["errors"][0]["pointer"] == "/targets"
    assert refused["error"]["detail"] == "/targets: a watch may have 100 targets; this one has 60"
    assert [t["url"] for t in kept["watch"]["targets"]] == [t["url"] for t in some(0, 100)]


# Metadata


METADATA = {
    "big": 123456789012345678901234567890123456789,
    "bigger": -(2**64),
    "float": 0.1,
    "text": '日本語 🎬 \u2028 " \\ / \0 \x7f é e\u0301 <b>',
    "": {"": [None, True, False, [], {}]},
    "deep": json.loads("[" * 300 + "]" * 300),
}


async def test_metadata_comes_back_unchanged_in_the_watch_and_in_the_event(
    relay: Caller, upstream: Upstream, receiver: Receiver, name: str
) -> None:
    upstream.scripts[name] = done()
    registered = await relay.register(name, f"{receiver.url}/{name}", metadata=METADATA)
    (post,) = await receiver.wait_for(1, f"/{name}")
    page = (await relay.http.get("/v1/watches")).json()
    again = await relay.post("/v1/watches/batch", {"watches": [wanted(name, metadata={"ignored": 1})]})
    shown = {
        "answer": registered["metadata"],
        "watch": (await relay.watch(registered["id"]))["metadata"],
        "list": page["data"][0]["metadata"],
        "batch": again.json()["data"][0]["watch"]["metadata"],
        "event": post.event["data"]["metadata"],
    }
    assert shown == dict.fromkeys(shown, METADATA)
    assert isinstance(shown["watch"]["big"], int)


async def test_metadata_of_4_kib_and_no_more(api: Caller, name: str) -> None:
    def of_size(size: int) -> dict[str, str]:
        return {"é": "x" * (size - len('{"é":""}'.encode()))}

    watch = await api.register(name, HOOK, metadata=of_size(4096))
    assert watch["metadata"] == of_size(4096)
    response = await api.post("/v1/watches", wanted(f"{name}-2", metadata=of_size(4097)))
    assert pointers(response) == ["/metadata"]
    assert "4097" in response.json()["detail"]


# Where targets may lead


PRIVATE = [
    "10.0.0.1",
    "10.1",
    "167772161",
    "0x0a000001",
    "0x0a.0.0.1",
    "012.0.0.1",
    "10.0.0.1.",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "169.254.169.254",
    "0.0.0.0",
    "0",
    "224.0.0.1",
    "255.255.255.255",
    "[::1]",
    "[::]",
    "[fd00::1]",
    "[fe80::1]",
    "[fe80::1%25eth0]",
    "[::ffff:10.0.0.1]",
    "[::ffff:a00:1]",
    "[::10.0.0.1]",
    "[64:ff9b::10.0.0.1]",
    "[2002:a00:1::]",
    "%31%30.0.0.1",
    "10%2e0.0.1",
    "metadata.google.internal",
    "printer.local",
    "a.localhost",
    "intranet",
]


async def test_a_private_address_is_refused_however_it_is_written(api: Caller, name: str) -> None:
    urls = [
        f"{scheme}://{host}{port}/hook" for host in PRIVATE for scheme in ("https", "http") for port in ("", ":8443")
    ]
    batch = [wanted(f"{name}-{number}", webhook(), webhook(url)) for number, url in enumerate(urls)]
    data = (await api.post("/v1/watches/batch", {"watches": batch})).json()["data"]
    assert [url for url, item in zip(urls, data, strict=True) if item["status"] != 422] == []
    assert {item["error"]["errors"][0]["pointer"] for item in data} == {"/targets/1/url"}
    tests = await asyncio.gather(*(api.post("/v1/targets/test", webhook(url)) for url in urls))
    assert [url for url, response in zip(urls, tests, strict=True) if pointers(response) != ["/url"]] == []


UNCALLABLE = [
    "ftp://app.example/",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "//app.example/",
    "app.example/hook",
    "https:///hook",
    "https://",
    "https://user@app.example/",
    "https://user:secret@app.example/",
    "https://app.example:0/",
    "https://app.example:65536/",
    "https://app.example:x/",
    "https://app.example/a b",
    "https://app.example/\n",
    "https://app.example\\@10.0.0.1/",
    "https://täst.example/",
    "https://[::1/",
    "https://[]/",
    "http://93.184.215.14/",
    "http://hook.invalid/",
]


async def test_a_url_that_relay_must_not_call_is_refused(api: Caller, name: str) -> None:
    for url in UNCALLABLE:
        response = await api.post("/v1/watches", wanted(name, webhook(url)))
        assert pointers(response) == ["/targets/0/url"], url
        assert "secret" not in response.text


async def test_http_within_the_allowed_networks_and_https_to_public_addresses_are_taken(api: Caller, name: str) -> None:
    urls = [
        "http://127.0.0.1:9/x",
        "http://127.1.2.3/",
        "https://127.0.0.1/",
        "https://93.184.215.14/",
        HOOK + "?a=%20#f",
    ]
    watch = await api.register(name, *urls)
    assert [t["url"] for t in watch["targets"]] == urls


ELSEWHERE = [
    "https://slack.example/services/T/B/x",
    "https://hooks.slack.com.evil.example/services/T/B/x",
    "https://evil.example/hooks.slack.com",
    "https://hooks.slack.com@evil.example/",
    "http://hooks.slack.com/services/T/B/x",
    "https://127.0.0.1/services/T/B/x",
]


async def test_slack_urls_elsewhere_are_refused(api: Caller, name: str) -> None:
    for url in ELSEWHERE:
        target = {"type": "slack", "webhook_url": url}
        assert pointers(await api.post("/v1/watches", wanted(name, target))) == ["/targets/0/webhook_url"], url


@pytest.mark.parametrize("host", ["hooks.slack.com", "hooks.slack-gov.com"])
async def test_what_is_no_incoming_webhook_of_slack_is_refused_with_what_to_do(
    api: Caller, name: str, host: str
) -> None:
    for path in (
        "",
        "/",
        "/services/",
        "/services/T0/B0",
        "/services/T0/B0/",
        "/services/T0/B0/x/y",
        "/services//B0/x",
        "/workflows/T0/A0/1/x",
        "/triggers/T0/1/x",
        "/commands/T0/1/x",
        "/actions/T0/1/x",
    ):
        target = {"type": "slack", "webhook_url": f"https://{host}{path}"}
        refusal = await api.post("/v1/watches", wanted(name, webhook(), target))
        assert pointers(refusal) == ["/targets/1/webhook_url"], path
        assert "'Incoming Webhooks'" in refusal.json()["detail"]
    assert await api.register(name, {"type": "slack", "webhook_url": f"https://{host}/services/T0/B0/x"})


async def test_a_channel_needs_a_bot(relay: Caller, api: Caller, name: str) -> None:
    target = {"type": "slack", "channel": "#renders"}
    response = await relay.post("/v1/watches", wanted(name, target))
    assert pointers(response) == ["/targets/0/channel"]
    assert "SLACK_BOT_TOKEN" in response.json()["detail"]
    assert (await api.register(name, target))["targets"][0]["channel"] == "#renders"


async def test_a_provider_that_is_not_there_or_has_no_address(api: Caller, upstream: Upstream, name: str) -> None:
    response = await api.post("/v1/watches", wanted(name, provider="unified_video"))
    assert "unified-video" in problem(response, 422)["detail"]
    async with (
        deployment(environment(api.relay.settings.database_url), working=False) as bare,
        caller(bare) as other,
    ):
        response = await other.post("/v1/watches", wanted(name))
        detail = problem(response, 422)["detail"]
        assert "UNIFIED_VIDEO_BASE_URL" in detail
        assert '"provider": "sandbox"' in detail


# Headers


OWN_HEADERS = [
    "webhook-id",
    "Webhook-Signature",
    "WEBHOOK-x",
    "Host",
    "Content-Type",
    "content-length",
    "Content-Anything",
    "Connection",
    "Transfer-Encoding",
    "User-Agent",
    "Traceparent",
    "Date",
    "Keep-Alive",
    "Proxy-Authorization",
    "X Y",
    "X:Y",
    "X\nY",
    "",
    "Ä",
    "x" * 129,
]


async def test_headers_that_are_relays_own_or_none_are_refused(api: Caller, name: str) -> None:
    for header in OWN_HEADERS:
        response = await api.post("/v1/watches", wanted(name, webhook(headers={header: "x"})))
        assert pointers(response) == ["/targets/0/headers"], header


NO_HEADER_VALUES = ["", "a\r\nX-Evil: 1", "ä", "\0", "x" * 4097]


async def test_header_values_that_no_header_carries_are_refused(api: Caller, name: str) -> None:
    for value in NO_HEADER_VALUES:
        response = await api.post("/v1/watches", wanted(name, webhook(headers={"X-A": value})))
        assert pointers(response) == ["/targets/0/headers"], value


async def test_a_header_is_named_once(api: Caller, name: str) -> None:
    response = await api.post("/v1/watches", wanted(name, webhook(headers={"X-A": "1", "x-a": "2"})))
    assert pointers(response) == ["/targets/0/headers"]


# Secrets


async def test_static_headers_are_sent_and_their_values_shown_to_nobody(
    relay: Caller, upstream: Upstream, receiver: Receiver, name: str
) -> None:
    upstream.scripts[name] = done()
    headers = {"Authorization": f"Bearer hidden-{name}", "X-Shop": f"hidden-{name}-2"} | {
        f"X-{number}": f"hidden-{name}-{number}" for number in range(3, 11)
    }
    watch = await relay.register(name, webhook(f"{receiver.url}/{name}", headers=headers))
    assert watch["targets"][0]["headers"] == dict.fromkeys(headers, "********")
    (post,) = await receiver.wait_for(1, f"/{name}")
    assert {key: post.headers[key.lower()] for key in headers} == headers
    await until(lambda: relay.deliveries(state="delivered"))
    await shown_nowhere(f"hidden-{name}", relay, watch["id"])


async def test_a_slack_webhook_is_shown_without_its_secret(api: Caller, name: str) -> None:
    watch = await api.register(
        name, {"type": "slack", "webhook_url": f"https://hooks.slack.com/services/T1/B1/hidden-{name}"}
    )
    assert watch["targets"][0]["webhook_url"] == "https://hooks.slack.com/********"
    await shown_nowhere(f"hidden-{name}", api, watch["id"])


async def test_an_upstream_key_asks_for_its_watch_and_is_shown_to_nobody(
    relay: Caller, upstream: Upstream, receiver: Receiver, name: str
) -> None:
    def keys() -> list[str]:
        return [head["authorization"] for url, head in upstream.heads if url.endswith(f"={name}")]

    def asked_with(key: str) -> Callable[[], Any]:
        async def asked() -> bool:
            return bool(keys()) and keys()[-1] == f"Bearer {key}"

        return asked

    def body(key: str) -> dict[str, Any]:
        return wanted(name, webhook(f"{receiver.url}/{name}"), upstream_key=key)

    upstream.scripts[name] = says("processing", progress=10)
    first = await relay.post("/v1/watches", body(f"hidden-{name}-1"))
    await until(asked_with(f"hidden-{name}-1"))
    second = await relay.post("/v1/watches", body(f"hidden-{name}-2"))
    assert (first.status_code, second.status_code) == (201, 200)
    await until(asked_with(f"hidden-{name}-2"))
    assert set(keys()) == {f"Bearer hidden-{name}-1", f"Bearer hidden-{name}-2"}
    refused = await relay.post("/v1/watches", {**body(f"hidden-{name}-3"), "upstream_keys": f"hidden-{name}-4"})
    wrong = await relay.post("/v1/watches", body(f"hidden-{name}-ä"))
    upstream.scripts[name] = done()
    (post,) = await receiver.wait_for(1, f"/{name}")
    assert f"hidden-{name}" not in post.body.decode() + refused.text + wrong.text + first.text + second.text
    await shown_nowhere(f"hidden-{name}", relay, first.json()["id"])


async def shown_nowhere(secret: str, relay: Caller, watch_id: str) -> None:
    """No answer of the API holds the secret, nor does the database, nor SQLite's file."""
    for path in ("watches", f"watches/{watch_id}", "deliveries", "providers"):
        response = await relay.http.get(f"/v1/{path}")
        assert response.status_code == 200
        assert secret not in response.text
    assert holding(relay.relay.db, secret, relay.key, relay.secret) == {}
    database = sa.make_url(relay.relay.settings.database_url).database or ""
    if relay.relay.db.embedded:
        for file in Path(database).parent.glob(Path(database).name + "*"):
            content = file.read_bytes()
            assert not any(one.encode() in content for one in (secret, relay.key, relay.secret)), file


# Which events


async def test_a_target_hears_only_the_events_that_it_asked_for(
    relay: Caller, upstream: Upstream, receiver: Receiver, name: str
) -> None:
    good, bad = f"{name}-good", f"{name}-bad"
    upstream.scripts[good] = [says("processing", progress=40), done()]
    upstream.scripts[bad] = [says("processing", progress=40), says("failed")]
    asked_for = {
        "all": None,
        "completed": ["task.completed"],
        "failed": ["task.failed"],
        "progress": ["task.progress"],
        "both": ["task.progress", "task.failed"],
    }
    for task_id in (good, bad):
        targets = [
            webhook(f"{receiver.url}/{task_id}/{leaf}", **({"events": events} if events else {}))
            for leaf, events in asked_for.items()
        ]
        watch = await relay.register(task_id, *targets)
        assert [t["events"] for t in watch["targets"]] == [events or ALL_ENDS for events in asked_for.values()]
    expected = {
        f"/{good}/all": ["task.completed"],
        f"/{good}/completed": ["task.completed"],
        f"/{good}/progress": ["task.progress"],
        f"/{good}/both": ["task.progress"],
        f"/{bad}/all": ["task.failed"],
        f"/{bad}/failed": ["task.failed"],
        f"/{bad}/progress": ["task.progress"],
        f"/{bad}/both": ["task.progress", "task.failed"],
    }

    async def settled() -> bool:
        found = await relay.deliveries()
        return len(found) == 9 and {d["state"] for d in found} == {"delivered"}

    await until(settled)
    heard: dict[str, list[str]] = {}
    for post in receiver.posts:
        if name in post.path:
            heard.setdefault(post.path, []).append(post.event["type"])
    assert {path: sorted(types) for path, types in heard.items()} == {p: sorted(t) for p, t in expected.items()}
