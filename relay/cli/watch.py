"""The commands `relay watch` and `relay watches`: register a task, follow it to its end, list what is watched."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from relay.cli.common import JsonOption, console, print_json, run_async
from relay.cli.deliveries import Limit
from relay.model.watch import State


def watch(
    task_id: Annotated[str, typer.Argument(help="The id that the upstream gave the task.")],
    provider: Annotated[str | None, typer.Option(help="Which upstream; the configured one by default.")] = None,
    webhook: Annotated[list[str] | None, typer.Option(help="A URL to notify. Repeatable.", metavar="URL")] = None,
    slack: Annotated[
        list[str] | None, typer.Option(help="A Slack channel to notify. Repeatable.", metavar="CHANNEL")
    ] = None,
    events: Annotated[
        str | None, typer.Option(help="Which events to send, with commas between; every end by default.")
    ] = None,
    metadata: Annotated[
        str | None, typer.Option(help="A JSON object that comes back in every event.", metavar="JSON")
    ] = None,
    expires_in: Annotated[
        str | None, typer.Option(help="When to give up, such as 90s or 24h.", metavar="DURATION")
    ] = None,
    follow_: Annotated[bool, typer.Option("--follow", help="Show progress until the event is delivered.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Register a task to watch, and follow it if you like.

    With --follow, the exit code is 0 if the task completed and every target was notified.

    Example: relay watch task-1 --webhook https://app.example/hooks --follow

    Reads RELAY_URL (http://127.0.0.1:8000) and RELAY_API_KEY.
    """
    from rich.console import Console

    from relay.cli.client import ApiError, client_of_environment, follow

    targets: list[dict[str, Any]] = [{"type": "webhook", "url": url} for url in webhook or ()]
    targets += [{"type": "slack", "channel": channel} for channel in slack or ()]
    if not targets:
        raise typer.BadParameter("give at least one target to notify: --webhook URL or --slack CHANNEL")
    if events is not None:
        named = [event.strip() for event in events.split(",") if event.strip()]
        targets = [target | {"events": named} for target in targets]
    given = {"provider": provider, "metadata": _object(metadata), "expires_in": _seconds(expires_in)}
    body: dict[str, Any] = {"task_id": task_id, "targets": targets}
    body |= {name: value for name, value in given.items() if value is not None}
    shown = Console(stderr=True, highlight=False, markup=False, emoji=False) if as_json else console

    async def go() -> tuple[dict[str, Any], bool]:
        async with client_of_environment() as api:
            try:
                registered = await api.register(body)
            except ApiError as error:
                raise ApiError(_with_option_names(error.detail, targets)) from None
            if not follow_:
                return registered, True
            shown.print(f"{registered['id']}  {registered['state']}")
            good = await follow(api, registered["id"], shown)
            return (await api.read(registered["id"]) if as_json else registered), good

    watch, good = run_async(go())
    if as_json:
        print_json(watch)
    elif not follow_:
        console.print(f"{watch['id']}  {watch['state']}")
    if not good:
        raise typer.Exit(1)


def _object(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"--metadata: is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise typer.BadParameter('--metadata: must be an object, such as \'{"order": "42"}\'')
    return value


def _seconds(text: str | None) -> int | None:
    from relay.settings.types import duration

    if text is None:
        return None
    try:
        seconds = int(float(str(duration(text))))
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(f"--expires-in: {error}") from None
    if seconds < 1:
        raise typer.BadParameter("--expires-in: must be at least 1s")
    return seconds


def _with_option_names(message: str, targets: Sequence[Mapping[str, Any]]) -> str:
    """Name the option of the command line instead of the place in the request body that it went to."""
    options = {f"/targets/{number}": f"--{target['type']}" for number, target in enumerate(targets)}
    options |= {"/task_id": "TASK_ID", "/provider": "--provider", "/targets": "--webhook, --slack"}
    options |= {"/metadata": "--metadata", "/expires_in": "--expires-in"}
    message = re.sub(r"^/targets/\d+/events[^:\s]*(?=: )", "--events", message)
    return re.sub(r"^(/targets/\d+|/\w+)[^:\s]*(?=: )", lambda pointer: options.get(pointer[1], pointer[0]), message)


def watches(
    state: Annotated[State | None, typer.Option(help="Only in this state.")] = None,
    provider: Annotated[str | None, typer.Option(help="Only of this upstream.")] = None,
    task_id: Annotated[str | None, typer.Option(help="Only of this task.")] = None,
    limit: Limit = 50,
    as_json: JsonOption = False,
) -> None:
    """List watches, newest first.

    Example: relay watches --state watching

    Reads RELAY_URL and RELAY_API_KEY.
    """
    from rich.table import Table

    from relay.cli.client import client_of_environment

    query = {"state": None if state is None else state.value, "provider": provider, "task_id": task_id}

    async def go() -> list[dict[str, Any]]:
        async with client_of_environment() as api:
            return await api.pages("/v1/watches", query, limit)

    listed = run_async(go())
    if as_json:
        print_json(listed)
        return
    if not listed:
        console.print("There are no such watches." if any(query.values()) else "There are no watches yet.")
        return
    table = Table("id", "state", "done", "task", "provider", "delivered", box=None)
    for row in listed:
        done = "" if row["progress"] is None else f"{row['progress']:.0%}"
        states = [target["delivery"] for target in row["targets"]]
        delivered = f"{states.count('delivered')} of {len(states)}"
        table.add_row(row["id"], row["state"], done, row["task_id"], row["provider"], delivered)
    console.print(table)
