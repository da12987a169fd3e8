"""The outer world: upstreams whose script is the truth, receivers that fail, and a note of every request."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson

from relay.outbound.prepared import OverHttpx
from tests.simulation.virtual import HOST, Host, Time

LOST_AFTER = 3
BARE_AFTER = 4
TIMEOUT = 20.0

PROVIDER = f"""
title = "Simulated"
[request]
base_url = "https://upstream.example"
path = "/tasks/{{task_id}}"
headers = {{ Authorization = "Bearer {{key}}" }}
timeout = {TIMEOUT}
[read]
status = ["status"]
progress = ["progress"]
result.url = ["url"]
error.code = ["error.code"]
error.message = ["error.message"]
[statuses]
pending = ["pending"]
completed = ["completed"]
failed = ["failed"]
[errors]
unknown_task_codes = ["task_not_found"]
[caution]
lost_after = {LOST_AFTER}
lost_grace = 30
bare_after = {BARE_AFTER}
bare_grace = 20
[cadence]
first = 2
steady = 5
growth = 1.3
floor = 1
[budget]
concurrency = 8
"""


@dataclass
class Script:
    """The truth about a task: `ending` from the time `ends_at` on; until then it is pending.

    Attributes:
        ending: `completed`, `failed`, `lost`, or `never`.
        doubts: how often the upstream has told something about it that is not so.
    """

    ending: str
    ends_at: float
    doubts: Counter[str] = field(default_factory=Counter)


@dataclass
class Query:
    """A query that arrived. `terminal` is the end that its answer named."""

    number: int
    host: Host = field(repr=False)
    task: str
    at: float
    answered_at: float | None = None
    terminal: str | None = None
    body: bytes = b""


@dataclass
class Post:
    """A request to a receiver, whether it arrived or not.

    Attributes:
        outcome: the status that was answered, or the class of the failure; None while it is under way.
    """

    number: int
    host: Host = field(repr=False)
    url: str
    webhook_id: str
    timestamp: int
    signature: str
    body: bytes
    at: float
    arrived: bool = False
    ended_at: float | None = None
    outcome: int | str | None = None


class World:
    """Everything that relay talks to."""

    def __init__(self, clock: Time, dice: random.Random) -> None:
        self.clock = clock
        self.dice = dice
        self.troubled = True
        self.scripts: dict[str, Script] = {}
        self.queries: list[Query] = []
        self.posts: list[Post] = []
        self.trace: list[str] = []
        self.by_task: defaultdict[str, list[Query]] = defaultdict(list)

    def note(self, what: str) -> None:
        """Note what happened, for the comparison of two runs and for the reader of a failure."""
        self.trace.append(f"{self.clock.now:10.3f} {what}")

    async def answer(self, request: httpx.Request) -> httpx.Response:
        """Answer a request of relay's."""
        host = HOST.get()
        assert host is not None
        if request.url.host == "upstream.example":
            target = request.extensions.get("target", request.url.raw_path).decode()
            return await self._query(host, target.rpartition("/")[2])
        return await self._post(host, request)

    # The upstream

    async def _query(self, host: Host, task: str) -> httpx.Response:
        query = Query(len(self.queries), host, task, self.clock.now)
        self.queries.append(query)
        self.by_task[task].append(query)
        seconds = self.dice.choice([0.01, 0.05, 0.2, 0.2, 1, 4, 18, 30]) if self.troubled else 0.05
        await self._pass(seconds, TIMEOUT)
        status, headers, document = self._said(query)
        query.body = document if isinstance(document, bytes) else orjson.dumps(document)
        query.answered_at = self.clock.now
        self.note(f"query {query.number} {host} {task} {status} {query.body.decode()}")
        return httpx.Response(status, headers=headers, content=query.body)

    def _said(self, query: Query) -> tuple[int, dict[str, str], Any]:
        """Return the answer: the truth, or something that must not be taken for an end."""
        script = self.scripts[query.task]
        chance = self.dice.random() if self.troubled else 1.0
        number = {"n": query.number}
        if chance < 0.16:
            return self._noise(script, number)
        if self.clock.now < script.ends_at or script.ending == "never":
            return 200, {}, {"status": "pending", "progress": self.dice.randrange(99) / 100, **number}
        query.terminal = script.ending
        if script.ending == "completed":
            return 200, {}, {"status": "completed", "url": f"https://cdn.example/{query.task}.mp4", **number}
        if script.ending == "failed":
            return 200, {}, {"status": "failed", "error": {"code": "bad", "message": f"no {query.task}"}, **number}
        return 404, {}, {"error": {"code": "task_not_found"}, **number}

    def _noise(self, script: Script, number: dict[str, int]) -> tuple[int, dict[str, str], Any]:
        kind = self.dice.choice(["500", "429", "503", "html", "redirect", "odd", "unknown", "bare", "list", "refuse"])
        script.doubts[kind] += 1
        if kind == "refuse":
            raise httpx.ConnectError("refused")
        # So often that relay may believe it, an untrue end is not told.
        if kind == "unknown" and script.doubts[kind] < LOST_AFTER:
            return 404, {}, {"error": {"code": "task_not_found"}, **number}
        if kind == "bare" and script.doubts[kind] < BARE_AFTER:
            return 200, {}, {"status": "completed", **number}
        if kind == "429":
            return 429, self.dice.choice([{}, {"Retry-After": "7"}]), number
        if kind == "redirect":
            return 302, {"Location": "https://elsewhere.example/"}, b""
        if kind == "odd":
            return 200, {}, {"status": "contemplating", **number}
        if kind in ("500", "503"):
            return int(kind), {}, {"status": "failed", **number}
        return 200, {}, b"<html>" if kind == "html" else b"[1, 2]"

    # The receivers

    async def _post(self, host: Host, request: httpx.Request) -> httpx.Response:
        headers = request.headers
        post = Post(
            len(self.posts),
            host,
            str(request.url),
            headers["webhook-id"],
            int(headers["webhook-timestamp"]),
            headers["webhook-signature"],
            request.read(),
            self.clock.now,
        )
        self.posts.append(post)
        post.outcome = "cut off"
        try:
            return await self._received(post)
        except httpx.ConnectError:
            post.outcome = "connect"
            raise
        except httpx.ReadTimeout:
            post.outcome = "timeout"
            raise
        finally:
            post.ended_at = self.clock.now
            self.note(f"post {post.number} {host} {post.webhook_id} {post.url} {post.outcome}")

    async def _received(self, post: Post) -> httpx.Response:
        chance = self.dice.random() if self.troubled else 1.0
        if chance < 0.12:
            raise httpx.ConnectError(f"refused #{post.number}")
        await asyncio.sleep(0.01)
        post.arrived = True
        seconds = self.dice.choice([0.01, 0.1, 0.1, 1, 5, 14, 40]) if self.troubled else 0.02
        await self._pass(seconds, 15.0, f" #{post.number}")
        post.outcome = self._verdict(post, chance)
        asks = {"Retry-After": self.dice.choice(["1", "30", "soon"])} if post.outcome == 429 else {}
        return httpx.Response(post.outcome, headers=asks, content=f"#{post.number}".encode())

    def _verdict(self, post: Post, chance: float) -> int:
        if chance < 0.28:
            return self.dice.choice([429, 500, 503, 302])
        return {"gone": 410, "never": 500}.get(post.url.rpartition("-")[2], 204)

    async def _pass(self, seconds: float, limit: float, who: str = "") -> None:
        """Let time pass; as relay's transport does, give up at the limit."""
        await asyncio.sleep(min(seconds, limit))
        if seconds > limit:
            raise httpx.ReadTimeout(f"too slow{who}")


class Wire(OverHttpx, httpx.AsyncBaseTransport):
    """How requests leave a simulated process."""

    def __init__(self, world: World) -> None:
        super().__init__(self)
        self._world = world

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request into the world."""
        return await self._world.answer(request)
