"""The test inbox: a receiver with a page, so that a developer sees signed events arrive before writing a receiver.

It is a target like any other: relay sends to it over HTTP, and the inbox verifies what arrives.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.model.times import Millis, rfc3339
from relay.simulators.receiver import Received, create_receiver
from relay.web.dashboard.rendering import page, render

KEPT = 100
"""Requests that the inbox remembers, the newest."""


class Inbox:
    """A receiver that verifies each request and shows it on a page.

    Args:
        secret: the signing secret to verify with.
        on_event: called with each request that arrives.
    """

    def __init__(self, secret: str, on_event: Callable[[Received], None]) -> None:
        self._on_event = on_event
        self._arrived: deque[tuple[Millis, Received]] = deque(maxlen=KEPT)
        self._receiver = create_receiver(secret, self._take)

    def routes(self) -> list[Route]:
        """Return the routes of the inbox: `POST` to send, `GET` to look."""
        return [
            Route("/inbox", self._receiver, methods=["POST"]),
            Route("/inbox", self._page, methods=["GET"]),
            Route("/inbox.json", self._list, methods=["GET"]),
        ]

    def _take(self, received: Received) -> None:
        self._arrived.appendleft((time.time_ns() // 1_000_000, received))
        self._on_event(received)

    async def _page(self, _request: Request) -> Response:
        """Show what has arrived, newest first: `GET /inbox`."""
        arrived = [(at, received, _readable(received.event)) for at, received in self._arrived]
        html = render("inbox.html", arrived=arrived, kept=KEPT, operator=False)
        return page(html.encode("utf-8", "replace").decode())  # anyone may send half a surrogate pair

    async def _list(self, _request: Request) -> Response:
        """Answer with what has arrived, newest first, for scripts: `GET /inbox.json`."""
        arrived = [{"at": rfc3339(at), **asdict(received)} for at, received in self._arrived]
        return Response(json.dumps(arrived), media_type="application/json")


def _readable(event: object) -> str:
    """Return an event laid out for reading."""
    return json.dumps(event, indent=2, ensure_ascii=False)
