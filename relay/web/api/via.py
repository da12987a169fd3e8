"""A provider's own calls, through relay (contract §5b): creates, which are watched, and the query, which is mirrored.

They stand under `/via/{provider}` with their own paths, and those of the default provider at the root, too. Whatever a
provider's file does not declare is not there: relay is no open proxy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, ParamSpec, TypeVar
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, NoMatchFound
from starlette.types import ASGIApp, Receive, Scope, Send

from relay.errors import Invalid, MethodNotAllowed, NotDeclared, RelayError, SubmitNotAllowed
from relay.model.ids import new_id
from relay.model.submission import key_digest, request_digest
from relay.providers.addresses import Create, creates_at, decoded_query
from relay.providers.callbacks import Forward, without_callbacks
from relay.providers.creating import CreateRequest
from relay.providers.passing import Header, headers_out, query_without
from relay.providers.provider import Provider
from relay.security import app_keys
from relay.store import apps
from relay.submissions.calls import CreateCall, RequestKey, Submitted
from relay.web.api.mirror import TASK_ID, UNTRUSTED, answer_about
from relay.web.api.wishes import PARAMETERS, key_of, wishes_of
from relay.web.bodies import BodyLimits, read_json, read_within
from relay.web.context import RELAY_KEY, Context
from relay.web.errors import problem_response
from relay.web.http_limits import PATIENCE
from relay.web.request_id import request_id_of

P = ParamSpec("P")
T = TypeVar("T")

VIA = b"/via/"

BODY_DEADLINE = 120.0
"""Seconds in which the body of a create must have arrived: it may hold images or a film."""

BODY_PAUSE = 20.0
"""Seconds without a byte of it."""

SUBMITS_UNDER_WAY = 4
"""How many of the largest bodies may be under way in a process. An app alone may have half of that."""

LARGE = 256 * 1024
"""Bytes from which a body is looked through in a thread."""

_KEY_OF_RELAY = "rly_"


class OwnCall(NamedTuple):
    """A request for one of a provider's paths.

    Attributes:
        path: as it came, behind `/via/{provider}`.
    """

    provider: Provider
    path: str
    query: bytes


class OwnPaths(BaseRoute):
    """The route to every provider's own paths.

    Args:
        endpoint: answers what is found there.
    """

    def __init__(self, context: Context, endpoint: ASGIApp) -> None:
        self._context = context
        self._endpoint = endpoint

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Say whether a request is for one of these paths."""
        if scope["type"] != "http":
            return Match.NONE, {}
        path = raw_path(scope)
        if path.startswith(VIA) or self._is_declared(path):
            return Match.FULL, {}
        return Match.NONE, {}

    def _is_declared(self, path: bytes) -> bool:
        provider = self._context.upstreams.get(self._context.settings.provider)
        return provider is not None and bool(_methods(provider, path.decode("latin-1")))

    def url_path_for(self, name: str, /, **path_params: object) -> object:  # type: ignore[override]
        """Find no path by a name: these have none."""
        raise NoMatchFound(name, path_params)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        await self._endpoint(scope, receive, send)


def raw_path(scope: Scope) -> bytes:
    """Return the path of a request as it came: decoded, `%2f` could not be told from `/`."""
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    return raw.partition(b"?")[0]


async def pass_on(context: Context, request: Request, app: apps.App) -> Response:
    """Answer one of a provider's own calls: `/via/{provider}/{path}`, and the default provider's at the root."""
    call = _call(context, request)
    creates = creates_at(call.provider.definition, call.path)
    for create in creates:
        if create.submit.method == request.method:
            return await _create(context, request, app, call, create)
    asked = "GET" if request.method == "HEAD" else request.method
    if call.provider.query_address.fits(call.path) and call.provider.query_address.method == asked:
        return await _query(context, request, app, call)
    if not (allowed := _methods(call.provider, call.path)):
        raise NotDeclared(f"'{call.provider.name}' declares no call {request.method} {call.path[:200]}")
    response = problem_response(MethodNotAllowed(f"this path takes {', '.join(allowed)}"), request_id_of(request))
    response.headers["Allow"] = ", ".join(allowed)
    return response


def _methods(provider: Provider, path: str) -> list[str]:
    """Return the methods that a provider's file declares for a path."""
    methods = {create.submit.method for create in creates_at(provider.definition, path)}
    if provider.query_address.fits(path):
        return sorted({*methods, provider.query_address.method})
    return sorted(methods)


def _call(context: Context, request: Request) -> OwnCall:
    """Return what a request is for.

    Raises:
        NotDeclared: there is no such provider.
    """
    path = raw_path(request.scope).decode("latin-1")
    name = context.settings.provider
    if path.startswith(VIA.decode()):
        name, slash, rest = path.removeprefix(VIA.decode()).partition("/")
        path = slash + rest
    provider = context.upstreams.get(name) if name.isprintable() and len(name) < 64 else None
    if provider is None:
        raise NotDeclared(context.upstreams.no_provider(name[:64]).advice)
    return OwnCall(provider, path, request.scope.get("query_string", b""))


# The query


async def _query(context: Context, request: Request, app: apps.App, call: OwnCall) -> Response:
    address = call.provider.query_address
    body = None if address.in_path or address.in_query else await read_json(request)
    pairs = decoded_query(call.query)
    try:
        task_id = TypeAdapter(str).validate_python(address.task_id(call.path, pairs, body))
        task_id = TASK_ID.validate_python(task_id)
    except ValidationError:
        raise Invalid("the call does not name a task where the provider's file has {task_id}") from None
    own_key = call.provider.key_places.key_in(request.headers.raw, pairs) if RELAY_KEY in request.headers else None
    return await answer_about(context, app, task_id, call.provider.name, own_key)


# Creates


async def _create(context: Context, request: Request, app: apps.App, call: OwnCall, create: Create) -> Response:
    key = key_of(request)
    body = await _body(context, request)
    request_key = None
    if key is not None:
        target = (create.submit.method, call.path.encode("latin-1"), call.query)
        content_type = request.headers.get("content-type", "")
        digest = await _heavy(body, request_digest, app.id, call.provider.name, target, content_type, body)
        request_key = RequestKey(key_digest(app.id, key), digest)
        if earlier := await context.submissions.earlier(app.id, request_key):
            return _response(request, earlier)
    watch_id = new_id("wch")
    callbacks = create.submit.callbacks if _is_json(request) else ()
    try:
        rest, members = await _heavy(body, without_callbacks, body, callbacks, _forward(context, create, watch_id))
    except ValueError as error:
        raise Invalid(str(error)) from None
    pairs = decoded_query(call.query)
    wishes = wishes_of(request, pairs, members, call.provider.name)
    passed = CreateRequest(create.submit, b"", (), rest, None, create.names)
    with context.tracing.span("submit", "server", request.headers.get("traceparent")) as span:
        submitted = await context.submissions.submit(
            app.id,
            CreateCall(
                provider=call.provider,
                request=await _addressed(context, request, app, call, pairs, passed),
                path=call.path,
                watch=wishes.watch,
                watch_id=watch_id,
                origins=wishes.origins,
                key=request_key,
                traceparent=span.traceparent,
            ),
        )
        span.note({"request_id": request_id_of(request), "watch_id": submitted.watch_id or ""})
    return _response(request, submitted)


def _forward(context: Context, create: Create, watch_id: str) -> Forward | None:
    """Return how the upstream is told to call relay; None where it is not, or could not reach it."""
    url = context.callback_tokens.url(watch_id)
    return Forward(create.submit.callback_forward, url) if create.submit.callback_forward and url else None


async def _body(context: Context, request: Request) -> bytes:
    """Return the body of a create, as it came."""
    limits = BodyLimits(context.settings.max_submit, BODY_DEADLINE, BODY_PAUSE)
    if (patience := request.scope.get(PATIENCE)) is not None:
        patience(BODY_DEADLINE + 1)
    return bytes(await read_within(request, limits, request.app.state.submits))


async def _heavy(body: bytes, work: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
    """Look through a body: in a thread where it is large, so that others do not wait for it."""
    return await asyncio.to_thread(work, *given, **named) if len(body) > LARGE else work(*given, **named)


def _is_json(request: Request) -> bool:
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return media_type == "application/json" and coding in ("", "identity")


async def _addressed(
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
        await _check_permitted(context, app)
        if provider.lacks_key(None):
            raise Invalid(f"{provider.key_remedy}, or send your own with 'Relay-Key: rly_…' beside it")
        key = None
        headers = headers_out(raw, ("authorization", *places.headers))
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
    return CreateRequest(create.submit, target, headers, create.body, key, create.names)


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
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    given = request.headers[RELAY_KEY].strip()
    shown = [value for name, value in headers_out(request.headers.raw) if given.encode("latin-1") in value]
    ours = bool(shown)
    for one in {key or "", credentials.strip() or scheme} - {""}:
        ours = ours or one.startswith(_KEY_OF_RELAY) or await context.db.read(apps.is_key, app_keys.hash_key(one))
    if ours:
        raise Invalid("this is a key of relay's, which the upstream must not see: send the upstream's own")
    return key


async def _check_permitted(context: Context, app: apps.App) -> None:
    """Refuse an app that may not spend the deployment's keys.

    Raises:
        SubmitNotAllowed: with what the operator can do.
    """
    permitted = context.settings.submit_apps
    if app.name in permitted or "*" in permitted:
        return
    if not permitted and await context.db.read(apps.is_only_one):
        return
    raise SubmitNotAllowed(
        f"'{app.name}' may not send create calls with this deployment's key: have it added to RELAY_SUBMIT_APPS, or "
        "send your own key, and relay's in 'Relay-Key'"
    )


def _response(request: Request, submitted: Submitted) -> Response:
    """Return what the caller gets."""
    if submitted.answer is None:
        response = problem_response(submitted.error or RelayError(), request_id_of(request))
    else:
        response = Response(submitted.answer.body, submitted.answer.status)
        length = [header for header in response.raw_headers if header[0] == b"content-length"]
        response.raw_headers = [*submitted.answer.headers, *length]
        response.headers.update(UNTRUSTED)
    if submitted.watch_id is not None:
        response.headers["Relay-Watch"] = submitted.watch_id
    if submitted.replayed:
        response.headers["Idempotent-Replayed"] = "true"
    if not submitted.registered:
        response.headers["Relay-Error"] = "not_registered"
    if submitted.unknown:
        response.headers["x-should-retry"] = "false"
    return response
