"""An id for every request: in its answer, and in each line of the log about it.

It is the one that the caller or the platform's router gives, if that is usable; else one of ours.
"""

from __future__ import annotations

import contextlib
import random
import re

import structlog
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_USABLE = re.compile(r"[A-Za-z0-9._:=-]{8,128}")


def request_id_of(request: Request) -> str:
    """Return the id of a request."""
    request_id: str = request.scope["request_id"]
    return request_id


class RequestId:
    """Gives every request an id, every answer the header `X-Request-ID`, and every log line of it the same."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request under its id. What is not HTTP is passed on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _USABLE.fullmatch(given) else f"{random.getrandbits(128):032x}"
        scope["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = {"x-request-id": request_id, **scope.get("state", {}).get("headers", {})}
                headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in added.items()]
                message["headers"] = [*message.get("headers", ()), *headers]
            await send(message)

        structlog.contextvars.bind_contextvars(request_id=request_id)  # each request is a task, with a context its own
        # Starlette raises an exception again after `on_exception` has logged it, and the server would log it twice.
        with contextlib.suppress(Exception):
            await self._app(scope, receive, send_with_id)
