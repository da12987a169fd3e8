"""Every operation of the API, and the routes to them, each behind an API key and its rate limit."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from relay.errors import NotFound, TooManyRequests
from relay.outbound.shares import on_behalf_of
from relay.web.api import deliveries, mirror, providers, submissions, targets, via, watches
from relay.web.api.operations import ApiHandler
from relay.web.context import Context
from relay.web.rate_limit import RateLimiter, RequestsAtOnce

ANY = "*"
"""Stands for every method."""

OPERATIONS = [
    *watches.operations.all,
    *deliveries.operations.all,
    *targets.operations.all,
    *mirror.operations.all,
    *submissions.operations.all,
    *providers.operations.all,
]


def routes(context: Context) -> list[BaseRoute]:
    """Return the routes of the API."""
    limiter = RateLimiter(context.settings.rate_limit)
    at_once = RequestsAtOnce()
    by_path: defaultdict[str, dict[str, ApiHandler]] = defaultdict(dict)
    # The first path that fits answers a wrong method: `/v1/watches/batch` goes before `/v1/watches/{id}`.
    for operation in sorted(OPERATIONS, key=lambda operation: "{" in operation.path):
        by_path[operation.path][operation.method] = operation.handler
    own: list[BaseRoute] = [
        Route(path, _Endpoint(context, limiter, at_once, handlers), methods=list(handlers))
        for path, handlers in by_path.items()
    ]
    return [*own, via.OwnPaths(context, _Endpoint(context, limiter, at_once, {ANY: via.pass_on}))]


class _Endpoint:
    """The handlers of one path by their methods. An ASGI application, so that Starlette wraps it once and not twice."""

    def __init__(
        self, context: Context, limiter: RateLimiter, at_once: RequestsAtOnce, handlers: Mapping[str, ApiHandler]
    ) -> None:
        self._context = context
        self._limiter = limiter
        self._at_once = at_once
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        request = Request(scope, receive, send)
        response = await self._answer(request)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        app = await self._context.app_of(request)

        def charge(cost: float, paid: float = 1) -> None:
            wait, headers = self._limiter.take(app.id, time.monotonic(), cost, paid)
            request.state.headers = headers
            if wait:
                most = self._context.settings.rate_limit
                raise TooManyRequests(f"at most {most} requests per second", retry_after=wait)

        charge(1, 0)
        request.state.charge = charge
        if any("\0" in value for value in request.path_params.values()):  # no text of PostgreSQL's holds one
            raise NotFound("no id holds control characters")
        method = "GET" if request.method == "HEAD" else request.method
        handler = self._handlers.get(method) or self._handlers[ANY]
        try:
            with on_behalf_of(app.id), self._at_once.one(app.id):
                return await handler(self._context, request, app)
        finally:
            del request.state.charge  # it holds the request: only the garbage collector would find the two
