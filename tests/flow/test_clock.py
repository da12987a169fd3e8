"""A machine whose clock is wrong, as real processes see it: libfaketime moves the clock of one of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import parties
from tests.support.deployment import SECRET, environment
from tests.support.parties import until
from tests.support.processes import CONFIG, Serve, serve

DAYS = 2 * 86_400
LIBRARY = next((str(file) for file in Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), "")

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not (LIBRARY and shutil.which("faketime")), reason="needs faketime"),
]


class FakeClock:
    """The clock of one process: ahead of the real one by as many seconds as its file says."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.set(0)

    def set(self, seconds: int) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(f"{seconds:+d}")
        new.replace(self.file)

    @property
    def environ(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": LIBRARY,
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


async def until_readyz(process: Serve, status: int) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while True:
            assert process.process.returncode is None, process.log.read_text()
            with contextlib.suppress(httpx.ConnectError):
                answer = await process.http.get("/readyz")
                if answer.status_code == status:
                    return dict(answer.json())
            await asyncio.sleep(0.05)


async def register(process: Serve, task_id: str, receiver: parties.Receiver) -> dict[str, Any]:
    target = {"type": "webhook", "url": f"{receiver.url}/{task_id}"}
    answer = await process.http.post("/v1/watches", json={"task_id": task_id, "targets": [target]})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def checked(environ: dict[str, str], folder: Path) -> str:
    """What `relay check` says."""
    command = (sys.executable, "-m", "relay", "check")
    env = {"PATH": os.environ["PATH"], "RELAY_CONFIG": CONFIG, **environ}
    check = await asyncio.create_subprocess_exec(*command, env=env, cwd=folder, stdout=asyncio.subprocess.PIPE)
    said, _ = await check.communicate()
    return said.decode()


@pytest.mark.parametrize("seconds", [DAYS, -DAYS])
async def test_a_process_that_starts_with_a_wrong_clock_claims_nothing_until_it_is_right(
    seconds: int, migrated_postgres_url: str, upstream: parties.Upstream, receiver: parties.Receiver, tmp_path: Path
) -> None:
    upstream.scripts["task"] = [parties.says("pending"), parties.done()]
    clock = FakeClock(tmp_path / "at")
    clock.set(seconds)
    plain = environment(migrated_postgres_url, UNIFIED_VIDEO_BASE_URL=upstream.url)
    async with serve({**plain, **clock.environ}, tmp_path) as wrong:
        (reason,) = (await until_readyz(wrong, 503))["reasons"]
        assert ("ahead of" if seconds > 0 else "behind") in reason
        assert wrong.log.read_text().count("claims nothing until it is right") == 1
        watch = await register(wrong, "task", receiver)
        assert abs(datetime.fromisoformat(watch["created_at"]).timestamp() - time.time()) < 60, (
            "by the database's clock"
        )
        await until(lambda: off_is_found(plain, tmp_path))
        assert upstream.asked == {}
        clock.set(0)
        await until_readyz(wrong, 200)
        (post,) = await receiver.wait_for(1)
        assert post.event["type"] == "task.completed"
        receiver.verify(SECRET)


async def off_is_found(environ: dict[str, str], folder: Path) -> bool:
    return "s off the database's" in await checked(environ, folder)


async def test_what_is_under_way_when_the_clock_jumps_ends_by_the_right_time(
    migrated_postgres_url: str, upstream: parties.Upstream, receiver: parties.Receiver, tmp_path: Path
) -> None:
    """A query and an attempt: the task does not expire, and the retry is not put off by days."""
    upstream.scripts["asked"] = [parties.Answer(parties.says("pending").body, after=3), parties.done()]
    upstream.scripts["told"] = parties.done()
    receiver.scripts["/told"] = [parties.Answer(status=500, after=3), parties.Answer()]
    clock = FakeClock(tmp_path / "at")
    environ = {**environment(migrated_postgres_url, UNIFIED_VIDEO_BASE_URL=upstream.url), **clock.environ}
    async with serve(environ, tmp_path) as process:
        await process.ready()
        await register(process, "told", receiver)
        await receiver.wait_for(1, "/told")
        asked = await register(process, "asked", receiver)
        await until(lambda: was_asked(upstream, "asked"))
        clock.set(DAYS)
        await until_readyz(process, 503)
        await until(lambda: is_idle(upstream))
        await until(lambda: is_counted(process, asked["id"]))
        watch = (await process.http.get(f"/v1/watches/{asked['id']}")).json()
        assert watch["state"] == "watching"
        clock.set(0)
        await until_readyz(process, 200)
        assert (await receiver.wait_for(1, "/asked"))[0].event["type"] == "task.completed"
        assert len(await receiver.wait_for(2, "/told")) == 2


async def was_asked(upstream: parties.Upstream, task_id: str) -> bool:
    return bool(upstream.asked[task_id])


async def is_idle(upstream: parties.Upstream) -> bool:
    return upstream.in_flight == 0


async def is_counted(process: Serve, watch_id: str) -> bool:
    """Whether the query that was under way is saved."""
    return bool((await process.http.get(f"/v1/watches/{watch_id}")).json()["last_poll_at"])
