"""An upstream and a receiver that do what a test says, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.security import signing
from relay.web.server import listen, serving


@dataclass(frozen=True)
class Answer:
    """What an upstream or a receiver answers."""

    body: bytes = b"{}"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    after: float = 0.0


def says(status: str, **fields: Any) -> Answer:
    """An upstream's JSON answer with a status."""
    return Answer(json.dumps({"id": "task", "status": status, **fields}).encode())


def done(url: str = "https://cdn.example/v.mp4") -> Answer:
    """An upstream's answer for a completed task."""
    return says("completed", video_url=url)


Script = list[Answer] | Answer | Callable[[int], Answer]


class Upstream:
    """A query endpoint. `scripts[id]` says what is answered: one thing, a list (its last repeats), or by number."""

    def __init__(self) -> None:
        self.scripts: dict[str, Script] = {}
        self.default: Script = says("pending")
        self.asked: defaultdict[str, list[float]] = defaultdict(list)
        self.heads: list[tuple[str, dict[str, str]]] = []
        self.url = ""
        self.in_flight = self.most_in_flight = 0

    async def query(self, request: Request) -> Response:
        task_id = request.query_params.get("id", "")
        self.asked[task_id].append(time.monotonic())
        self.heads.append((str(request.url), dict(request.headers)))
        script = self.scripts.get(task_id, self.default)
        number = len(self.asked[task_id]) - 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await _answer(script, number)
        finally:
            self.in_flight -= 1


async def _answer(script: Script, number: int) -> Response:
    if isinstance(script, list):
        answer = script[min(number, len(script) - 1)]
    else:
        answer = script if isinstance(script, Answer) else script(number)
    if answer.after:
        await asyncio.sleep(answer.after)
    return Response(answer.body, answer.status, answer.headers)


@dataclass(frozen=True)
class Post:
    """A request that a receiver got."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def event(self) -> dict[str, Any]:
        return json.loads(self.body)

    @property
    def webhook_id(self) -> str:
        return self.headers["webhook-id"]


class Receiver:
    """Takes webhooks. `scripts[path]` says what is answered; `posts` is what came."""

    def __init__(self) -> None:
        self.scripts: dict[str, Script] = {}
        self.posts: list[Post] = []
        self.url = ""
        self._came = asyncio.Event()

    async def take(self, request: Request) -> Response:
        body = await request.body()
        path = request.url.path
        number = sum(post.path == path for post in self.posts)
        self.posts.append(Post(path, dict(request.headers), body, time.monotonic()))
        self._came.set()
        return await _answer(self.scripts.get(path, Answer(b"ok")), number)

    def to(self, path: str) -> list[Post]:
        """What came to one path."""
        return [post for post in self.posts if post.path == path]

    async def wait_for(self, count: int, path: str | None = None, within: float = 60.0) -> list[Post]:
        """The posts (to one path), once there are `count` of them."""
        async with asyncio.timeout(within):
            while len(found := self.posts if path is None else self.to(path)) < count:
                self._came.clear()
                await self._came.wait()
        return found

    def verify(self, secret: str) -> None:
        """Checks the signature of all that came."""
        for post in self.posts:
            signing.verify(secret, post.headers, post.body, time.time())


@contextlib.asynccontextmanager
async def upstream() -> AsyncIterator[Upstream]:
    party = Upstream()
    app = Starlette(routes=[Route("/v1/video/query", party.query)])
    listener = listen("127.0.0.1", 0)
    party.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with serving(app, listener, answering=1):
        yield party


@contextlib.asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    party = Receiver()
    app = Starlette(routes=[Route("/{path:path}", party.take, methods=["POST"])])
    listener = listen("0.0.0.0", 0)  # so that one test can have it under several addresses
    party.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with serving(app, listener, answering=1):
        yield party


async def until(condition: Callable[[], Awaitable[Any]], within: float = 60.0) -> Any:
    """The first true value of `condition`, asked again and again."""
    async with asyncio.timeout(within):
        while not (found := await condition()):
            await asyncio.sleep(0.02)
        return found
