"""The commands for development: the demo, a relay that needs no set-up, a receiver and the sandbox upstream."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relay.cli.common import console, run_async
from relay.security import signing

if TYPE_CHECKING:
    from relay.simulators.receiver import Received


def demo(
    keep: Annotated[bool, typer.Option(help="Leave everything up afterwards and print the URLs.")] = False,
) -> None:
    """Run the demo: register tasks, poll them, verify every event.

    It runs on this machine alone, and needs no configuration.

    Example: relay demo --keep
    """
    from relay.cli.demo import run_demo

    if not run_async(run_demo(console, keep=keep)):
        raise typer.Exit(1)


def dev(
    port: Annotated[int, typer.Option(help="Where to listen, on loopback; 0 for any free.", min=0, max=65535)] = 8000,
    db: Annotated[
        Path | None, typer.Option(help="The SQLite file to keep; a temporary one by default.", dir_okay=False)
    ] = None,
) -> None:
    """Run a relay to develop against, and print commands to paste.

    It has the sandbox, an app, a test inbox, and may notify receivers on this machine. Upstreams that the environment
    sets work as well.

    Example: relay dev --port 8000
    """
    from relay.cli.dev import run_dev

    run_async(run_dev(port, db))


def listen_(
    port: Annotated[int, typer.Option(help="Where to listen, on loopback.", min=0, max=65535)] = 9000,
    secret: Annotated[str | None, typer.Option(help="The app's signing secret, whsec_….")] = None,
    body: Annotated[bool, typer.Option("--body", help="Print the body of each event as well.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, a line for each event.")] = False,
) -> None:
    """Run a receiver that verifies and prints each event.

    The signing secret is what 'relay apps create' and 'relay dev' print.

    Example: relay listen --port 9000 --body
    """
    from dataclasses import asdict

    from rich.console import Console

    from relay.simulators.receiver import create_receiver
    from relay.web.server import listen, serving

    if secret is not None:
        try:
            signing.key_of(secret)
        except ValueError as error:
            raise typer.BadParameter(f"--secret: {error}") from None

    verdicts = {True: "verified", False: "NOT VERIFIED", None: "not verified: no --secret given"}

    def show(received: Received) -> None:
        verdict = verdicts[received.verified]
        if received.problem:
            verdict += f": {received.problem}"
        if as_json:
            console.print(json.dumps(asdict(received)), soft_wrap=True)
            return
        words = (received.task_id, received.event.get("type", "(no event)"), received.message_id, verdict)
        line = "  ".join(str(word) for word in words if word)
        # JSON may contain half a surrogate pair, which cannot be printed: encoding replaces it.
        console.print(line.encode("utf-8", "replace").decode(), soft_wrap=True)
        if body:
            console.print_json(json.dumps(received.event, ensure_ascii=False).encode("utf-8", "replace").decode())

    async def go() -> None:
        listener = listen("127.0.0.1", port, "--port")
        async with serving(create_receiver(secret, show), listener):
            said = Console(stderr=True, highlight=False, markup=False) if as_json else console
            said.print(f"Listening on http://127.0.0.1:{listener.getsockname()[1]} (Ctrl+C ends it)")
            if secret is None:
                said.print("Give --secret whsec_… to verify signatures.")
            await asyncio.Event().wait()

    run_async(go())


def sandbox(port: Annotated[int, typer.Option(help="Where to listen, on loopback.", min=0, max=65535)] = 9100) -> None:
    """Run the sandbox upstream alone.

    It answers GET /v1/video/query for ids that say how they behave.

    Example: relay sandbox --port 9100
    """
    from relay.simulators.upstream import behaviours, create_app
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
