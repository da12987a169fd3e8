"""The parameters of a request's query: each is checked, and an error says which one is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import TypeVar

from starlette.datastructures import QueryParams

from relay.errors import Invalid
from relay.model.delivery import DeliveryState
from relay.model.submission import SubmissionState
from relay.model.times import Millis, rfc3339
from relay.model.watch import State

MAX_LIMIT = 200
DEFAULT_LIMIT = 50

RFC3339 = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"
"""What Python's ISO 8601 takes beyond this lacks a time or a zone, and may be read as another time than was meant."""

StateT = TypeVar("StateT", State, DeliveryState, SubmissionState)


def known(query: QueryParams, *names: str) -> QueryParams:
    """Return the query if it has no parameters but these."""
    for name in query:
        if name not in names:
            raise Invalid.at(f"/{name}", f"is not a parameter here; there is {', '.join(names)}")
        if "\0" in query[name]:
            raise Invalid.at(f"/{name}", "must not contain control characters")
    return query


def limit(query: QueryParams) -> int:
    """Return how many rows a page may have."""
    text = query.get("limit", str(DEFAULT_LIMIT))
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= MAX_LIMIT:
        raise Invalid.at("/limit", f"must be a whole number from 1 to {MAX_LIMIT}")
    return int(text)


def cursor(query: QueryParams, prefix: str) -> str | None:
    """Return the id after which a page begins; None for the first page."""
    cursor = query.get("cursor")
    if cursor is not None and not re.fullmatch(rf"{prefix}_[0-9A-Z]{{26}}", cursor):
        raise Invalid.at("/cursor", "must be the next_cursor of the page before")
    return cursor


def one_of(query: QueryParams, name: str, choices: Iterable[StateT]) -> StateT | None:
    """Return the choice that a parameter names; None if it is not given."""
    text = query.get(name)
    choice = next((choice for choice in choices if choice == text), None)
    if text is not None and choice is None:
        raise Invalid.at(f"/{name}", f"must be one of {', '.join(choices)}")
    return choice


def moment(pointer: str, text: str | None) -> Millis | None:
    """Return the time that a field of a body names; None if it is not given."""
    if text is None:
        return None
    try:
        if re.fullmatch(RFC3339, text, re.ASCII | re.IGNORECASE):
            return round(datetime.fromisoformat(text.upper()).timestamp() * 1000)
    except (ValueError, OverflowError):
        pass
    raise Invalid.at(pointer, f"must be a time with its zone, in RFC 3339, such as {rfc3339(1759763651908)}")
