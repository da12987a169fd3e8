"""Erased means erased, in a real process: the database's files, their modes, and the messages in Slack."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from tests.support import parties
from tests.support.deployment import environment
from tests.support.parties import until
from tests.support.processes import Serve, serve
from tests.support.workspace import RENDERS, variables, workspace

pytestmark = pytest.mark.anyio

MARK = "MARKED-7f3a"


def marks(folder: Path) -> dict[str, int]:
    """How often each file of the database holds the mark."""
    files = [file for file in folder.iterdir() if file.name.startswith("relay.")]
    return {file.name: count for file in files if (count := file.read_bytes().count(MARK.encode()))}


def modes(folder: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.glob("relay.*")}


async def state_of(process: Serve, watch_id: str) -> list[str]:
    watch = (await process.http.get(f"/v1/watches/{watch_id}")).json()
    return [watch["state"], *(target["delivery"] for target in watch["targets"])]


async def test_after_the_answer_nothing_of_it_is_in_any_file_or_message(
    upstream: parties.Upstream, receiver: parties.Receiver, tmp_path: Path
) -> None:
    upstream.default = parties.done(f"https://cdn.example/{MARK}.mp4")
    receiver.scripts["/hook"] = parties.Answer(f"thank you for {MARK}".encode())
    async with workspace(limits=None) as slack:
        environ = environment(
            f"sqlite:///{tmp_path / 'relay.db'}", UNIFIED_VIDEO_BASE_URL=upstream.url, **variables(slack)
        )
        del environ["RELAY_SECRET_KEY"]
        async with serve(environ, tmp_path) as process:
            await process.ready()
            targets: list[dict[str, Any]] = [
                {"type": "webhook", "url": f"{receiver.url}/hook", "headers": {"X-Mark": MARK}},
                {"type": "slack", "channel": "#renders"},
            ]
            body = {"task_id": f"{MARK}-task", "targets": targets, "metadata": {"of": MARK}}
            watch = (await process.http.post("/v1/watches", json=body)).json()

            async def told() -> bool:
                return await state_of(process, watch["id"]) == ["completed", "delivered", "delivered"]

            await until(told)
            assert sum(marks(tmp_path).values()) > 5
            assert str(slack.channel(RENDERS).messages).count(MARK) > 3
            assert modes(tmp_path) == dict.fromkeys(("relay.db", "relay.db-wal", "relay.db-shm", "relay.key"), 0o600)

            erased = await process.http.delete(f"/v1/watches/{watch['id']}?erase=true")
            assert erased.status_code == 204
            assert marks(tmp_path) == {}

            async def blanked() -> bool:
                return MARK not in str(slack.channel(RENDERS).messages)

            await until(blanked)
            assert await process.stop() == 0
        assert marks(tmp_path) == {}
