"""What the commands share: the console, the configuration, the database.

Importing is most of what a short command would take, so the modules of the commands import what only some of them need
(a web framework, the database, the migrations) where they need it.
"""

from __future__ import annotations

import asyncio
import io
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import orjson
import typer
from rich.console import Console

if TYPE_CHECKING:
    from relay.settings import Settings
    from relay.store import Database

# Names and answers are text, not rich's markup; and what is piped on is not cut to 80 columns.
_on_screen = sys.stdout is not None and sys.stdout.isatty()
console = Console(highlight=False, markup=False, emoji=False, width=None if _on_screen else 1000)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def nowhere() -> TextIO:
    """A stream that keeps nothing of what it is given."""
    return Path(os.devnull).open("w")


def make_streams_writable() -> None:
    """Has a closed standard stream lead nowhere, and replaces what the encoding of standard output does not know."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, nowhere())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def run_async(work: Coroutine[Any, Any, Any]) -> Any:
    """Runs a coroutine to its end on a fast event loop."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def settings_of_environment() -> Settings:
    """The effective configuration, with logging set up as it says."""
    from relay import logs
    from relay.settings import load

    settings = load(os.environ)
    logs.set_up(settings.log_level, settings.log_format)
    return settings


def open_store() -> tuple[Settings, Database]:
    """The configuration and the database, at the schema of this version."""
    from relay.parts import open_database
    from relay.store import migrate

    settings = settings_of_environment()
    db = open_database(settings)
    migrate.ensure(db)
    return settings, db


def print_json(value: object) -> None:
    """Prints JSON to standard output."""
    sys.stdout.buffer.write(orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n")
