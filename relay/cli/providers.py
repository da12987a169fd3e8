"""The commands `relay providers …`: list, show, check and try the declared upstreams."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relay.cli.common import JsonOption, console, print_json, run_async, settings_of_environment
from relay.cli.provider_facts import facts_of, learned_of
from relay.errors import ConfigError

if TYPE_CHECKING:
    from relay.model.reading import Reading
    from relay.providers.definition import Definition


def list_(as_json: JsonOption = False) -> None:
    """List the declared upstreams that may be used here.

    It also says what is wrong with a file that cannot be read.

    Example: relay providers list

    Reads RELAY_CONFIG, RELAY_PROVIDERS, and each NAME_BASE_URL and NAME_API_KEY.
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
            asks = p.host or ", ".join(p.definition.hosts) or f"no address yet: {p.remedy}"
            table.add_row(name, p.definition.title, asks)
    if as_json:
        print_json(listed)
    else:
        console.print(table)


def show(
    provider: Annotated[str, typer.Argument(metavar="NAME|FILE", help="A declared provider, or a definition file.")],
    as_json: JsonOption = False,
) -> None:
    """Show a declared upstream, and how its answers are read.

    Example: relay providers show assemblyai

    Reads RELAY_CONFIG, DATABASE_URL, NAME_BASE_URL and NAME_API_KEY.
    """
    from rich.table import Table

    from relay.providers.definition import load_definition
    from relay.providers.overview import head_comment, interval, limits

    file = _file_of(provider)
    definition = load_definition(file)
    about = head_comment(file)
    facts = facts_of(definition, about) | {"learned": learned_of(definition.name)}
    if as_json:
        print_json(facts)
        return
    console.print(f"{definition.name}: {definition.title} ({definition.noun})\n\n{about}\n", soft_wrap=True)
    table = Table(box=None, show_header=False)
    table.add_row("asks", facts["asks"])
    if definition.hosts:
        table.add_row("hosts", ", ".join(definition.hosts))
    if facts["asks_for_result"]:
        table.add_row("for the result", facts["asks_for_result"])
    if facts["asks_about_many"]:
        table.add_row("about many", facts["asks_about_many"])
    if facts["id"]:
        table.add_row("id", facts["id"])
    for what in ("address", "key"):
        setting = facts[what]
        in_the_file = what == "address" and definition.request.base_url
        if setting and (setting["set"] or not in_the_file):
            table.add_row(what, f"{setting['variable']} is {'set' if setting['set'] else 'not set'}")
    if auth := definition.auth:
        table.add_row("form of the key", auth.shape)
    if facts["tokens"]:
        table.add_row(
            "tokens from", f"{facts['tokens']['from']} ({facts['tokens']['variable']} may be another address)"
        )
    for meaning, statuses in definition.statuses.lists.items():
        if statuses:
            table.add_row(meaning.replace("_", " "), ", ".join(statuses))
    for status, meaning in definition.statuses.http.items():
        table.add_row(f"HTTP {status}", meaning)
    table.add_row("asked after", interval(definition.cadence))
    if definition.cadence.expires_in:
        table.add_row("given up after", f"{definition.cadence.expires_in / 3600:g} h, unless a watch says otherwise")
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


def check(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The definition file.")],
    as_json: JsonOption = False,
) -> None:
    """Validate a definition file.

    A relay that runs reads a changed file within seconds. If it has a mistake, what was read before holds.

    Example: relay providers check config/providers/unified-video.toml

    Reads NAME_BASE_URL.
    """
    from relay.providers.definition import checked

    definition, wrong = checked(file)
    if as_json:
        print_json({"file": str(file), "name": file.stem, "mistakes": wrong})
    if definition is None:
        if as_json:
            raise typer.Exit(1)
        for mistake in wrong[1:]:
            console.print(f"{file}: {mistake}", soft_wrap=True)
        raise ConfigError(f"{file}: {wrong[0]}")
    if as_json:
        return
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
    follow: Annotated[
        str | None, typer.Option(metavar="ANSWER", help="The answer to the second request, where one is made.")
    ] = None,
    task_id: Annotated[
        str | None, typer.Option(metavar="ID", help="The task's id, for links that are made of it.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show how a recorded answer is read, without a network.

    Example: relay providers read unified-video answer.json --status 404

    Reads RELAY_CONFIG.
    """
    from rich.table import Table

    from relay.providers.document import Answer
    from relay.providers.explained import explain
    from relay.providers.recorded import read_recorded
    from relay.wiring import now

    if answer == follow == "-":
        raise typer.BadParameter("only one of the two answers can come from standard input", param_hint="--follow")
    definition = _definition(provider)

    def recorded(source: str, status: int, headers: dict[str, str]) -> Answer:
        body = _recorded(source)
        truncated = len(body) > definition.request.max_bytes
        names = {} if task_id is None else {"task_id": task_id}
        base_url = definition.request.base_url
        return Answer(status, headers, body, truncated=truncated, base_url=base_url, names=names)

    first = recorded(answer, status, dict(map(_header, header)))
    second = None if follow is None else recorded(follow, 200, {})
    reading, remark = read_recorded(definition, first, second, now())
    if as_json:
        print_json(_shown(reading))
        return
    explanation = explain(definition, first, reading)
    console.print(f"read as {reading.kind}")
    _print_reading(reading)
    if remark:
        console.print(remark, soft_wrap=True)
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


def try_(
    provider: Annotated[str, typer.Argument(metavar="NAME", help="A provider that 'relay providers list' shows.")],
    task_id: Annotated[str, typer.Argument(help="The id that the upstream gave the task.")],
    as_json: JsonOption = False,
) -> None:
    """Make one query and show how relay reads the answer.

    Example: relay providers try unified-video sora-2:task_01k6

    Reads RELAY_CONFIG, NAME_BASE_URL, NAME_API_KEY and RELAY_ALLOWED_NETWORKS.
    """
    from relay.model.task_ids import trimmed
    from relay.providers.hosts import Unaskable
    from relay.providers.variables import variable
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
            try:
                declared = providers.load(provider).at(None, task_id)
            except Unaskable as why:
                raise ConfigError(f"{why}: set {variable(provider, 'BASE_URL')}") from None
            if declared.lacks_key(None):
                raise ConfigError(declared.key_remedy)
            if problem := declared.id_problem(task_id):
                raise typer.BadParameter(f"TASK_ID {problem}")
            started = time.monotonic()
            reading, answer = await declared.query(task_id, None, now())
            if answer is not None and declared.is_followed(reading):
                reading = await declared.follow(task_id, None, reading, answer, now())
            took = time.monotonic() - started
        finally:
            await ways.aclose()
        if as_json:
            print_json(_shown(reading))
        else:
            console.print(f"read as {reading.kind} in {took * 1000:.0f} ms")
            _print_reading(reading)
        return reading.body is not None

    if not run_async(go()):
        raise typer.Exit(1)
