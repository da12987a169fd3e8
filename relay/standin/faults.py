"""Ways for Slack to misbehave, because relay's promises are about what happens when it does."""

import asyncio
import contextlib
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

HOOK_STATUS = {
    "action_prohibited": 403,
    "channel_is_archived": 410,
    "channel_not_found": 404,
    "expired_url": 410,
    "invalid_token": 403,
    "invalid_url": 404,
    "no_active_hooks": 404,
    "no_service": 404,
    "no_team": 404,
    "ratelimited": 429,
    "rollup_error": 500,
    "team_disabled": 403,
    "used_url": 404,
}
"""What an incoming webhook or a response URL answers to each error; any other is about the payload: 400."""


class App(Starlette):
    """Keeps the server's own `send` within reach of `HangUp`."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["standin.send"] = send
        await super().__call__(scope, receive, send)


class HangUp(Response):
    """No answer: the connection is cut. ASGI has no word for that, so this needs to run under uvicorn."""

    async def __call__(self, scope: Scope, receive: Receive, _send: Send) -> None:
        scope["standin.send"].__self__.transport.abort()
        await receive()


@dataclass(frozen=True)
class Fault:
    """What one call gets instead of its answer. With `commit` the call takes effect all the same.

    Make one with the class methods below; without an `answer` the true one is given, `delay` seconds late.
    """

    answer: Response | None = None
    delay: float = 0.0
    commit: bool = False

    @classmethod
    def html(cls, status: int = 503, *, commit: bool = False) -> "Fault":
        """A gateway's error page."""
        page = f"<!DOCTYPE html><html><body><h1>{status} Service Unavailable</h1></body></html>"
        return cls(Response(page, status, media_type="text/html"), commit=commit)

    @classmethod
    def error(cls, code: str, *, commit: bool = False) -> "Fault":
        """`ok: false` with this error, at HTTP 200 as Slack does it."""
        return cls(JSONResponse({"ok": False, "error": code}), commit=commit)

    @classmethod
    def hook_error(cls, code: str) -> "Fault":
        """An incoming webhook's error: plain text, with the status that belongs to it."""
        return cls(PlainTextResponse(code, HOOK_STATUS.get(code, 400)))

    @classmethod
    def rate_limited(cls, retry_after: int | str) -> "Fault":
        """429, to be tried again after so many seconds, or at an HTTP date."""
        headers = {"Retry-After": str(retry_after)}
        return cls(JSONResponse({"ok": False, "error": "ratelimited"}, 429, headers))

    @classmethod
    def drop(cls, *, commit: bool = True) -> "Fault":
        """The connection breaks before any answer."""
        return cls(HangUp(), commit=commit)

    @classmethod
    def slow(cls, seconds: float) -> "Fault":
        """The true answer, late."""
        return cls(delay=seconds, commit=True)

    @classmethod
    def broken_json(cls, *, commit: bool = False) -> "Fault":
        """200 with half a JSON document."""
        return cls(Response('{"ok": tr', media_type="application/json"), commit=commit)

    @classmethod
    def plain_text(cls, text: str = "ok", *, commit: bool = False) -> "Fault":
        """200 with text where JSON is due."""
        return cls(PlainTextResponse(text), commit=commit)

    async def wait(self, request: Request) -> None:
        """Lets the delay pass, unless the client hangs up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.delay):
                while (await request.receive())["type"] != "http.disconnect":
                    pass
