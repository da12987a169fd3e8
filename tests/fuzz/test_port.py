"""Requests that could be read in two ways: relay's port refuses them and hangs up, or reads them as h11 does.

Behind a proxy that reads otherwise, a request would be smuggled in another's body. So each case is followed by a
request of its own, and what counts is which requests the application saw.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import h11
import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from relay.web.server import listen, serving
from tests.fuzz.examples import TIMES, dice

pytestmark = pytest.mark.anyio

EXAMPLES = 250
PATIENCE = 3.0
NEXT = b"GET /next HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

Seen = list[tuple[str, str, bytes]]
"""Method, path and body of each request."""

SAW_NEXT = ("GET", "/next", b"")
OK = [("POST", "/", b"ok"), SAW_NEXT]
ALONE = [("POST", "/", b"ok")]
REFUSED: Seen = []

POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
CHUNKS = b"2\r\nok\r\n0\r\n\r\n"
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"

CORPUS: dict[str, tuple[bytes, Seen]] = {
    "a length": (POST + b"Content-Length: 2\r\n\r\nok", OK),
    "chunks": (CHUNKED + b"\r\n" + CHUNKS, OK),
    "a length and chunks": (POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS, REFUSED),
    "chunks and a length": (CHUNKED + b"Content-Length: 4\r\n\r\n" + CHUNKS, REFUSED),
    "two lengths": (POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok", REFUSED),
    "one length twice": (POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok", REFUSED),
    "a list of lengths": (POST + b"Content-Length: 2, 2\r\n\r\nok", REFUSED),
    "a length with a sign": (POST + b"Content-Length: +2\r\n\r\nok", REFUSED),
    "a negative length": (POST + b"Content-Length: -2\r\n\r\nok", REFUSED),
    "a length in hex": (POST + b"Content-Length: 0x2\r\n\r\nok", REFUSED),
    "an empty length": (POST + b"Content-Length:\r\n\r\n", REFUSED),
    "an endless length": (POST + b"Content-Length: 99999999999999999999\r\n\r\nok", REFUSED),
    "a blank within a length": (POST + b"Content-Length: 1 2\r\n\r\nok", REFUSED),
    "another coding": (POST + b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNKS, REFUSED),
    "a coding before chunks": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKS, OK),
    "a coding behind chunks": (POST + b"Transfer-Encoding: chunked, identity\r\n\r\n" + CHUNKS, REFUSED),
    "a tab before chunked": (POST + b"Transfer-Encoding:\tchunked\r\n\r\n" + CHUNKS, OK),
    "a vertical tab": (POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n" + CHUNKS, REFUSED),
    "a quoted coding": (POST + b'Transfer-Encoding: "chunked"\r\n\r\n' + CHUNKS, REFUSED),
    "a blank before the colon": (POST + b"Transfer-Encoding : chunked\r\n\r\n" + CHUNKS, REFUSED),
    "a tab before the colon": (POST + b"Content-Length\t: 2\r\n\r\nok", REFUSED),
    "a folded coding": (POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + CHUNKS, REFUSED),
    "a folded length": (POST + b"Content-Length:\r\n 2\r\n\r\nok", REFUSED),
    "a folded first header": (b"POST / HTTP/1.1\r\n X: y\r\nHost: x\r\nContent-Length: 2\r\n\r\nok", REFUSED),
    "line feeds alone": (POST.replace(b"\r\n", b"\n") + b"Content-Length: 2\n\nok", REFUSED),
    "a line feed in a value": (POST + b"X: a\nContent-Length: 2\r\n\r\nok", REFUSED),
    "a carriage return in a value": (POST + b"X: a\rContent-Length: 2\r\n\r\nok", REFUSED),
    "NUL in a value": (POST + b"X: a\0b\r\nContent-Length: 2\r\n\r\nok", REFUSED),
    "NUL in a name": (POST + b"Content\0-Length: 2\r\n\r\nok", REFUSED),
    "a header without a colon": (POST + b"X\r\nContent-Length: 2\r\n\r\nok", REFUSED),
    "a header without a name": (POST + b": x\r\nContent-Length: 2\r\n\r\nok", REFUSED),
    "chunks by HTTP/1.0": (CHUNKED.replace(b"1.1", b"1.0") + b"\r\n" + CHUNKS, ALONE),
    "an extension of a chunk": (CHUNKED + b"\r\n2;x=y\r\nok\r\n0\r\n\r\n", OK),
    "a line feed in an extension": (CHUNKED + b"\r\n2;x\nok\r\n0\r\n\r\n", REFUSED),
    "a quoted line feed in an extension": (CHUNKED + b'\r\n2;x="\n"\r\nok\r\n0\r\n\r\n', REFUSED),
    "a blank behind a size": (CHUNKED + b"\r\n2 \r\nok\r\n0\r\n\r\n", REFUSED),
    "a size in hex": (CHUNKED + b"\r\n0x2\r\nok\r\n0\r\n\r\n", REFUSED),
    "a negative size": (CHUNKED + b"\r\n-2\r\nok\r\n0\r\n\r\n", REFUSED),
    "an endless size": (CHUNKED + b"\r\n" + b"f" * 17 + b"\r\nok\r\n0\r\n\r\n", REFUSED),
    "a chunk longer than its size": (CHUNKED + b"\r\n2\r\nokk\r\n0\r\n\r\n", REFUSED),
    "a chunk without its end": (CHUNKED + b"\r\n2\r\nok0\r\n\r\n", REFUSED),
    "line feeds between chunks": (CHUNKED + b"\r\n2\nok\n0\n\n", REFUSED),
    "a trailer": (CHUNKED + b"\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n", OK),
    "a length in a trailer": (CHUNKED + b"\r\n2\r\nok\r\n0\r\nContent-Length: 5\r\n\r\n", REFUSED),
    "a request in a GET's body": (
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
        [("GET", "/", HIDDEN), SAW_NEXT],
    ),
    "an upgrade to HTTP/2": (
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n",
        [("GET", "/", b"")],
    ),
    "HTTP/2 at once": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", REFUSED),
    "CONNECT": (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", REFUSED),
    "HTTP/0.9": (b"GET /\r\n", REFUSED),
    "headers of HTTP/0.9": (b"GET /HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nok", REFUSED),
    "HTTP/1.1 called 2": (b"POST / HTTP/2.0\r\nHost: x\r\nContent-Length: 2\r\n\r\nok", REFUSED),
    "an unknown version": (b"GET / HTTP/1.2\r\nHost: x\r\n\r\n", REFUSED),
    "two blanks": (b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n", [("GET", "/", b""), SAW_NEXT]),
    "a tab as a blank": (b"GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n", REFUSED),
    "blanks behind the version": (b"GET / HTTP/1.1 \r\nHost: x\r\n\r\n", REFUSED),
    "a method in small letters": (b"get / HTTP/1.1\r\nHost: x\r\n\r\n", REFUSED),
    "empty lines before": (b"\r\n\r\n" + POST + b"Content-Length: 2\r\n\r\nok", OK),
}


async def saw(request: Request) -> PlainTextResponse:
    """Note a request, with all of its body."""
    assert request.client is not None
    with contextlib.suppress(ClientDisconnect):
        body = await request.body()
        target = request.scope["raw_path"] + (b"?" + query if (query := request.scope["query_string"]) else b"")
        request.app.state.seen[request.client.port].append((request.method, target.decode("latin-1"), body))
    return PlainTextResponse("ok")


class Port:
    """relay's server before an application that notes what it sees."""

    def __init__(self, app: Starlette, number: int) -> None:
        self._app = app
        self._number = number

    async def sees(self, data: bytes, cut: int = 0) -> tuple[Seen, bytes]:
        """Return the requests that the application sees in these bytes, and all answers, until relay hangs up.

        A request that is not complete is given up after a while.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", self._number)
        seen: Seen = []  # of this connection: thousands later, another one has its port again
        self._app.state.seen[writer.get_extra_info("sockname")[1]] = seen
        answers = b""
        with contextlib.suppress(ConnectionError, TimeoutError):  # it may hang up with bytes unread
            async with asyncio.timeout(PATIENCE):
                for piece in (data[:cut], data[cut:]):
                    writer.write(piece)
                    await asyncio.sleep(0)
                while piece := await reader.read(65536):
                    answers += piece
        writer.close()
        return seen, answers

    async def sees_all(self, requests: Sequence[bytes], chance: random.Random) -> list[tuple[Seen, bytes]]:
        """Return what it sees in each of these, in two pieces each, many at a time."""
        results: list[tuple[Seen, bytes]] = []
        for start in range(0, len(requests), 50):
            some = requests[start : start + 50]
            results += await asyncio.gather(*(self.sees(data, chance.randrange(len(data))) for data in some))
        return results


@asynccontextmanager
async def port() -> AsyncIterator[Port]:
    """Serve, as `relay web` does."""
    methods = ["GET", "POST", "CONNECT", "PRI"]
    app = Starlette(routes=[Route("/{path:path}", saw, methods=methods)])
    app.state.seen = defaultdict(list)
    listener = listen("127.0.0.1", 0)
    async with serving(app, listener, answering=5, keep_alive=60):
        yield Port(app, listener.getsockname()[1])


async def test_each_request_of_the_corpus_is_refused_or_read_one_way() -> None:
    wrong = []
    async with port() as server:
        for name, (data, expected) in CORPUS.items():
            seen, answers = await server.sees(data + NEXT)
            refusal = not expected and answers.count(b"HTTP/1.1 ") == answers.count(b"HTTP/1.1 400 ") == 1
            if seen != expected or not (expected or refusal):
                wrong.append(f"{name}: saw {seen}, answered {answers[:60]!r}")
    assert not wrong, "\n".join(wrong)


# Random ones

HEADERS = (
    b"Content-Length: 2", b"Content-Length: 0", b"Content-Length: 5", b"Content-Length : 2", b"Content-Length:2",
    b"Content-Length: 02", b"Content-length: 2", b"Content-Length: 2 ", b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: CHUNKED", b"transfer-encoding:chunked", b"Transfer-Encoding: identity",
    b"Transfer-Encoding: chunked;q=1", b"Transfer-Encoding:\r\n chunked", b"Transfer-Encoding: chunked, chunked",
    b"Connection: keep-alive", b"Connection: content-length", b"Expect: 100-continue", b"X: y", b"X:\x7f", b"X",
    b"Upgrade: h2c", b"X: a\r\n b", b"\x00: x", b"Content_Length: 5", b"Content-Length: 2\r",
)  # fmt: skip
BODIES = (
    b"",
    b"ok",
    b"hello",
    CHUNKS,
    b"0\r\n\r\n",
    b"2;x\r\nok\r\n0\r\n\r\n",
    b"2\r\nok\r\n00\r\n\r\n",
    b"\r\n",
    HIDDEN,
)
LAST_CHUNKED = re.compile(rb"(?is)transfer-encoding:.*(transfer-encoding: ?|, )chunked\r\n")


def made_up(chance: random.Random) -> bytes:
    """Return a request that may be broken anywhere."""
    line = chance.choice([b"GET / HTTP/1.1", b"POST / HTTP/1.1", b"POST / HTTP/1.1", b"POST / HTTP/1.0"])
    headers = [chance.choice(HEADERS) for _ in range(chance.choice([1, 1, 2, 2, 3]))]
    end = chance.choice([b"\r\n"] * 15 + [b"\n"])
    data = end.join([line, b"Host: x", *headers, b"", chance.choice(BODIES)])
    if chance.random() < 0.15:
        at = chance.randrange(len(data))
        data = data[:at] + bytes([chance.randrange(256)]) + data[at + chance.randrange(2) :]
    return data


def by_h11(data: bytes) -> Seen:
    """Return the requests that h11 sees, until it refuses or has no more. Between requests, empty lines are nothing."""
    seen: Seen = []
    while data := data.lstrip(b"\r\n"):
        parser = h11.Connection(h11.SERVER)
        parser.receive_data(data)
        try:
            request, body = parser.next_event(), b""
            if not isinstance(request, h11.Request):
                break
            while isinstance(event := parser.next_event(), h11.Data):
                body += bytes(event.data)
            if not isinstance(event, h11.EndOfMessage):
                break
        except h11.RemoteProtocolError:
            break
        seen.append((request.method.decode(), request.target.decode("latin-1"), body))
        data, _ = parser.trailing_data
    return seen


async def test_a_random_request_is_refused_or_read_as_h11_reads_it() -> None:
    chance, seed = dice()
    requests = [made_up(chance) + NEXT for _ in range(EXAMPLES * TIMES)]
    async with port() as server:
        results = await server.sees_all(requests, chance)
    for data, (seen, _) in zip(requests, results, strict=True):
        if b"\nhost: x" not in data.removesuffix(NEXT).lower() or LAST_CHUNKED.search(data):
            continue  # h11 refuses what is not ambiguous: a missing host, and codings before "chunked"
        theirs = by_h11(data)
        assert seen == theirs[: len(seen)], f"seed {seed}: {data!r}: relay {seen}, h11 {theirs}"
    assert len(requests) / 20 < sum(bool(seen) for seen, _ in results) < len(requests) * 0.9
