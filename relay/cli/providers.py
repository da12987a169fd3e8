"""`relay providers`: the declared upstreams."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from relay.cli.base import Json, console, print_json, run_async, settings_of_environment
from relay.errors import ConfigError


def list_(as_json: Json = False) -> None:
    """Lists the declared upstreams.

    Example: relay providers list
    """
    from rich.table import Table

    from relay.guard import Guard
    from relay.outbound import Transport
    from relay.parts import load_providers
    from relay.provider import MAX_ANSWER

    settings = settings_of_environment()
    found = load_providers(settings, Transport(Guard(), timeout=30, max_bytes=MAX_ANSWER), os.environ)
    if as_json:
        print_json([{"name": p.name, "title": p.definition.title, "configured": p.configured} for p in found.values()])
        return
    table = Table("name", "title", "asks", box=None)
    for p in found.values():
        table.add_row(p.name, p.definition.title, p.host if p.configured else f"nobody yet: {p.remedy}")
    console.print(table)


def check(file: Annotated[Path, typer.Argument(exists=True, dir_okay=False)]) -> None:
    """Validates a definition file.

    Example: relay providers check config/providers/unified-video.toml
    """
    from relay.provider import load_definition

    definition = load_definition(file)
    words = definition.statuses
    console.print(
        f"{file} is well-formed: '{definition.name}' asks {definition.request.method} {definition.request.path} and "
        f"knows {len(words.pending)} statuses as pending, {len(words.completed)} as completed, {len(words.failed)} "
        "as failed.",
        soft_wrap=True,
    )


def try_(provider: str, task_id: str) -> None:
    """Makes one query and shows how it was read.

    Example: relay providers try unified-video sora-2:task_01k6
    """
    import orjson

    from relay.parts import load_providers, now, open_transports

    if not task_id.strip():
        raise typer.BadParameter("TASK_ID must not be empty")
    settings = settings_of_environment()
    if provider == "sandbox" and not settings.sandbox_on:
        raise ConfigError("the sandbox is switched off here: RELAY_SANDBOX=1 switches it on")

    async def go() -> bool:
        _, transport, _ = open_transports(settings)
        try:
            found = load_providers(settings, transport, os.environ).get(provider)
            if found is None:
                raise ConfigError(f"'{provider}' is not declared; 'relay providers list' shows what is")
            started = time.monotonic()
            reading = await found.query(task_id, None, now())
            took = time.monotonic() - started
        finally:
            await transport.aclose()
        console.print(f"read as {reading.kind} in {took * 1000:.0f} ms")
        shown = {
            "status": reading.status,
            "progress": reading.progress,
            "result": reading.result,
            "error": reading.error,
        }
        console.print_json(orjson.dumps({k: v for k, v in shown.items() if v is not None}).decode())
        return reading.body is not None

    if not run_async(go()):
        raise typer.Exit(1)
