"""The commands that an operator runs on a deployment: migrate, config, check and secrets rotate."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, get_args

import typer

from relay.cli.common import JsonOption, console, open_store, print_json, settings_of_environment
from relay.errors import ConfigError
from relay.security.redaction import MASK

if TYPE_CHECKING:
    from relay.settings.options import Settings


def migrate_(as_json: JsonOption = False) -> None:
    """Upgrade the database to the schema of this version.

    A database that is up to date or newer is left as it is.

    Example: DATABASE_URL=postgres://relay@db.example/relay relay migrate

    Reads DATABASE_URL.
    """
    from relay.store import migrate
    from relay.wiring import open_database

    db = open_database(settings_of_environment())
    try:
        known = db.run_here(migrate.upgrade)
    finally:
        db.close()
    if as_json:
        print_json({"schema": "newest" if known else "newer"})
        return
    console.print(
        "The database is at the newest schema."
        if known
        else "The database is newer than this relay, which works with it: nothing was changed."
    )


def config(as_json: JsonOption = False) -> None:
    """Print what is configured, and where each value comes from.

    Secrets are masked. With --json, durations are seconds and sizes bytes.

    Example: relay config

    Reads RELAY_CONFIG, and every option that it shows.
    """
    from rich.table import Table

    from relay.settings.sources import load

    settings = load(os.environ)
    rows = [*_option_rows(settings), *_provider_rows(settings)]
    if as_json:
        print_json(rows)
        return
    table = Table(box=None)
    for heading in ("variable", "value", "from"):
        table.add_column(heading, overflow="fold")  # else what is too long for a terminal would be cut
    for row in rows:
        table.add_row(*_in_words(settings, **row))
    console.print(table)


def _in_words(settings: Settings, variable: str, value: Any, **origin: str) -> tuple[str, str, str]:
    """Return a row as people read it: as the file would say it, and with the name of the file that says it."""
    from relay.settings.types import in_words, is_duration, is_size, size_in_words

    source = origin["from"]
    options = {field.alias: field for field in type(settings).model_fields.values()}
    effective = {"RELAY_HOST": settings.bind, "RELAY_SANDBOX": settings.sandbox_on, "RELAY_TRUSTED_HOPS": settings.hops}
    if source == "default":
        value = effective.get(variable, value)
        value, source = _from_a_file(settings, variable) or (value, source)
    if source == "file":
        source = str(settings.config / "relay.toml")
    if isinstance(value, bool):
        value = str(value).lower()
    elif variable in options and is_duration(options[variable]):
        value = in_words(value)
    elif variable in options and is_size(options[variable]):
        value = size_in_words(value)
    return variable, "" if value is None else str(value), source


def _from_a_file(settings: Settings, variable: str) -> tuple[str, str] | None:
    """Return what holds for a variable that is not set because another file than relay.toml has it, and that file."""
    from relay.providers.definition import load_definition
    from relay.providers.variables import variable as provider_variable
    from relay.wiring import key_file_of

    if variable == "RELAY_SECRET_KEY" and settings.embedded and (file := key_file_of(settings)).exists():
        return MASK, str(file)
    file = settings.config / "providers" / f"{settings.provider}.toml"
    if variable == provider_variable(settings.provider, "BASE_URL") and file.is_file():
        with contextlib.suppress(ConfigError):  # 'relay providers check' says what is wrong with it
            if address := load_definition(file).request.base_url:
                return address, file.name
    return None


def _option_rows(settings: Settings) -> Iterator[dict[str, Any]]:
    source = "environment" if os.environ.get("RELAY_CONFIG") else "default"
    yield {"variable": "RELAY_CONFIG", "value": str(settings.config), "from": source}
    for name, field in type(settings).model_fields.items():
        if field.alias and name in settings.sources:
            source = settings.sources[name]
            if source == "environment":
                source = _environment_source(field.alias)
            yield {"variable": field.alias, "value": _masked(settings, name), "from": source}


def _provider_rows(settings: Settings) -> Iterator[dict[str, Any]]:
    """Yield what is set for providers, and address and key of the default one: all that there are would be too many."""
    from relay.providers.variables import Variable, variable
    from relay.settings.sources import from_environment

    for file in sorted((settings.config / "providers").glob("*.toml")):
        for suffix in get_args(Variable):
            name = variable(file.stem, suffix)
            value = from_environment(name, os.environ)
            if value is None and (file.stem != settings.provider or suffix == "TOKEN_URL"):
                continue
            masked = MASK if value and suffix == "API_KEY" else _mask_user(value)
            yield {"variable": name, "value": masked, "from": _environment_source(name) if value else "default"}


def _environment_source(name: str) -> str:
    """Return whether a variable is set itself or by the file that NAME_FILE names."""
    return "environment" if os.environ.get(name) else f"{name}_FILE"


def _masked(settings: Settings, name: str) -> object:
    """Return an option's value as it is shown."""
    from sqlalchemy import make_url

    from relay.settings.types import in_words

    value = getattr(settings, name)
    if name == "database_url":
        url = make_url(value)
        passwords = [parameter for parameter in url.query if "password" in parameter]
        return url.difference_update_query(passwords).render_as_string()
    if value and type(settings).model_fields[name].repr is False:
        return MASK
    if isinstance(value, list | tuple | frozenset):
        return ",".join(in_words(item) if isinstance(item, float | int) else str(item) for item in value)
    if name == "poll_interval" and value:
        return f"{value.first:g}" if value.first == value.steady else f"{value.first:g}-{value.steady:g}"
    if value is None or isinstance(value, bool | int | float):
        return value
    return _mask_user(str(value)) if value not in ((), "") else None


def _mask_user(url: str | None) -> str | None:
    """Mask the user and the password in a URL."""
    return url and re.sub(r"(?<=://)[^/?#]*@", f"{MASK}@", url)


def check(as_json: JsonOption = False) -> None:
    """Verify on the live database that nothing is lost.

    Each end has one event, and each of its targets a delivery. No create call may still be on its way from a process
    that is gone. It also finds the processes whose clocks are wrong, and names the watches and deliveries whose last
    poll or attempt was interrupted by a fault of relay's own. It also names the watches under way whose provider has no
    file any more, which by itself is no failure: they go on when the file is back.

    Example: relay check --json

    Reads DATABASE_URL and RELAY_CONFIG.
    """
    from relay.store import invariants, processes

    settings, db = open_store()
    files = [file.stem for file in (settings.config / "providers").glob("*.toml")]
    try:
        violations = db.run_here(invariants.find_violations) + db.run_here(invariants.find_faults)
        clocks = db.run_here(processes.wrong_clocks)
        orphans = db.run_here(invariants.find_orphans, files, inline=settings.inline_providers)
    finally:
        db.close()
    findings = [{"what": violation.what, "ids": list(violation.ids)} for violation in violations]
    for row in clocks:
        what = f"the clock of {row.host.split()[0]} is {row.ahead / 1000:+.1f} s off the database's: set both by NTP"
        findings.append({"what": what, "ids": [row.name]})
    failed = bool(findings)
    findings += [{"what": orphan.what, "ids": list(orphan.ids)} for orphan in orphans]
    if as_json:
        print_json(findings)
    else:
        for finding in findings:
            console.print(f"{finding['what']}: {' '.join(finding['ids'])}", soft_wrap=True)
        if not violations:
            console.print("Nothing is lost: each end has one event, and each of its targets is accounted for.")
    if failed:
        raise typer.Exit(1)


def rotate_secrets(as_json: JsonOption = False) -> None:
    """Seal everything stored with the newest RELAY_SECRET_KEY.

    The older keys can be removed afterwards.

    Example: RELAY_SECRET_KEY=new-key,old-key relay secrets rotate

    Reads DATABASE_URL and RELAY_SECRET_KEY.
    """
    from relay.security.reseal import reseal
    from relay.wiring import open_vault

    settings, db = open_store()
    try:
        count = reseal(db, open_vault(settings))
    finally:
        db.close()
    if as_json:
        print_json({"sealed_again": count})
        return
    console.print(f"{count} stored secrets were sealed again. Only the newest RELAY_SECRET_KEY is needed from now on.")
