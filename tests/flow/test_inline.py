"""Watching what no file declares (contract §5d), over real HTTP, from the registration to the event."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from relay.model.cadence import Cadence
from relay.model.reading import Kind
from relay.outbound.prepared import OverHttpx
from relay.providers.inline import Inline, InlineProvider
from relay.security.reseal import reseal
from relay.security.vault import Vault
from relay.store import Database, invariants, schema
from tests.support.deployment import Deployment, deployment, environment
from tests.support.parties import Answer, Receiver, Upstream, says

pytestmark = pytest.mark.anyio

DEFINITION = {
    "completed": "status == 'completed'",
    "failed": "status == 'error'",
    "result": "video_url",
    "progress": "percent",
    "error": "message",
}


def environ_of(database_url: str, **more: str) -> dict[str, str]:
    return environment(database_url, RELAY_INLINE_PROVIDERS="1", **more)


def inline(url: str, **changes: Any) -> dict[str, Any]:
    members = {"url": url, **DEFINITION, **changes}
    return {name: value for name, value in members.items() if value is not None}


async def post(relay: Deployment, provider: Any, **fields: Any) -> tuple[int, dict[str, Any]]:
    body = {"provider": provider, "targets": [{"type": "webhook", "url": "http://127.0.0.1:9/hook"}], **fields}
    response = await relay.http.post("/v1/watches", json=body)
    return response.status_code, response.json()


async def test_a_task_that_no_file_declares_is_watched_to_its_end_with_its_own_key(
    database_url: str, upstream: Upstream, receiver: Receiver
) -> None:
    url = f"{upstream.url}/v1/video/query?id=job-7"
    upstream.scripts["job-7"] = says("completed", video_url="https://cdn.example/a.mp4")
    async with deployment(environ_of(database_url)) as relay:
        status, watch = await post(
            relay, inline(url), targets=[{"type": "webhook", "url": f"{receiver.url}/hook"}], upstream_key="sk-mine"
        )
        assert status == 201
        assert watch["task_id"] == url
        assert watch["provider"].startswith("inline:")
        (event,) = await receiver.wait_for(1)
        listed = (await relay.http.get("/v1/watches", params={"provider": watch["provider"]})).json()["data"]
        assert [one["id"] for one in listed] == [watch["id"]]
        page = (await relay.http.get(f"/watches/{watch['id']}")).text
        assert watch["provider"] in page
        metrics = (await relay.http.get("/metrics")).text
        assert 'provider="inline"' in metrics
        assert watch["provider"] not in metrics
    data = event.event["data"]
    assert (data["state"], data["provider"]) == ("completed", watch["provider"])
    assert data["result"]["url"] == "https://cdn.example/a.mp4"
    (asked,) = upstream.heads
    assert asked[0] == url
    assert asked[1]["authorization"] == "Bearer sk-mine"


async def test_another_process_goes_on_with_what_is_stored_and_the_mirror_asks_it(
    database_url: str, upstream: Upstream, receiver: Receiver
) -> None:
    url = f"{upstream.url}/v1/video/query?id=job-8"
    target = {"type": "webhook", "url": f"{receiver.url}/hook"}
    async with deployment(environ_of(database_url), working=False) as relay:
        _, watch = await post(relay, inline(url), targets=[target], task_id="mine")
        again = await post(relay, inline(url), targets=[target], task_id="mine")
        assert (again[0], again[1]["id"]) == (200, watch["id"])
        other = await post(relay, inline(url, progress="done"), targets=[target], task_id="mine")
        assert (other[0], other[1]["provider"] == watch["provider"]) == (201, False)
        assert (await relay.http.delete(f"/v1/watches/{other[1]['id']}?erase=true")).status_code == 204
        mirrored = await relay.http.get("/v1/video/query", params={"id": "mine"})
        assert mirrored.json()["status"] == "pending"
    upstream.scripts["job-8"] = Answer(json.dumps({"status": "error", "message": "no credit"}).encode())
    async with deployment(environ_of(database_url)):
        (event,) = await receiver.wait_for(1)
    data = event.event["data"]
    assert (data["state"], data["task_id"], data["error"]["message"]) == ("failed", "mine", "no credit")


async def test_it_is_off_by_default_and_the_option_is_named(database_url: str) -> None:
    async with deployment(environment(database_url), working=False) as relay:
        status, problem = await post(relay, inline("https://api.example/jobs/7"))
    assert (status, problem["errors"][0]["pointer"]) == (422, "/provider")
    assert "RELAY_INLINE_PROVIDERS" in problem["detail"]


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"url": None}, "/provider/url"),
        ({"url": "ftp://api.example/7"}, "/provider/url"),
        ({"url": "http://api.example/7"}, "/provider/url"),
        ({"url": "https://169.254.169.254/latest"}, "/provider/url"),
        ({"url": "https://me:secret@api.example/7"}, "/provider/url"),
        ({"url": "https://api.example/7#a"}, "/provider/url"),
        ({"url": f"https://api.example/{'7' * 600}"}, "/task_id"),
        ({"completed": None}, "/provider/completed"),
        ({"completed": "jobs[*].done"}, "/provider/completed"),
        ({"failed": "length(errors)"}, "/provider/failed"),
        ({"result": "a" * 201}, "/provider/result"),
        ({"progress": "[a, b]"}, "/provider/progress"),
        ({"error": "a ||"}, "/provider/error"),
        ({"method": "POST"}, "/provider/method"),
        ({"headers": {"x": "y"}}, "/provider/headers"),
    ],
)
async def test_each_wrong_member_is_named(inline_api: Deployment, changes: dict[str, Any], pointer: str) -> None:
    definition = inline(**{"url": "https://api.example/jobs/7", **changes})
    status, problem = await post(inline_api, definition)
    assert (status, pointer in [error["pointer"] for error in problem["errors"]]) == (422, True), problem
    batch = {"watches": [{"provider": definition, "targets": [{"type": "webhook", "url": "https://a.example/"}]}]}
    (item,) = (await inline_api.http.post("/v1/watches/batch", json=batch)).json()["data"]
    assert pointer in [error["pointer"] for error in item["error"]["errors"]]


@pytest.fixture
async def inline_api(tmp_path: Path) -> Any:
    async with deployment(environ_of(f"sqlite:///{tmp_path}/inline.db"), working=False) as relay:
        yield relay


async def test_a_definition_is_sealed_and_check_names_its_watches_where_they_are_switched_off(
    database_url: str, db: Database
) -> None:
    async with deployment(environ_of(database_url), working=False) as relay:
        _, watch = await post(relay, inline("https://api.example/jobs/7?token=hush"), task_id="mine")
    vault = Vault(["a-newer-key-for-the-tests", "a-secret-key-for-the-tests"])
    (before,) = db.run_here(lambda tx: tx.execute(sa.select(schema.watches.c.inline)).scalars().all())
    assert b"hush" not in bytes(before)
    reseal(db, vault)
    (after,) = db.run_here(lambda tx: tx.execute(sa.select(schema.watches.c.inline)).scalars().all())
    assert vault.is_newest(bytes(after))
    assert db.run_here(partial(invariants.find_orphans, inline=True), []) == []
    (orphans,) = db.run_here(partial(invariants.find_orphans, inline=False), [])
    assert (orphans.ids, "RELAY_INLINE_PROVIDERS" in orphans.what) == ((watch["id"],), True)


def test_the_floor_holds_whatever_the_interval_is() -> None:
    provider = InlineProvider(Inline("https://api.example/7", "done"), OverHttpx(httpx.MockTransport(lambda _: None)))
    assert provider.cadence(None).floor == 5
    assert provider.cadence(Cadence(first=0.1, steady=0.1, floor=0.1)).floor == 5


async def test_an_app_asks_a_host_so_often_and_all_apps_together_so_often() -> None:
    provider = InlineProvider(Inline("https://api.example/7", "done"), OverHttpx(httpx.MockTransport(lambda _: None)))
    (own, of_app), (shared, of_host) = provider.lanes(None, "app")
    assert (of_app.concurrency, of_app.per_second, of_host.per_second) == (5, 2.0, 20.0)
    other = InlineProvider(Inline("https://api.example/8", "done"), OverHttpx(httpx.MockTransport(lambda _: None)))
    assert [lane for lane, _ in other.lanes(None, "app")] == [own, shared]
    assert [lane == mine for (lane, _), mine in zip(other.lanes(None, "b"), (own, shared), strict=True)] == [
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"done": 1}, Kind.COMPLETED),
        ({"done": True}, Kind.COMPLETED),
        ({"done": 0}, Kind.PENDING),
        ({"done": False}, Kind.PENDING),
        ({}, Kind.PENDING),
        ({"done": 1, "state": "error"}, Kind.FAILED),
    ],
)
async def test_only_what_says_the_end_is_one(body: dict[str, Any], kind: Kind) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=body))
    definition = Inline("https://api.example/7", "done", "state == 'error'")
    reading, _ = await InlineProvider(definition, OverHttpx(transport)).query("7", None, 0)
    assert reading.kind is kind
