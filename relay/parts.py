"""The parts that processes and commands have in common, made of the settings: database, vault, providers, ways out."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path

import httpx
import sqlalchemy as sa

from relay import keyring
from relay.errors import ConfigError, Conflict
from relay.guard import Guard
from relay.ids import new_id
from relay.model import Millis
from relay.outbound import Transport
from relay.provider import MAX_ANSWER, SANDBOX, UNUSABLE_KEY, Provider, load_definition, variable
from relay.settings import Settings, from_environment
from relay.store import Database, apps
from relay.values import fits_in_a_header
from relay.vault import Vault


def now() -> Millis:
    """The wall clock."""
    return time.time_ns() // 1_000_000


def open_vault(settings: Settings) -> Vault:
    """The vault with the configured keys, or with one that is made once and kept in `relay.key` beside SQLite's file.

    Raises:
        ConfigError: a deployment, or a database that others share, has no RELAY_SECRET_KEY; or the file cannot be used.
    """
    if settings.secret_key:
        return Vault(settings.secret_key)
    if settings.deployed or not settings.embedded:
        raise ConfigError(
            "RELAY_SECRET_KEY is not set: it seals what relay stores, must outlive this machine and be the same in all "
            f"processes. Set it once, to something like {secrets.token_urlsafe(32)}"
        )
    file = _key_file(settings)
    try:
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as new:
                new.write(secrets.token_urlsafe(32))
        return Vault([file.read_text("utf-8").strip()])
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}; set RELAY_SECRET_KEY instead") from None


def _key_file(settings: Settings) -> Path:
    database = sa.make_url(settings.database_url).database
    return Path(database).with_name("relay.key") if database else Path("relay.key")


def open_database(settings: Settings) -> Database:
    """The database, refused where it would be thrown away.

    Raises:
        ConfigError: SQLite on a platform whose disk does not last.
    """
    if settings.embedded and settings.deployed and not settings.ephemeral:
        raise ConfigError(
            "this platform throws its disk away at each restart, and the database with it: add PostgreSQL "
            "('heroku addons:create heroku-postgresql'), which sets DATABASE_URL, or set RELAY_EPHEMERAL=1 for a demo"
        )
    return Database(settings.database_url, settings.database_pool)


EVERYWHERE = Guard((ip_network("0.0.0.0/0"), ip_network("::/0")))
"""The guard of connections to an egress proxy: what lies behind it is the proxy's to refuse."""


def open_transports(settings: Settings) -> tuple[Guard, Transport, Transport]:
    """The guard, and two ways out: for everything, and for targets without TLS, which only allowed networks may be."""
    guard = Guard(settings.allowed_networks)
    proxy = settings.egress_proxy
    ways = [
        Transport(EVERYWHERE if proxy else one, timeout=30.0, max_bytes=MAX_ANSWER, proxy=proxy)
        for one in (guard, guard.plain())
    ]
    return guard, ways[0], ways[1]


def load_providers(
    settings: Settings, transport: httpx.AsyncBaseTransport, environ: Mapping[str, str]
) -> dict[str, Provider]:
    """Every declared upstream, by name.

    Raises:
        ConfigError: a definition is wrong, or RELAY_PROVIDER names none.
    """
    providers = {}
    for file in sorted((settings.config / "providers").glob("*.toml")):
        definition = load_definition(file, environ)
        played = definition.request.base_url == SANDBOX
        if played and not settings.sandbox_on:
            continue
        key = from_environment(name := variable(definition.name, "API_KEY"), environ) or ("sandbox" if played else None)
        if not fits_in_a_header(key):
            raise ConfigError(f"{name}: {UNUSABLE_KEY}; it must be printable ASCII")
        providers[definition.name] = Provider(definition, key, _played() if played else transport)
    if settings.provider not in providers:
        declared = ", ".join(sorted(providers))
        raise ConfigError(
            f"RELAY_PROVIDER: '{settings.provider}' is not declared in {settings.config}/providers; there is {declared}"
        )
    return providers


def _played() -> httpx.AsyncBaseTransport:
    from relay.sandbox import Played  # a web framework, for the few that want it

    return Played()


def declare_default_app(db: Database, vault: Vault, settings: Settings) -> None:
    """Makes the app `default` what RELAY_API_KEY and RELAY_SIGNING_SECRET say.

    A secret that the environment has replaced signs along for a while, as if it had been rotated.
    """
    if settings.api_key is None or settings.signing_secret is None:
        return
    for last in (False, True):  # of processes that start together, the second look finds what the first made
        found = db.run_here(apps.by_name, apps.DEFAULT)
        app_id, secrets_ = (found.id, keyring.opened(vault, found)) if found else (new_id("app"), [])
        if not secrets_ or secrets_[0]["secret"] != settings.signing_secret:
            secrets_ = keyring.rotated(secrets_, settings.signing_secret, now(), keyring.OVERLAP)
        sealed = keyring.sealed(vault, app_id, secrets_)
        try:
            db.run_here(apps.declare, app_id, keyring.hash_key(settings.api_key), sealed, now())
            return
        except Conflict:
            if last:
                raise
