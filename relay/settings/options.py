"""Every option, typed, in one place: the environment over `config/relay.toml` over the defaults here.

A field's alias is its environment variable; its own name is its key in the file. A secret may also come from a file
named by `NAME_FILE`. `config/relay.toml` documents each, and a test keeps the two together.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from relay.settings.types import (
    DAY,
    MIB,
    Channels,
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
    Size,
    Token,
    Whole,
    Words,
)

KEEP_ALIVE = 95.0
"""Seconds for which an idle connection to relay is kept: longer than routers keep theirs, Heroku's for 90."""


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
    providers: Words = Field((), alias="RELAY_PROVIDERS")
    inline_providers: bool = Field(False, alias="RELAY_INLINE_PROVIDERS")
    poll_interval: Interval | None = Field(None, alias="RELAY_POLL_INTERVAL")
    retry_schedule: Schedule = Field(
        (0, 5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400), alias="RELAY_RETRY_SCHEDULE", min_length=1
    )
    expires_in: Duration = Field(DAY, alias="RELAY_EXPIRES_IN", ge=1)
    max_expires_in: Duration = Field(30 * DAY, alias="RELAY_MAX_EXPIRES_IN", ge=1)
    allowed_networks: Networks = Field((), alias="RELAY_ALLOWED_NETWORKS")
    blocked_networks: Networks = Field((), alias="RELAY_BLOCKED_NETWORKS")
    egress_proxy: Proxy | None = Field(None, alias="RELAY_EGRESS_PROXY", repr=False)
    rate_limit: Whole = Field(500, alias="RELAY_RATE_LIMIT", ge=1)
    max_watches: Whole = Field(1_000_000, alias="RELAY_MAX_WATCHES", ge=1)
    max_targets: Whole = Field(2_000_000, alias="RELAY_MAX_TARGETS", ge=1)
    submit_apps: Words = Field((), alias="RELAY_SUBMIT_APPS")
    max_submit: Size = Field(32 * MIB, alias="RELAY_MAX_SUBMIT", ge=1024, le=512 * MIB)
    idempotency_ttl: Duration = Field(DAY, alias="RELAY_IDEMPOTENCY_TTL", ge=1)
    cors_origins: Origins = Field((), alias="RELAY_CORS_ORIGINS")
    slack_bot_token: Token | None = Field(None, alias="SLACK_BOT_TOKEN", repr=False)
    slack_api_url: HttpUrl = Field("https://slack.com/api/", alias="SLACK_API_URL")
    slack_signing_secret: str | None = Field(None, alias="SLACK_SIGNING_SECRET", min_length=8, repr=False)
    slack_teams: Grants = Field((), alias="RELAY_SLACK_TEAMS")
    slack_channels: Channels = Field((), alias="RELAY_SLACK_CHANNELS")
    slack_hook_hosts: Hosts = Field(("hooks.slack.com", "hooks.slack-gov.com"), alias="SLACK_HOOK_HOSTS")
    alerts: Words = Field((), alias="RELAY_ALERTS", repr=False)
    metrics_token: str | None = Field(None, alias="RELAY_METRICS_TOKEN", min_length=8, repr=False)
    metrics_port: Whole | None = Field(None, alias="RELAY_METRICS_PORT", ge=0, le=65535)
    admin_password: str | None = Field(None, alias="RELAY_ADMIN_PASSWORD", min_length=8, repr=False)
    trusted_hops: Whole = Field(0, alias="RELAY_TRUSTED_HOPS", ge=0, le=10)
    ephemeral: bool = Field(False, alias="RELAY_EPHEMERAL")
    sandbox: bool | None = Field(None, alias="RELAY_SANDBOX")
    retention: Duration = Field(30 * DAY, alias="RELAY_RETENTION", ge=60)
    grace: Duration = Field(20, alias="RELAY_GRACE", le=300)
    keep_alive: Duration = Field(KEEP_ALIVE, alias="RELAY_KEEP_ALIVE", ge=1, le=3600)
    log_level: LogLevel = Field("info", alias="LOG_LEVEL")
    log_format: Literal["text", "json"] = Field("text", alias="LOG_FORMAT")

    otlp_endpoint: HttpUrl | None = Field(None, alias="OTEL_EXPORTER_OTLP_ENDPOINT")
    sentry_dsn: str | None = Field(None, alias="SENTRY_DSN", repr=False)

    config: Path = Field(Path("config"), alias="RELAY_CONFIG")
    deployed: bool = Field(False, alias="DYNO")
    sources: dict[str, str] = {}

    @model_validator(mode="after")
    def _together(self) -> Settings:
        if any(len(key) < 16 for key in self.secret_key):
            raise ValueError("RELAY_SECRET_KEY: each key must have at least 16 characters")
        if self.expires_in > self.max_expires_in:
            raise ValueError(
                "RELAY_EXPIRES_IN must not be longer than RELAY_MAX_EXPIRES_IN: "
                f"{self.expires_in:.12g}s are longer than {self.max_expires_in:.12g}s"
            )
        return self

    @property
    def half_an_app(self) -> bool:
        """Return whether a key is set without a signing secret, or the reverse: no app can be made of that."""
        return (self.api_key is None) != (self.signing_secret is None)

    @property
    def embedded(self) -> bool:
        """Return whether the database is a SQLite file of this machine."""
        return self.database_url.startswith("sqlite")

    @property
    def sandbox_on(self) -> bool:
        """Return whether the sandbox may be used: as set, or else wherever this is not a deployment."""
        return self.sandbox if self.sandbox is not None else self.embedded and not self.deployed

    @property
    def hops(self) -> int:
        """Return how many trusted proxies a request has passed: as set, or else one on a platform."""
        given = self.sources.get("trusted_hops", "default") != "default"
        return self.trusted_hops if given else int(self.deployed)

    @property
    def bind(self) -> str:
        """Return the address to listen on: as set, or else all if the environment sets PORT, or else loopback."""
        return self.host or ("0.0.0.0" if self.sources.get("port") == "environment" else "127.0.0.1")  # noqa: S104

    @property
    def public_url(self) -> str:
        """Return the address at which people and receivers reach this deployment, without a trailing slash."""
        return self.base_url.rstrip("/") or f"http://127.0.0.1:{self.port}"
