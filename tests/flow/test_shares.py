"""One app takes all that it can get of a place that it shares with another, which does not notice."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from relay.outbound.callers import CallKind
from relay.outbound.lane import APP_SHARE, SHARES, kept_of
from relay.outbound.receivers import PER_APP
from relay.providers.definition import load_definition
from tests.support.deployment import Deployment
from tests.support.parties import Answer, Receiver, Upstream, done, until
from tests.web.callers import Caller, caller

pytestmark = pytest.mark.anyio

UNIFIED_VIDEO = load_definition(Path("config/providers/unified-video.toml"), {}).budget

SOON = 5.0
"""Seconds within which the other app is told, on a busy machine too: what it waits for otherwise takes longer."""


async def told_after(app: Caller, receiver: Receiver, task_id: str) -> float:
    """The seconds from a registration of a completed task to its webhook."""
    started = time.monotonic()
    await app.register(task_id, f"{receiver.url}/{task_id}")
    return (await receiver.wait_for(1, f"/{task_id}"))[0].at - started


async def test_an_app_whose_receivers_hang_does_not_delay_another_at_the_same_host(
    relay: Deployment, upstream: Upstream, receiver: Receiver
) -> None:
    upstream.default = done()
    async with caller(relay) as alpha, caller(relay) as beta:
        hooks = [{"type": "webhook", "url": f"{receiver.url}/slow/{n}"} for n in range(50)]
        receiver.scripts |= {f"/slow/{n}": Answer(b"ok", after=20) for n in range(50)}
        tasks = [{"task_id": f"alpha {n}", "targets": hooks} for n in range(6)]
        await alpha.post("/v1/watches/batch", {"watches": tasks})
        await receiver.wait_for(PER_APP.concurrency)
        assert [await told_after(beta, receiver, f"beta{n}") < SOON for n in range(2)] == [True, True]
        assert len(receiver.posts) == PER_APP.concurrency + 2


async def test_the_mirror_of_one_app_stops_no_polls(relay: Deployment, upstream: Upstream, receiver: Receiver) -> None:
    """However many ids one app asks the mirror for, and however slow the upstream is about them."""
    upstream.default = Answer(b'{"status": "pending"}', after=20)
    async with caller(relay) as alpha, caller(relay) as beta:
        flood = [asyncio.create_task(alpha.http.get(f"/v1/video/query?id=slow{n}")) for n in range(150)]
        most = int(UNIFIED_VIDEO.concurrency * SHARES[CallKind.MIRROR] * APP_SHARE)
        await until(lambda: asyncio.sleep(0, sum(task.done() for task in flood) == 150 - most))
        refused = [task.result() for task in flood if task.done()]
        assert {answer.status_code for answer in refused} == {429}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        upstream.scripts |= {f"beta{n}": done() for n in range(3)}
        assert [await told_after(beta, receiver, f"beta{n}") < SOON for n in range(3)] == [True] * 3
        mirrored = asyncio.create_task(beta.http.get("/v1/video/query?id=beta-asks"))
        await until(lambda: asyncio.sleep(0, upstream.asked["beta-asks"]))
        assert upstream.in_flight == most + 1, "the other app has a share of its own"
        for task in (mirrored, *flood):
            task.cancel()


async def test_refusals_that_the_mirror_earns_pause_only_the_mirror_of_that_app(
    relay: Deployment, upstream: Upstream, receiver: Receiver
) -> None:
    upstream.default = Answer(b"too often", 429, {"retry-after": "60"})
    async with caller(relay) as alpha, caller(relay) as beta:
        answers = [await alpha.http.get(f"/v1/video/query?id=refused{n}") for n in range(6)]
        assert [bool(upstream.asked[f"refused{n}"]) for n in range(6)] == [True] * 3 + [False] * 3
        assert all(int(answer.headers["retry-after"]) >= 55 for answer in answers)
        upstream.scripts["beta"] = done()
        assert await told_after(beta, receiver, "beta") < SOON
        assert (await beta.http.get("/v1/video/query?id=beta-asks")).status_code == 429
        assert upstream.asked["beta-asks"]


async def test_polls_of_one_app_that_hang_leave_places_for_another(
    relay: Deployment, upstream: Upstream, receiver: Receiver
) -> None:
    upstream.default = Answer(b'{"status": "pending"}', after=20)
    async with caller(relay) as alpha, caller(relay) as beta:
        hook = {"type": "webhook", "url": f"{receiver.url}/alpha"}
        tasks = [{"task_id": f"alpha {n}", "targets": [hook]} for n in range(400)]
        await alpha.post("/v1/watches/batch", {"watches": tasks})
        most = UNIFIED_VIDEO.concurrency - kept_of(UNIFIED_VIDEO.concurrency)
        await until(lambda: asyncio.sleep(0, upstream.in_flight == most))
        upstream.scripts |= {f"beta{n}": done() for n in range(3)}
        assert [await told_after(beta, receiver, f"beta{n}") < SOON for n in range(3)] == [True] * 3
        assert upstream.in_flight == most


async def test_a_task_that_has_completed_is_not_told_as_expired_because_no_place_was_free(
    relay: Deployment, upstream: Upstream, receiver: Receiver
) -> None:
    """Its own polls hang, more than the lane has places for: past the deadline there is one last poll."""
    upstream.default = Answer(b'{"status": "pending"}', after=20)
    hook = {"type": "webhook", "url": f"{receiver.url}/hanging"}
    async with caller(relay) as alpha:
        tasks = [{"task_id": f"alpha {n}", "targets": [hook]} for n in range(400)]
        await alpha.post("/v1/watches/batch", {"watches": tasks})
        most = UNIFIED_VIDEO.concurrency - kept_of(UNIFIED_VIDEO.concurrency)
        await until(lambda: asyncio.sleep(0, upstream.in_flight == most))
        upstream.scripts["late"] = done()
        await alpha.register("late", f"{receiver.url}/late", expires_in=1)
        (post,) = await receiver.wait_for(1, "/late")
        assert (post.event["type"], len(upstream.asked["late"])) == ("task.completed", 1)
