"""The operation on targets: try one."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from relay.channels.targets import SCHEMAS
from relay.model.delivery import Verdict
from relay.store import apps
from relay.web.api.answers import TestOut
from relay.web.api.openapi.spec import answer, ref
from relay.web.api.operations import ApiHandler, Operations
from relay.web.api.schemas import TestIn
from relay.web.api.views import show_attempt
from relay.web.bodies import JsonResponse, parse, read_json
from relay.web.context import Context

operations: Operations[ApiHandler] = Operations("Targets")

TEXT = "This is a test event of relay. Its signature is made like that of every other event."


@operations.add(
    "POST /v1/targets/test",
    "Try a target",
    "Sends a signed `relay.test` event to a target, without a watch, and says what came of it. Few tests may be on "
    "their way to one host at once; one more is refused (429).",
    {"200": answer("The attempt.", TestOut)},
    body={
        "oneOf": [ref(schema) for schema in SCHEMAS.values()],
        "discriminator": {
            "propertyName": "type",
            "mapping": {name: ref(schema)["$ref"] for name, schema in SCHEMAS.items()},
        },
    },
)
async def test_target(context: Context, request: Request, app: apps.App) -> Response:
    """Send a test event to a target: `POST /v1/targets/test`."""
    target = parse(TestIn, {"target": await read_json(request)}, below="/target").target
    traceparent = request.headers.get("traceparent")
    message_id, attempt = await context.actions.test(app.id, target, TEXT, traceparent)
    delivered = attempt.outcome.verdict is Verdict.DELIVERED
    return JsonResponse(TestOut(webhook_id=message_id, delivered=delivered, attempt=show_attempt(attempt)))
