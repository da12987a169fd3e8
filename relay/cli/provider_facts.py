"""What the commands say of a declared upstream: what it watches, asks, needs and reads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relay.cli.common import settings_of_environment

if TYPE_CHECKING:
    from relay.providers.definition import Definition


def facts_of(definition: Definition, about: str) -> dict[str, Any]:
    """Return what a provider watches, asks, needs and reads, for scripts."""
    from dataclasses import asdict

    from relay.providers.overview import bulk_line, follow_line, key_variable, query_line, sources
    from relay.providers.variables import variable

    followed = dict(sources(definition.follow.result, "result.")) if definition.follow else {}
    return {
        "name": definition.name,
        "title": definition.title,
        "noun": definition.noun,
        "about": about,
        "configured": bool(definition.request.base_url or definition.hosts),
        "hosts": list(definition.hosts),
        "asks": query_line(definition),
        "asks_for_result": follow_line(definition),
        "asks_about_many": bulk_line(definition),
        "id": definition.request.id or None,
        "address": _setting(variable(definition.name, "BASE_URL")),
        "key": _setting(key_variable(definition)),
        "key_form": definition.auth.shape if definition.auth else None,
        "tokens": _tokens(definition),
        "reads": dict(sources(definition.read)) | followed,
        "links_need_key": definition.read.result.key_needed is True,
        "statuses": definition.statuses.model_dump(mode="json"),
        "cadence": asdict(definition.cadence),
        "budget": asdict(definition.budget),
    }


def learned_of(provider: str) -> dict[str, Any] | None:
    """Return what this deployment has learned of a provider; None where that is little, or cannot be read here."""
    from dataclasses import asdict

    from sqlalchemy import make_url
    from sqlalchemy.exc import SQLAlchemyError

    from relay.errors import RelayError
    from relay.model.experience import figures, merged
    from relay.store import experiences, migrate
    from relay.wiring import open_database

    try:
        settings = settings_of_environment()
        file = make_url(settings.database_url).database
        if settings.embedded and not (file and Path(file).exists()):
            return None
        db = open_database(settings)
        try:
            known = None if db.run_here(migrate.unready) else db.run_here(experiences.of_provider, provider)
        finally:
            db.close()
    except (RelayError, SQLAlchemyError, OSError):
        return None
    shown = figures(merged(known or ()))
    return None if shown is None else asdict(shown)


def _tokens(definition: Definition) -> dict[str, Any] | None:
    """Return where tokens are asked for, with the variable that says otherwise; None where none are."""
    from relay.providers.auth import OAuth
    from relay.providers.variables import variable

    if not isinstance(definition.auth, OAuth):
        return None
    address = definition.auth.token_url.replace("{base_url}", definition.request.base_url)
    return {"from": address, **(_setting(variable(definition.name, "TOKEN_URL")) or {})}


def _setting(variable: str | None) -> dict[str, Any] | None:
    """Return a variable and whether it is set; None where there is none to set."""
    from relay.settings.sources import from_environment

    if variable is None:
        return None
    return {"variable": variable, "set": from_environment(variable, os.environ) is not None}
