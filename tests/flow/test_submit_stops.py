"""A process that is told to stop while creates are under way waits for their answers, and says which never came."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from starlette.responses import Response

from relay.store import Database, submissions
from tests.support.deployment import environment
from tests.support.maker import making, never
from tests.support.parties import until
from tests.support.processes import serve

pytestmark = pytest.mark.anyio

PATH = "/v1/video/create"
GRACE = 6.0


@pytest.mark.parametrize("command", ["serve", "web"])
async def test_creates_are_drained_within_the_grace_time_and_the_rest_is_unknown(
    database_url: str, tmp_path: Path, command: str
) -> None:
    async with making() as maker:
        go_on = asyncio.Event()

        async def first_slow_then_never(number: int) -> Response:
            if number > 1:
                return await never(number)
            await go_on.wait()
            return await maker.good(number)

        maker.answer = first_slow_then_never
        environ = environment(database_url, UNIFIED_VIDEO_BASE_URL=maker.url, RELAY_GRACE=f"{GRACE:.0f}s")
        async with serve(environ, tmp_path, command) as relay:
            await relay.ready()

            async def create(order: str) -> tuple[int, str, str | None]:
                answer = await relay.http.post(PATH, json={"order": order}, headers={"Idempotency-Key": order})
                return answer.status_code, answer.json().get("code", answer.json().get("id")), answer.headers.get(
                    "x-should-retry"
                )  # fmt: skip

            asked = []
            for number, order in enumerate(("slow", "never")):
                asked.append(asyncio.create_task(create(order)))

                async def made(number: int = number) -> bool:
                    return len(maker.made) > number

                await until(made)
            told = time.monotonic()
            stopping = asyncio.create_task(relay.stop())

            async def stops() -> bool:
                return "stopping" in relay.log.read_text()

            await until(stops)
            assert (await create("late"))[0] == 503, "nothing more is sent"
            go_on.set()
            assert await asked[0] == (200, "task_1", None)
            assert await asked[1] == (504, "submission_unknown", "false")
            assert await stopping == 0, relay.log.read_text()
            assert time.monotonic() - told < GRACE + 2
    db = Database(database_url)
    with db.engine.connect() as tx:
        rows = tx.execute(submissions.submissions.select().order_by(submissions.submissions.c.id)).all()
    db.close()
    assert [(row.state, row.task_id, row.process) for row in rows] == [
        ("created", "task_1", None),
        ("unknown", None, None),
    ]
    assert len(maker.made) == 2
