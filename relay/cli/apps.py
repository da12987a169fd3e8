"""`relay apps`: calling applications, their API keys and signing secrets."""

from __future__ import annotations

import contextlib
import secrets as random_secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relay import signing
from relay.cli.base import Json, console, open_store, print_json
from relay.errors import Conflict, NotFound

if TYPE_CHECKING:
    from relay.settings import Settings
    from relay.store import Database
    from relay.store.apps import App


def create(name: str, as_json: Json = False) -> None:
    """Makes an app and prints its API key and signing secret, this once.

    Example: relay apps create shop
    """
    from relay import keyring
    from relay.ids import new_id
    from relay.parts import now, open_vault
    from relay.store import apps

    if not name.strip() or len(name) > 100 or not name.isprintable():
        raise typer.BadParameter("NAME must be 1 to 100 printable characters")
    settings, db = open_store()
    key, secret, app_id = _new_key(), signing.new_secret(), new_id("app")
    try:
        sealed = keyring.sealed(open_vault(settings), app_id, keyring.rotated([], secret, now(), 0))
        db.run_here(apps.create, app_id, name, keyring.hash_key(key), sealed, now())
    finally:
        db.close()
    if as_json:
        print_json({"id": app_id, "name": name, "api_key": key, "signing_secret": secret})
        return
    console.print(f"App '{name}' can call now. These are shown only this once:\n")
    console.print(f"  API key         {key}", soft_wrap=True)
    console.print(f"  signing secret  {secret}\n", soft_wrap=True)


def _new_key() -> str:
    return f"rly_{random_secrets.token_urlsafe(32)}"


@contextlib.contextmanager
def _app(name: str) -> Iterator[tuple[Settings, Database, App]]:
    """The app of that name, to be changed."""
    from relay.store import apps

    settings, db = open_store()
    try:
        found = db.run_here(apps.by_name, name)
        if found is None:
            raise NotFound(f"there is no app named '{name}'; 'relay apps list' shows those there are")
        if name == apps.DEFAULT and settings.api_key is not None:
            raise Conflict("the app 'default' is what RELAY_API_KEY and RELAY_SIGNING_SECRET say: change these")
        yield settings, db, found
    finally:
        db.close()


def rotate_key(name: str, as_json: Json = False) -> None:
    """Gives an app a new API key and prints it, this once; the old one stops working within seconds.

    Example: relay apps rotate-key shop
    """
    from relay import keyring
    from relay.store import apps

    key = _new_key()
    with _app(name) as (_, db, app):
        if app.disabled_at is not None:
            raise Conflict(f"'{name}' is disabled, so that no key of it works: 'relay apps create' makes another app")
        db.run_here(apps.change, app.id, key_hash=keyring.hash_key(key))
    if as_json:
        print_json({"id": app.id, "name": name, "api_key": key})
        return
    console.print(f"The new API key of '{name}', shown only this once:\n\n  {key}\n", soft_wrap=True)


def rotate_secret(
    name: str,
    overlap: Annotated[str, typer.Option(help="How long the old secret signs along: 90s, 24h; 365d at most.")] = "24h",
    as_json: Json = False,
) -> None:
    """Gives an app a new signing secret and prints it, this once; events carry both signatures during the overlap.

    Example: relay apps rotate-secret shop --overlap 24h
    """
    from relay import keyring
    from relay.model import rfc3339
    from relay.parts import now, open_vault
    from relay.store import apps
    from relay.values import DAY, duration

    try:
        seconds = float(str(duration(overlap)))
    except ValueError as error:
        raise typer.BadParameter(f"--overlap: {error}") from None
    if seconds > 365 * DAY:
        raise typer.BadParameter(f"--overlap: at most 365d, not {overlap}")
    secret = signing.new_secret()
    with _app(name) as (settings, db, app):
        vault = open_vault(settings)
        secrets = keyring.rotated(keyring.opened(vault, app), secret, now(), round(seconds * 1000))
        db.run_here(apps.change, app.id, secrets=keyring.sealed(vault, app.id, secrets))
    ends = [rfc3339(one["expires_at"]) for one in secrets if one["expires_at"]]
    if as_json:
        print_json({"id": app.id, "name": name, "signing_secret": secret, "old_secrets_sign_until": ends})
        return
    console.print(f"The new signing secret of '{name}', shown only this once:\n\n  {secret}\n", soft_wrap=True)
    for end in ends:
        console.print(f"An old one signs along until {end}.")


def disable(name: str, as_json: Json = False) -> None:
    """Ends an app's access; what it has registered is still watched and told.

    Example: relay apps disable shop
    """
    from relay.parts import now
    from relay.store import apps

    with _app(name) as (_, db, app):
        db.run_here(apps.change, app.id, disabled_at=now())
    if as_json:
        print_json({"id": app.id, "name": name, "disabled": True})
        return
    console.print(f"'{name}' cannot call any more.")


def list_(as_json: Json = False) -> None:
    """Lists the apps.

    Example: relay apps list --json
    """
    from rich.table import Table

    from relay.parts import declare_default_app, open_vault
    from relay.store import apps

    settings, db = open_store()
    try:
        declare_default_app(db, open_vault(settings), settings)
        found = db.run_here(apps.every)
    finally:
        db.close()
    if as_json:
        print_json([_shown(one) for one in found])
        return
    if not found:
        console.print("There are no apps yet: make one with 'relay apps create NAME'.")
        return
    table = Table("name", "id", "since", "last used", "state", box=None)
    for one in found:
        shown = _shown(one)
        state = "disabled" if shown["disabled"] else "active"
        table.add_row(one.name, one.id, shown["created_at"], shown["last_used_at"] or "never", state)
    console.print(table)


def _shown(app: App) -> dict[str, Any]:
    from relay.model import rfc3339

    return {
        "id": app.id,
        "name": app.name,
        "created_at": rfc3339(app.created_at),
        "last_used_at": rfc3339(app.last_used_at) if app.last_used_at else None,
        "disabled": app.disabled_at is not None,
    }
