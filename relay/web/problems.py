"""Every error as RFC 9457 problem+json, every request with an id, every body within bounds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import orjson
import structlog
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from relay.errors import (
    FieldError,
    Invalid,
    MalformedRequest,
    MethodNotAllowed,
    NotFound,
    RelayError,
    TooLarge,
    TooSlow,
    UnsupportedMediaType,
)
from relay.web.answers import ProblemOut

log = structlog.stdlib.get_logger(__name__)

M = TypeVar("M", bound=BaseModel)

MAX_BODY = 512 * 1024
MAX_BATCH_BODY = 16 * 1024 * 1024
BODY_DEADLINE = 20.0
"""Seconds in which a request body must have arrived."""
MAX_ERRORS = 100
"""Errors of one body that are told: nobody reads more, and a body can have a hundred thousand."""


class JsonResponse(Response):
    """A JSON answer."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """`content` as JSON."""
        return orjson.dumps(content)


def problem(error: RelayError, request_id: str) -> ProblemOut:
    """The error as problem+json."""
    body = ProblemOut(
        type=f"/docs#{error.code}",
        title=error.title.rstrip("."),
        status=error.status,
        detail=error.detail,
        code=error.code,
        request_id=request_id,
    )
    if error.errors:
        body["errors"] = [{"pointer": one.pointer, "detail": one.detail} for one in error.errors]
    return body


def problem_response(error: RelayError, request_id: str) -> Response:
    """The error as an answer."""
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="relay"'
    body = orjson.dumps(problem(error, request_id))
    return Response(body, error.status, headers, media_type="application/problem+json")


async def on_relay_error(request: Request, error: Exception) -> Response:
    """An error of our own tree."""
    assert isinstance(error, RelayError)  # noqa: S101 - registered for this class only
    if error.status >= 500:
        log.error("request failed", path=request.url.path, error=error.detail, code=error.code)
    return problem_response(error, request_id_of(request))


async def on_http_exception(request: Request, error: Exception) -> Response:
    """The router's own 404 and 405."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class only
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        response = problem_response(MethodNotAllowed(f"{request.url.path} takes {allowed}"), request_id_of(request))
        response.headers["Allow"] = allowed
        return response
    if error.status_code == 404:
        return problem_response(NotFound(f"there is nothing at {request.url.path[:200]}"), request_id_of(request))
    return problem_response(MalformedRequest(error.detail), request_id_of(request))


async def on_exception(request: Request, error: Exception) -> Response:
    """A bug: told to the log in full, to the caller by its request id."""
    log.error("bug", path=request.url.path, exc_info=error)
    hidden = RelayError("something went wrong here; the request id finds it in the log")
    return problem_response(hidden, request_id_of(request))


def request_id_of(request: Request) -> str:
    """The id of this request: the caller's or the router's if it is sane, else one of ours."""
    found: str = request.scope["request_id"]
    return found


class RequestId:
    """Gives every request an id, every answer the header `X-Request-ID`, and every log line of it the same."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on what is not HTTP."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if re.fullmatch(r"[A-Za-z0-9._:=-]{8,128}", given) else secrets.token_hex(16)
        scope["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers.update(scope.get("state", {}).get("headers", {}))
            await send(message)

        # Starlette raises a bug once more when `on_exception` has told it, and the server would log it once more.
        with structlog.contextvars.bound_contextvars(request_id=request_id), contextlib.suppress(Exception):
            await self._app(scope, receive, send_with_id)


async def read_json(request: Request, limit: int = MAX_BODY) -> Any:
    """The request body as JSON.

    Raises:
        UnsupportedMediaType: it is not declared as JSON, or it is compressed.
        TooLarge: it has more than `limit` bytes.
        MalformedRequest: it is not JSON as RFC 8259 has it, or names a key twice.
    """
    content_type = request.headers.get("content-type", "")
    if not re.fullmatch(r"application/([\w.+-]+\+)?json\s*(;.*)?", content_type.strip(), re.IGNORECASE):
        raise UnsupportedMediaType("send the body as 'Content-Type: application/json'")
    if request.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise UnsupportedMediaType("send the body as it is, without 'Content-Encoding'")
    body = await read_body(request, limit)
    try:
        orjson.loads(body)  # strict: UTF-8, no NaN, no lone surrogates, nesting bounded
        return json.loads(body, object_pairs_hook=_once)  # whole numbers of any size; keys only once
    except (ValueError, RecursionError) as error:
        raise MalformedRequest(f"the body is not valid JSON: {error}") from None


async def read_body(request: Request, limit: int) -> bytes:
    """The request body, of at most `limit` bytes."""
    declared = request.headers.get("content-length", "0")
    body = bytearray()
    if not declared.isdigit() or int(declared) <= limit:
        try:
            async with asyncio.timeout(BODY_DEADLINE):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > limit:
                        break
                else:
                    return bytes(body)
        except TimeoutError:
            raise TooSlow(f"the body must arrive within {BODY_DEADLINE:.0f} s") from None
        except ClientDisconnect:
            raise MalformedRequest("the connection ended before the body did") from None
    raise TooLarge(f"the body may have {limit} bytes")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key '{twice[:40]}' stands twice in one object")
    return found


def parse(model: type[M], value: Any, below: str = "", what: str = "the body") -> M:
    """`value` as `model`.

    Args:
        below: the pointer of what the caller sent, where `value` wraps it.
        what: `value`, to the caller.

    Raises:
        Invalid: with every field that is wrong and where it is.
    """
    if not isinstance(value, Mapping):
        raise Invalid(f"{what} must be a JSON object", errors=[FieldError("", "must be an object")])
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)[:MAX_ERRORS]
        errors = [FieldError(pointer(one["loc"]).removeprefix(below), _words(one)) for one in found]
        raise Invalid(_summary(errors, error.error_count(), what), errors=errors) from None


def _summary(errors: Sequence[FieldError], count: int, what: str) -> str:
    first = errors[0]
    more = f" (and {count - 1} more)" if count > 1 else ""
    return f"{first.pointer or what}: {first.detail}{more}"


_TYPE = "must have a 'type' of 'webhook' or 'slack'"

# Where pydantic speaks of itself or of Python.
_PLAIN = {
    "extra_forbidden": "is not a field here; check its spelling",
    "missing": "is required",
    "string_type": "must be a string",
    "int_type": "must be an integer",
    "list_type": "must be an array",
    "dict_type": "must be an object",
    "model_attributes_type": "must be an object",
    "union_tag_invalid": _TYPE,
    "union_tag_not_found": _TYPE,
}


def _words(error: ErrorDetails) -> str:
    """pydantic's message, as a sentence about the field that the pointer names."""
    said = re.sub(r"^(Value error, |\w+ should )", lambda m: "must " if "should" in m[0] else "", error["msg"])
    return _PLAIN.get(error["type"], said.replace(" after validation", ""))


def pointer(path: Sequence[str | int]) -> str:
    """pydantic's location as a JSON pointer, without the names of union members that it puts between."""
    parts = [
        str(part).replace("~", "~0").replace("/", "~1")
        for before, part in zip(("", *path), path, strict=False)
        if part not in ("webhook", "slack") or not (isinstance(before, int) or before == "target")
    ]
    return "".join(f"/{part}" for part in parts)
