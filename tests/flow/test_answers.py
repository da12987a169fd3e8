"""Answers that are not quite as JSON has them, from the query to the event and the mirror."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.deployment import SECRET, Deployment, deployment, environment
from tests.support.parties import Answer, Receiver, Upstream, says, until

pytestmark = pytest.mark.anyio

KEEPING = """
request = { path = "/v1/video/query", query = { id = "{task_id}" }, headers = { Authorization = "Bearer {key}" } }
read = { status = "status", keep = "{text: text}", result = { text = "text" } }
statuses = { completed = ["completed"] }
"""

BROKEN = Answer(b'{"id":"task","status":"completed","video_url":"https://cdn.example/v.mp4","prompt":"a cat \\ud83d"}')


async def test_an_end_in_broken_json_is_told_as_strict_json_and_the_mirror_asks_again(
    relay: Deployment, upstream: Upstream, receiver: Receiver
) -> None:
    upstream.scripts["task"] = [says("pending"), BROKEN]
    watch = await relay.register("task", f"{receiver.url}/hook")
    (post,) = await receiver.wait_for(1)
    receiver.verify(SECRET)
    data = post.event["data"]
    assert (data["state"], data["result"]["url"], data["upstream_repaired"]) == (
        "completed",
        "https://cdn.example/v.mp4",
        True,
    )
    assert data["upstream"]["prompt"] == "a cat \ufffd"
    asked = len(upstream.asked["task"])
    mirrored = await relay.http.get("/v1/video/query", params={"id": "task"})
    assert (mirrored.status_code, mirrored.content, mirrored.headers["relay-watch"]) == (200, BROKEN.body, watch["id"])
    assert len(upstream.asked["task"]) == asked + 1


async def test_an_expired_task_repeats_what_was_repaired_and_says_so(
    relay: Deployment, upstream: Upstream, receiver: Receiver
) -> None:
    upstream.scripts["task"] = [Answer(b'{"status":"pending","seed":NaN}'), Answer(b"<html>", 503)]
    await relay.register("task", f"{receiver.url}/hook", expires_in=2)
    (post,) = await receiver.wait_for(1)
    data = post.event["data"]
    assert (data["state"], data["upstream"], data["upstream_repaired"]) == (
        "expired",
        {"status": "pending", "seed": None},
        True,
    )


async def test_what_a_file_keeps_is_told_and_the_mirror_asks_again(
    database_url: str, upstream: Upstream, receiver: Receiver, tmp_path: Path
) -> None:
    (tmp_path / "providers").mkdir()
    (tmp_path / "providers/keeping.toml").write_text(KEEPING, "utf-8")
    environ = environment(
        database_url, RELAY_CONFIG=str(tmp_path), RELAY_PROVIDER="keeping", KEEPING_BASE_URL=upstream.url
    )
    whole = Answer(b'{"status":"completed","text":"hello","words":["hello"]}')
    upstream.scripts["task"] = [whole]
    async with deployment(environ) as relay:
        await relay.register("task", f"{receiver.url}/hook", provider="keeping")
        (post,) = await receiver.wait_for(1)
        data = post.event["data"]
        assert (data["result"]["text"], data["upstream"]) == ("hello", {"text": "hello"})
        assert "upstream_repaired" not in data
        asked = len(upstream.asked["task"])
        mirrored = await relay.http.get("/v1/video/query", params={"id": "task"})
        assert mirrored.content == whole.body
        assert len(upstream.asked["task"]) == asked + 1


async def test_a_strict_answer_after_a_repaired_one_is_mirrored_from_the_store(
    relay: Deployment, upstream: Upstream, receiver: Receiver
) -> None:
    upstream.scripts["task"] = [Answer(b'{"status":"pending","seed":NaN}'), says("processing")]
    watch = await relay.register("task", f"{receiver.url}/hook")

    async def moved() -> bool:
        return bool((await relay.watch(watch["id"]))["upstream_status"] == "processing")

    await until(moved)
    mirrored = await relay.http.get("/v1/video/query", params={"id": "task"})
    assert "age" in mirrored.headers
    assert json.loads(mirrored.content)["status"] == "processing"
    assert len(receiver.posts) == 0


async def test_the_address_of_a_router_that_knows_no_route_is_in_the_metrics_and_on_the_dashboard(
    relay: Deployment, upstream: Upstream, receiver: Receiver
) -> None:
    upstream.default = Answer(b'{"detail":"Not Found"}', 404)
    for number in range(3):
        await relay.register(f"task-{number}", f"{receiver.url}/hook")

    async def noticed() -> bool:
        gauge = 'relay_upstream_trouble{provider="unified-video",trouble="unrouted"} 1.0'
        return gauge in (await relay.http.get("/metrics")).text

    await until(noticed)
    states = {
        (await relay.watch(watch["id"]))["state"] for watch in (await relay.http.get("/v1/watches")).json()["data"]
    }
    assert states == {"watching"}

    async def shown() -> str | None:
        page = (await relay.http.get("/")).text
        return page if "the address of unified-video looks wrong" in page else None

    page = await until(shown)
    assert page.index("Upstreams that need attention") < page.index('id="flight-title"')
    assert "check UNIFIED_VIDEO_BASE_URL" in page
    assert len(receiver.posts) == 0
