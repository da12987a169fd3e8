"""What a create call asks of relay, beside what it asks of the upstream: whom to tell, metadata, a deadline, a key.

It stands in headers that stop here (`Relay-…`), in parameters for tools that cannot set headers (`relay_…`), and in
those members of the body that would have told the upstream whom to call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field
from starlette.requests import Request

from relay.channels import CALLBACK
from relay.channels.base import Target
from relay.channels.targets import SCHEMAS, TargetIn
from relay.channels.watch_request import WatchRequest
from relay.errors import FieldError, Invalid, MalformedRequest
from relay.model.submission import idempotency_key
from relay.store.registrations import MAX_TARGETS
from relay.web.api.schemas import Metadata
from relay.web.api.schemas import Request as RequestModel
from relay.web.bodies import decoded, parse

PARAMETERS = {f"relay_{name}": schema for name, schema in SCHEMAS.items()}
"""Parameters of the query that name a target; they stop here."""

_HEADERS = {f"relay-{name}": schema for name, schema in SCHEMAS.items()}


class WishesIn(RequestModel):
    """What is wanted of the watch of a create."""

    targets: list[TargetIn] = Field(max_length=MAX_TARGETS)
    metadata: Metadata = "{}"
    expires_in: int | None = Field(None, ge=1)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a create call asks of relay.

    Attributes:
        watch: what is wanted of the watch; it has no task id yet.
        origins: for each target, what of the request names it.
    """

    watch: WatchRequest
    origins: Sequence[str]


def wishes_of(
    request: Request, query: Sequence[tuple[str, str]], callbacks: Mapping[str, Any], provider: str
) -> Wishes:
    """Return what a create call asks of relay.

    Args:
        query: the parameters as they came.
        callbacks: the members of the body that say whom to tell.

    Raises:
        Invalid: what is wrong with it, and where.
    """
    named: list[tuple[str, type[Target], Any]] = []
    for header, schema in _HEADERS.items():
        named += [(header.title(), schema, value) for value in _values(request, header)]
    named += [(name, PARAMETERS[name], value) for name, value in query if name in PARAMETERS]
    named += [(name, CALLBACK, value) for name, value in callbacks.items()]
    if len(named) > MAX_TARGETS:
        raise Invalid(f"a watch may have {MAX_TARGETS} targets; this call names {len(named)}")
    events = _events(request)
    targets = []
    for name, schema, value in named:
        if not isinstance(value, str):
            raise Invalid.at(f"/{name}", "must be a string")
        targets.append(schema.written(value.strip()) | events)
    given: dict[str, Any] = {"targets": targets}
    if (metadata := _one(request, "Relay-Metadata")) is not None:
        given["metadata"] = _object(metadata)
    if (seconds := _one(request, "Relay-Expires-In")) is not None:
        given["expires_in"] = int(seconds) if seconds.isascii() and seconds.isdigit() and len(seconds) < 12 else seconds
    origins = [name for name, _, _ in named]
    wanted = _parsed(given, origins, "Relay-Events" if events else None)
    watch = WatchRequest(
        task_id="", targets=wanted.targets, provider=provider, metadata=wanted.metadata, expires_in=wanted.expires_in
    )
    return Wishes(watch, origins)


def _parsed(given: Mapping[str, Any], origins: Sequence[str], events: str | None) -> WishesIn:
    try:
        return parse(WishesIn, given)
    except Invalid as error:
        errors = [FieldError(_origin(one.pointer, origins, events), one.detail) for one in error.errors]
        first = errors[0] if errors else FieldError("", error.detail)
        raise Invalid(f"{first.pointer}: {first.detail}", errors=errors) from None


def _origin(pointer: str, origins: Sequence[str], events: str | None) -> str:
    """Return what of the request a place of the model stands for."""
    _, field, *more = pointer.split("/")
    if field == "targets" and more:
        return f"/{events}" if events and more[1:2] == ["events"] else f"/{origins[int(more[0])]}"
    return {"metadata": "/Relay-Metadata", "expires_in": "/Relay-Expires-In"}.get(field, pointer)


def key_of(request: Request) -> str | None:
    """Return the Idempotency-Key of a call.

    Raises:
        Invalid: it is none, or there are several.
    """
    value = _one(request, "Idempotency-Key")
    try:
        return None if value is None else idempotency_key(value)
    except ValueError as error:
        raise Invalid.at("/Idempotency-Key", str(error)) from None


def _events(request: Request) -> dict[str, Any]:
    names = [name.strip() for value in _values(request, "relay-events") for name in value.split(",")]
    return {"events": [name for name in names if name]} if names else {}


def _one(request: Request, name: str) -> str | None:
    values = _values(request, name)
    if len(values) > 1:
        raise Invalid.at(f"/{name}", "must stand there once")
    return values[0] if values else None


def _values(request: Request, name: str) -> list[str]:
    """Return the values of a header. What is not ASCII is UTF-8, as most clients write it."""
    values = [value for given, value in request.headers.raw if given == name.lower().encode()]
    return [_text(value).strip() for value in values]


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _object(text: str) -> Any:
    try:
        return decoded(text.encode())
    except MalformedRequest:
        raise Invalid.at("/Relay-Metadata", "must be a JSON object") from None
