"""The command `relay watch`: register a task and follow it to its end."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from relay.cli.common import console, run_async
from relay.errors import ConfigError


def watch(
    task_id: str,
    provider: Annotated[str | None, typer.Option(help="Which upstream; the configured one by default.")] = None,
    webhook: Annotated[list[str] | None, typer.Option(help="A URL to notify of the end.", metavar="URL")] = None,
    slack: Annotated[
        list[str] | None, typer.Option(help="A Slack channel to notify of the end.", metavar="CHANNEL")
    ] = None,
    follow_: Annotated[bool, typer.Option("--follow", help="Show progress until the task ends.")] = False,
) -> None:
    """Register a task through the HTTP API at RELAY_URL, with the API key in RELAY_API_KEY.

    Example: relay watch sora-2:task_01k6 --webhook https://app.example/hooks --follow
    """
    from relay.cli.client import ApiClient, ApiError, follow
    from relay.settings.sources import from_environment

    targets = [{"type": "webhook", "url": url} for url in webhook or ()]
    targets += [{"type": "slack", "channel": channel} for channel in slack or ()]
    if not targets:
        raise typer.BadParameter("give at least one target to notify: --webhook URL or --slack CHANNEL")
    key = from_environment("RELAY_API_KEY", os.environ)
    if not key:
        raise ConfigError("RELAY_API_KEY is not set: set it to the API key that 'relay apps create NAME' prints")
    body: dict[str, Any] = {"task_id": task_id, "targets": targets}
    if provider is not None:
        body["provider"] = provider

    async def go() -> bool:
        async with ApiClient(os.environ.get("RELAY_URL") or "http://127.0.0.1:8000", key) as api:
            try:
                registered = await api.register(body)
            except ApiError as error:
                raise ApiError(_with_option_names(error.detail, targets)) from None
            console.print(f"{registered['id']}  {registered['state']}")
            return await follow(api, registered["id"], console) if follow_ else True

    if not run_async(go()):
        raise typer.Exit(1)


def _with_option_names(message: str, targets: Sequence[Mapping[str, str]]) -> str:
    """Name the option of the command line instead of the place in the request body that it went to."""
    options = {f"/targets/{number}": f"--{target['type']}" for number, target in enumerate(targets)}
    options |= {"/task_id": "TASK_ID", "/provider": "--provider", "/targets": "--webhook, --slack"}
    return re.sub(r"^(/targets/\d+|/\w+)[^:\s]*(?=: )", lambda pointer: options.get(pointer[1], pointer[0]), message)
