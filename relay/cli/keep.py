"""The commands that keep a deployment well: schema, configuration, invariant, sealed secrets."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import typer

from relay.cli.base import Json, console, open_store, print_json, settings_of_environment
from relay.masking import MASK

if TYPE_CHECKING:
    from relay.settings import Settings


def migrate_() -> None:
    """Brings the database to the schema of this version; harmless when it is there already, or newer.

    Example: DATABASE_URL=postgres://… relay migrate
    """
    from relay.parts import open_database
    from relay.store import migrate

    db = open_database(settings_of_environment())
    try:
        known = db.run_here(migrate.upgrade)
    finally:
        db.close()
    console.print(
        "The database is at the newest schema."
        if known
        else "The database is newer than this relay, which goes on with it: nothing was changed."
    )


def config(as_json: Json = False) -> None:
    """Prints the effective configuration and where each value came from, secrets masked.

    Example: relay config
    """
    from rich.table import Table

    from relay.provider import variable
    from relay.settings import Settings, from_environment, load

    settings = load(os.environ)

    def origin(name: str) -> str:
        return "environment" if os.environ.get(name) else f"{name}_FILE"

    where = "environment" if os.environ.get("RELAY_CONFIG") else "default"
    rows: list[dict[str, object]] = [{"variable": "RELAY_CONFIG", "value": str(settings.config), "from": where}]
    rows += [
        {
            "variable": field.alias,
            "value": _masked(settings, name),
            "from": origin(field.alias) if settings.sources[name] == "environment" else settings.sources[name],
        }
        for name, field in Settings.model_fields.items()
        if field.alias and name in settings.sources
    ]
    for file in sorted((settings.config / "providers").glob("*.toml")):
        for what in ("BASE_URL", "API_KEY"):
            name = variable(file.stem, what)
            value = from_environment(name, os.environ)
            shown = MASK if value and what == "API_KEY" else _without_user(value)
            rows.append({"variable": name, "value": shown, "from": origin(name) if value else "default"})
    if as_json:
        print_json(rows)
        return
    table = Table("variable", "value", "from", box=None)
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row.values()))
    console.print(table)


def _masked(settings: Settings, name: str) -> object:
    from sqlalchemy import make_url

    value = getattr(settings, name)
    if name == "database_url":
        url = make_url(value)
        return url.difference_update_query([one for one in url.query if "password" in one]).render_as_string()
    if value and type(settings).model_fields[name].repr is False:
        return MASK
    if name in ("retry_schedule", "allowed_networks", "slack_hook_hosts", "slack_teams", "cors_origins"):
        return ",".join(f"{one:g}s" if isinstance(one, float | int) else str(one) for one in value)
    if name == "poll_interval" and value:
        return f"{value.first:g}-{value.steady:g}"
    if value is None or isinstance(value, bool | int | float):
        return value
    return _without_user(str(value)) if value not in ((), "") else None


def _without_user(value: str | None) -> str | None:
    """A URL without the user and password that may stand in it."""
    return value and re.sub(r"(?<=://)[^/?#]*@", f"{MASK}@", value)


def check(as_json: Json = False) -> None:
    """Verifies on the live database that nothing is lost: every end is told, once, to every target.

    Example: relay check --json
    """
    from relay.store import invariant

    _, db = open_store()
    try:
        found = db.run_here(invariant.violations)
    finally:
        db.close()
    if as_json:
        print_json([{"what": one.what, "ids": one.ids} for one in found])
    for one in [] if as_json else found:
        console.print(f"{one.what}: {' '.join(one.ids)}", soft_wrap=True)
    if found:
        raise typer.Exit(1)
    if not as_json:
        console.print("Nothing is lost: every end is told by one event, and every target of it is accounted for.")


def rotate_secrets() -> None:
    """Seals everything stored with the newest RELAY_SECRET_KEY; the older keys can be taken away then.

    Example: RELAY_SECRET_KEY=new,old relay secrets rotate
    """
    from relay.parts import open_vault
    from relay.reseal import reseal

    settings, db = open_store()
    try:
        count = reseal(db, open_vault(settings))
    finally:
        db.close()
    console.print(f"{count} stored secrets were sealed anew; only the newest RELAY_SECRET_KEY is needed now.")
