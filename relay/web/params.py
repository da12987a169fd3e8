"""What a request says in its query, checked: a mistake is told where it was made."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import TypeVar

from starlette.datastructures import QueryParams

from relay.errors import FieldError, Invalid
from relay.model import DeliveryState, Millis, State, rfc3339

MAX_LIMIT, DEFAULT_LIMIT = 200, 50

RFC3339 = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"
"""What Python's ISO 8601 takes beyond it has no time or no zone, and may be read as another than was meant."""

E = TypeVar("E", State, DeliveryState)


def invalid(pointer: str, detail: str) -> Invalid:
    return Invalid(f"{pointer}: {detail}", errors=[FieldError(pointer, detail)])


def known(query: QueryParams, *names: str) -> QueryParams:
    for name in query:
        if name not in names:
            raise invalid(f"/{name}", f"is not a parameter here; there is {', '.join(names)}")
        if "\0" in query[name]:
            raise invalid(f"/{name}", "must not contain control characters")
    return query


def limit(query: QueryParams) -> int:
    text = query.get("limit", str(DEFAULT_LIMIT))
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= MAX_LIMIT:
        raise invalid("/limit", f"must be a whole number from 1 to {MAX_LIMIT}")
    return int(text)


def cursor(query: QueryParams, prefix: str) -> str | None:
    cursor = query.get("cursor")
    if cursor is not None and not re.fullmatch(rf"{prefix}_[0-9A-Z]{{26}}", cursor):
        raise invalid("/cursor", "must be the next_cursor of the page before")
    return cursor


def one_of(query: QueryParams, name: str, values: Iterable[E]) -> E | None:
    text = query.get(name)
    found = next((value for value in values if value == text), None)
    if text is not None and found is None:
        raise invalid(f"/{name}", f"must be one of {', '.join(values)}")
    return found


def moment(pointer: str, text: str | None) -> Millis | None:
    if text is None:
        return None
    try:
        if re.fullmatch(RFC3339, text, re.ASCII | re.IGNORECASE):
            return round(datetime.fromisoformat(text.upper()).timestamp() * 1000)
    except (ValueError, OverflowError):
        pass
    raise invalid(pointer, f"must be a time with its zone, in RFC 3339, such as {rfc3339(1759763651908)}")
