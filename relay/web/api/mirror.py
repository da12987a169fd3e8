"""The query endpoint, mirrored (contract §5): a program that polls an upstream today can poll relay instead.

A watched task is answered with what relay already knows, byte for byte as the upstream said it. Any other id is asked
for through the rate budget, and callers who ask for the same one at the same time share one query.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from relay.errors import Invalid, TooManyRequests, UpstreamUnavailable
from relay.model.task_ids import WRITTEN
from relay.providers.document import Answer
from relay.providers.hosts import Unaskable
from relay.providers.provider import Provider
from relay.providers.upstreams import Busy
from relay.security.vault import inline_owner, upstream_key_owner
from relay.store import apps, last_answers
from relay.store.last_answers import LastAnswer
from relay.web.api.openapi.spec import LIMITED, errors, headers_of, json_of, query
from relay.web.api.operations import ApiHandler, Operations
from relay.web.api.schemas import TaskId
from relay.web.context import RELAY_KEY, Context

operations: Operations[ApiHandler] = Operations("Providers")

TASK_ID = TypeAdapter[str](TaskId)

UNTRUSTED = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; sandbox"}
"""Headers of an answer that may be anyone's page, for the case that a browser shows it."""

PASSED_ON = ("content-type", "retry-after")
"""Headers of the upstream that reach the caller."""

PIECE = 64 * 1024
"""Bytes of a large answer that are sent at a time: the next piece waits until the caller has taken most of this one."""


@operations.add(
    "GET /v1/video/query",
    "The query endpoint, mirrored",
    "The upstream's own answer about a task, byte for byte. Of a watched task it is the last one that "
    "relay has heard (`Age`, `Relay-Watch`), without a call of its own; that the task is unknown only as "
    "long as nothing else was said of it. Any other id is asked for through the rate budget: relay's own "
    "queries go first, and beyond the mirror's share of it, or the app's, the answer is 429. An upstream's "
    "error comes with its own status.",
    {
        "200": {
            "description": "What the upstream said.",
            "headers": headers_of(*LIMITED, "Age", "Relay-Watch"),
            "content": json_of({}),
        },
        "default": {"description": "An error of the upstream, as it came."},
        **errors(422, 502),
    },
    (
        {
            **query(
                "id",
                "The task's id, without the blanks around it; no part between slashes or backslashes is '.' or '..'.",
                type="string",
                minLength=1,
                maxLength=512,
                pattern=WRITTEN,
            ),
            "required": True,
        },
    ),
)
async def query_video(context: Context, request: Request, app: apps.App) -> Response:
    """Answer as the upstream answers about a task: `GET /v1/video/query?id=`."""
    own_key = None
    if RELAY_KEY in request.headers and (provider := context.upstreams.get(context.settings.provider)):
        own_key = provider.key_places.key_in(request.headers.raw, list(request.query_params.multi_items()))
    return await answer_about(context, app, _task_id(request), None, own_key)


async def answer_about(
    context: Context, app: apps.App, task_id: str, provider: str | None, own_key: str | None
) -> Response:
    """Answer as an upstream answers about a task.

    Args:
        provider: which; None for the one that the app watches the task at, or else the default.
        own_key: the caller's key for the upstream; None for that of its watch, or of the deployment.
    """
    preferred = context.settings.provider if provider is None else provider
    known = await context.db.read(last_answers.last_answer, app.id, task_id, preferred)
    if known is not None and provider not in (None, known.provider):
        known = None
    headers = {} if known is None else {"Relay-Watch": known.watch_id}
    if known is not None and known.body and known.holds:
        headers["Age"] = str(max(0, context.clock() - known.at) // 1000)
        return Response(known.body, known.status, headers, media_type="application/json")
    name = preferred if known is None else known.provider
    upstream = _provider(context, app, name, task_id, known)
    key = _key(upstream, own_key, _watch_key(context, app, task_id, known))
    if problem := upstream.id_problem(task_id):
        raise Invalid.at("/id", problem)
    answer = await _asked(context, app, upstream, task_id, key)
    return _passed_on(answer, headers)


def _passed_on(answer: Answer, known: Mapping[str, str]) -> Response:
    """Return an answer as a response of relay's.

    Raises:
        UpstreamUnavailable: it cannot be passed on.
    """
    if answer.truncated:
        raise UpstreamUnavailable("the upstream's answer is larger than relay passes on")
    if answer.status >= 600:  # https://www.rfc-editor.org/rfc/rfc9110#section-15
        raise UpstreamUnavailable(f"the upstream answered {answer.status}, which is no status of HTTP")
    headers = {**known, "Age": "0", "content-type": "application/json"} | UNTRUSTED
    # What is not ASCII has no one meaning in a header, and would not go out.
    headers |= {name: value for name in PASSED_ON if (value := answer.headers.get(name)) and value.isascii()}
    if answer.unread:
        headers["content-encoding"] = answer.unread  # the caller may be able to read it
    if len(answer.body) <= PIECE:
        return Response(answer.body, answer.status, headers)
    headers["content-length"] = str(len(answer.body))
    return StreamingResponse(_pieces(answer), answer.status, headers)


async def _pieces(answer: Answer) -> AsyncIterator[bytes]:
    """Send a large answer piece by piece. Its memory stays reserved until the caller has taken it."""
    for start in range(0, len(answer.body), PIECE):
        yield answer.body[start : start + PIECE]


def _task_id(request: Request) -> str:
    """Return the id that is asked about, which becomes part of the upstream's address.

    Raises:
        Invalid: it could not be registered.
    """
    try:
        return TASK_ID.validate_python(request.query_params.get("id", ""))
    except ValidationError:
        example = "such as ?id=task_01k6x15vhrff09dkkqjrzwhm60"
        raise Invalid.at("/id", f"must be the id of a task, {example}; no part of it is '.' or '..'") from None


def _provider(context: Context, app: apps.App, name: str, task_id: str, known: LastAnswer | None) -> Provider:
    """Return the provider to ask, at the address where the task is asked about."""
    base = inline = None
    if known is not None:
        base = known.upstream_base
        inline = context.vault.open_text(known.inline, inline_owner(app.id, name, task_id))
    try:
        return context.upstreams.find(name, task_id, base, inline)
    except Unaskable as why:
        raise UpstreamUnavailable(why.advice) from None


def _key(upstream: Provider, own_key: str | None, watch_key: str | None) -> str | None:
    """Return the key to ask with: the caller's own, that of its watch, or None for the deployment's.

    Raises:
        Invalid: the upstream wants something that relay makes of a key, and the caller brings that instead of the key.
    """
    if own_key is None:
        return watch_key
    try:
        upstream.check_key(own_key)
    except Invalid as error:
        if watch_key is None:
            raise Invalid(f"with 'Relay-Key' relay asks with your own key, which {error.errors[0].detail}") from None
        return watch_key
    return own_key


def _watch_key(context: Context, app: apps.App, task_id: str, known: LastAnswer | None) -> str | None:
    """Return the upstream key of the app's watch of a task; None for the deployment's."""
    if known is None:
        return None
    return context.vault.open_text(known.upstream_key, upstream_key_owner(app.id, known.provider, task_id))


async def _asked(context: Context, app: apps.App, provider: Provider, task_id: str, key: str | None) -> Answer:
    """Ask the upstream about a task; return its answer."""
    if provider.lacks_key(key):
        raise UpstreamUnavailable(provider.key_remedy)
    asked = await context.upstreams.mirrored_query(provider, task_id, key, app.id)
    if isinstance(asked, Busy):
        raise TooManyRequests(f"{provider.host} is asked as much as the mirror may ask it", retry_after=asked.wait)
    if asked.answer is None:
        error = asked.reading.error
        raise UpstreamUnavailable(error["message"] if error else f"no answer from {provider.host}")
    return asked.answer
