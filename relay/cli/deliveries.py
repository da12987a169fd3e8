"""The commands `relay deliveries` and `relay retry`: what became of events, and sending them again."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import typer

from relay.cli.common import JsonOption, console, print_json, run_async

Limit = Annotated[int, typer.Option(min=1, help="How many to show, the newest.")]


def deliveries(
    dead: Annotated[bool, typer.Option("--dead", help="Only those that are given up.")] = False,
    state: Annotated[
        Literal["pending", "held", "delivered", "dead"] | None, typer.Option(help="Only in this state.")
    ] = None,
    watch: Annotated[str | None, typer.Option(metavar="ID", help="Only of this watch, wch_….")] = None,
    limit: Limit = 50,
    as_json: JsonOption = False,
) -> None:
    """List deliveries, newest first, and what became of each.

    Example: relay deliveries --dead

    Reads RELAY_URL and RELAY_API_KEY.
    """
    from rich.table import Table

    from relay.cli.client import client_of_environment

    if dead and state not in (None, "dead"):
        raise typer.BadParameter("give --dead or --state, not both")
    query = {"state": "dead" if dead else state, "watch_id": watch}

    async def go() -> list[dict[str, Any]]:
        async with client_of_environment() as api:
            return await api.pages("/v1/deliveries", query, limit)

    listed = run_async(go())
    if as_json:
        print_json(listed)
        return
    if not listed:
        console.print("There are no such deliveries." if any(query.values()) else "There are no deliveries yet.")
        return
    table = Table("id", "state", "event", "to", "attempts", "last", "next", box=None)
    for row in listed:
        words = (row["id"], row["state"], row["event"], row["host"], row["attempt_count"], _last(row))
        table.add_row(*map(str, words), row["next_attempt_at"] or "")
    console.print(table)


def _last(delivery: dict[str, Any]) -> str:
    """Return what came of the last attempt: a status, or what kept it from being answered."""
    if not delivery["attempts"]:
        return ""
    last = max(delivery["attempts"], key=lambda attempt: attempt["number"])
    return str(last["status"] or last["error"] or last["verdict"])


def retry(
    delivery: Annotated[str | None, typer.Argument(metavar="ID", help="A delivery, dlv_…, in any state.")] = None,
    dead: Annotated[bool, typer.Option("--dead", help="All that are given up, instead of one.")] = False,
    host: Annotated[str | None, typer.Option(help="With --dead: only those to this host.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="With --dead: only those made since, 2025-10-06T15:00:00Z.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Send a delivery again, or all that are given up.

    Each has the same webhook-id as before, and a fresh schedule.

    Example: relay retry --dead --host app.example

    Reads RELAY_URL and RELAY_API_KEY.
    """
    from relay.cli.client import ApiError, client_of_environment

    if dead == (delivery is not None):
        raise typer.BadParameter("give the ID of a delivery, or --dead")
    if delivery is not None and not re.fullmatch(r"dlv_\w+", delivery, re.ASCII):
        raise typer.BadParameter("ID must be like dlv_…: 'relay deliveries' shows them")
    if not dead and (host or since):
        raise typer.BadParameter("--host and --since go with --dead")
    selection = {"host": host, "since": since}

    async def go() -> dict[str, Any]:
        async with client_of_environment() as api:
            if delivery is not None:
                return await api.post(f"/v1/deliveries/{delivery}/retry")
            given = {name: value for name, value in selection.items() if value is not None}
            try:
                return await api.post("/v1/deliveries/retry", {"state": "dead"} | given)
            except ApiError as error:
                raise ApiError(re.sub(r"^/(\w+): ", r"--\1: ", error.detail)) from None

    answer = run_async(go())
    if as_json:
        print_json(answer)
    elif dead:
        count = answer["retried"]
        console.print("1 delivery is sent again." if count == 1 else f"{count} deliveries are sent again.")
    else:
        console.print(f"{answer['event']} is sent to {answer['host']} again.")
