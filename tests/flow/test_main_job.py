"""The sentence at the top of the design, from end to end: registered, polled, ended, told."""

from __future__ import annotations

import asyncio
import json
import random
import time
from datetime import datetime
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest

from tests.support.deployment import SECRET, Deployment, deployment, environment
from tests.support.parties import Answer, Receiver, Upstream, done, says, until

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent.parent


async def test_a_task_that_completes_is_told_once_and_signed(
    relay: Deployment, upstream: Upstream, receiver: Receiver
) -> None:
    upstream.scripts["sora-2:task_1"] = [says("pending"), says("processing", progress=50), done()]
    registered = await relay.register("sora-2:task_1", f"{receiver.url}/hook", metadata={"order": "42"})

    (post,) = await receiver.wait_for(1)
    receiver.verify(SECRET)
    assert post.event["type"] == "task.completed"
    data = post.event["data"]
    assert data["watch_id"] == registered["id"]
    assert data["metadata"] == {"order": "42"}
    assert data["result"]["url"] == "https://cdn.example/v.mp4"
    assert data["upstream"] == {"id": "task", "status": "completed", "video_url": "https://cdn.example/v.mp4"}
    watch = await relay.watch(registered["id"])
    assert (watch["state"], watch["polls"], watch["progress"]) == ("completed", 3, 1.0)
    (delivery,) = await until(lambda: relay.deliveries(watch_id=registered["id"], state="delivered"))
    assert delivery["webhook_id"] == post.webhook_id
    assert upstream.heads[0][1]["authorization"] == "Bearer sk-upstream"


def config(folder: Path, *changes: tuple[str, str]) -> str:
    """A folder of configuration with the documented endpoint, changed."""
    text = (ROOT / "config/providers/unified-video.toml").read_text("utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "providers").mkdir()
    (folder / "providers/unified-video.toml").write_text(text, "utf-8")
    return str(folder)


@pytest.mark.parametrize(
    ("last", "kind", "fields"),
    [
        (Answer(b'{"code":"task_not_exist","of":"the last poll"}', 404), "task.lost", {}),
        (Answer(b'{"message":"busy"}', 503), "task.expired", {"expires_in": 1}),
    ],
    ids=["lost", "expired"],
)
async def test_an_end_that_no_answer_about_the_task_made_repeats_the_last_answer_all_the_same(
    database_url: str, upstream: Upstream, receiver: Receiver, tmp_path: Path, last: Answer, kind: str, fields: Any
) -> None:
    upstream.scripts["task"] = [says("processing"), last]
    folder = config(tmp_path, ("lost_after = 5", "lost_after = 2"), ("lost_grace = 120", "lost_grace = 0"))
    environ = environment(database_url, UNIFIED_VIDEO_BASE_URL=upstream.url, RELAY_CONFIG=folder)
    async with deployment(environ) as relay:
        await relay.register("task", f"{receiver.url}/hook", **fields)
        (post,) = await receiver.wait_for(1)
    assert post.event["type"] == kind
    assert post.event["data"]["upstream"] == json.loads(last.body)


async def test_a_poll_that_waited_for_its_place_is_as_old_as_its_query(
    database_url: str, upstream: Upstream, receiver: Receiver, tmp_path: Path
) -> None:
    upstream.default = Answer(says("pending").body, after=1)
    folder = config(tmp_path, ("concurrency = 100", "concurrency = 1"))
    environ = environment(database_url, UNIFIED_VIDEO_BASE_URL=upstream.url, RELAY_CONFIG=folder)
    targets = [{"type": "webhook", "url": f"{receiver.url}/hook"}]
    async with deployment(environ) as relay:
        body = {"watches": [{"task_id": f"task-{n}", "targets": targets} for n in range(3)]}
        ids = [item["watch"]["id"] for item in (await relay.http.post("/v1/watches/batch", json=body)).json()["data"]]

        async def polled() -> list[str] | None:
            times = [(await relay.watch(one))["last_poll_at"] for one in ids]
            return times if all(times) else None

        first, *_, last = sorted(datetime.fromisoformat(one) for one in await until(polled))
    assert (last - first).total_seconds() > 1.5, "two queries of a second each were between them"


async def test_mixed_endings_arrive_exactly_once_per_target_and_none_before_its_end(
    relay: Deployment, upstream: Upstream, receiver: Receiver
) -> None:
    """Many tasks, every kind of trouble on the way."""
    rng = random.Random(1)
    started = time.monotonic()
    trouble = [
        says("pending"),
        Answer(b"<html>busy</html>"),
        Answer(b"", 500),
        Answer(b'{"status": "comp'),
        says("new"),
    ]
    ends: dict[str, tuple[float, str]] = {}
    for number, kind in enumerate(islice(cycle(("task.completed", "task.completed", "task.failed")), 120)):
        task_id, end = f"task-{number}", rng.uniform(0.3, 3.0)
        ends[task_id] = (started + end, kind)
        last = done() if kind == "task.completed" else says("failed", error="no")
        upstream.scripts[task_id] = lambda n, end=end, last=last: (
            last if time.monotonic() - started >= end else trouble[n % len(trouble) if n % 7 == 3 else 0]
        )
    body = {
        "watches": [
            {
                "task_id": task_id,
                "targets": [{"type": "webhook", "url": f"{receiver.url}/{leaf}"} for leaf in ("a", "b")],
            }
            for task_id in ends
        ]
    }
    answer = (await relay.http.post("/v1/watches/batch", json=body)).json()["data"]
    assert {item["status"] for item in answer} == {201}

    await receiver.wait_for(2 * len(ends))
    await asyncio.sleep(0.3)  # what came twice would come now
    receiver.verify(SECRET)
    told = [(post.event["data"]["task_id"], post.path, post.event["type"]) for post in receiver.posts]
    assert sorted(told) == sorted((task, f"/{leaf}", kind) for task, (_, kind) in ends.items() for leaf in ("a", "b"))
    assert len({post.webhook_id for post in receiver.posts}) == 2 * len(ends)
    assert all(post.at >= ends[post.event["data"]["task_id"]][0] for post in receiver.posts)
