"""Errors as they are answered: problem+json (RFC 9457)."""

from __future__ import annotations

import math

import orjson
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from relay.errors import (
    MalformedRequest,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    RelayError,
    ResolverUnavailable,
    StoreUnavailable,
)
from relay.security.path_tokens import masked
from relay.web.api.answers import ProblemOut
from relay.web.request_id import request_id_of

log = structlog.stdlib.get_logger(__name__)

QUIET = (StoreUnavailable, ResolverUnavailable, Overloaded)
"""Errors of relay's own without a line of the log for each: the database logs one, and an app can cause many."""


def problem(error: RelayError, request_id: str) -> ProblemOut:
    """Return the content of an answer about an error."""
    body = ProblemOut(
        type=f"/docs#{error.code}",
        title=error.title.rstrip("."),
        status=error.status,
        detail=error.detail,
        code=error.code,
        request_id=request_id,
    )
    if error.errors:
        body["errors"] = [{"pointer": field.pointer, "detail": field.detail} for field in error.errors]
    return body


def problem_response(error: RelayError, request_id: str) -> Response:
    """Return the answer about an error."""
    headers = dict(error.headers)
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="relay"'
    body = orjson.dumps(problem(error, request_id))
    return Response(body, error.status, headers, media_type="application/problem+json")


async def on_relay_error(request: Request, error: Exception) -> Response:
    """Answer about an error of relay's own."""
    assert isinstance(error, RelayError)  # noqa: S101 - registered for this class only
    if error.status >= 500 and not isinstance(error, QUIET):
        log.error("request failed", path=masked(request.url.path), error=error.detail, code=error.code)
    return problem_response(error, request_id_of(request))


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Answer about an error of Starlette's: a path or a method that there is not."""
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
    """Answer about a bug: the log has all of it, the caller only the request id."""
    log.error("bug", path=masked(request.url.path), exc_info=error)
    bug = RelayError("something went wrong here; the request id finds it in the log")
    return problem_response(bug, request_id_of(request))
