"""The whole HTTP application: the API, its documentation, and the health of the process."""

from __future__ import annotations

import hmac
from pathlib import Path

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.templating import Jinja2Templates
from starlette.types import ASGIApp

from relay.errors import NotFound, RelayError, Unauthorized
from relay.metrics import REGISTRY
from relay.web import api, dashboard, openapi, slack
from relay.web.context import Context, context_of
from relay.web.problems import JsonResponse, RequestId, on_exception, on_http_exception, on_relay_error
from relay.web.spec import HEADERS

_templates = Jinja2Templates(Path(__file__).parent / "templates")

PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def build(context: Context) -> ASGIApp:
    """The ASGI application of one deployment."""
    application = Starlette(
        routes=[
            *api.routes(context),
            *dashboard.routes(context),
            *slack.routes(context),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics_),
            Route("/openapi.json", openapi_json),
            Route("/docs", docs),
            Route("/docs.css", docs_css),
        ],
        exception_handlers={RelayError: on_relay_error, HTTPException: on_http_exception, Exception: on_exception},
    )
    application.state.context = context
    application.state.openapi = openapi.document(context.settings.public_url)
    application.router.redirect_slashes = False
    if origins := context.settings.cors_origins:
        application.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=[
                "Authorization",
                "Content-Type",
                "If-None-Match",
                "Last-Event-ID",
                "Prefer",
                "X-Request-ID",
            ],
            expose_headers=list(HEADERS),
        )
    return RequestId(application)


async def healthz(_request: Request) -> Response:
    """The process answers."""
    return JsonResponse({"status": "ok"})


async def readyz(request: Request) -> Response:
    """The process can do its work; 503 with the reasons if it cannot."""
    reasons = await context_of(request).unwell()
    return JsonResponse({"status": "unavailable" if reasons else "ok", "reasons": reasons}, 503 if reasons else 200)


async def metrics_(request: Request) -> Response:
    """Prometheus metrics: with RELAY_METRICS_TOKEN, or without where this is no deployment."""
    context = context_of(request)
    token = context.settings.metrics_token
    if token is None and context.settings.deployed:
        raise NotFound("set RELAY_METRICS_TOKEN to have metrics here")
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if token is not None and not hmac.compare_digest(given.encode(), token.encode()):
        raise Unauthorized("send RELAY_METRICS_TOKEN as 'Authorization: Bearer …'")
    await context.measure()
    return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)


async def openapi_json(request: Request) -> Response:
    """The OpenAPI document."""
    return JsonResponse(request.app.state.openapi)


async def docs(request: Request) -> Response:
    """The OpenAPI document, for people."""
    values = {
        "api": request.app.state.openapi,
        "errors": sorted(_tree(RelayError), key=lambda kind: (kind.status, kind.code)),
        "json": lambda value: orjson.dumps(value, option=orjson.OPT_INDENT_2).decode(),
    }
    return _templates.TemplateResponse(request, "docs.html", values, headers=PAGE_HEADERS)


async def docs_css(_request: Request) -> Response:
    """The style of the documentation."""
    return Response((Path(__file__).parent / "static" / "docs.css").read_bytes(), media_type="text/css")


def _tree(kind: type[RelayError]) -> list[type[RelayError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in _tree(child))]
