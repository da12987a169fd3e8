"""What the commands share: the console, the configuration, the database."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Coroutine
from typing import Annotated, Any

import orjson
import typer
import uvloop
from rich.console import Console

from relay import logs
from relay.app import open_database
from relay.settings import Settings, load
from relay.store import Database, migrate

# Names and answers are text, not rich's markup; and what is piped on is not cut to 80 columns.
console = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 1000)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def run_async(work: Coroutine[Any, Any, Any]) -> Any:
    """Runs a coroutine to its end on a fast event loop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def settings_of_environment() -> Settings:
    """The effective configuration, with logging set up as it says."""
    settings = load(os.environ)
    logs.set_up(settings.log_level, settings.log_format)
    return settings


def open_store() -> tuple[Settings, Database]:
    """The configuration and the database, at the schema of this version."""
    settings = settings_of_environment()
    db = open_database(settings)
    migrate.ensure(db)
    return settings, db


def print_json(value: object) -> None:
    """Prints JSON to standard output."""
    sys.stdout.buffer.write(orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n")
