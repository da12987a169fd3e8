"""A provider's own calls, through relay (contract §5b): creates, which are watched, and the query, which is mirrored.

They stand under `/via/{provider}` with their own paths, and those of the default provider at the root, too. Whatever a
provider's file does not declare is not there: relay is no open proxy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, NoMatchFound
from starlette.types import ASGIApp, Receive, Scope, Send

from relay.errors import Invalid, MethodNotAllowed, NotDeclared, RelayError
from relay.model.ids import new_id
from relay.model.submission import key_digest, request_digest
from relay.providers.addresses import Create, creates_at, decoded_query
from relay.providers.callbacks import Forward, without_callbacks
from relay.providers.creating import CreateRequest
from relay.providers.provider import Provider
from relay.store import apps
from relay.submissions.calls import CreateCall, RequestKey, Submitted
from relay.web.api.create_keys import OwnCall, addressed
from relay.web.api.mirror import TASK_ID, UNTRUSTED, answer_about
from relay.web.api.wishes import key_of, wishes_of
from relay.web.bodies import BodyLimits, read_json, read_within
from relay.web.context import RELAY_KEY, Context, context_of
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
    try:
        submitted = await _submitted(request, app, call, create, body, request_key)
    except RelayError:
        # The same request gets the first answer, whatever would be wrong with it now. Looked for only here, because
        # almost every create is the first with its key, and the commit before it is sent would notice.
        earlier = None if request_key is None else await context.submissions.earlier(app.id, request_key)
        if earlier is None:
            raise
        submitted = earlier
    return _response(request, submitted)


async def _submitted(
    request: Request, app: apps.App, call: OwnCall, create: Create, body: bytes, request_key: RequestKey | None
) -> Submitted:
    """Check a create, and send it.

    Raises:
        RelayError: why it was not sent.
    """
    context = context_of(request)
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
                request=await addressed(context, request, app, call, pairs, passed),
                path=call.path,
                watch=wishes.watch,
                watch_id=watch_id,
                origins=wishes.origins,
                key=request_key,
                traceparent=span.traceparent,
            ),
        )
        span.note({"request_id": request_id_of(request), "watch_id": submitted.watch_id or ""})
    return submitted


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
