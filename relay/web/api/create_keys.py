"""Where a create goes, and with whose key: the deployment's, which an app must be permitted to spend, or its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple
from urllib.parse import quote

from starlette.requests import Request

from relay.errors import Invalid, SubmitNotAllowed
from relay.providers.creating import CreateRequest
from relay.providers.passing import Header, KeyPlaces, headers_out, query_without
from relay.providers.provider import Provider
from relay.security import app_keys
from relay.store import apps
from relay.web.api.wishes import PARAMETERS
from relay.web.context import RELAY_KEY, Context

_KEY_OF_RELAY = "rly_"

_WORDS = 4
"""Words of a header that may be its scheme or a key."""


class OwnCall(NamedTuple):
    """A request for one of a provider's paths.

    Attributes:
        path: as it came, behind `/via/{provider}`.
    """

    provider: Provider
    path: str
    query: bytes


async def addressed(
    context: Context,
    request: Request,
    app: apps.App,
    call: OwnCall,
    pairs: Sequence[tuple[str, str]],
    create: CreateRequest,
) -> CreateRequest:
    """Return a create with where it goes, and the headers and the key that it goes with.

    Raises:
        RelayError: this app may not send it, or there is no key for it.
    """
    provider = call.provider
    if not provider.address:
        elsewhere = ", or send the call to the upstream, and register its task with 'upstream_base'"
        hint = elsewhere if provider.definition.hosts else ""
        raise Invalid(f"'{provider.name}' has no address in this deployment: {provider.remedy}{hint}")
    places = provider.key_places
    own = RELAY_KEY in request.headers
    raw: list[Header] = list(request.headers.raw)
    if own:
        key = await _own_key(context, request, provider, pairs)
        headers, query = headers_out(raw), query_without(call.query, PARAMETERS, [name for name, _ in pairs])
    else:
        _check_permitted(context, app)
        if provider.lacks_key(None):
            raise Invalid(f"{provider.key_remedy}, or send your own with 'Relay-Key: rly_…' beside it")
        key = None
        headers = headers_out(raw, provider.set_headers)
        query = query_without(call.query, (*PARAMETERS, *places.query), [name for name, _ in pairs])
        if provider.key and provider.definition.auth is None:
            headers += [
                (name.encode(), value.replace("{key}", provider.key).encode()) for name, value in places.headers.items()
            ]
            given = (
                f"{quote(name)}={quote(value.replace('{key}', provider.key))}" for name, value in places.query.items()
            )
            query = b"&".join(part for part in (query, *(one.encode() for one in given)) if part)
    target = (provider.prefix + call.path).encode("latin-1") + (b"?" + query.removeprefix(b"&") if query else b"")
    return CreateRequest(create.submit, target, headers, create.body, key, create.names, spends=not own)


async def _own_key(
    context: Context, request: Request, provider: Provider, pairs: Iterable[tuple[str, str]]
) -> str | None:
    """Return the caller's own key for the upstream, which the watch gets too.

    Raises:
        Invalid: there is none, or it is a key of relay's, which is nobody else's to see; or relay makes the credentials
            of this upstream, so that what the caller sends is no key that a watch could poll with.
    """
    if provider.definition.auth is not None:
        raise Invalid(
            f"relay itself makes the credentials of '{provider.name}': send the call without 'Relay-Key', with the "
            "deployment's key, or to the upstream, and register the task with its own 'upstream_key'"
        )
    places = provider.key_places
    key = places.key_in(request.headers.raw, list(pairs))
    where = ", ".join(f"'{name}'" for name in (*places.headers, *places.query))
    if where and key is None:
        raise Invalid(f"'Relay-Key' passes your own key to the upstream, and there is none in {where}")
    if await _shows_ours(context, request, places, pairs):
        raise Invalid("this is a key of relay's, which the upstream must not see: send the upstream's own")
    return key


async def _shows_ours(context: Context, request: Request, places: KeyPlaces, pairs: Iterable[tuple[str, str]]) -> bool:
    """Return whether the upstream would see a key of relay's, in whichever of several headers of one name."""
    given = request.headers[RELAY_KEY].strip()
    passed = [value.decode("latin-1") for _, value in headers_out(request.headers.raw)]
    if any(given in value for value in (*passed, *(value for _, value in pairs))):
        return True
    named = {name.lower() for name in ("authorization", *places.headers)}
    values = [value for name, value in request.headers.items() if name in named]
    values += [value for name, value in pairs if name in places.query]
    words = {word for value in values for word in value.split()[:_WORDS]}
    if any(word.startswith(_KEY_OF_RELAY) for word in words):
        return True
    hashes = [app_keys.hash_key(word) for word in words]
    return await context.db.read(apps.is_key, hashes)


def _check_permitted(context: Context, app: apps.App) -> None:
    """Refuse an app that is not among those that may spend the deployment's keys. See `NewSubmission` for the default.

    Raises:
        SubmitNotAllowed: with what the operator can do.
    """
    permitted = context.settings.submit_apps
    if permitted and app.name not in permitted and "*" not in permitted:
        raise SubmitNotAllowed()
