"""The commands `relay apps …`: calling applications, their API keys and signing secrets."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relay.cli.common import JsonOption, console, open_store, print_json
from relay.security import signing

if TYPE_CHECKING:
    from relay.settings.options import Settings
    from relay.store.apps import App


AppName = Annotated[str, typer.Argument(help="An app that 'relay apps list' shows.")]

STOPPED_AT_ONCE = 500
"""Watches that are stopped in one transaction, so that no one waits long for the database."""


def create(
    name: Annotated[str, typer.Argument(help="What to call the app: 1 to 100 characters.")], as_json: JsonOption = False
) -> None:
    """Create an app and print its API key and signing secret. They are shown only this once.

    Example: relay apps create shop

    Reads DATABASE_URL and RELAY_SECRET_KEY.
    """
    from relay.model.ids import new_id
    from relay.security import app_changes, app_keys
    from relay.store import apps
    from relay.wiring import now, open_vault

    if not name.strip() or len(name) > 100 or not name.isprintable():
        raise typer.BadParameter("NAME must be 1 to 100 printable characters")
    settings, db = open_store()
    app_id = new_id("app")
    key = app_changes.new_key()
    secret = signing.new_secret()
    try:
        sealed = app_keys.sealed(open_vault(settings), app_id, app_keys.rotated([], secret, now(), 0))
        db.run_here(apps.create, app_id, name, app_keys.hash_key(key), sealed, now())
    finally:
        db.close()
    if as_json:
        print_json({"id": app_id, "name": name, "api_key": key, "signing_secret": secret})
        return
    console.print(f"The app '{name}' can call relay now. These are shown only this once:\n")
    console.print(f"  API key         {key}", soft_wrap=True)
    console.print(f"  signing secret  {secret}\n", soft_wrap=True)


def _declared(settings: Settings) -> bool:
    """Return whether the environment declares the app `default`."""
    return settings.api_key is not None and settings.signing_secret is not None


def rotate_key(name: AppName, as_json: JsonOption = False) -> None:
    """Give an app a new API key and print it. It is shown only this once; the old key stops working within seconds.

    Example: relay apps rotate-key shop

    Reads DATABASE_URL and RELAY_SECRET_KEY.
    """
    from relay.security import app_changes

    settings, db = open_store()
    with contextlib.closing(db):
        app, key = db.run_here(app_changes.rotate_key, name, declared=_declared(settings))
    if as_json:
        print_json({"id": app.id, "name": name, "api_key": key})
        return
    console.print(f"The new API key of '{name}', shown only this once:\n\n  {key}\n", soft_wrap=True)


def rotate_secret(
    name: AppName,
    overlap: Annotated[
        str, typer.Option(help="How long the old secret still signs, such as 90s or 24h; at most 365d.")
    ] = "24h",
    as_json: JsonOption = False,
) -> None:
    """Give an app a new signing secret and print it. Events carry both signatures during the overlap.

    Example: relay apps rotate-secret shop --overlap 24h

    Reads DATABASE_URL and RELAY_SECRET_KEY.
    """
    from relay.model.times import rfc3339
    from relay.security import app_changes
    from relay.settings.types import DAY, duration
    from relay.wiring import now, open_vault

    try:
        seconds = float(str(duration(overlap)))
    except ValueError as error:
        raise typer.BadParameter(f"--overlap: {error}") from None
    if seconds > 365 * DAY:
        raise typer.BadParameter(f"--overlap: at most 365d, not {overlap}")
    settings, db = open_store()
    with contextlib.closing(db):
        overlap_ms = round(seconds * 1000)
        rotated = (name, open_vault(settings), now(), overlap_ms)
        app, secrets = db.run_here(app_changes.rotate_secret, *rotated, declared=_declared(settings))
    secret = secrets[0]["secret"]
    ends = [rfc3339(old["expires_at"]) for old in secrets if old["expires_at"]]
    if as_json:
        print_json({"id": app.id, "name": name, "signing_secret": secret, "old_secrets_sign_until": ends})
        return
    console.print(f"The new signing secret of '{name}', shown only this once:\n\n  {secret}\n", soft_wrap=True)
    for end in ends:
        console.print(f"An old secret still signs until {end}.")


def disable(
    name: AppName,
    stop: Annotated[
        bool, typer.Option("--stop", help="Also stop its watches: no target is notified of their end.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Disable an app.

    Its API key stops working, and what it has registered is neither polled nor delivered any more.

    Example: relay apps disable shop --stop

    Reads DATABASE_URL and RELAY_SECRET_KEY.
    """
    from relay.security import app_changes
    from relay.store import watches
    from relay.wiring import now

    stopped = 0
    settings, db = open_store()
    with contextlib.closing(db):
        app = db.run_here(app_changes.disable, name, now(), declared=_declared(settings))
        while stop and (count := db.run_here(watches.cancel_some, app.id, now(), STOPPED_AT_ONCE)):
            stopped += count
    if as_json:
        print_json({"id": app.id, "name": name, "disabled": True} | ({"stopped": stopped} if stop else {}))
        return
    console.print(f"The app '{name}' cannot call relay any more. Nothing of it is polled or delivered.")
    if stop:
        console.print(f"{stopped} watches were stopped.")


def list_(as_json: JsonOption = False) -> None:
    """List the apps, and when the API key of each was last used.

    Example: relay apps list --json

    Reads DATABASE_URL and RELAY_SECRET_KEY.
    """
    from rich.table import Table

    from relay.store import apps
    from relay.wiring import declare_default_app, now, open_vault

    settings, db = open_store()
    try:
        declare_default_app(db, open_vault(settings), settings, now())
        listed = [_as_json(app) for app in db.run_here(apps.every)]
    finally:
        db.close()
    if as_json:
        print_json(listed)
        return
    if not listed:
        console.print("There are no apps yet: create one with 'relay apps create NAME'.")
        return
    table = Table("name", "id", "since", "last used", "state", box=None)
    for app in listed:
        state = "disabled" if app["disabled"] else "active"
        table.add_row(app["name"], app["id"], app["created_at"], app["last_used_at"] or "never", state)
    console.print(table)


def _as_json(app: App) -> dict[str, Any]:
    from relay.model.times import rfc3339

    return {
        "id": app.id,
        "name": app.name,
        "created_at": rfc3339(app.created_at),
        "last_used_at": rfc3339(app.last_used_at) if app.last_used_at else None,
        "disabled": app.disabled_at is not None,
    }
