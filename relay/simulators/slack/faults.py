"""Faults that a test gives the simulator, because relay's promises are about what happens when Slack fails."""

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
    "no_service_id": 404,
    "no_team": 404,
    "posting_to_general_channel_denied": 403,
    "ratelimited": 429,
    "rollup_error": 500,
    "team_disabled": 403,
    "used_url": 404,
}
"""The HTTP status for each error of an incoming webhook or a response URL. Any other is about the payload: 400."""


class AsgiApp(Starlette):
    """Keeps the server's own `send` within reach of `HangUp`."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["simulator.send"] = send
        await super().__call__(scope, receive, send)


class HangUp(Response):
    """A cut connection instead of an answer. ASGI has no message for that, so this runs under uvicorn only."""

    async def __call__(self, scope: Scope, receive: Receive, _send: Send) -> None:
        scope["simulator.send"].__self__.transport.abort()
        await receive()


@dataclass(frozen=True)
class Fault:
    """What one call gets instead of its true answer. The class methods make one of each kind.

    Attributes:
        answer: sent in place of the true answer; None to send the true one.
        delay: seconds before the answer.
        commit: whether the call takes effect nevertheless.
    """

    answer: Response | None = None
    delay: float = 0.0
    commit: bool = False

    @classmethod
    def html(cls, status: int = 503, *, commit: bool = False) -> "Fault":
        """Answer with a gateway's error page."""
        page = f"<!DOCTYPE html><html><body><h1>{status} Service Unavailable</h1></body></html>"
        return cls(Response(page, status, media_type="text/html"), commit=commit)

    @classmethod
    def error(cls, code: str, *, commit: bool = False) -> "Fault":
        """Answer `ok: false` with this error, and with HTTP 200 as Slack does."""
        return cls(JSONResponse({"ok": False, "error": code}), commit=commit)

    @classmethod
    def hook_error(cls, code: str) -> "Fault":
        """Answer with an incoming webhook's error: plain text, and the status that belongs to it."""
        return cls(PlainTextResponse(code, HOOK_STATUS.get(code, 400)))

    @classmethod
    def rate_limited(cls, retry_after: int | str) -> "Fault":
        """Answer 429. The call may be retried after so many seconds, or at an HTTP date."""
        headers = {"Retry-After": str(retry_after)}
        return cls(JSONResponse({"ok": False, "error": "ratelimited"}, 429, headers))

    @classmethod
    def drop(cls, *, commit: bool = True) -> "Fault":
        """Cut the connection before any answer."""
        return cls(HangUp(), commit=commit)

    @classmethod
    def slow(cls, seconds: float) -> "Fault":
        """Send the true answer late."""
        return cls(delay=seconds, commit=True)

    @classmethod
    def broken_json(cls, *, commit: bool = False) -> "Fault":
        """Answer 200 with half a JSON document."""
        return cls(Response('{"ok": tr', media_type="application/json"), commit=commit)

    @classmethod
    def plain_text(cls, text: str = "ok", *, commit: bool = False) -> "Fault":
        """Answer 200 with text where JSON is due."""
        return cls(PlainTextResponse(text), commit=commit)

    @classmethod
    def taken(cls, answer: str = "", status: int = 200) -> "Fault":
        """Post the message, and say so in other words than Slack does."""
        return cls(PlainTextResponse(answer, status), commit=True)

    async def wait(self, request: Request) -> None:
        """Wait for the delay, or until the client hangs up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.delay):
                while (await request.receive())["type"] != "http.disconnect":
                    pass
