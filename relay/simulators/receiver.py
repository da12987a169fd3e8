"""A receiver of webhooks for development: verifies each request as any receiver should, and reports it."""

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

from relay.security import signing


@dataclass(frozen=True, slots=True)
class Received:
    """A request that arrived.

    Attributes:
        verified: whether the signature holds; None without a secret to verify with.
        problem: what is wrong with the signature.
        event: the body, empty unless it was a JSON object.
    """

    path: str
    message_id: str
    verified: bool | None
    problem: str | None
    event: dict[str, Any]

    @property
    def task_id(self) -> str:
        """Return the task that the event is about; empty if it names none."""
        data = self.event.get("data")
        return str(data.get("task_id", "")) if isinstance(data, dict) else ""


def create_receiver(
    secret: str | None, on_event: Callable[[Received], None], refuse: Callable[[Request], int | None] = lambda _: None
) -> Starlette:
    """Return an ASGI application that takes POST requests at any path.

    Args:
        secret: the signing secret to verify with; None to take everything.
        on_event: called with each request that was not refused.
        refuse: returns an HTTP status to refuse a request with, to simulate a receiver in trouble; None to take it.
    """

    async def take(request: Request) -> Response:
        if status := refuse(request):
            return PlainTextResponse("try again", status)
        body = await request.body()
        problem = None if secret is None else signing.problem(secret, request.headers, body, time.time())
        on_event(
            Received(
                path=request.url.path,
                message_id=request.headers.get("webhook-id", ""),
                verified=None if secret is None else problem is None,
                problem=problem,
                event=_event(body),
            )
        )
        return PlainTextResponse(problem or "ok", 401 if problem else 200)

    return Starlette(routes=[Route("/{path:path}", take, methods=["POST"])])


def _event(body: bytes) -> dict[str, Any]:
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return event if isinstance(event, dict) else {}
