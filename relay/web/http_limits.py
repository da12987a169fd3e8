"""Limits of HTTP: uvicorn's protocol with bounds on the size of a head, the time of a client, and the connections.

With httptools, uvicorn has neither. A slow or endless head, a body that trickles in after its answer, empty lines
between two requests, or an answer that no one reads would hold a connection, and its memory, for ever. And bytes that
never become a request would not be answered with a problem and a request id.
"""

from __future__ import annotations

import asyncio
import secrets
from http import HTTPStatus
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from relay.errors import HeadTooLarge, MalformedRequest, Overloaded, RelayError, TooSlow
from relay.outbound.descriptors import limit, parts
from relay.web.answer_transport import AnswerTransport
from relay.web.errors import problem_response

MAX_HEAD = 32 * 1024
"""Bytes of request line and headers, and of what else comes without a byte of a body: trailers, chunk extensions."""

HEAD_DEADLINE = 10.0
"""Seconds from the first byte of a request, or from the connection, to the end of its headers."""

MESSAGE_DEADLINE = 30.0
"""Seconds from there to the end of its body, whether it is read or not: more than a handler waits for one."""

PATIENCE = "relay.patience"
"""Under this name the scope of a request has a function: a handler that takes large bodies asks for more seconds."""

SEND_DEADLINE = 60.0
"""Seconds in which a client must take what is sent to it."""

GRACE = 1.0
"""Seconds from the accept, or from the head, in which a connection is not closed for a new one, as far as possible.

What its client has sent may still have to be read, when many come at once.
"""

RETRY_AFTER = 1.0
"""Seconds after which a caller may come again that is refused for want of room."""

_TOO_LARGE = HeadTooLarge(f"request line and headers may have {MAX_HEAD} bytes")
_TOO_SLOW = TooSlow()
_CROWDED = Overloaded("too many connections are open", retry_after=RETRY_AFTER)
_NO_HTTP = MalformedRequest("this is not HTTP/1.1, or could be read in more than one way")


class Crowd:
    """The connections of one server that can be spared when there are too many, in the order of their age.

    Attributes:
        idle: those on which the client may or may not ask again.
        unfinished: those on which the client has still to send the rest of a request, and since when.
    """

    def __init__(self) -> None:
        self.idle: dict[BoundedProtocol, None] = {}
        self.unfinished: dict[BoundedProtocol, float] = {}

    def admit(self, newcomer: BoundedProtocol, count: int) -> None:
        """Make room for a new connection, if there are too many with it: that of the client which has waited longest.

        What is being answered goes on, and who has just come is heard first. While all are such, some more are let in,
        and then the oldest of those who were not heard yet is refused.

        Args:
            count: the connections that are open, the new one too.
        """
        most = parts(limit()).incoming
        if count <= most:
            return
        if self.idle:
            oldest = next(iter(self.idle))
            del self.idle[oldest]
            oldest.transport.close()
            return
        oldest, since = next(iter(self.unfinished.items()))
        if newcomer.loop.time() - since > GRACE or count > most + most // 2:
            oldest.refuse(_CROWDED)


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, bounded.

    Args:
        crowd: of the same server.

    `_deadline` runs while the client has still to send the rest of a request. It does not run while a handler works,
    nor between two requests, where uvicorn's time-out for idle connections holds. What comes at once is looked at as a
    whole first: most requests are complete then, and need no timer.
    """

    _overhead = 0
    _in_head = True
    _patience: float | None = None
    _moved = False
    _deadline: asyncio.TimerHandle | None = None
    _sending: asyncio.TimerHandle | None = None

    def __init__(self, crowd: Crowd, **given: Any) -> None:
        super().__init__(**given)
        self._crowd = crowd

    def connection_made(self, transport: Any) -> None:
        """Start the deadline of the first head."""
        super().connection_made(AnswerTransport(transport, self.loop))  # type: ignore[arg-type]
        self._start_deadline(HEAD_DEADLINE)
        self._crowd.admit(self, len(self.connections))

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all deadlines."""
        self._stop_deadline()
        self._crowd.idle.pop(self, None)
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count the bytes that come before something useful does."""
        self._crowd.idle.pop(self, None)
        self._overhead += len(data)
        super().data_received(data)
        if self._moved:
            self._stop_deadline()
            if self._patience is not None:
                self._start_deadline(self._patience)
        if self._deadline is not None:
            if self._overhead > MAX_HEAD:
                self.refuse(_TOO_LARGE)
        elif self.cycle is None or self.cycle.response_complete:
            # Bytes that begin no request have stopped uvicorn's time-out for idle connections.
            self._start_deadline(HEAD_DEADLINE)

    def on_message_begin(self) -> None:
        """Start the deadline of a later head, with its first byte."""
        self._in_head = True
        if self._deadline is None or self._moved:
            self._move(HEAD_DEADLINE)
        self._overhead = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header, but no trailer: no handler asks for trailers, and there may be millions."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the deadline of the body: the head is complete.

        Raises:
            ValueError: it is not HTTP/1, or names no host or more than one, so that a proxy could read it otherwise.
        """
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise ValueError("a request with headers is one of HTTP/1")
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            raise ValueError("a request names one host")  # https://www.rfc-editor.org/rfc/rfc9112#section-3.2
        self._in_head = False
        self._move(MESSAGE_DEADLINE)
        cast(dict[str, Any], self.scope)[PATIENCE] = self._be_patient
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Count anew: something useful came."""
        self._overhead = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Stop the deadline: the client has sent all of its request."""
        self._move(None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Count the connection as idle, unless the client has asked more already."""
        super().on_response_complete()
        if self.timeout_keep_alive_task is not None and self._deadline is None:
            self._crowd.idle[self] = None

    def pause_writing(self) -> None:
        """Start the deadline for a client that does not keep up with what is sent to it."""
        super().pause_writing()
        if self._sending is None:
            self._sending = self.loop.call_later(SEND_DEADLINE, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop that deadline: the client keeps up again."""
        super().resume_writing()
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None

    def _be_patient(self, seconds: float) -> None:
        """Give the client so many seconds from now for the rest of its body, if there is more to come."""
        if self._deadline is not None and not self._in_head:
            self._stop_deadline()
            self._start_deadline(seconds)

    def _move(self, patience: float | None) -> None:
        """Note that the client has so many seconds from now for what comes next, or that nothing has to come."""
        self._overhead = 0
        self._patience = patience
        self._moved = True

    def _start_deadline(self, seconds: float) -> None:
        self._overhead = 0
        self._crowd.unfinished[self] = self.loop.time()
        self._deadline = self.loop.call_later(seconds, self.refuse, _TOO_SLOW)

    def _stop_deadline(self) -> None:
        self._moved = False
        self._crowd.unfinished.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def send_400_response(self, _msg: str) -> None:
        """Answer as every other error what uvicorn cannot read."""
        self.refuse(_NO_HTTP)

    def refuse(self, error: RelayError) -> None:
        """Answer with an error, unless an answer has begun, and close the connection."""
        self._stop_deadline()
        if self.transport.is_closing():
            return
        # In the middle of an answer, another one would be taken for a part of it.
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(_last_answer(error))
        self.transport.close()


def _last_answer(error: RelayError) -> bytes:
    """Return an answer about an error, after which the connection is closed."""
    request_id = secrets.token_hex(16)
    answer = problem_response(error, request_id)
    answer.headers.update({"X-Request-ID": request_id, "Connection": "close"})
    head = b"".join(b"%b: %b\r\n" % header for header in answer.raw_headers)
    status = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n".encode()
    return b"".join((status, head, b"\r\n", answer.body))
