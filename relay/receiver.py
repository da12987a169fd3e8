"""A receiver for development: verifies what arrives as any receiver should, and hands it on to be shown."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from relay import signing
from relay.errors import BadSignature


@dataclass(frozen=True, slots=True)
class Received:
    """A request that arrived.

    Attributes:
        verified: None when there is no secret to verify with.
        why_not: what is wrong with its signature.
        event: its body, if that was a JSON object.
    """

    path: str
    message_id: str
    verified: bool | None
    why_not: str | None
    event: dict[str, Any]


def receiver(
    secret: str | None, received: Callable[[Received], None], refuse: Callable[[Request], int | None] = lambda _: None
) -> Starlette:
    """An ASGI application that takes POSTs at any path.

    Args:
        secret: the signing secret to verify with; None to take everything.
        received: called with each request that was not refused.
        refuse: an HTTP status to answer with in place of taking the request, to play a receiver in trouble.
    """

    async def take(request: Request) -> Response:
        if status := refuse(request):
            return PlainTextResponse("try again", status)
        body = await request.body()
        why_not = None
        if secret is not None:
            try:
                signing.verify(secret, request.headers, body, time.time())
            except BadSignature as error:
                why_not = error.detail
        try:
            event = json.loads(body)
        except (ValueError, RecursionError):
            event = None
        received(
            Received(
                request.url.path,
                request.headers.get("webhook-id", ""),
                None if secret is None else why_not is None,
                why_not,
                event if isinstance(event, dict) else {},
            )
        )
        return PlainTextResponse(why_not or "ok", 401 if why_not else 200)

    return Starlette(routes=[Route("/{path:path}", take, methods=["POST"])])
