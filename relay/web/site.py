"""The whole HTTP application: the API, its documentation, the dashboard, Slack's routes, health and metrics."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp

from relay.errors import RelayError
from relay.outbound.shares import Shares
from relay.web import callbacks, ops, own_inbox
from relay.web.api import routes as api
from relay.web.api.openapi import document
from relay.web.api.openapi.spec import HEADERS
from relay.web.api.via import SUBMITS_UNDER_WAY
from relay.web.bodies import UNDER_WAY
from relay.web.context import Context
from relay.web.dashboard import handlers as dashboard
from relay.web.dashboard.frame import on_missing
from relay.web.errors import on_exception, on_relay_error
from relay.web.proxies import Unproxied
from relay.web.request_id import RequestId
from relay.web.slack import handlers as slack


def build(context: Context) -> ASGIApp:
    """Return the ASGI application of one deployment."""
    default = context.upstreams.get(context.settings.provider)
    definition = None if default is None else default.definition
    documentation = ops.Documentation(document.document(context.settings.public_url, definition))
    application = Starlette(
        routes=[
            *api.routes(context),
            *dashboard.routes(context),
            *slack.routes(context),
            *own_inbox.routes(context),
            *(Route(operation.path, operation.handler) for operation in ops.operations.all),
            *(Route(o.path, o.handler, methods=[o.method]) for o in callbacks.operations.all),
            Route("/metrics", ops.metrics),
            Route("/openapi.json", documentation.document),
            Route("/docs", documentation.page),
            Route("/docs.css", documentation.style),
        ],
        exception_handlers={RelayError: on_relay_error, HTTPException: on_missing, Exception: on_exception},
    )
    application.state.context = context
    application.state.bodies = Shares(UNDER_WAY)
    application.state.submits = Shares(SUBMITS_UNDER_WAY * context.settings.max_submit)
    application.router.redirect_slashes = False
    if origins := context.settings.cors_origins:
        application.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["*"],  # a create brings whatever its upstream reads; no cookie is ever allowed
            expose_headers=list(HEADERS),
        )
    if not context.settings.hops:
        application.add_middleware(Unproxied)
    return RequestId(application)
