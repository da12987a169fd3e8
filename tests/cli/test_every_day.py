"""The commands of every day, through the HTTP API of a real relay: register, follow, list, send again."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from relay.cli import cli
from relay.telemetry import logs
from tests.support.deployment import API_KEY, Deployment, deployment, environment
from tests.support.parties import Answer, Receiver, until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[Deployment]:
    logs.set_up("error", "text")  # the log of this process would stand among what a command prints
    async with deployment(environment(f"sqlite:///{tmp_path / 'relay.db'}")) as running:
        yield running


async def run(relay: Deployment, *words: str) -> tuple[int, str]:
    """`relay WORDS`; its exit code and what it printed."""
    environ = {"RELAY_URL": relay.url, "RELAY_API_KEY": API_KEY, "RELAY_SIGNING_SECRET": ""}
    result = await asyncio.to_thread(CliRunner().invoke, cli, words, env=environ)
    if result.exception and not isinstance(result.exception, SystemExit):
        return 1, str(result.exception)
    return result.exit_code, result.output


async def test_what_is_given_up_is_listed_and_sent_again(relay: Deployment, receiver: Receiver) -> None:
    receiver.scripts["/down"] = [Answer(status=410), Answer()]
    hook = f"{receiver.url}/down"
    sandbox = ("--provider", "sandbox", "--webhook", hook)
    extra = ("--metadata", '{"order": "42"}', "--expires-in", "2h", "--events", "task.completed")
    code, printed = await run(relay, "watch", "sandbox:complete-in-0s#a", *sandbox, *extra, "--follow")
    assert code == 1, "the task completed, and its target was not notified"
    assert re.search(r"^dead: http://127\.0\.0\.1.*\ncompleted: https://.*\n\Z", printed, re.MULTILINE)

    code, printed = await run(relay, "deliveries", "--dead", "--json")
    (dead,) = json.loads(printed)
    assert (code, dead["state"], dead["host"]) == (0, "dead", re.sub("^http://", "", receiver.url))
    code, printed = await run(relay, "deliveries", "--state", "dead")
    assert re.search(rf"{dead['id']} .*dead .*task\.completed .*410", printed)

    code, printed = await run(relay, "retry", dead["id"])
    assert (code, printed) == (0, f"task.completed is sent to {dead['host']} again.\n")

    async def delivered() -> Any:
        return json.loads((await run(relay, "deliveries", "--state", "delivered", "--json"))[1])

    assert (await until(delivered))[0]["id"] == dead["id"]
    assert receiver.posts[-1].event["data"]["metadata"] == {"order": "42"}
    assert await run(relay, "retry", "--dead") == (0, "0 deliveries are sent again.\n")
    assert await run(relay, "deliveries", "--dead") == (0, "There are no such deliveries.\n")


async def test_watches_are_listed_over_several_pages(relay: Deployment, receiver: Receiver) -> None:
    wanted = [
        {"task_id": f"sandbox:never#{n}", "provider": "sandbox", "targets": [{"type": "webhook", "url": receiver.url}]}
        for n in range(203)
    ]
    await relay.http.post("/v1/watches/batch", json={"watches": wanted})
    _, printed = await run(relay, "watches", "--limit", "202", "--json")
    assert len({watch["id"] for watch in json.loads(printed)}) == 202
    _, printed = await run(relay, "watches", "--task-id", "sandbox:never#7")
    assert re.search(r"\n *wch_\w+ +watching .*sandbox:never#7 +sandbox +0 of 1 *\n\Z", printed)
    assert await run(relay, "watches", "--state", "lost") == (0, "There are no such watches.\n")


async def test_what_is_wrong_is_said_in_the_words_of_the_command_line(relay: Deployment, receiver: Receiver) -> None:
    given = ("watch", "x", "--provider", "sandbox", "--webhook", receiver.url)
    for words, code, expected in (
        ((*given, "--events", "task.done"), 1, r"^--events: "),
        ((*given, "--expires-in", "31d"), 1, r"^--expires-in: must be at most"),
        ((*given, "--expires-in", "soon"), 2, "--expires-in: must be a number of seconds"),
        ((*given, "--metadata", "[1]"), 2, "--metadata: must be an object"),
        ((*given, "--metadata", "{"), 2, "--metadata: is not JSON"),
        ((*given, "--metadata", '{"a": NaN}'), 1, "this cannot be sent: "),
        (("watch", "\udcff", *given[2:]), 1, "this cannot be sent: "),
        (("watches", "--task-id", "\udcff"), 1, "this cannot be sent: "),
        (("retry",), 2, "give the ID of a delivery, or --dead"),
        (("retry", "../watches"), 2, "ID must be like dlv_"),
        (("retry", "dlv_x"), 1, "there is no delivery"),
        (("retry", "dlv_x", "--host", "h"), 2, "go with --dead"),
        (("retry", "--dead", "--since", "monday"), 1, "^--since: must be a time"),
        (("deliveries", "--dead", "--state", "held"), 2, "not both"),
        (("watches", "--limit", "0"), 2, "--limit"),
    ):
        assert (found := await run(relay, *words))[0] == code, (words, found)
        assert re.search(expected, " ".join(found[1].split())), (words, found)
