"""Server-sent events: how a stream begins, stays open, and goes out.

Written here rather than by a library, because a thousand streams must cost a thousand coroutines and no more: no task
per stream that pings, none that waits for the end of the process.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from relay.errors import TooManyRequests
from relay.outbound.descriptors import limit
from relay.web.rate_limit import counted

PER_APP = 100
"""Streams and waiting answers that one process holds open for one app."""

IN_ALL = 20_000
"""The same for all apps together, where there are descriptors enough for four times as many."""

HEARTBEAT = 15.0
"""Seconds of silence on a stream after which a comment is sent."""

RECONNECT_MS = 2000
"""Milliseconds after which a client that lost the stream should come back."""

BEGIN = f": relay\nretry: {RECONNECT_MS}\n\n".encode()
"""What a stream begins with: a comment that comes at once, and when to come back."""

COMMENT = b":\n\n"
"""What a stream sends when it has nothing to say, so that proxies and clients see that it is alive."""

_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "X-Content-Type-Options": "nosniff"}


class OpenStreams:
    """The open streams and waiting answers: each holds a connection, and every change is sent to all of them.

    All apps together have as many as a quarter of the descriptors that the process may have, and one app at most half
    of these, so that it cannot lock the others out.
    """

    def __init__(self) -> None:
        self._held: Counter[str] = Counter()

    def require_room(self, app_id: str) -> None:
        """Refuse a stream if as many are open as may be.

        Raises:
            TooManyRequests: the app has as many as it may have, or the process has.
        """
        in_all = min(IN_ALL, limit() // 4)
        per_app = max(1, min(PER_APP, in_all // 2))
        if self._held[app_id] >= per_app:
            raise TooManyRequests(f"an app may have {per_app} streams open at a process", retry_after=10)
        if self._held.total() >= in_all:
            raise TooManyRequests("as many streams are open as this process may have", retry_after=10)

    def hold(self, app_id: str) -> contextlib.AbstractContextManager[None]:
        """Count one more as open while inside."""
        return counted(self._held, app_id)


class EventStream(StreamingResponse):
    """An answer of server-sent events, which no proxy may keep or gather. It counts as open until it has ended.

    Args:
        counted: is entered for as long as the answer is sent: events may end before, or never begin.
    """

    def __init__(self, events: AsyncIterator[bytes], counted: contextlib.AbstractContextManager[None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers=_HEADERS)
        self._counted = counted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        with self._counted:
            await super().__call__(scope, receive, send)


def require_room(request: Request, streams: OpenStreams, app_id: str) -> None:
    """Refuse a stream if as many are open as may be, before anything is read for it.

    Raises:
        TooManyRequests: as many are open as may be.
    """
    try:
        streams.require_room(app_id)
    except TooManyRequests:
        # Those that are refused would otherwise hold as many connections, until they are closed for being idle.
        request.state.headers = {**getattr(request.state, "headers", {}), "Connection": "close"}
        raise


def event_stream(request: Request, events: AsyncIterator[bytes], streams: OpenStreams, app_id: str) -> Response:
    """Return a stream of server-sent events, which counts among those of an app.

    Raises:
        TooManyRequests: as many are open as may be.
    """
    if request.method == "HEAD":
        return Response(media_type="text/event-stream", headers=_HEADERS)
    require_room(request, streams, app_id)
    return EventStream(events, streams.hold(app_id))
