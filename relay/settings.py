"""Every option, typed, in one place: the environment over `config/relay.toml` over the defaults here.

A field's alias is its environment variable; its own name is its key in the file. A secret may also come from a file
named by `NAME_FILE`. `config/relay.toml` documents each, and a test keeps the two together.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from relay.errors import ConfigError
from relay.values import (
    DAY,
    DatabaseUrl,
    Duration,
    Grants,
    Hosts,
    HttpUrl,
    Interval,
    Keys,
    LogLevel,
    Networks,
    Origins,
    Proxy,
    PublicUrl,
    Schedule,
    SigningSecret,
    Token,
    Whole,
)


class Settings(BaseModel):
    """The effective configuration.

    Attributes:
        sources: where each value came from, `environment`, `file` or `default`, by field name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, hide_input_in_errors=True)

    port: Whole = Field(8000, alias="PORT", ge=0, le=65535)
    host: str = Field("", alias="RELAY_HOST")
    base_url: PublicUrl = Field("", alias="RELAY_BASE_URL")
    database_url: DatabaseUrl = Field("sqlite:///relay.db", alias="DATABASE_URL", repr=False)
    database_pool: Whole = Field(2, alias="RELAY_DATABASE_POOL", ge=1, le=100)
    secret_key: Keys = Field((), alias="RELAY_SECRET_KEY", repr=False)
    api_key: str | None = Field(None, alias="RELAY_API_KEY", min_length=8, repr=False)
    signing_secret: SigningSecret | None = Field(None, alias="RELAY_SIGNING_SECRET", repr=False)
    provider: str = Field("unified-video", alias="RELAY_PROVIDER")
    poll_interval: Interval | None = Field(None, alias="RELAY_POLL_INTERVAL")
    retry_schedule: Schedule = Field(
        (0, 5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400), alias="RELAY_RETRY_SCHEDULE", min_length=1
    )
    expires_in: Duration = Field(DAY, alias="RELAY_EXPIRES_IN", ge=1)
    max_expires_in: Duration = Field(30 * DAY, alias="RELAY_MAX_EXPIRES_IN", ge=1)
    allowed_networks: Networks = Field((), alias="RELAY_ALLOWED_NETWORKS")
    egress_proxy: Proxy | None = Field(None, alias="RELAY_EGRESS_PROXY", repr=False)
    rate_limit: Whole = Field(500, alias="RELAY_RATE_LIMIT", ge=1)
    max_watches: Whole = Field(1_000_000, alias="RELAY_MAX_WATCHES", ge=1)
    cors_origins: Origins = Field((), alias="RELAY_CORS_ORIGINS")
    slack_bot_token: Token | None = Field(None, alias="SLACK_BOT_TOKEN", repr=False)
    slack_api_url: HttpUrl = Field("https://slack.com/api/", alias="SLACK_API_URL")
    slack_signing_secret: str | None = Field(None, alias="SLACK_SIGNING_SECRET", min_length=8, repr=False)
    slack_teams: Grants = Field((), alias="RELAY_SLACK_TEAMS")
    slack_hook_hosts: Hosts = Field(("hooks.slack.com", "hooks.slack-gov.com"), alias="SLACK_HOOK_HOSTS")
    metrics_token: str | None = Field(None, alias="RELAY_METRICS_TOKEN", min_length=8, repr=False)
    admin_password: str | None = Field(None, alias="RELAY_ADMIN_PASSWORD", min_length=8, repr=False)
    trusted_hops: Whole = Field(0, alias="RELAY_TRUSTED_HOPS", ge=0, le=10)
    ephemeral: bool = Field(False, alias="RELAY_EPHEMERAL")
    sandbox: bool | None = Field(None, alias="RELAY_SANDBOX")
    retention: Duration = Field(30 * DAY, alias="RELAY_RETENTION", ge=60)
    grace: Duration = Field(20, alias="RELAY_GRACE", le=300)
    log_level: LogLevel = Field("info", alias="LOG_LEVEL")
    log_format: Literal["text", "json"] = Field("text", alias="LOG_FORMAT")

    otlp_endpoint: HttpUrl | None = Field(None, alias="OTEL_EXPORTER_OTLP_ENDPOINT")
    sentry_dsn: str | None = Field(None, alias="SENTRY_DSN", repr=False)

    config: Path = Field(Path("config"), alias="RELAY_CONFIG")
    deployed: bool = Field(False, alias="DYNO")
    sources: dict[str, str] = {}

    @model_validator(mode="after")
    def _together(self) -> Settings:
        if (self.api_key is None) != (self.signing_secret is None):
            raise ValueError("RELAY_API_KEY and RELAY_SIGNING_SECRET make one app: set both or neither")
        if any(len(key) < 16 for key in self.secret_key):
            raise ValueError("RELAY_SECRET_KEY: each key must have at least 16 characters")
        if self.expires_in > self.max_expires_in:
            raise ValueError(
                "RELAY_EXPIRES_IN must not be longer than RELAY_MAX_EXPIRES_IN: "
                f"{self.expires_in:.12g}s are longer than {self.max_expires_in:.12g}s"
            )
        return self

    @property
    def embedded(self) -> bool:
        """Whether the database is a SQLite file of this machine."""
        return self.database_url.startswith("sqlite")

    @property
    def sandbox_on(self) -> bool:
        """Whether the sandbox upstream may be used: as told, else wherever this is not a deployment."""
        return self.sandbox if self.sandbox is not None else self.embedded and not self.deployed

    @property
    def hops(self) -> int:
        """How many proxies of ours a request has passed: as told, else one where a platform runs this."""
        told = self.sources.get("trusted_hops", "default") != "default"
        return self.trusted_hops if told else int(self.deployed)

    @property
    def bind(self) -> str:
        """The address to listen on: as told, else every one where a platform sets PORT, else loopback."""
        return self.host or ("0.0.0.0" if self.sources.get("port") == "environment" else "127.0.0.1")  # noqa: S104

    @property
    def public_url(self) -> str:
        """Where people and receivers reach this deployment, without a trailing slash."""
        return self.base_url.rstrip("/") or f"http://127.0.0.1:{self.port}"


_OPTIONS = {n: f for n, f in Settings.model_fields.items() if n not in ("config", "deployed", "sources")}


def config_folder(environ: Mapping[str, str]) -> Path:
    """`RELAY_CONFIG`, else `config/` here, else the copy that comes with the package.

    Raises:
        ConfigError: RELAY_CONFIG names no folder.
    """
    if given := environ.get("RELAY_CONFIG"):
        if not Path(given).is_dir():
            raise ConfigError(f"RELAY_CONFIG: '{given}' is not a folder")
        return Path(given)
    package = Path(__file__).parent
    return next(
        f for f in (Path("config"), package / "_config", package.parent / "config") if (f / "providers").is_dir()
    )


def load(environ: Mapping[str, str]) -> Settings:
    """The effective configuration of this environment.

    Raises:
        ConfigError: one line that names the variable, what was read (never a secret) and what is allowed.
    """
    folder = config_folder(environ)
    values = _file_values(folder / "relay.toml")
    sources = {name: "file" if name in values else "default" for name in _OPTIONS}
    for name, field in _OPTIONS.items():
        if field.alias and (found := from_environment(field.alias, environ)) is not None:
            values[name], sources[name] = found, "environment"
    try:
        deployed = bool(environ.get("DYNO"))
        return Settings.model_validate({**values, "config": folder, "deployed": deployed, "sources": sources})
    except ValidationError as error:
        _refuse(error, values, sources, folder / "relay.toml")


def from_environment(variable: str, environ: Mapping[str, str]) -> str | None:
    """The value of a variable, an empty one of which counts as unset, or of the file that `VARIABLE_FILE` names.

    Raises:
        ConfigError: the file cannot be read, or is empty: a secret that was meant, and is missing.
    """
    if value := environ.get(variable):
        return value
    if file := environ.get(f"{variable}_FILE"):
        try:
            value = Path(file).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{variable}_FILE: {error}") from None
        if not value:
            raise ConfigError(f"{variable}_FILE: '{file}' is empty")
        return value
    return None


def toml_of(file: Path) -> dict[str, Any]:
    """What a TOML file holds.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except RecursionError:
        raise ConfigError(f"{file}: is nested too deeply") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file}: {error}") from None


def _file_values(file: Path) -> dict[str, Any]:
    """What the file sets; as in the environment, an empty text counts as unset."""
    if not file.exists():
        return {}
    values = toml_of(file)
    for name in values:
        if name not in _OPTIONS:
            raise ConfigError(f"{file}: '{name}' is not an option")
    return {name: value for name, value in values.items() if value != ""}


# Where pydantic speaks of itself or of Python.
_PLAIN = {
    "too_short": "must name at least one",
    "tuple_type": "must be a list, or a text with commas between",
}


def _refuse(error: ValidationError, values: Mapping[str, Any], sources: Mapping[str, str], file: Path) -> NoReturn:
    first = error.errors()[0]
    why = _PLAIN.get(first["type"], first["msg"].removeprefix("Value error, "))
    if not first["loc"]:
        raise ConfigError(why)
    name = next((n for n, f in Settings.model_fields.items() if first["loc"][0] in (n, f.alias)), str(first["loc"][0]))
    field = Settings.model_fields[name]
    label = field.alias if sources.get(name) == "environment" else f"{file}: {name}"
    read = repr(values.get(name))
    if field.repr is False or re.search(r"://[^/]*@", read):
        read = "(a secret, not shown)"
    raise ConfigError(f"{label}: {why}, not {read}")
