"""The commands `relay providers …`: list, show, check and try the declared upstreams."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relay.cli.common import JsonOption, console, print_json, run_async, settings_of_environment
from relay.errors import ConfigError

if TYPE_CHECKING:
    from relay.model.reading import Reading
    from relay.providers.definition import Definition


def list_(as_json: JsonOption = False) -> None:
    """List the declared upstreams that may be used here, and what is wrong with a file that cannot be read.

    Example: relay providers list
    """
    from rich.table import Table

    from relay.outbound.transport import Transport
    from relay.providers.definition import MAX_ANSWER
    from relay.security.guard import Guard
    from relay.wiring import declared_providers

    settings = settings_of_environment()
    providers = declared_providers(settings, Transport(Guard(), timeout=30, max_bytes=MAX_ANSWER), os.environ)
    listed: list[dict[str, Any]] = []
    table = Table("name", "title", "asks", box=None)
    for name in providers:
        try:
            p = providers.load(name)
        except ConfigError as error:
            listed.append({"name": name, "title": "", "configured": False, "error": error.detail})
            table.add_row(name, "", f"cannot be used: {error.detail}")
        else:
            listed.append({"name": name, "title": p.definition.title, "configured": p.configured})
            table.add_row(name, p.definition.title, p.host if p.configured else f"no address yet: {p.remedy}")
    if as_json:
        print_json(listed)
    else:
        console.print(table)


def show(
    provider: Annotated[str, typer.Argument(metavar="NAME|FILE", help="A declared provider, or a definition file.")],
    as_json: JsonOption = False,
) -> None:
    """Show a declared upstream: what it watches, what it asks, what has to be set, and how its answers are read.

    Example: relay providers show assemblyai
    """
    from rich.table import Table

    from relay.providers.definition import load_definition
    from relay.providers.overview import head_comment, interval, limits

    file = _file_of(provider)
    definition = load_definition(file)
    about = head_comment(file)
    facts = _facts(definition, about) | {"learned": _learned(definition.name)}
    if as_json:
        print_json(facts)
        return
    console.print(f"{definition.name}: {definition.title} ({definition.noun})\n\n{about}\n", soft_wrap=True)
    table = Table(box=None, show_header=False)
    table.add_row("asks", facts["asks"])
    for what in ("address", "key"):
        setting = facts[what]
        in_the_file = what == "address" and definition.request.base_url
        if setting and (setting["set"] or not in_the_file):
            table.add_row(what, f"{setting['variable']} is {'set' if setting['set'] else 'not set'}")
    for meaning, statuses in definition.statuses.lists.items():
        if statuses:
            table.add_row(meaning.replace("_", " "), ", ".join(statuses))
    for status, meaning in definition.statuses.http.items():
        table.add_row(f"HTTP {status}", meaning)
    table.add_row("asked after", interval(definition.cadence))
    table.add_row("limits", limits(definition.budget))
    if known := facts["learned"]:
        table.add_row("tasks take", f"half {known['median']:g} s, 95 % {known['p95']:g} s, of {known['ends']} ends")
        table.add_row("ends noticed", f"half within {known['noticed']:g} s, 95 % within {known['noticed_p95']:g} s")
        fixed = f"the fixed cadence would make {known['queries_fixed']:g}"
        table.add_row("queries", f"{known['queries']:g} per task; {fixed}")
    if facts["links_need_key"]:
        table.add_row("links", "open only with the provider's key")
    for what, expressions in facts["reads"].items():
        table.add_row(f"reads {what}", "\n".join(" ".join(expression.split()) for expression in expressions))
    console.print(table)


def _learned(provider: str) -> dict[str, Any] | None:
    """Return what this deployment has learned of a provider; None where that is little, or cannot be read here."""
    from dataclasses import asdict

    from sqlalchemy import make_url
    from sqlalchemy.exc import SQLAlchemyError

    from relay.errors import RelayError
    from relay.model.experience import figures, merged
    from relay.store import experiences, migrate
    from relay.wiring import open_database

    try:
        settings = settings_of_environment()
        file = make_url(settings.database_url).database
        if settings.embedded and not (file and Path(file).exists()):
            return None
        db = open_database(settings)
        try:
            known = None if db.run_here(migrate.unready) else db.run_here(experiences.of_provider, provider)
        finally:
            db.close()
    except (RelayError, SQLAlchemyError, OSError):
        return None
    shown = figures(merged(known or ()))
    return None if shown is None else asdict(shown)


def _facts(definition: Definition, about: str) -> dict[str, Any]:
    """Return what a provider watches, asks, needs and reads, for scripts."""
    from dataclasses import asdict

    from relay.providers.definition import variable
    from relay.providers.overview import key_variable, query_line, sources

    return {
        "name": definition.name,
        "title": definition.title,
        "noun": definition.noun,
        "about": about,
        "configured": bool(definition.request.base_url),
        "asks": query_line(definition.request),
        "address": _setting(variable(definition.name, "BASE_URL")),
        "key": _setting(key_variable(definition)),
        "reads": dict(sources(definition.read)),
        "links_need_key": definition.read.result.key_needed,
        "statuses": definition.statuses.model_dump(mode="json"),
        "cadence": asdict(definition.cadence),
        "budget": asdict(definition.budget),
    }


def _setting(variable: str | None) -> dict[str, Any] | None:
    """Return a variable and whether it is set; None where there is none to set."""
    from relay.settings.sources import from_environment

    if variable is None:
        return None
    return {"variable": variable, "set": from_environment(variable, os.environ) is not None}


def check(file: Annotated[Path, typer.Argument(exists=True, dir_okay=False)]) -> None:
    """Validate a definition file.

    Example: relay providers check config/providers/unified-video.toml
    """
    from relay.providers.definition import load_definition

    definition = load_definition(file)
    words = definition.statuses
    console.print(
        f"{file} is well-formed: '{definition.name}' asks {definition.request.method} {definition.request.path} and "
        f"knows {len(words.pending)} statuses as pending, {len(words.completed)} as completed, {len(words.failed)} "
        "as failed.",
        soft_wrap=True,
    )


def read(
    provider: Annotated[str, typer.Argument(metavar="NAME|FILE", help="A declared provider, or a definition file.")],
    answer: Annotated[str, typer.Argument(metavar="ANSWER", help="The file that holds the answer, or - for stdin.")],
    status: Annotated[int, typer.Option(min=100, max=999, help="The HTTP status it came with.")] = 200,
    header: Annotated[list[str], typer.Option(help="A header it came with, 'Name: value'. Repeatable.")] = [],  # noqa: B006
    as_json: JsonOption = False,
) -> None:
    """Show how a recorded answer is read, without a network.

    Example: relay providers read unified-video answer.json --status 404 --header 'Retry-After: 5'
    """
    from rich.table import Table

    from relay.providers.document import Answer
    from relay.providers.explained import explain
    from relay.providers.reader import Reader
    from relay.wiring import now

    definition = _definition(provider)
    body = _recorded(answer)
    truncated = len(body) > definition.request.max_bytes
    base_url = definition.request.base_url
    recorded = Answer(status, dict(map(_header, header)), body, truncated=truncated, base_url=base_url)
    reading = Reader(definition.read, definition.statuses, definition.errors).read(recorded, now())
    if as_json:
        print_json(_shown(reading))
        return
    explanation = explain(definition, recorded, reading)
    console.print(f"read as {reading.kind}")
    _print_reading(reading)
    table = Table("where", "what", "value", box=None)
    for source in (*explanation.statuses, *explanation.sources):
        table.add_row(source.where, source.what, source.value)
    console.print(table)
    if explanation.unlisted:
        console.print(f"in no list of [statuses], so watched on: {', '.join(explanation.unlisted)}", soft_wrap=True)
    if explanation.repaired:
        console.print('not strict JSON: events repeat it repaired, with "upstream_repaired": true', soft_wrap=True)


def _definition(name: str) -> Definition:
    """Load a definition by its name in the configured folder, or from its file.

    Raises:
        ConfigError: there is none, or it is wrong.
    """
    from relay.providers.definition import load_definition

    return load_definition(_file_of(name))


def _file_of(name: str) -> Path:
    """Return the file of a provider in the configured folder, or the file that is named itself.

    Raises:
        ConfigError: there is none.
    """
    from relay.settings.sources import load

    if name.endswith(".toml") or "/" in name:
        file = Path(name)
    else:
        file = load(os.environ).config / "providers" / f"{name}.toml"
    if not file.is_file():
        raise ConfigError(f"there is no definition {file}: give a file, or a name that 'relay providers list' shows")
    return file


def _recorded(source: str) -> bytes:
    """Read a recorded answer.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        return sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise ConfigError(f"{source}: {error.strerror}; give the file of an answer, or - for standard input") from None


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name.strip():
        raise typer.BadParameter(f"'{line}' must be 'Name: value'", param_hint="--header")
    return name.strip().lower(), value.strip()


def _shown(reading: Reading) -> dict[str, Any]:
    """Return a reading as contract §1 has it."""
    names = ("kind", "status", "progress", "result", "error", "retry_after", "limited")
    return {name: getattr(reading, name) for name in names}


def _print_reading(reading: Reading) -> None:
    """Print what a reading holds."""
    import orjson

    names = ("status", "progress", "result", "error", "retry_after")
    held = {name: value for name in names if (value := getattr(reading, name)) is not None}
    console.print_json(orjson.dumps(held).decode())


def try_(provider: str, task_id: str) -> None:
    """Make one query and show how relay reads the answer.

    Example: relay providers try unified-video sora-2:task_01k6
    """
    from relay.model.task_ids import trimmed
    from relay.wiring import declared_providers, now, open_ways

    task_id = trimmed(task_id)
    if not task_id:
        raise typer.BadParameter("TASK_ID must not be blank")
    settings = settings_of_environment()
    if provider == "sandbox" and not settings.sandbox_on:
        raise ConfigError("the sandbox is switched off here: RELAY_SANDBOX=1 switches it on")

    async def go() -> bool:
        ways = open_ways(settings)
        try:
            providers = declared_providers(settings, ways.upstreams, os.environ)
            if provider not in list(providers):
                raise ConfigError(f"'{provider}' is not declared; 'relay providers list' shows what is")
            declared = providers.load(provider)
            if declared.lacks_key(None):
                raise ConfigError(declared.key_remedy)
            started = time.monotonic()
            reading, _ = await declared.query(task_id, None, now())
            took = time.monotonic() - started
        finally:
            await ways.aclose()
        console.print(f"read as {reading.kind} in {took * 1000:.0f} ms")
        _print_reading(reading)
        return reading.body is not None

    if not run_async(go()):
        raise typer.Exit(1)
