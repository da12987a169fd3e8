"""The demo: relay doing its main job from end to end, on this machine alone.

The server, SQLite, polling, signatures, retries and slack_sdk are the real ones. Simulated are the three parties around
relay: the upstream by the sandbox, the receiver by a small server that verifies every signature, and Slack.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from starlette.requests import Request

from relay.channels.slack.setup import SCOPES
from relay.cli.client import ApiClient
from relay.cli.common import command_name
from relay.cli.embedded import embedded
from relay.security import signing
from relay.settings.sources import load
from relay.simulators.receiver import Received, create_receiver
from relay.simulators.slack import Conversation, SimulatedSlack, WorkspaceOptions, render_text
from relay.simulators.upstream import create_app
from relay.telemetry import logs
from relay.web.server import listen, serving

MAX_DURATION = 28.0
"""Seconds after which an event that has not arrived counts as missing."""

BOT_TOKEN = "xoxb-demo"  # noqa: S105 - of the simulated Slack
HOOK = "T0DEMO/B0DEMO/secret"
CHANNEL = "C0RENDERS"

UNFINISHED = ("Video under way", "Waiting")
"""The first words of a Slack message whose task has not ended."""

SLACK_MESSAGES = {None: 0, "webhook": 1, "channel": 2}
"""How many messages a task leaves in Slack. In a channel, the living message has a reply in its thread at the end."""


@dataclass(frozen=True)
class DemoTask:
    """A task of the demo.

    Attributes:
        about: what the task shows.
        event: the type of event that must arrive.
        slack: the kind of Slack target, if it has one.
        refusals: how often its receiver answers 503 before it takes the event.
        submitted: it is not registered: relay passes its create call on, and learns its id from the answer.
    """

    task_id: str
    about: str
    event: str
    slack: str | None = None
    refusals: int = 0
    submitted: bool = False


TASKS = (
    DemoTask("sandbox:complete-in-3s#cat", "a render that succeeds", "task.completed", slack="channel"),
    DemoTask("sandbox:moderated-in-2s#dog", "one that the upstream refuses", "task.failed", slack="webhook"),
    DemoTask("sandbox:complete-in-9s#fox", "a slow one", "task.completed", slack="channel"),
    DemoTask("sandbox:complete-in-1s#owl", "its receiver is down at first", "task.completed", refusals=2),
    DemoTask("sandbox:rate-limited-until-2s#bee", "the upstream says 429 for a while", "task.completed"),
    DemoTask("sandbox:complete-in-2s", "made by a call through relay", "task.completed", submitted=True),
)


@dataclass
class Demo:
    """The running parts of the demo, and what has arrived so far.

    Attributes:
        submitted: the ids that the upstream gave to the tasks whose create calls went through relay.
        requests: how many requests each path of the receiver got, refused ones included.
    """

    url: str
    upstream_url: str
    receiver_url: str
    slack: SimulatedSlack
    api: ApiClient
    submitted: dict[str, str] = field(default_factory=dict)
    received: list[Received] = field(default_factory=list)
    requests: Counter[str] = field(default_factory=Counter)

    def id_of(self, task: DemoTask) -> str:
        """Return the id of a task at the upstream."""
        return self.submitted.get(task.task_id, task.task_id)

    def missing(self) -> list[str]:
        """Describe what must still arrive."""
        arrived = {(received.task_id, received.event.get("type")) for received in self.received}
        missing = [f"{task.event} of {task.task_id}" for task in TASKS if (self.id_of(task), task.event) not in arrived]
        messages = self.slack.messages(CHANNEL)
        expected = sum(SLACK_MESSAGES[task.slack] for task in TASKS)
        missing += ["a Slack message"] * (expected - len(messages))
        missing += ["the end in a Slack message" for message in messages if message["text"].startswith(UNFINISHED)]
        return missing

    def wrong(self) -> list[str]:
        """Describe what arrived and should not have: an event that is not verified, or one under two ids."""
        wrong = [f"{received.message_id}: {received.problem}" for received in self.received if not received.verified]
        ids = {(received.task_id, received.message_id) for received in self.received}
        return wrong + (["an event came under two ids"] if len(ids) > len(TASKS) else [])


async def run_demo(console: Console, *, keep: bool) -> bool:
    """Run the demo and return whether every event arrived, once and verified.

    Args:
        keep: stay up afterwards until interrupted.
    """
    logs.set_up("error", "text")
    async with _start() as demo:
        console.print(
            "relay watches tasks on an API that has no webhooks, and reports their end. "
            f"Here it watches {len(TASKS)} tasks of a sandbox:\n"
        )
        await _register(demo)
        complete = await _watch(demo, console)
        _print_channel(demo, console)
        if not complete:
            for missing in demo.missing():
                console.print(f"MISSING: {missing}", style="bold red")
            for wrong in demo.wrong():
                console.print(f"WRONG: {wrong}", style="bold red")
            return False
        console.print(f"All {len(TASKS)} events arrived, each signature verified, each Slack message posted.")
        if not keep:
            console.print(f"This run's dashboard was at {demo.url}/. To look at it, run: {command_name()} demo --keep")
        console.print(f"Next, a relay of your own, with commands to paste: {command_name()} dev", style="bold")
        if keep:
            console.print(f"\ndashboard  {demo.url}/\nAPI        {demo.url}/docs\nSlack      {demo.slack.url}/")
            console.print(f"upstream   {demo.upstream_url}")
            console.print(f"receiver   {demo.receiver_url}\nAPI key    {demo.api.key}", soft_wrap=True)
            console.print("Ctrl+C ends it.")
            await asyncio.Event().wait()
        return True


@contextlib.asynccontextmanager
async def _start() -> AsyncIterator[Demo]:
    """Start relay, the upstream, the receiver and Slack, each on a loopback port of its own."""
    key = f"rly_{secrets.token_urlsafe(32)}"
    signing_secret = signing.new_secret()
    sockets = {name: listen("127.0.0.1", 0) for name in ("relay", "upstream", "receiver", "slack")}
    urls = {name: f"http://127.0.0.1:{listener.getsockname()[1]}" for name, listener in sockets.items()}
    slack = SimulatedSlack(
        WorkspaceOptions(
            channels=[Conversation(CHANNEL, "renders")],
            tokens={BOT_TOKEN: SCOPES},
            hooks={HOOK: CHANNEL},
            url=urls["slack"],
        )
    )
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-demo-"))
        environ = _environ(urls, key, signing_secret) | {"DATABASE_URL": f"sqlite:///{Path(folder) / 'relay.db'}"}
        api = await stack.enter_async_context(ApiClient(urls["relay"], key))
        demo = Demo(urls["relay"], urls["upstream"], urls["receiver"], slack, api)
        receiver = create_receiver(signing_secret, demo.received.append, lambda request: _refusal(demo, request))
        await stack.enter_async_context(serving(create_app(), sockets["upstream"]))
        await stack.enter_async_context(serving(receiver, sockets["receiver"]))
        await stack.enter_async_context(serving(slack.app, sockets["slack"]))
        await stack.enter_async_context(embedded(load(environ), environ, sockets["relay"]))
        yield demo


def _environ(urls: Mapping[str, str], key: str, signing_secret: str) -> dict[str, str]:
    """Return relay's configuration for the demo, except the database."""
    return {
        "RELAY_BASE_URL": urls["relay"],
        "RELAY_API_KEY": key,
        "RELAY_SIGNING_SECRET": signing_secret,
        "RELAY_ALLOWED_NETWORKS": "127.0.0.0/8",
        "RELAY_POLL_INTERVAL": "0.5-1",
        "RELAY_RETRY_SCHEDULE": "0s,1s,2s,3s,5s",
        "SLACK_BOT_TOKEN": BOT_TOKEN,
        "SLACK_API_URL": f"{urls['slack']}/api/",
        "SLACK_HOOK_HOSTS": "127.0.0.1",
        "SLACK_SIGNING_SECRET": secrets.token_hex(16),
        "UNIFIED_VIDEO_BASE_URL": urls["upstream"],
        "UNIFIED_VIDEO_API_KEY": "sk-demo",
    }


def _refusal(demo: Demo, request: Request) -> int | None:
    """Refuse with 503 as often as the path says, to simulate a receiver that is down at first."""
    demo.requests[request.url.path] += 1
    refusals = int(request.query_params.get("refuse", 0))
    return 503 if demo.requests[request.url.path] <= refusals else None


async def _register(demo: Demo) -> None:
    for number, task in enumerate(TASKS):
        hook = f"{demo.receiver_url}/hooks/{number}?refuse={task.refusals}"
        if task.submitted:
            await _submit(demo, task, hook)
            continue
        targets: list[dict[str, Any]] = [{"type": "webhook", "url": hook}]
        if task.slack == "channel":
            targets.append({"type": "slack", "channel": "#renders"})
        elif task.slack == "webhook":
            targets.append({"type": "slack", "webhook_url": f"{demo.slack.url}/services/{HOOK}"})
        await demo.api.register({"task_id": task.task_id, "targets": targets, "metadata": {"story": task.about}})


async def _submit(demo: Demo, task: DemoTask, hook: str) -> None:
    """Have the upstream make a task by a call through relay, as a program does whose base URL is relay's."""
    wanted = {"model": "sora-2", "prompt": task.about, "sandbox": task.task_id.removeprefix("sandbox:")}
    headers = [("Content-Type", "application/json"), ("Relay-Webhook", hook), ("Idempotency-Key", "demo")]
    answer = await demo.api.submit("/v1/video/create", orjson.dumps(wanted), headers)
    demo.submitted[task.task_id] = answer.raise_for_status().json()["id"]


async def _watch(demo: Demo, console: Console) -> bool:
    """Show what happens until everything has arrived, something is wrong, or the time is over."""
    deadline = time.monotonic() + MAX_DURATION
    printed = 0
    slack_log = _SlackLog(demo.slack)
    with Live(console=console, refresh_per_second=10, transient=True) as live:
        while True:
            watches = {watch["task_id"]: watch for watch in (await demo.api.list())["data"]}
            if console.is_terminal:
                live.update(_watch_table(demo, watches))
            for received in demo.received[printed:]:
                console.print(_event_line(demo, received))
                printed += 1
            for line in slack_log.new_lines():
                console.print(line)
            if not demo.missing() or demo.wrong() or time.monotonic() > deadline:
                return not demo.missing() and not demo.wrong()
            await asyncio.sleep(0.1)


class _SlackLog:
    """Reports the living messages in Slack as they are posted and edited."""

    def __init__(self, slack: SimulatedSlack) -> None:
        self._slack = slack
        self._last_texts: dict[str, str] = {}

    def new_lines(self) -> list[Text]:
        """Return a line for each message that was posted or edited since the last call."""
        lines = []
        for root in self._slack.channel(CHANNEL).timeline():
            if "metadata" not in root or self._last_texts.get(root["ts"]) == root["text"]:
                continue
            change = "edited" if root["ts"] in self._last_texts else "posted"
            self._last_texts[root["ts"]] = root["text"]
            task_id = root["metadata"]["event_payload"]["task_id"]
            first_line = root["text"].partition("\n")[0]
            title = (f"Slack message {change}  ", "bold")
            lines.append(Text.assemble(("# ", "bold magenta"), title, f"{task_id}  ({first_line})"))
        return lines


def _watch_table(demo: Demo, watches: dict[str, dict[str, Any]]) -> RenderableType:
    table = Table("task", "upstream says", "progress", "polls", "delivery", box=None, header_style="dim")
    for number, task in enumerate(TASKS):
        watch = watches[demo.id_of(task)]
        delivery = watch["targets"][0]["delivery"]
        refused = min(demo.requests[f"/hooks/{number}"], task.refusals)
        table.add_row(
            Text(task.about, no_wrap=True),
            watch["upstream_status"] or (watch["error"] or {}).get("code", "…"),
            ProgressBar(total=1.0, completed=watch["progress"] or 0.0, width=20),
            str(watch["polls"]),
            delivery + (f" (refused {refused}×)" if refused and delivery == "pending" else ""),
        )
    return Group(Text(), table)


def _event_line(demo: Demo, received: Received) -> Text:
    mark = Text("✓ ", style="bold green") if received.verified else Text("✗ ", style="bold red")
    verdict = "signature verified" if received.verified else str(received.problem)
    attempts = demo.requests[received.path]
    note = f", attempt {attempts}" if attempts > 1 else ""
    title = (f"{received.event.get('type')}  ", "bold")
    line = Text.assemble(mark, title, received.task_id, f"  ({verdict}{note})")
    data = received.event.get("data", {})
    outcome = (data.get("error") or {}).get("message") or (data.get("result") or {}).get("url")
    if outcome:
        line.append(f"\n    {_cut(outcome, 72)}", style="dim")
    return line


def _print_channel(demo: Demo, console: Console) -> None:
    """Print the Slack channel as a person would see it."""
    console.print("\nAnd in Slack, in #renders:\n")
    width = min(console.width, 88)
    channel = demo.slack.channel(CHANNEL)
    for root in channel.timeline():
        for message in (root, *channel.replies(root)):
            indent = "" if message is root else "    "  # in its thread
            for line in render_text(message, width=width - len(indent)).splitlines():
                console.print(_cut(indent + line, width), markup=False)
        console.print()


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
