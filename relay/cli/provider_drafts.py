"""The command `relay providers new`: a provider file that reads the answers that were recorded."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from relay.cli.common import JsonOption, console, print_json
from relay.errors import ConfigError


def new(
    name: Annotated[str, typer.Argument(help="Of the provider: small letters, digits and hyphens.")],
    answer: Annotated[list[Path], typer.Option(metavar="FILE", help="Recorded answers, JSON. Repeatable.")],
    more: Annotated[list[Path] | None, typer.Argument(hidden=True, help="More of them.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a provider file from recorded answers.

    It says what it guessed and what is left to fill in. One answer for each status is best: on the way, completed,
    failed.

    Example: relay providers new my-video --answer running.json done.json failed.json

    Reads RELAY_CONFIG.
    """
    from relay.providers.definition import load_definition
    from relay.providers.document import Answer
    from relay.providers.draft import draft, known_words
    from relay.providers.recorded import read_recorded
    from relay.settings.sources import load
    from relay.wiring import now

    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", name):
        raise typer.BadParameter("must be small letters, digits and hyphens, such as my-video", param_hint="NAME")
    folder = load(os.environ).config / "providers"
    file = folder / f"{name}.toml"
    if file.exists():
        raise ConfigError(f"{file} is there already: choose another name, or remove it")
    bodies = {str(source): _recorded(source) for source in (*answer, *(more or ()))}
    drafted = draft(
        name, [_parsed(source, body) for source, body in bodies.items()], known_words(folder.glob("*.toml"))
    )
    file.write_text(drafted.text, "utf-8")
    definition = load_definition(file, {})
    read: dict[str, str] = {}
    for source, body in bodies.items():
        reading = read_recorded(definition, Answer(200, {}, body), None, now()).reading
        link = f", {reading.result['url']}" if reading.result and reading.result["url"] else ""
        read[source] = f"{reading.kind}{link}"
    if as_json:
        print_json({"file": str(file), "guessed": drafted.guessed, "read": read, "to_fill_in": drafted.open})
        return
    _print(str(file), drafted.guessed, read, drafted.open)


def _print(file: str, guessed: dict[str, str], read: dict[str, str], left: list[str]) -> None:
    from rich.table import Table

    console.print(f"{file} is written. What was guessed:", soft_wrap=True)
    for rows in (guessed, read):
        table = Table(box=None, show_header=False)
        for row in rows.items():
            table.add_row(*row)
        console.print(table)
        if rows is guessed:
            console.print("How the answers are read with it:")
    console.print("To fill in:")
    for line in left:
        console.print(f"- {line}", soft_wrap=True)
    console.print(f"Then: relay providers check {file}", soft_wrap=True)


def _recorded(source: Path) -> bytes:
    """Read a recorded answer.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        return source.read_bytes()
    except OSError as error:
        raise ConfigError(f"{source}: {error.strerror}; give the file of an answer") from None


def _parsed(source: str, body: bytes) -> Any:
    """Return the JSON of an answer.

    Raises:
        ConfigError: it is none.
    """
    from relay.providers.document import Answer, document_of

    document = document_of(Answer(200, {}, body))
    if document is None:
        raise ConfigError(f"{source}: is no JSON object or list; give the body of an answer, without its headers")
    return document.value
