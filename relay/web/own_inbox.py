"""The test inbox of a deployment: a receiver that verifies an event as any receiver must, and keeps nothing.

What it finds is its answer, and the outbox keeps the answers of receivers, whichever process has sent or received. So
the page of the watch shows what arrived, and nobody can fill a memory by sending.
"""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from relay.errors import NotFound
from relay.security import signing
from relay.security.path_tokens import INBOX
from relay.web.bodies import MAX_BODY, read_body
from relay.web.context import Context


def routes(context: Context) -> list[Route]:
    """Return the route of the inbox."""

    async def take(request: Request) -> Response:
        """Verify an event, and say what was found: `POST /inbox/{token}`."""
        app_id = context.inbox_tokens.id_of(request.path_params["token"])
        if app_id is None:
            raise NotFound("no app has this inbox")
        body = bytes(await read_body(request, MAX_BODY))
        secrets = await context.actions.sender.secrets(app_id)
        problems = [signing.problem(secret, request.headers, body, time.time()) for secret in secrets]
        if None not in problems:
            return PlainTextResponse(f"The signature does not verify: {problems[0]}.\n", 401)
        event_id = request.headers["webhook-id"]
        return PlainTextResponse(f"{event_id} arrived, {len(body):,} bytes, and its signature verifies.\n")

    return [Route(f"{INBOX}{{token}}", take, methods=["POST"])]
