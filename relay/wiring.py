"""Parts that processes and commands share, built from the settings: database, vault, transports and providers."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from ipaddress import ip_network
from pathlib import Path

import sqlalchemy as sa
import structlog

from relay.channels.urls import UrlCheck
from relay.errors import ConfigError, Conflict
from relay.model.ids import new_id
from relay.model.times import Millis
from relay.outbound.bulkheads import Bulkhead
from relay.outbound.descriptors import limit, parts
from relay.outbound.prepared import Exchanger, OverHttpx
from relay.outbound.transport import Transport
from relay.providers.credentials import flaw_of
from relay.providers.definition import MAX_ANSWER, SANDBOX, load_definition
from relay.providers.files import ProviderFiles
from relay.providers.inline import InlineProviders
from relay.providers.mistakes import nearest
from relay.providers.provider import Provider
from relay.providers.upstreams import Upstreams
from relay.providers.variables import variable, variables
from relay.security import app_keys, key_file
from relay.security.guard import Guard
from relay.security.vault import Vault
from relay.settings.options import Settings
from relay.settings.sources import from_environment
from relay.store import Database, apps

log = structlog.stdlib.get_logger(__name__)

LONG_KEY = 24
"""Characters of an API key that no one guesses."""


def now() -> Millis:
    """Return the time of the wall clock."""
    return time.time_ns() // 1_000_000


def open_vault(settings: Settings) -> Vault:
    """Open the vault with the configured keys. Without any, create one key in `relay.key` beside SQLite's file.

    Raises:
        ConfigError: RELAY_SECRET_KEY is missing on a deployment or for a shared database; or the file cannot be used.
    """
    if settings.secret_key:
        return Vault(settings.secret_key)
    if settings.deployed or not settings.embedded:
        raise ConfigError(
            "RELAY_SECRET_KEY is not set: relay needs it to seal what it stores. It must outlive this machine and be "
            f"the same in all processes. Set it once, for example to {secrets.token_urlsafe(32)}"
        )
    return Vault([key_file.read_or_make(key_file_of(settings))])


def key_file_of(settings: Settings) -> Path:
    """Return where the key is of a deployment that has SQLite and no RELAY_SECRET_KEY."""
    database = sa.make_url(settings.database_url).database
    return Path(database).with_name("relay.key") if database else Path("relay.key")


def open_database(settings: Settings) -> Database:
    """Open the database.

    Raises:
        ConfigError: it would be SQLite on a platform that deletes its disk at each restart.
    """
    if settings.embedded and settings.deployed and not settings.ephemeral:
        raise ConfigError(
            "this platform deletes its disk at each restart, and the SQLite database with it: add PostgreSQL "
            "('heroku addons:create heroku-postgresql'), which sets DATABASE_URL, or set RELAY_EPHEMERAL=1 for a demo"
        )
    return Database(settings.database_url, settings.database_pool)


EVERYWHERE = Guard((ip_network("0.0.0.0/0"), ip_network("::/0")))
"""The guard where an egress proxy is set: it permits every address, because the proxy decides what may be reached."""


UPSTREAM_LOOKUPS = 16
"""Names of upstreams that are looked up at once: an operator has few, and each is looked up once for all."""


def open_guard(settings: Settings) -> Guard:
    """Return the guard of a deployment."""
    return Guard(settings.allowed_networks, settings.blocked_networks)


@dataclass(frozen=True, slots=True)
class Ways:
    """The ways out of a deployment.

    Attributes:
        guard: decides to which addresses they lead.
        upstreams: asks upstreams, with a bulkhead of its own.
        encrypted: calls receivers.
        plain: calls receivers without TLS; its guard permits fewer addresses.
        creates: sends create calls to upstreams, which may take minutes, beside all polls.
    """

    guard: Guard
    upstreams: Transport
    encrypted: Transport
    plain: Transport
    creates: Transport

    async def aclose(self) -> None:
        """Close every connection."""
        for transport in (self.upstreams, self.encrypted, self.plain, self.creates):
            await transport.aclose()


def open_ways(settings: Settings) -> Ways:
    """Return the ways out of a deployment."""
    guard = open_guard(settings)
    divided = parts(limit())
    receivers = Bulkhead("receiver", divided.lookups, divided.receivers)
    upstreams = Bulkhead("upstream", min(UPSTREAM_LOOKUPS, divided.lookups), divided.upstreams)
    creates = Bulkhead("create", min(UPSTREAM_LOOKUPS, divided.lookups), divided.creates)
    return Ways(
        guard,
        _transport(settings, guard, upstreams),
        _transport(settings, guard, receivers),
        _transport(settings, guard.plain(), receivers),
        _transport(settings, guard, creates),
    )


def _transport(settings: Settings, guard: Guard, bulkhead: Bulkhead) -> Transport:
    proxy = settings.egress_proxy
    dialled = EVERYWHERE if proxy else guard
    return Transport(dialled, timeout=30.0, max_bytes=MAX_ANSWER, proxy=proxy, bulkhead=bulkhead)


def load_providers(
    settings: Settings, exchanger: Exchanger, environ: Mapping[str, str], creates: Exchanger | None = None
) -> ProviderFiles:
    """Return the declared upstreams by name. Those that are certainly used are parsed now, others when first used.

    Certainly used are the default provider, the sandbox, and those for which the environment has an address or a key.

    Args:
        exchanger: sends queries.
        creates: sends create calls; None for the same way.

    Raises:
        ConfigError: one that is certainly used is wrong, or RELAY_PROVIDER or RELAY_PROVIDERS names one that there is
            not.
    """
    providers = declared_providers(settings, exchanger, environ, creates)
    nobody_chose_it = bool(settings.providers) and settings.sources.get("provider") == "default"
    if settings.provider not in list(providers) and not nobody_chose_it:
        hint = nearest(settings.provider, sorted(providers))
        among = "among RELAY_PROVIDERS" if settings.providers else f"declared in {settings.config}/providers"
        raise ConfigError(f"RELAY_PROVIDER: '{settings.provider}' is not {among}; {hint}")
    for name in providers:
        if name in (settings.provider, "sandbox") or any(environ.get(each) for each in variables(name)):
            providers.load(name)
    return providers


def open_upstreams(
    settings: Settings, providers: ProviderFiles, ways: Ways, urls: UrlCheck, clock: Callable[[], Millis]
) -> Upstreams:
    """Return the declared upstreams with their lanes, and those of inline definitions where these are switched on."""
    inline = InlineProviders(ways.encrypted, ways.plain, urls.problem) if settings.inline_providers else None
    return Upstreams(providers, clock, inline)


def warn_at_start(settings: Settings, providers: Mapping[str, Provider], environ: Mapping[str, str]) -> None:
    """Log what is allowed, but was perhaps not meant."""
    options = {str(field.alias) for field in Settings.model_fields.values() if field.alias}
    known = {"RELAY_CONFIG", "RELAY_URL", *options, *(f"{name}_FILE" for name in options)}
    of_providers = {name for provider in providers for name in variables(provider)}
    for name in sorted(environ):
        if name.startswith("RELAY_") and name not in known | of_providers:
            # Without what all of them begin with, which would make any two look alike.
            own = sorted(option.removeprefix("RELAY_") for option in known if option.startswith("RELAY_"))
            near = get_close_matches(name.removeprefix("RELAY_"), own, n=1)
            hint = f"did you mean RELAY_{near[0]}?" if near else "config/relay.toml lists every option"
            log.warning("an unknown variable is ignored", variable=name, hint=hint)
    if settings.ephemeral and settings.embedded:
        log.warning("RELAY_EPHEMERAL is set: this database goes with its disk, and every watch with it")
    if not any(environ.get(name) for name in of_providers) and not _usable(providers.get(settings.provider)):
        default = settings.provider
        remedy = f"set {variable(default, 'BASE_URL')} and {variable(default, 'API_KEY')}, or those of another provider"
        also = "; only the sandbox can be watched" if "sandbox" in providers else ""
        log.warning(f"no upstream is set{also}", remedy=remedy)


def _usable(provider: Provider | None) -> bool:
    return provider is not None and provider.configured and not provider.lacks_key(None)


def declared_providers(
    settings: Settings, exchanger: Exchanger, environ: Mapping[str, str], creates: Exchanger | None = None
) -> ProviderFiles:
    """Return the declared upstreams by name, none of them parsed yet.

    Raises:
        ConfigError: RELAY_PROVIDERS names one that there is not.
    """
    folder = settings.config / "providers"
    there = sorted(file.stem for file in folder.glob("*.toml"))
    for name in settings.providers:
        if name not in there:
            raise ConfigError(f"RELAY_PROVIDERS: '{name}' is not declared in {folder}; {nearest(name, there)}")
    no_sandbox = not settings.sandbox_on and not environ.get(variable("sandbox", "BASE_URL"))

    def list_files() -> dict[str, Path]:
        files = {file.stem: file for file in sorted(folder.glob("*.toml"), key=lambda file: file.stem)}
        if no_sandbox:
            files.pop("sandbox", None)
        return {name: file for name, file in files.items() if not settings.providers or name in settings.providers}

    def make(file: Path) -> Provider:
        definition = load_definition(file, environ)
        is_sandbox = definition.request.base_url == SANDBOX
        if is_sandbox and not settings.sandbox_on:
            raise ConfigError(f"{file}: is the sandbox, which is switched off here: RELAY_SANDBOX=1 switches it on")
        name = variable(definition.name, "API_KEY")
        key = from_environment(name, environ) or ("sandbox" if is_sandbox else None)
        if key and (flaw := flaw_of(definition.auth, key)):
            raise ConfigError(f"{name}: the API key {flaw}")
        return Provider(definition, key, _sandbox()) if is_sandbox else Provider(definition, key, exchanger, creates)

    return ProviderFiles(list_files(), make, list_files)


def _sandbox() -> Exchanger:
    from relay.simulators.upstream import SandboxTransport  # here, because it imports a web framework

    return OverHttpx(SandboxTransport())


def declare_default_app(db: Database, vault: Vault, settings: Settings, at: Millis) -> None:
    """Create or change the app `default` to what RELAY_API_KEY and RELAY_SIGNING_SECRET declare.

    When the environment changes the secret, the old one still signs for a while, as after a rotation.
    """
    if settings.api_key is None or settings.signing_secret is None:
        return
    if len(settings.api_key) < LONG_KEY:
        log.warning(
            "RELAY_API_KEY is short enough to be guessed: set a longer one; a later release will refuse it",
            characters=len(settings.api_key),
            at_least=LONG_KEY,
        )
    try:
        _declare(db, vault, settings.api_key, settings.signing_secret, at)
    except Conflict:  # perhaps with a process that started at the same moment, whose app is found this time
        _declare(db, vault, settings.api_key, settings.signing_secret, at)


def _declare(db: Database, vault: Vault, api_key: str, signing_secret: str, at: Millis) -> None:
    app = db.run_here(apps.by_name, apps.DEFAULT)
    app_id = app.id if app else new_id("app")
    signing_secrets = app_keys.opened(vault, app) if app else []
    if not signing_secrets or signing_secrets[0]["secret"] != signing_secret:
        signing_secrets = app_keys.rotated(signing_secrets, signing_secret, at, app_keys.OVERLAP)
    sealed = app_keys.sealed(vault, app_id, signing_secrets)
    db.run_here(apps.declare, app_id, app_keys.hash_key(api_key), sealed, at)
