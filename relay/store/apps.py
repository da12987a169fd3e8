"""The queries about apps: their API keys and signing secrets. Each function runs inside one transaction."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from relay.errors import Conflict
from relay.model.times import Millis
from relay.store import hot
from relay.store.schema import AnyRow, apps, usage

ALERTS_APP = "relay-alerts"
"""The name of the app that alerts belong to. It makes no calls, and counts as none of those that do."""

DEFAULT = "default"
"""The name of the app that the environment declares."""


@dataclass(frozen=True, slots=True)
class App:
    """A calling application. Its `secrets` are sealed for its id."""

    id: str
    name: str
    secrets: bytes
    created_at: Millis
    disabled_at: Millis | None
    last_used_at: Millis | None


_columns = (apps.c.id, apps.c.name, apps.c.secrets, apps.c.created_at, apps.c.disabled_at, apps.c.last_used_at)


def create(tx: sa.Connection, app_id: str, name: str, key_hash: bytes, secrets: bytes, now: Millis) -> None:
    """Add an app.

    Raises:
        Conflict: the name is taken.
    """
    if tx.execute(sa.select(apps.c.id).where(apps.c.name == name)).first():
        raise Conflict(f"an app named '{name}' exists already")
    row = {"id": app_id, "name": name, "key_hash": key_hash, "secrets": secrets, "created_at": now}
    tx.execute(sa.insert(apps).values(row))


def by_name(tx: sa.Connection, name: str) -> App | None:
    """Return the app of that name."""
    return _app(tx.execute(sa.select(*_columns).where(apps.c.name == name)).first())


def change(tx: sa.Connection, app_id: str, /, **values: Any) -> None:
    """Change columns of an app: `key_hash`, `secrets`, `disabled_at` or `last_used_at`."""
    tx.execute(sa.update(apps).where(apps.c.id == app_id).values(**values))


def used(tx: sa.Connection, app_id: str, now: Millis) -> None:
    """Record that the API key of an app was used."""
    change(tx, app_id, last_used_at=now)


def declare(tx: sa.Connection, app_id: str, key_hash: bytes, secrets: bytes, now: Millis) -> None:
    """Create or change the app named `default` to what the environment declares.

    Raises:
        Conflict: another app has the same key.
    """
    other = sa.select(apps.c.name).where(apps.c.key_hash == key_hash, apps.c.id != app_id)
    if name := tx.execute(other).scalar():
        raise Conflict(f"RELAY_API_KEY is already the key of the app '{name}': set another one")
    declared = sa.update(apps).where(apps.c.id == app_id).values(key_hash=key_hash, secrets=secrets, disabled_at=None)
    if not tx.execute(declared).rowcount:
        create(tx, app_id, DEFAULT, key_hash, secrets, now)


def by_key(tx: sa.Connection, key_hash: bytes) -> App | None:
    """Return the app with this API key, unless it is disabled."""
    query = sa.select(*_columns).where(apps.c.key_hash == key_hash, apps.c.disabled_at.is_(None))
    return _app(tx.execute(query).first())


_CALLERS = hot.Statement(sa.select(apps.c.id).where(apps.c.disabled_at.is_(None), apps.c.name != ALERTS_APP).limit(2))


def is_only_one(tx: sa.Connection) -> bool:
    """Return whether there is no more than one app that is not disabled, beside that of the alerts."""
    return len(_CALLERS.rows(tx)) < 2


def is_key(tx: sa.Connection, key_hashes: Collection[bytes]) -> bool:
    """Return whether one of these is the API key of an app, disabled or not."""
    return tx.execute(sa.select(apps.c.id).where(apps.c.key_hash.in_(key_hashes))).first() is not None


def valid_keys(tx: sa.Connection, key_hashes: Collection[bytes | None]) -> set[bytes]:
    """Return those of the keys that an app has which is not disabled."""
    query = sa.select(apps.c.key_hash).where(apps.c.key_hash.in_(key_hashes), apps.c.disabled_at.is_(None))
    return {bytes(key_hash) for key_hash in tx.execute(query).scalars()}


def secrets(tx: sa.Connection, app_id: str) -> bytes | None:
    """Return the sealed signing secrets of an app."""
    return tx.execute(sa.select(apps.c.secrets).where(apps.c.id == app_id)).scalar()


def every(tx: sa.Connection) -> Sequence[App]:
    """Return all apps, oldest first."""
    return [App(*tuple(row)) for row in tx.execute(sa.select(*_columns).order_by(apps.c.created_at, apps.c.id))]


def with_usage(tx: sa.Connection) -> Sequence[AnyRow]:
    """Return all apps, oldest first, with how many watches under way and how many targets each has."""
    public = (apps.c.id, apps.c.name, apps.c.created_at, apps.c.disabled_at, apps.c.last_used_at)
    query = sa.select(*public, usage.c.watching, usage.c.targets).join(usage, usage.c.app_id == apps.c.id, isouter=True)
    return tx.execute(query.order_by(apps.c.created_at, apps.c.id)).all()


def _app(row: AnyRow | None) -> App | None:
    return None if row is None else App(*tuple(row))
