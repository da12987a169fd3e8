"""The commands that run something: relay itself, and the parties around it."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relay import signing
from relay.cli.base import console, run_async, settings_of_environment
from relay.errors import ConfigError

if TYPE_CHECKING:
    from relay.receiver import Received


def _start(*names: str) -> None:
    settings = settings_of_environment()

    from relay.app import Role, run
    from relay.sentry import telling

    roles = Role(0)
    for name in names:
        roles |= Role[name]
    with telling(settings.sentry_dsn):
        run_async(run(settings, os.environ, roles))


def demo(
    keep: Annotated[bool, typer.Option(help="Leave everything up afterwards and print the URLs.")] = False,
) -> None:
    """The main job, self-contained: registers tasks, polls them, verifies every event. Needs nothing.

    Example: relay demo --keep
    """
    from relay.demo import demo as run_demo

    if not run_async(run_demo(console, keep=keep)):
        raise typer.Exit(1)


def serve() -> None:
    """HTTP, polling and delivery in one process.

    Example: UNIFIED_VIDEO_BASE_URL=https://api.example UNIFIED_VIDEO_API_KEY=sk-… relay serve
    """
    _start("WEB", "WORK")


def web() -> None:
    """HTTP only; any number of these share one PostgreSQL with workers.

    Example: DATABASE_URL=postgres://… relay web
    """
    _start("WEB")


def worker() -> None:
    """Polling and delivery only.

    Example: DATABASE_URL=postgres://… relay worker
    """
    _start("WORK")


def watch(
    task_id: str,
    provider: Annotated[str | None, typer.Option(help="Which upstream; the configured one by default.")] = None,
    webhook: Annotated[list[str] | None, typer.Option(help="A URL to tell.", metavar="URL")] = None,
    slack: Annotated[list[str] | None, typer.Option(help="A Slack channel to tell.", metavar="CHANNEL")] = None,
    follow_: Annotated[bool, typer.Option("--follow", help="Show progress until the task ends.")] = False,
) -> None:
    """Registers a task through the HTTP API at RELAY_URL with RELAY_API_KEY.

    Example: relay watch sora-2:task_01k6 --webhook https://app.example/hooks --follow
    """
    from relay.follow import Api, ApiRefused, follow
    from relay.settings import from_environment

    targets = [{"type": "webhook", "url": url} for url in webhook or ()]
    targets += [{"type": "slack", "channel": channel} for channel in slack or ()]
    if not targets:
        raise typer.BadParameter("say where to tell the end: --webhook URL or --slack CHANNEL")
    key = from_environment("RELAY_API_KEY", os.environ)
    if not key:
        raise ConfigError("RELAY_API_KEY is not set: 'relay apps create NAME' prints one")
    body: dict[str, Any] = {"task_id": task_id, "targets": targets}
    if provider is not None:
        body["provider"] = provider

    async def go() -> bool:
        async with Api(os.environ.get("RELAY_URL") or "http://127.0.0.1:8000", key) as api:
            try:
                registered = await api.register(body)
            except ApiRefused as error:
                raise ApiRefused(_in_words_of_the_command(error.detail, targets)) from None
            console.print(f"{registered['id']}  {registered['state']}")
            return await follow(api, registered["id"], console) if follow_ else True

    if not run_async(go()):
        raise typer.Exit(1)


def _in_words_of_the_command(refusal: str, targets: Sequence[Mapping[str, str]]) -> str:
    """A refusal that points to what was given on the command line, not into the body that was made of it."""
    words = {f"/targets/{number}": f"--{one['type']}" for number, one in enumerate(targets)}
    words |= {"/task_id": "TASK_ID", "/provider": "--provider", "/targets": "--webhook, --slack"}
    return re.sub(r"^(/targets/\d+|/\w+)[^:\s]*(?=: )", lambda found: words.get(found[1], found[0]), refusal)


def listen_(
    port: Annotated[int, typer.Option(help="Where to listen, on loopback.", min=0, max=65535)] = 9000,
    secret: Annotated[str | None, typer.Option(help="The app's signing secret, whsec_….")] = None,
) -> None:
    """A receiver for development: verifies and prints what arrives.

    Example: relay listen --port 9000 --secret whsec_…
    """
    from relay.receiver import receiver
    from relay.web.server import listen, serving

    if secret is not None:
        try:
            signing.key_of(secret)
        except ValueError as error:
            raise typer.BadParameter(f"--secret: {error}") from None

    def show(one: Received) -> None:
        mark = {True: "verified", False: f"NOT VERIFIED: {one.why_not}", None: "not verified: no --secret given"}
        console.print(f"{one.event.get('type', '(no event)')}  {one.message_id}  {mark[one.verified]}")
        # By way of bytes, because a stranger's JSON may hold half a surrogate pair, which no terminal takes.
        console.print_json(json.dumps(one.event, ensure_ascii=False).encode("utf-8", "replace").decode())

    async def go() -> None:
        listener = listen("127.0.0.1", port, "--port")
        async with serving(receiver(secret, show), listener):
            console.print(f"Listening on http://127.0.0.1:{listener.getsockname()[1]} (Ctrl+C ends it)")
            if secret is None:
                console.print("Give --secret whsec_… to have signatures verified.")
            await asyncio.Event().wait()

    run_async(go())


def sandbox(port: Annotated[int, typer.Option(help="Where to listen, on loopback.", min=0, max=65535)] = 9100) -> None:
    """The sandbox upstream alone: GET /v1/video/query for ids that say how they behave.

    Example: relay sandbox --port 9100
    """
    from relay.sandbox import behaviours, create_app
    from relay.web.server import listen, serving

    async def go() -> None:
        listener = listen("127.0.0.1", port, "--port")
        async with serving(create_app(), listener):
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            console.print(f"The sandbox upstream is at {url} (Ctrl+C ends it). Ids and what they do:\n")
            for name, does in behaviours().items():
                console.print(f"  {name:<32} {does}")
            query = f"{url}/v1/video/query?id=sandbox:complete-in-5s"
            console.print(f"\nTry: curl -H 'Authorization: Bearer any' '{query}'", soft_wrap=True)
            await asyncio.Event().wait()

    run_async(go())
