"""An upstream on which tasks are made: it counts each create, and answers what a test says."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.web.server import listen, serving


@dataclass(frozen=True)
class Made:
    """A create as it came."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> list[str]:
        return [value for given, value in self.headers if given == name.lower()]


@dataclass
class Maker:
    """`answer(number)` says what the n-th create is answered, by default a new id; `found(id)`, what a query says.

    While `holds` is set, no query is answered; `held` is how many wait.
    """

    url: str = ""
    made: list[Made] = field(default_factory=list)
    answer: Callable[[int], Awaitable[Response]] | None = None
    found: Callable[[str], object] = lambda task_id: {"id": task_id, "status": "pending"}
    holds: asyncio.Event | None = None
    held: int = 0

    async def create(self, request: Request) -> Response:
        body = await request.body()
        raw = request.scope["raw_path"].decode() + (f"?{request.url.query}" if request.url.query else "")
        heads = [(name.decode(), value.decode("latin-1")) for name, value in request.headers.raw]
        self.made.append(Made(request.method, raw, heads, body))
        number = len(self.made)
        return await (self.answer(number) if self.answer else self.good(number))

    async def good(self, number: int) -> Response:
        return says({"id": f"task_{number}", "status": "pending", "status_update_time": 1})

    async def query(self, request: Request) -> Response:
        name = request.query_params.get("id") or request.path_params.get("id", "")
        if self.holds is not None:
            self.held += 1
            await self.holds.wait()
        return says(self.found(name))


def says(body: object, status: int = 200, **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(json.dumps(body).encode(), status, {"content-type": "application/json", **named})


def always(body: object, status: int = 200, **headers: str) -> Callable[[int], Awaitable[Response]]:
    """Return what answers every create so."""

    async def answer(_: int) -> Response:
        return says(body, status, **headers)

    return answer


async def never(_: int) -> Response:
    """Answer nothing."""
    await asyncio.Event().wait()
    raise AssertionError


@contextlib.asynccontextmanager
async def making() -> AsyncIterator[Maker]:
    maker = Maker()
    app = Starlette(
        routes=[
            Route("/v1/video/query", maker.query),
            Route("/v1/videos/{id}", maker.query),
            Route("/{path:path}", maker.create, methods=["POST", "PUT"]),
        ]
    )
    listener = listen("127.0.0.1", 0)
    maker.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with serving(app, listener, answering=1):
        yield maker
