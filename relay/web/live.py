"""A watch as it happens: read, waited for (`Prefer: wait`), or followed as server-sent events.

The stream is written here rather than by a library, because a thousand of them must cost a thousand coroutines and no
more: no task per stream that pings, none that looks for the end of the process.

https://html.spec.whatwg.org/multipage/server-sent-events.html
https://www.rfc-editor.org/rfc/rfc7240#section-4.3
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from hashlib import blake2b

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from relay.changes import Follower
from relay.errors import TooManyRequests
from relay.model import TERMINAL_EVENTS, State
from relay.store import apps, watches
from relay.web.answers import WatchOut
from relay.web.context import Context
from relay.web.problems import JsonResponse
from relay.web.views import show_watch

MAX_WAIT = 25
"""Seconds for which an answer is held back at most: platforms cut a silent connection after 30."""

HEARTBEAT = 15.0
"""Seconds of silence on a stream after which a comment is sent."""

LIFETIME = 3600.0
"""Seconds after which a stream is closed: who comes back must still have a valid key."""

RECONNECT_MS = 2000
"""Milliseconds after which a client that lost the stream should come back."""

STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "X-Content-Type-Options": "nosniff"}

MAX_FOLLOWERS = 20_000
"""Streams and waiting answers that one process holds open."""

CHANGING = ("polls", "last_poll_at", "next_poll_at", "estimated_end")
"""Fields that every poll changes: an `ETag` is about the others."""

Shown = tuple[WatchOut, str]


class Live:
    """The answers about one watch that may take a while.

    Args:
        context: of the deployment.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    async def read(self, request: Request, app: apps.App) -> Response:
        """The watch: at once, or with `Prefer: wait` when it is no longer what `If-None-Match` names."""
        wait, watch_id = preferred_wait(request), request.path_params["id"]
        known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
        if not wait:
            return self._answer(self._shown(await self._context.db.read(watches.read, app.id, watch_id)), known)
        with self._follow(watch_id) as follower:
            follower.found = await self._context.db.read(watches.read, app.id, watch_id)
            shown = self._shown(follower.found)
            # With nothing to compare with, it must become different from what it is now, if it still can.
            now = [] if follower.found.row.ended_at is not None else [shown[1]]
            old = now if known == [""] else known
            until = time.monotonic() + wait
            while shown[1] in old and (left := until - time.monotonic()) > 0:
                found = await follower.news(left)
                if follower.over:  # erased, or this process is about to end
                    break
                shown = self._shown(found) if found else shown
        if follower.over and not self._context.changes.closed:
            shown = self._shown(await self._context.db.read(watches.read, app.id, watch_id))
        return self._answer(shown, known, {"Preference-Applied": f"wait={wait}"})

    async def events(self, request: Request, app: apps.App) -> Response:
        """The watch now and whenever it changes, up to its end; nothing for who has already heard that."""
        watch_id = request.path_params["id"]
        last = request.headers.get("last-event-id", "")
        heard = int(last) if re.fullmatch("[0-9]{1,9}", last) else -1
        found = await self._context.db.read(watches.read, app.id, watch_id)
        if found.row.ended_at is not None and heard >= found.row.changes:
            return Response(status_code=204)  # which tells an EventSource not to come back
        if request.method == "HEAD":
            return Response(media_type="text/event-stream", headers=STREAM_HEADERS)
        self._make_sure_of_room()
        return event_stream(self._stream(found, min(heard, found.row.changes)))

    async def _stream(self, found: watches.Found, heard: int) -> AsyncIterator[bytes]:
        watch_id, until = found.row.id, time.monotonic() + LIFETIME
        yield f": relay\nretry: {RECONNECT_MS}\n\n".encode()
        with self._context.changes.follow(watch_id) as follower:
            follower.found = found
            while True:
                if found.row.changes > heard:
                    yield self._event(found)
                    heard = found.row.changes
                if found.row.ended_at is not None:
                    return
                news = await follower.news(HEARTBEAT)
                if follower.over or time.monotonic() > until:
                    return
                if news is None:
                    yield b":\n\n"
                else:
                    found = news

    def _event(self, found: watches.Found) -> bytes:
        state = State(found.row.state)
        name = "progress" if state is State.WATCHING else TERMINAL_EVENTS.get(state, f"task.{state}")
        data = orjson.dumps(show_watch(found, self._context.addresses))
        return b"id: %d\nevent: %s\ndata: %s\n\n" % (found.row.changes, name.encode(), data)

    def _follow(self, watch_id: str) -> AbstractContextManager[Follower]:
        self._make_sure_of_room()
        return self._context.changes.follow(watch_id)

    def _make_sure_of_room(self) -> None:
        if self._context.changes.followers >= MAX_FOLLOWERS:
            raise TooManyRequests("as many streams are open as this process may have", retry_after=10)

    def _shown(self, found: watches.Found) -> Shown:
        shown = show_watch(found, self._context.addresses)
        lasting = {name: value for name, value in shown.items() if name not in CHANGING}
        return shown, f'"{blake2b(orjson.dumps(lasting), digest_size=12).hexdigest()}"'

    @staticmethod
    def _answer(shown: Shown, known: list[str], headers: dict[str, str] | None = None) -> Response:
        watch, tag = shown
        headers = {"ETag": f"W/{tag}", "Cache-Control": "private, no-cache", **(headers or {})}
        if tag in known or "*" in known:
            return Response(status_code=304, headers=headers)
        return JsonResponse(watch, headers=headers)


def event_stream(blocks: AsyncIterator[bytes]) -> Response:
    """An answer of server-sent events, which no proxy keeps or gathers."""
    return StreamingResponse(blocks, media_type="text/event-stream", headers=STREAM_HEADERS)


def preferred_wait(request: Request) -> int:
    """The whole seconds that a request would wait for a change, at most `MAX_WAIT`; 0 if it says nothing of it."""
    for preference in ",".join(request.headers.getlist("prefer")).split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "wait":
            text = value.strip().strip('"')
            return min(int(text), MAX_WAIT) if re.fullmatch("[0-9]{1,9}", text) else 0
    return 0
