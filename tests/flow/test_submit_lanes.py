"""Creates and polls of one upstream do not wait for each other, however long either of them hang."""

from __future__ import annotations

import asyncio

import pytest

from relay.outbound.lane import Limit
from relay.providers import upstreams
from tests.support.deployment import deployment, environment
from tests.support.maker import making, never
from tests.support.parties import Receiver, until

pytestmark = pytest.mark.anyio

PATH = "/v1/video/create"


async def test_a_create_does_not_wait_for_polls_that_hang(database_url: str, receiver: Receiver) -> None:
    async with making() as maker:
        maker.holds = asyncio.Event()
        environ = environment(database_url, UNIFIED_VIDEO_BASE_URL=maker.url, RELAY_GRACE="1s")
        async with deployment(environ) as relay:
            for number in range(60):
                await relay.register(f"old-{number}", f"{receiver.url}/hook")

            async def held() -> bool:
                before = maker.held
                await asyncio.sleep(0.5)
                return before == maker.held > 5

            await until(held)  # no further query has a place
            async with asyncio.timeout(5):
                answers = await asyncio.gather(*(relay.http.post(PATH, json={"order": n}) for n in range(20)))
            assert [answer.status_code for answer in answers] == [200] * 20
            maker.holds.set()


async def test_polls_do_not_wait_for_creates_that_hang_and_one_too_many_is_told_when_to_come_again(
    database_url: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstreams, "CREATES", Limit(concurrency=20))
    async with making() as maker:
        maker.answer = never
        maker.found = lambda task_id: {"id": task_id, "status": "completed", "video_url": "https://c.example/v.mp4"}
        environ = environment(database_url, UNIFIED_VIDEO_BASE_URL=maker.url, RELAY_GRACE="1s")
        async with deployment(environ) as relay:
            hanging = [asyncio.create_task(relay.http.post(PATH, json={"order": number})) for number in range(40)]

            async def full() -> bool:
                return any(task.done() for task in hanging)

            await until(full)
            refused = [task.result() for task in hanging if task.done()]
            assert {answer.status_code for answer in refused} <= {429, 503}, refused[0].text
            assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
            await relay.register("one", f"{receiver.url}/hook")
            (post,) = await receiver.wait_for(1, "/hook", within=10)
            assert post.event["type"] == "task.completed"
            await relay.relay.halt()
            await asyncio.gather(*hanging)
