"""A deploy and a way back, under load: nothing is lost, nothing comes twice, and both releases do their part."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from tests.releases.release import Release
from tests.releases.traffic import Traffic
from tests.support.deployment import environment
from tests.support.parties import Receiver, Upstream, until
from tests.support.processes import Serve

pytestmark = [pytest.mark.anyio, pytest.mark.long, pytest.mark.timeout(300)]

TROUBLE = r"Traceback|\[(?:error|critical) *\]|\"level\": ?\"(?:error|critical)\""
"""What a log has where something is wrong."""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database that no release has migrated."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'relay.db'}"
    return str(request.getfixturevalue("postgres_url"))


async def figure(process: Serve, name: str) -> float:
    """Return a counter of a process, all its labels together."""
    text = (await process.http.get("/metrics")).text
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if re.match(rf"{name}[ {{]", line))


async def has_worked(process: Serve, traffic: Traffic, more: float = 20) -> None:
    """Wait until a process has asked and told so many times more than now, while none of them refuses anything."""
    polls, attempts = await figure(process, "relay_polls_total"), await figure(process, "relay_attempts_total")

    async def both() -> bool:
        assert traffic.failed == []
        asked = await figure(process, "relay_polls_total") - polls
        return asked >= more and await figure(process, "relay_attempts_total") - attempts >= more

    await until(both)


async def test_a_deploy_and_the_way_back_lose_nothing(
    url: str, before: Release, this: Release, upstream: Upstream, receiver: Receiver, tmp_path: Path
) -> None:
    variables = environment(url, UNIFIED_VIDEO_BASE_URL=upstream.url, RELAY_POLL_INTERVAL="0.3")
    traffic = Traffic(upstream, receiver)
    logs = []

    async def migrated(by: Release) -> None:
        code, said = await by.run(variables, tmp_path, "migrate")
        assert code == 0, said

    await migrated(before)
    async with before.serve(variables, tmp_path) as old:
        logs.append(old.log)
        await old.ready()
        traffic.processes = [old]
        load = asyncio.create_task(traffic.go_on())
        await has_worked(old, traffic)
        await migrated(this)
        await has_worked(old, traffic)
        async with this.serve(variables, tmp_path) as new:
            logs.append(new.log)
            await new.ready()
            traffic.processes = [old, new]
            await asyncio.gather(has_worked(old, traffic), has_worked(new, traffic))
            traffic.processes = [new]
            assert await old.stop() == 0
            await has_worked(new, traffic)
            # The way back: the schema stays as it is.
            await migrated(before)
            async with before.serve(variables, tmp_path) as again:
                logs.append(again.log)
                await again.ready()
                traffic.processes = [new, again]
                await asyncio.gather(has_worked(new, traffic), has_worked(again, traffic))
                traffic.processes = [again]
                assert await new.stop() == 0
                await has_worked(again, traffic)
                load.cancel()
                await load
                await traffic.all_told()
                await asyncio.sleep(0.5)  # what comes twice would come now
                assert await again.stop() == 0
    assert len(traffic.promised) > 100
    assert traffic.judgement() == []
    for release in (before, this):
        code, said = await release.run(variables, tmp_path, "check")
        assert code == 0, said
    assert [line for log in logs for line in log.read_text().splitlines() if re.search(TROUBLE, line)] == []
