"""What can be changed about an app, by the command line and by the dashboard. Each is the inside of one transaction."""

from __future__ import annotations

import secrets as random_secrets

import sqlalchemy as sa

from relay.errors import Conflict, NotFound
from relay.model.times import Millis
from relay.security import app_keys, signing
from relay.security.app_keys import Secret
from relay.security.vault import Vault
from relay.store import apps
from relay.store.apps import App


def new_key() -> str:
    """Return a new API key."""
    return f"rly_{random_secrets.token_urlsafe(32)}"


def to_change(tx: sa.Connection, name: str, *, declared: bool) -> App:
    """Return the app of a name that is to be changed.

    Args:
        declared: the environment declares the app `default`.

    Raises:
        NotFound: there is none.
        Conflict: the environment declares it.
    """
    app = apps.by_name(tx, name)
    if app is None:
        raise NotFound(f"there is no app named '{name[:100]}': 'relay apps list' shows the apps")
    if name == apps.DEFAULT and declared:
        raise Conflict(
            "the app 'default' cannot be changed here: RELAY_API_KEY and RELAY_SIGNING_SECRET declare it, "
            "so change these variables"
        )
    return app


def rotate_key(tx: sa.Connection, name: str, *, declared: bool) -> tuple[App, str]:
    """Give an app a new API key; the old one stops working within seconds.

    Raises:
        NotFound: there is no such app.
        Conflict: the environment declares it, or it is disabled.
    """
    app = to_change(tx, name, declared=declared)
    if app.disabled_at is not None:
        raise Conflict(f"'{name}' is disabled, so no key of it works: create another app with 'relay apps create'")
    key = new_key()
    apps.change(tx, app.id, key_hash=app_keys.hash_key(key))
    return app, key


def rotate_secret(
    tx: sa.Connection, name: str, vault: Vault, now: Millis, overlap: Millis, *, declared: bool
) -> tuple[App, list[Secret]]:
    """Give an app a new signing secret; return all that sign now, the new one first.

    Raises:
        NotFound: there is no such app.
        Conflict: the environment declares it.
    """
    app = to_change(tx, name, declared=declared)
    secrets = app_keys.rotated(app_keys.opened(vault, app), signing.new_secret(), now, overlap)
    apps.change(tx, app.id, secrets=app_keys.sealed(vault, app.id, secrets))
    return app, secrets


def disable(tx: sa.Connection, name: str, now: Millis, *, declared: bool) -> App:
    """Disable an app: its key stops working, and nothing of it is polled or delivered any more.

    Raises:
        NotFound: there is no such app.
        Conflict: the environment declares it.
    """
    app = to_change(tx, name, declared=declared)
    if app.disabled_at is None:
        apps.change(tx, app.id, disabled_at=now)
    return app
