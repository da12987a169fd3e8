"""An upstream that lets nothing in but tokens that it has given, with its token endpoint, on a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.web.server import listen, serving


class Api:
    """An upstream that lets nothing in but the tokens that it has given, and its token endpoint."""

    def __init__(self) -> None:
        self.url = ""
        self.queries: list[Request] = []
        self.bodies: list[bytes] = []
        self.asked: list[bytes] = []
        self.valid: set[str] = set()
        self.lets_in: Callable[[str], bool] = lambda token: token in self.valid
        self.gives: Callable[[int], Response] = self.give
        self.answers: bytes = b'{"status": "pending"}'

    def give(self, number: int, **more: Any) -> Response:
        """Give the token of this number."""
        token = f"token-{number:08}-of-the-upstream"
        self.valid.add(token)
        return Response(json.dumps({"access_token": token, "token_type": "Bearer", "expires_in": 3600, **more}))

    async def token(self, request: Request) -> Response:
        self.asked.append(await request.body())
        await asyncio.sleep(0.01)  # so that there is a time in which others wait for it
        return self.gives(len(self.asked))

    async def query(self, request: Request) -> Response:
        self.queries.append(request)
        self.bodies.append(await request.body())
        let_in = self.lets_in(self.tokens[-1])
        return Response(self.answers, 200) if let_in else Response(b'{"message": "the token has ended"}', 401)

    @property
    def tokens(self) -> list[str]:
        """The tokens that came with queries."""
        return [query.headers.get("authorization", "").removeprefix("Bearer ") for query in self.queries]


@asynccontextmanager
async def upstream() -> AsyncIterator[Api]:
    api = Api()
    routes = [
        *(Route(path, api.token, methods=["POST"]) for path in ("/token", "/v1/applications/token")),
        Route("/{path:path}", api.query, methods=["GET", "POST"]),
    ]
    listener = listen("127.0.0.1", 0)
    api.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with serving(Starlette(routes=routes), listener, answering=1):
        yield api
