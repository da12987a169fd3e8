"""What platforms, scrapers and readers ask of a process: health, metrics, the API's documentation."""

from __future__ import annotations

import hmac
from functools import cached_property
from pathlib import Path

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.templating import Jinja2Templates
from starlette.types import ASGIApp

from relay.errors import NotFound, RelayError, Unauthorized
from relay.telemetry.metrics import REGISTRY
from relay.web.api.openapi.spec import JsonObject, health_answer
from relay.web.api.operations import Operations, PublicHandler
from relay.web.bodies import JsonResponse
from relay.web.context import Context, context_of
from relay.web.dashboard.rendering import STATIC_PATH
from relay.web.errors import on_exception, on_http_exception, on_relay_error
from relay.web.request_id import RequestId

operations: Operations[PublicHandler] = Operations("Health", public=True)

_templates = Jinja2Templates(Path(__file__).parent / "templates")

PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


REASONS = {"type": "array", "items": {"type": "string"}}


@operations.add(
    "GET /healthz",
    "Is it alive",
    "The process answers. Restart it if it does not.",
    {"200": health_answer("It does.", status={"const": "ok"})},
)
async def healthz(_request: Request) -> Response:
    """Say that the process answers: `GET /healthz`."""
    return JsonResponse({"status": "ok"})


@operations.add(
    "GET /readyz",
    "Is it ready",
    "The process can do its work: database, schema and clock are well. Send it no requests if it is not.",
    {
        "200": health_answer("It is.", status={"const": "ok"}, reasons={**REASONS, "maxItems": 0}),
        "503": health_answer("It is not.", status={"const": "unavailable"}, reasons={**REASONS, "minItems": 1}),
    },
)
async def readyz(request: Request) -> Response:
    """Say whether the process can do its work, and if it cannot, why: `GET /readyz`."""
    reasons = await context_of(request).unwell()
    return JsonResponse({"status": "unavailable" if reasons else "ok", "reasons": reasons}, 503 if reasons else 200)


async def metrics(request: Request) -> Response:
    """Answer with the Prometheus metrics: `GET /metrics`, with RELAY_METRICS_TOKEN if this is a deployment."""
    context = context_of(request)
    token = context.settings.metrics_token
    if token is None and context.settings.deployed:
        raise NotFound("set RELAY_METRICS_TOKEN to have metrics here")
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if token is not None and not hmac.compare_digest(given.encode(), token.encode()):
        raise Unauthorized("send RELAY_METRICS_TOKEN as 'Authorization: Bearer …'")
    await context.measure()
    return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)


def site_of_worker(context: Context) -> ASGIApp:
    """Return what a process without the API serves at RELAY_METRICS_PORT: its health and its metrics."""
    application = Starlette(
        routes=[
            *(Route(operation.path, operation.handler) for operation in operations.all),
            Route("/metrics", metrics),
        ],
        exception_handlers={RelayError: on_relay_error, HTTPException: on_http_exception, Exception: on_exception},
    )
    application.state.context = context
    return RequestId(application)


class Documentation:
    """The API's documentation, for anyone who asks: so each part is made once.

    Args:
        api: the OpenAPI document.
    """

    def __init__(self, api: JsonObject) -> None:
        self._api = api

    async def document(self, _request: Request) -> Response:
        """Answer with the OpenAPI document: `GET /openapi.json`."""
        return Response(self._json, media_type="application/json")

    async def page(self, _request: Request) -> Response:
        """Answer with the OpenAPI document as a page: `GET /docs`."""
        return Response(self._html, headers=PAGE_HEADERS, media_type="text/html")

    async def style(self, _request: Request) -> Response:
        """Answer with the style of that page: `GET /docs.css`."""
        return Response(self._css, media_type="text/css")

    @cached_property
    def _json(self) -> bytes:
        return orjson.dumps(self._api)

    @cached_property
    def _html(self) -> bytes:
        html = _templates.get_template("docs.html").render(
            api=self._api,
            static=STATIC_PATH,
            errors=sorted(_tree(RelayError), key=lambda kind: (kind.status, kind.code)),
            json=lambda value: orjson.dumps(value, option=orjson.OPT_INDENT_2).decode(),
        )
        return html.encode()

    @cached_property
    def _css(self) -> bytes:
        return (Path(__file__).parent / "static" / "docs.css").read_bytes()


def _tree(kind: type[RelayError]) -> list[type[RelayError]]:
    """Return a class of errors and all classes below it, but for those that say the same with another status."""
    below = [one for child in kind.__subclasses__() for one in _tree(child)]
    return [kind, *below] if "code" in vars(kind) else below
