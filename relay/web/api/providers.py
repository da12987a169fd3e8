"""The operation on providers: list them. What asks one stands in `mirror`."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from relay.store import apps
from relay.web.api.answers import ProviderOut, Providers
from relay.web.api.openapi.spec import answer
from relay.web.api.operations import ApiHandler, Operations
from relay.web.bodies import JsonResponse
from relay.web.context import Context

operations: Operations[ApiHandler] = Operations("Providers")


@operations.add(
    "GET /v1/providers",
    "List providers",
    "The upstreams that this deployment can watch.",
    {"200": answer("The providers.", Providers)},
)
async def list_providers(context: Context, _request: Request, _app: apps.App) -> Response:
    """List the providers of this deployment: `GET /v1/providers`."""
    data = [
        ProviderOut(
            name=provider.name,
            title=provider.definition.title,
            default=provider.name == context.settings.provider,
            configured=provider.configured,
            statuses={kind: list(words) for kind, words in provider.definition.statuses.lists.items()},
        )
        for provider in await context.upstreams.readable()
    ]
    return JsonResponse(Providers(data=data))
