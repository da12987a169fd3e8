"""`relay submit`: a create from the command line, through a real relay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from relay.cli import cli
from relay.telemetry import logs
from tests.support.deployment import API_KEY, Deployment, deployment, environment
from tests.support.maker import Maker, always, making
from tests.support.parties import Receiver

pytestmark = pytest.mark.anyio

BODY = b'{ "model": "m",  "prompt": "a cat" }'


@pytest.fixture
async def maker() -> AsyncIterator[Maker]:
    async with making() as party:
        yield party


@pytest.fixture
async def relay(tmp_path: Path, maker: Maker) -> AsyncIterator[Deployment]:
    logs.set_up("error", "text")  # the log of this process would stand among what a command prints
    environ = environment(f"sqlite:///{tmp_path / 'relay.db'}", UNIFIED_VIDEO_BASE_URL=maker.url)
    async with deployment(environ) as running:
        yield running


async def submit(relay: Deployment, *words: str, stdin: bytes = b"") -> tuple[int, str]:
    """`relay submit WORDS`; its exit code and what it printed."""
    environ = {"RELAY_URL": relay.url, "RELAY_API_KEY": API_KEY}
    result = await asyncio.to_thread(CliRunner().invoke, cli, ("submit", *words), env=environ, input=stdin)
    if result.exception and not isinstance(result.exception, SystemExit):
        return 1, str(result.exception)
    return result.exit_code, result.output


async def test_a_create_from_a_file_is_answered_watched_and_told(
    relay: Deployment, maker: Maker, receiver: Receiver, tmp_path: Path
) -> None:
    maker.found = lambda task_id: {"id": task_id, "status": "completed", "video_url": "https://c.example/v.mp4"}
    file = tmp_path / "task.json"
    file.write_bytes(BODY)
    words = (str(file), "--webhook", f"{receiver.url}/hook", "--idempotency-key", "order-42", "--follow")
    code, printed = await submit(relay, *words)
    (watch,) = (await relay.http.get("/v1/watches")).json()["data"]
    assert code == 0, printed
    assert '"id": "task_1"' in printed
    assert f"watched as {watch['id']}" in printed
    assert "completed: https://c.example/v.mp4" in printed
    await receiver.wait_for(1, "/hook")
    assert (await submit(relay, *words))[0] == 0
    assert [made.body for made in maker.made] == [BODY], "the same key is the same create"


async def test_of_standard_input_another_provider_and_another_path(relay: Deployment, maker: Maker) -> None:
    maker.answer = always({"id": "other"})
    code, printed = await submit(relay, "-", "--provider", "unified-video", "--path", "/v1/videos", stdin=BODY)
    assert (code, '"id": "other"' in printed) == (0, True)
    assert [(made.target, made.body) for made in maker.made] == [("/v1/videos", BODY)]
    task = b'{"model": "m", "prompt": "p", "sandbox": "fail-in-0s"}'
    code, printed = await submit(relay, "-", "--provider", "sandbox", "--follow", stdin=task)
    assert (code, "failed" in printed) == (1, True)


async def test_what_goes_wrong_is_one_line_and_a_code(relay: Deployment, maker: Maker) -> None:
    maker.answer = always({"error": {"message": "no credit left"}}, 402)
    code, printed = await submit(relay, "-", stdin=BODY)
    assert (code, "no credit left" in printed, "watched" in printed) == (1, True, False)
    maker.answer = always({"error": "oh"}, 500)
    assert (await submit(relay, "-", "--idempotency-key", "k", stdin=BODY))[0] == 1
    code, printed = await submit(relay, "-", "--idempotency-key", "k", stdin=BODY)
    assert (code, "nobody knows whether the upstream took it" in printed) == (1, True)
    assert len(maker.made) == 2
    for words, wanted in (
        (("-", "--provider", "unified-video", "--path", "/v1/models"), (1, "declares no call")),
        (("-", "--webhook", "http://10.0.0.1/"), (1, "Relay-Webhook")),
        (("no-such-file.json",), (2, "no-such-file.json")),
        (("-", "--path", "v1"), (2, "--path")),
        (("-", "--idempotency-key", "a\nb"), (2, "no header can carry")),
    ):
        code, printed = await submit(relay, *words, stdin=BODY)
        assert (code, wanted[1] in " ".join(printed.split())) == (wanted[0], True), printed
        assert "Traceback" not in printed
    assert len(maker.made) == 2
