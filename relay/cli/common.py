"""The parts that commands share: the console, the configuration, the database.

Imports are most of the start-up time of a short command. So the modules of the commands import the web framework, the
database and the like inside the functions that need them.
"""

from __future__ import annotations

import asyncio
import io
import os
import shlex
import shutil
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import orjson
import typer
from rich.console import Console

if TYPE_CHECKING:
    from relay.settings.options import Settings
    from relay.store import Database

# Names and answers are plain text, not rich's markup. Output into a pipe is not cut to 80 columns.
_is_terminal = sys.stdout is not None and sys.stdout.isatty()
console = Console(highlight=False, markup=False, emoji=False, width=None if _is_terminal else 1000)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def null_stream() -> TextIO:
    """Open a stream that discards what is written to it."""
    return Path(os.devnull).open("w")


def make_streams_writable() -> None:
    """Make sure that writing to standard output and standard error never fails.

    A closed stream is replaced, and so are characters that the encoding of standard output does not have.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, null_stream())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def command_name() -> str:
    """Return how this command line was called, so that a printed command can be pasted where that worked."""
    typed = Path(sys.argv[0])
    if typed.name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m relay"
    found = shutil.which("relay")
    return "relay" if found and typed.exists() and typed.samefile(found) else shlex.quote(str(typed))


def run_async(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end on uvloop and return its result."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def settings_of_environment() -> Settings:
    """Load the effective configuration and set up logging accordingly."""
    from relay.settings.sources import load
    from relay.telemetry import logs

    settings = load(os.environ)
    logs.set_up(settings.log_level, settings.log_format)
    return settings


def open_store() -> tuple[Settings, Database]:
    """Load the configuration and open the database, whose schema must be that of this version."""
    from relay.store import migrate
    from relay.wiring import open_database

    settings = settings_of_environment()
    db = open_database(settings)
    migrate.ensure(db)
    return settings, db


def print_json(value: object) -> None:
    """Print JSON to standard output."""
    sys.stdout.buffer.write(orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n")
