"""The commands that run relay's processes: everything in one, or HTTP and work apart."""

from __future__ import annotations

import gc
import os

from relay import interpreter
from relay.cli.common import run_async, settings_of_environment
from relay.errors import ConfigError


def _run(*roles: str) -> None:
    # What is imported lives as long as the process. The collector would look through all of it again and again, which
    # is a fifth of the start; frozen, it is not looked at later either.
    gc.disable()
    # Pydantic would ask every installed package whether it is a plugin: a twentieth of the start.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    with interpreter.without("rich"):
        import structlog  # noqa: F401  # it would import half of rich for tracebacks that relay does not write

    settings = settings_of_environment()
    if settings.half_an_app:
        raise ConfigError("RELAY_API_KEY and RELAY_SIGNING_SECRET make one app: set both or neither")

    from relay.app import Role, run
    from relay.telemetry.sentry import reporting_crashes

    gc.freeze()
    gc.enable()
    interpreter.tune()

    combined = Role(0)
    for role in roles:
        combined |= Role[role]
    with reporting_crashes(settings.sentry_dsn):
        run_async(run(settings, os.environ, combined))


def serve() -> None:
    """Run HTTP, polling and delivery in one process.

    Example: UNIFIED_VIDEO_BASE_URL=https://api.example relay serve

    Reads every option that 'relay config' shows.
    """
    _run("WEB", "WORK")


def web() -> None:
    """Run HTTP only.

    Any number of web processes share one PostgreSQL database with workers.

    Example: DATABASE_URL=postgres://relay@db.example/relay relay web

    Reads every option that 'relay config' shows.
    """
    _run("WEB")


def worker() -> None:
    """Run polling and delivery only.

    Example: DATABASE_URL=postgres://relay@db.example/relay relay worker

    Reads every option that 'relay config' shows.
    """
    _run("WORK")
