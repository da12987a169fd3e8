"""HTTP for strangers: uvicorn's protocol with bounds on the size of a head and on the time that a peer may take.

uvicorn bounds neither with httptools: a slow or endless head, a body that trickles in after its answer, empty lines
between two requests, or an answer that nobody takes would hold a connection, and memory, for ever. Nor does it answer
with a problem and a request id what never becomes a request.
"""

from __future__ import annotations

import asyncio
import secrets
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from relay.errors import HeadTooLarge, MalformedRequest, RelayError, TooSlow
from relay.web.problems import problem_response

MAX_HEAD = 32 * 1024
"""Bytes of request line and headers, and of what else comes without a byte of a body: trailers, chunk extensions."""

HEAD_DEADLINE = 10.0
"""Seconds from the first byte of a request, or from the connection, to the end of its headers."""

MESSAGE_DEADLINE = 30.0
"""Seconds from there to the end of its body, whether anybody reads it or not: more than a handler waits for one."""

SEND_DEADLINE = 60.0
"""Seconds in which a peer must take what is sent to it."""

_TOO_LARGE = HeadTooLarge(f"request line and headers may have {MAX_HEAD} bytes")
_TOO_SLOW = TooSlow()
_NO_HTTP = MalformedRequest("this is not HTTP/1.1, or could be read in more than one way")


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, bounded.

    While the peer owes the rest of a request, `_deadline` runs; while a handler works, and between two requests, it
    does not: uvicorn's time-out for idle connections holds there.
    """

    _overhead = 0
    _in_head = True
    _deadline: asyncio.TimerHandle | None = None
    _sending: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """The clock of the first head starts."""
        super().connection_made(transport)
        self._expect(HEAD_DEADLINE)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._came()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Counts what comes, until something useful has come."""
        self._overhead += len(data)
        super().data_received(data)
        if self._deadline is not None:
            if self._overhead > MAX_HEAD:
                self._refuse(_TOO_LARGE)
        elif self.cycle is None or self.cycle.response_complete:
            # Bytes that begin no request have stopped uvicorn's clock for idle connections.
            self._expect(HEAD_DEADLINE)

    def on_message_begin(self) -> None:
        """The clock of a later head starts with its first byte."""
        self._overhead, self._in_head = 0, True
        if self._deadline is None:
            self._expect(HEAD_DEADLINE)
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Trailers are not kept: nobody asks for them, and there may be millions."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is there; the clock of the body starts."""
        self._in_head = False
        self._came()
        self._expect(MESSAGE_DEADLINE)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Something useful came."""
        self._overhead = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The peer owes nothing."""
        self._came()
        super().on_message_complete()

    def pause_writing(self) -> None:
        """The peer does not keep up with what is sent to it."""
        super().pause_writing()
        if self._sending is None:
            self._sending = self.loop.call_later(SEND_DEADLINE, self.transport.abort)

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None

    def _expect(self, seconds: float) -> None:
        self._overhead = 0
        self._deadline = self.loop.call_later(seconds, self._refuse, _TOO_SLOW)

    def _came(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def send_400_response(self, _msg: str) -> None:
        """uvicorn's word for what it cannot read, said as every other error."""
        self._refuse(_NO_HTTP)

    def _refuse(self, error: RelayError) -> None:
        self._came()
        if self.transport.is_closing():
            return
        # In the middle of an answer, another one would be taken for a part of it.
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(_last_answer(error))
        self.transport.close()


def _last_answer(error: RelayError) -> bytes:
    """The error as the last thing that is said on a connection."""
    request_id = secrets.token_hex(16)
    answer = problem_response(error, request_id)
    answer.headers.update({"X-Request-ID": request_id, "Connection": "close"})
    head = b"".join(b"%b: %b\r\n" % header for header in answer.raw_headers)
    status = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n".encode()
    return b"".join((status, head, b"\r\n", answer.body))
