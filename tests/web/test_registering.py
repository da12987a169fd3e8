"""What a registration causes beside its rows: lines of the log, and wake-ups of the loops that have something to do."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from relay.store.notifications import DELIVER, POLL, Wake
from tests.support.deployment import Deployment, deployment, environment
from tests.support.parties import Upstream, done

pytestmark = pytest.mark.anyio

HOOK = "https://app.example/hook"


async def wakes_of(api: Deployment, task_id: str, *hooks: str) -> tuple[list[str], dict[str, Any]]:
    """Register a task; return the loops that this wakes, and the watch."""
    woken: list[str] = []
    before = api.relay.context.actions.wake
    api.relay.context.actions.wake = Wake(lambda name, _: woken.append(name))
    watch = await api.register(task_id, *hooks)
    api.relay.context.actions.wake = before
    return woken, watch


async def test_only_loops_with_something_to_do_are_woken(relay: Deployment, upstream: Upstream, name: str) -> None:
    upstream.scripts[name] = lambda _: done()
    woken, watch = await wakes_of(relay, name, HOOK)
    assert woken == [POLL]
    async with asyncio.timeout(60):
        while (await relay.watch(watch["id"]))["state"] == "watching":
            await asyncio.sleep(0.05)
    woken, _ = await wakes_of(relay, name, f"{HOOK}/another")
    assert woken == [POLL, DELIVER], "a target that comes late is told at once"


async def test_the_log_names_each_new_watch_once(tmp_path: Path) -> None:
    environ = environment(f"sqlite:///{tmp_path / 'relay.db'}", UNIFIED_VIDEO_BASE_URL="http://127.0.0.1:9")
    async with deployment(environ, working=False) as api:
        with capture_logs([merge_contextvars]) as lines:
            alone = await api.register("alone", HOOK)
            many = await asyncio.gather(*(api.register(f"task-{number}", HOOK) for number in range(50)))
            await api.register("alone", f"{HOOK}/another")
    first, *others = (line for line in lines if line["event"] == "registered")
    assert (first["watch_id"], first["task_id"], len(first["request_id"])) == (alone["id"], "alone", 32)
    named = [watch_id for line in others for watch_id in line.get("watch_ids", line.get("watch_id", "")).split()]
    assert sorted(named) == sorted(watch["id"] for watch in many), "each once, and one that was there not again"
    assert len(others) < len(many), "some shared a commit, and a line"
    for line in others:
        if "watches" in line:
            requests = line["request_ids"].split()
            assert len(set(requests)) == len(line["watch_ids"].split()) == line["watches"]
            assert "request_id" not in line, "it is the line of many requests"
