"""The filter of a list as the address of its page has it: read, checked, and written again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlencode

from starlette.requests import Request

from relay.errors import Invalid
from relay.model.times import Millis
from relay.store.finding import Filter

FIELDS = ("state", "provider", "app", "host", "since", "until", "q", "place", "reason", "order")
"""The parameters that make a filter."""

LONGEST = 512
"""Characters of one of them."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A filter as it was asked for.

    Attributes:
        fields: what was given, as it was written.
        wanted: what it means.
    """

    fields: Mapping[str, str]
    wanted: Filter

    def address(self, path: str, **changed: str | int | None) -> str:
        """Return the address of a page with this filter, and with some fields changed; None leaves one out."""
        fields = {name: value for name, value in {**self.fields, **changed}.items() if value is not None}
        return f"{path}?{urlencode(fields)}" if fields else path


def asked(request: Request, states: Iterable[str], apps: Mapping[str, str]) -> Asked:
    """Read a filter. Empty fields are left out, because a form sends them all.

    Args:
        apps: the ids of the apps by their names.

    Raises:
        Invalid: a field cannot be meant.
    """
    fields = {}
    for name in FIELDS:
        text = request.query_params.get(name, "")
        if "\0" in text or len(text) > LONGEST:
            raise Invalid.at(f"/{name}", f"must be at most {LONGEST} characters, none of them NUL")
        if text.strip() or (name == "reason" and name in request.query_params):
            fields[name] = text.strip()
    if (state := fields.get("state")) is not None and state not in list(states):
        raise Invalid.at("/state", f"must be one of {', '.join(states)}")
    if fields.get("order", "oldest") not in ("newest", "oldest"):
        raise Invalid.at("/order", "must be 'newest' or 'oldest'")
    name_of_app = fields.get("app")
    wanted = Filter(
        state=state,
        provider=fields.get("provider"),
        app_id=None if name_of_app is None else apps.get(name_of_app, name_of_app),
        host=fields.get("host"),
        since=_moment(fields, "since"),
        until=_moment(fields, "until"),
        text=fields.get("q"),
        place=fields.get("place"),
        reason=fields.get("reason"),
        oldest=fields.get("order") == "oldest",
    )
    return Asked(fields, wanted)


def cursor(request: Request, prefix: str) -> str | None:
    """Return the id after which a page begins; None for the first page.

    Raises:
        Invalid: it is none.
    """
    text = request.query_params.get("after")
    if text is not None and not re.fullmatch(rf"{prefix}_[0-9A-Z]{{26}}", text):
        raise Invalid.at("/after", "must be where the page before ended")
    return text


def _moment(fields: Mapping[str, str], name: str) -> Millis | None:
    """Return a time as a browser's field for times gives it; without a zone, it is UTC."""
    text = fields.get(name)
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
        return round(at.timestamp() * 1000)
    except (ValueError, OverflowError):
        raise Invalid.at(f"/{name}", "must be a time such as 2026-01-31T18:30 (UTC)") from None
