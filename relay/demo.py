"""The shop window: relay doing its main job from end to end, on this machine alone.

Everything is the real thing (server, SQLite, polling, signatures, retries, slack_sdk); only the three parties around
relay are played: the upstream by the sandbox, the receiver by a small server that verifies every signature, Slack by
the stand-in.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from starlette.requests import Request

from relay import logs, signing
from relay.app import Relay
from relay.follow import Api
from relay.receiver import Received, receiver
from relay.sandbox import create_app
from relay.settings import load
from relay.slack_setup import SCOPES
from relay.standin import Channel, Slack, render_text
from relay.web import site
from relay.web.server import listen, serving

PATIENCE = 28.0
"""Seconds after which what has not arrived counts as missing."""

BOT_TOKEN = "xoxb-demo"  # noqa: S105 - of the stand-in
HOOK = "T0DEMO/B0DEMO/secret"
CHANNEL = "C0RENDERS"
LIVING = ("Rendering", "Waiting")
"""How the text of a message begins whose task goes on."""


@dataclass(frozen=True)
class Story:
    """One task of the demo: what it does, who is told, and what they must hear.

    Attributes:
        refusals: how often its receiver answers 503 before it takes the event.
    """

    task_id: str
    about: str
    event: str
    slack: str | None = None
    refusals: int = 0


STORIES = (
    Story("sandbox:complete-in-3s#cat", "a render that succeeds", "task.completed", slack="channel"),
    Story("sandbox:moderated-in-2s#dog", "one that the upstream refuses", "task.failed", slack="webhook"),
    Story("sandbox:complete-in-9s#fox", "a slow one", "task.completed", slack="channel"),
    Story("sandbox:complete-in-1s#owl", "its receiver is down at first", "task.completed", refusals=2),
    Story("sandbox:rate-limited-until-2s#bee", "the upstream says 429 for a while", "task.completed"),
)


@dataclass
class Scene:
    """Everything that is up during the demo, and what has arrived so far."""

    url: str
    upstream_url: str
    receiver_url: str
    slack: Slack
    api: Api
    received: list[Received] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)

    def missing(self) -> list[str]:
        """What must still arrive, in words."""
        told = {(one.event.get("data", {}).get("task_id"), one.event.get("type")) for one in self.received}
        missing = [f"{story.event} of {story.task_id}" for story in STORIES if (story.task_id, story.event) not in told]
        messages = self.slack.messages(CHANNEL)
        # A message that lives has a reply in its thread at the end.
        wanted = sum({None: 0, "webhook": 1, "channel": 2}[story.slack] for story in STORIES)
        unfinished = sum(one["text"].startswith(LIVING) for one in messages)
        return missing + ["a Slack message"] * max(0, wanted - len(messages)) + ["the end of one"] * unfinished

    def wrong(self) -> list[str]:
        """What arrived and should not have: unverified, or twice under two ids."""
        wrong = [f"{one.message_id}: {one.why_not}" for one in self.received if not one.verified]
        ids = {(one.event.get("data", {}).get("task_id"), one.message_id) for one in self.received}
        return wrong + (["an event came under two ids"] if len(ids) > len(STORIES) else [])


async def demo(console: Console, *, keep: bool) -> bool:
    """Plays the demo and says whether every event arrived, once and verified.

    Args:
        keep: stay up afterwards until interrupted.
    """
    logs.set_up("error", "text")
    async with _scene() as scene:
        console.print(
            "relay watches tasks on an API that has no webhooks, and tells their end. "
            f"Here it watches {len(STORIES)} tasks of a sandbox:\n"
        )
        await _register(scene)
        well = await _play(scene, console)
        _curtain(scene, console)
        if not well:
            for what in scene.missing():
                console.print(f"MISSING: {what}", style="bold red")
            for what in scene.wrong():
                console.print(f"WRONG: {what}", style="bold red")
            return False
        console.print(f"All {len(STORIES)} events arrived, each signature verified, each Slack message posted.")
        console.print(
            "Next: 'relay apps create NAME' for an API key, then point UNIFIED_VIDEO_BASE_URL and "
            "UNIFIED_VIDEO_API_KEY at your upstream and run 'relay serve'.",
            style="bold",
        )
        if keep:
            console.print(f"\ndashboard  {scene.url}/\nAPI        {scene.url}/docs\nSlack      {scene.slack.url}/")
            console.print(f"upstream   {scene.upstream_url}")
            console.print(
                f"receiver   {scene.receiver_url}\nAPI key    {scene.api.key}\nCtrl+C ends it.", soft_wrap=True
            )
            await asyncio.Event().wait()
        return True


@contextlib.asynccontextmanager
async def _scene() -> AsyncIterator[Scene]:
    """Starts relay, the upstream, the receiver and Slack's stand-in on loopback ports of their own."""
    key, secret = f"rly_{secrets.token_urlsafe(32)}", signing.new_secret()
    sockets = {name: listen("127.0.0.1", 0) for name in ("relay", "upstream", "receiver", "slack")}
    urls = {name: f"http://127.0.0.1:{one.getsockname()[1]}" for name, one in sockets.items()}
    slack = Slack(
        channels=[Channel(CHANNEL, "renders")],
        tokens={BOT_TOKEN: SCOPES},
        hooks={HOOK: CHANNEL},
        url=urls["slack"],
    )
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-demo-"))
        environ = {
            "DATABASE_URL": f"sqlite:///{Path(folder) / 'relay.db'}",
            "RELAY_BASE_URL": urls["relay"],
            "RELAY_API_KEY": key,
            "RELAY_SIGNING_SECRET": secret,
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
        api = await stack.enter_async_context(Api(urls["relay"], key))
        scene = Scene(urls["relay"], urls["upstream"], urls["receiver"], slack, api)
        await stack.enter_async_context(serving(create_app(), sockets["upstream"]))
        app = receiver(secret, scene.received.append, lambda request: _refuse(scene, request))
        await stack.enter_async_context(serving(app, sockets["receiver"]))
        await stack.enter_async_context(serving(slack.app, sockets["slack"]))
        relay = await asyncio.to_thread(Relay, load(environ), environ)
        stack.push_async_callback(relay.aclose)
        await stack.enter_async_context(relay.working())
        await stack.enter_async_context(serving(site.build(relay.context), sockets["relay"]))
        yield scene


def _refuse(scene: Scene, request: Request) -> int | None:
    """The receiver in trouble: 503 as often as the path says."""
    scene.refused[request.url.path] += 1
    times = int(request.query_params.get("refuse", 0))
    return 503 if scene.refused[request.url.path] <= times else None


async def _register(scene: Scene) -> None:
    for number, story in enumerate(STORIES):
        targets: list[dict[str, Any]] = [
            {"type": "webhook", "url": f"{scene.receiver_url}/hooks/{number}?refuse={story.refusals}"}
        ]
        if story.slack == "channel":
            targets.append({"type": "slack", "channel": "#renders"})
        elif story.slack == "webhook":
            targets.append({"type": "slack", "webhook_url": f"{scene.slack.url}/services/{HOOK}"})
        await scene.api.register({"task_id": story.task_id, "targets": targets, "metadata": {"story": story.about}})


async def _play(scene: Scene, console: Console) -> bool:
    """Shows what happens until everything has arrived or patience is over."""
    deadline = time.monotonic() + PATIENCE
    said, lives = 0, _Lives()
    with Live(console=console, refresh_per_second=10, transient=True) as live:
        while True:
            watches = {one["task_id"]: one for one in (await scene.api.list())["data"]}
            if console.is_terminal:
                live.update(_stage(scene, watches))
            for one in scene.received[said:]:
                said += 1
                console.print(_line(scene, one))
            for line in lives.news(scene.slack):
                console.print(line)
            if not scene.missing() or scene.wrong() or time.monotonic() > deadline:
                return not scene.missing() and not scene.wrong()
            await asyncio.sleep(0.1)


class _Lives:
    """What happens to the messages in Slack that live with their tasks."""

    def __init__(self) -> None:
        self._shown: dict[str, str] = {}

    def news(self, slack: Slack) -> list[Text]:
        """A line for each message that was posted or edited since the last look."""
        lines = []
        for root in slack.channel(CHANNEL).timeline():
            if "metadata" not in root or self._shown.get(root["ts"]) == root["text"]:
                continue
            did = "edited" if root["ts"] in self._shown else "posted"
            self._shown[root["ts"]] = root["text"]
            task = root["metadata"]["event_payload"]["task_id"]
            says = f"{task}  ({root['text'].partition(chr(10))[0]})"
            lines.append(Text.assemble(("# ", "bold magenta"), (f"Slack message {did}  ", "bold"), says))
        return lines


def _stage(scene: Scene, watches: dict[str, dict[str, Any]]) -> RenderableType:
    table = Table("task", "upstream says", "progress", "polls", "told", box=None, header_style="dim")
    for number, story in enumerate(STORIES):
        watch = watches[story.task_id]
        delivery = watch["targets"][0]["delivery"]
        refused = min(scene.refused[f"/hooks/{number}"], story.refusals)
        table.add_row(
            Text(story.about, no_wrap=True),
            watch["upstream_status"] or (watch["error"] or {}).get("code", "…"),
            ProgressBar(total=1.0, completed=watch["progress"] or 0.0, width=20),
            str(watch["polls"]),
            delivery + (f" (refused {refused}×)" if refused and delivery == "pending" else ""),
        )
    return Group(Text(), table)


def _line(scene: Scene, one: Received) -> Text:
    data = one.event.get("data", {})
    mark = Text("✓ ", style="bold green") if one.verified else Text("✗ ", style="bold red")
    said = (data.get("error") or {}).get("message") or (data.get("result") or {}).get("url") or ""
    attempts = scene.refused[one.path]
    note = f", attempt {attempts}" if attempts > 1 else ""
    verified = "signature verified" if one.verified else str(one.why_not)
    line = Text.assemble(mark, (f"{one.event.get('type')}  ", "bold"), data.get("task_id", ""), f"  ({verified}{note})")
    if said:
        line.append(f"\n    {said if len(said) <= 72 else said[:71] + '…'}", style="dim")
    return line


def _curtain(scene: Scene, console: Console) -> None:
    """The Slack channel, as a person would see it."""
    console.print("\nAnd in Slack, in #renders:\n")
    width = min(console.width, 88)
    channel = scene.slack.channel(CHANNEL)
    for root in channel.timeline():
        for message in (root, *channel.replies(root)):
            indent = "" if message is root else "    "  # in its thread
            for line in render_text(message, width=width - len(indent)).splitlines():
                shown = indent + line
                console.print(shown if len(shown) <= width else shown[: width - 1] + "…", markup=False)
        console.print()
