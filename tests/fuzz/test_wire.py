"""Answers off the wire, well formed or not, in any pieces: what relay takes for whole, h11 reads in the same way.

h11 comes with uvicorn. It is strict; where it refuses what relay reads, `ALLOWED` says why that does no harm.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from typing import NamedTuple

import h11
import httpx
import pytest

from relay.outbound.connections import Connection, RawResponse
from relay.outbound.reservations import Reservations
from tests.fuzz.examples import TIMES, dice

pytestmark = pytest.mark.anyio

CAP = 1000
EXAMPLES = 3000

STATUS_LINES = (
    b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK", b"HTTP/1.1 204 No", b"HTTP/1.1 304 NM",
    b"HTTP/1.0 200 OK", b"HTTP/1.1 100 C", b"HTTP/1.1 103 E", b"HTTP/1.1 101 S", b"HTTP/1.1 500 ", b"HTTP/1.1 200",
    b"HTTP/1.1 99 x", b"HTTP/1.1 600 x", b"HTTP/2.0 200 OK", b"HTTP/1.1  200 OK", b"http/1.1 200 OK",
    b"\r\nHTTP/1.1 200 OK", b"HTTP/1.1 0200 OK", b"HTTP/1.1 205 R", b"HTTP/1.1 -200 OK", b"HTTP/1.1 2 0 0",
)  # fmt: skip
HEADERS = (
    b"Content-Length: 2", b"Content-Length: 5", b"Content-Length: 0", b"Content-Length: +2", b"Content-Length: 2, 2",
    b"Content-Length: 2,5", b"Content-Length: 0x2", b"Content-Length: 2 ", b"Content-Length:\t2",
    b"Content-Length : 2", b"Content-Length: 02", b"Content-Length: 99999999999999999999", b"Content-Length:",
    b"Content-Length: -2", b"Content-Length: 2\r\n 5", b"Transfer-Encoding: chunked", b"Transfer-Encoding: Chunked",
    b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: chunked, gzip", b"Transfer-Encoding: identity",
    b"Transfer-Encoding: xchunked", b"Transfer-Encoding:\x0bchunked", b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding : chunked", b"Transfer-Encoding:\r\n chunked", b"Connection: close",
    b"Connection: keep-alive", b"Connection: upgrade", b"Upgrade: h2c", b"X: a\r\n b", b"X: a\x00b", b"X:", b": x",
    b"X y: z", b"X: \xff", b"\tX: y", b"Trailer: Z", b"X: a\rb", b"X",
)  # fmt: skip
BODIES = (
    b"", b"ok", b"hello", b"2\r\nok\r\n0\r\n\r\n", b"2\r\nok\r\n0\r\n\r\n", b"2\r\nok\r\n0\r\nZ: 1\r\n\r\n",
    b"2;x=y\r\nok\r\n0\r\n\r\n", b"2 \r\nok\r\n0\r\n\r\n", b"02\r\nok\r\n0\r\n\r\n", b"0x2\r\nok\r\n0\r\n\r\n",
    b"2\nok\n0\n\n", b"2\r\nokk\r\n0\r\n\r\n", b"-2\r\nok\r\n0\r\n\r\n", b"2\r\nok0\r\n\r\n", b"2;\r\nok\r\n0\r\n\r\n",
    b"ffffffffffffffffff\r\nok\r\n0\r\n\r\n", b"0\r\n\r\n", b"2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    b"okHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nXX", b"ok\r\n", b"ok\n", b"2;\"\r\nok\r\n0\r\n\r\n",
)  # fmt: skip
WELL_FRAMED = (
    ([b"Content-Length: 2"], b"ok"),
    ([b"Content-Length: 5"], b"hello"),
    ([b"Transfer-Encoding: chunked"], b"2\r\nok\r\n3\r\nyes\r\n0\r\n\r\n"),
    ([b"Transfer-Encoding: chunked"], b"0\r\nX: y\r\n\r\n"),
)

ALLOWED: tuple[tuple[str, str, bool, str], ...] = (
    # (what h11 says, what must stand in the answer, whether the connection may be kept, why relay may read it)
    (r"illegal header line|malformed", r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", True,
     "a control character in a value stays in it: it frames nothing"),
    (r"illegal header line|illegal chunk", r"(?<!\r)\n", True,
     "a line feed alone ends a line, of every header alike: https://www.rfc-editor.org/rfc/rfc9112#section-2.2-3"),
    (r"illegal header line", r"\w :", True,
     "a blank before the colon is no part of a name: https://www.rfc-editor.org/rfc/rfc9112#section-5.1-2"),
    (r"illegal header line", r"\n[\w-]+ [\w-]+:", True,
     "a blank within a name makes it another one, which frames nothing"),
    (r"continuation line at start", r"\n[ \t]", True,
     "a blank before the first name is skipped, and its header counts"),
    (r"illegal chunk", r"\n0*2 +\r\n", True, "servers pad the size of a chunk with blanks"),
    (r"no response line|illegal status line", r"(^|\n)[\r\n]+HTTP/", True, "an empty line before an answer is skipped"),
    (r"illegal status line", r"HTTP/\d\.\d +\d{3}", True,
     "behind the status stands anything or nothing: it is for people"),
    (r"multiple transfer-encoding", r"(?i)chunked", True, "chunked, said twice, is chunked"),
    (r"illegal header line", r"\r(?!\n)", True,
     "a carriage return alone is read as a blank: https://www.rfc-editor.org/rfc/rfc9112#section-2.2-4"),
    (r"only transfer-encoding: chunked", r"(?is)encoding ?:[^\n]*,\s*chunked|transfer-encoding.*-encoding ?:\s*chunked",
     True, "chunked is the last coding, and so the frame; several lines are one list"),
    (r"only transfer-encoding: chunked", r"HTTP/1\.[01] (204|304)", True, "these have no body, whatever a header says"),
    (r"only transfer-encoding: chunked", r"(?i)transfer-encoding", False, "any other coding lasts until the end"),
)  # fmt: skip


class Heard(NamedTuple):
    """What a parser made of the bytes.

    Attributes:
        whole: whether the connection may be asked again.
    """

    status: int
    body: bytes
    whole: bool


class Socket(asyncio.Transport):
    """The other end of a connection: keeps nothing, and can be closed."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def abort(self) -> None:
        self.closed = True

    close = abort

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


def made_up(chance: random.Random) -> bytes:
    """Return an answer, or several, that may be broken anywhere."""
    answer = b""
    for _ in range(chance.choice([1, 1, 1, 1, 2, 3])):
        end = chance.choice([b"\r\n"] * 12 + [b"\n", b"\r"])
        framing, body = chance.choice(WELL_FRAMED) if chance.random() < 0.5 else ([], chance.choice(BODIES))
        headers = [*framing, *(chance.choice(HEADERS) for _ in range(chance.choice([0, 0, 1, 1, 1, 2, 3])))]
        chance.shuffle(headers)
        answer += end.join([chance.choice(STATUS_LINES), *headers, b"", body])
    if answer and chance.random() < 0.15:
        at = chance.randrange(len(answer))
        answer = answer[:at] + bytes([chance.randrange(256)]) + answer[at + chance.randrange(2) :]
    return answer


async def by_relay(answer: bytes, chance: random.Random, *, end: bool) -> Heard | None:
    """Return what relay makes of an answer in pieces; None if it refuses, or waits for more."""
    connection = Connection(Reservations())
    theirs = Socket()
    connection.connection_made(theirs)
    asked = asyncio.ensure_future(connection.ask(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", CAP))
    await asyncio.sleep(0)
    cuts = sorted({0, len(answer), *(chance.randrange(len(answer) + 1) for _ in range(chance.choice([0, 0, 1, 3, 9])))})
    for start, stop in zip(cuts, cuts[1:], strict=False):  # noqa: RUF007
        if not theirs.closed:
            connection.data_received(answer[start:stop])
        if chance.random() < 0.3:
            await asyncio.sleep(0)
    if end:
        connection.connection_lost(None)
    for _ in range(3):
        await asyncio.sleep(0)
    if not asked.done():
        asked.cancel()
    try:
        received: RawResponse = await asked
    except (asyncio.CancelledError, httpx.TransportError):
        return None
    return None if received.broken else Heard(received.status, received.body, connection.usable)


def by_h11(answer: bytes, *, end: bool) -> Heard | str | None:
    """Return what h11 makes of it: None if it waits for more, its words if it refuses."""
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    parser.send(h11.EndOfMessage())
    parser.receive_data(answer)
    if end:
        parser.receive_data(b"")
    status, body, old = 0, b"", False
    try:
        while True:
            event = parser.next_event()
            if isinstance(event, h11.Response):
                status = event.status_code
                old = event.http_version == b"1.0"  # h11 never keeps the connection of one
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                rest, _ = parser.trailing_data
                return Heard(status, body, (old or parser.their_state is h11.DONE) and not rest.strip(b"\r\n"))
            elif event in (h11.NEED_DATA, h11.PAUSED) or isinstance(event, h11.ConnectionClosed):
                return None
    except h11.RemoteProtocolError as error:
        return str(error)


def is_allowed(answer: bytes, words: str, *, kept: bool) -> bool:
    """Return whether relay may read what h11 refuses with these words."""
    return any(
        re.search(said, words, re.IGNORECASE) and re.search(mark, answer.decode("latin-1")) and (may_keep or not kept)
        for said, mark, may_keep, _ in ALLOWED
    )


async def test_what_relay_reads_h11_reads_in_the_same_way() -> None:
    chance, seed = dice()
    counts: Counter[str] = Counter()
    for number in range(EXAMPLES * TIMES):
        answer = made_up(chance)
        end = chance.random() < 0.3
        ours = await by_relay(answer, chance, end=end)
        theirs = by_h11(answer, end=end)
        about = f"seed {seed}, example {number}: {answer!r}, end={end}: relay {ours}, h11 {theirs}"
        if ours is None:
            counts["refused"] += 1
            continue
        counts["kept" if ours.whole else "read once"] += 1
        if isinstance(theirs, str):
            assert is_allowed(answer, theirs, kept=ours.whole), about
            counts["stricter is h11"] += 1
            continue
        assert theirs is not None, about
        assert (ours.status, ours.body) == (theirs.status, theirs.body), about
        assert theirs.whole or not ours.whole, f"left over: {about}"
    assert min(counts[what] for what in ("refused", "kept", "read once")) > EXAMPLES * TIMES / 50, counts
