"""Answers as they come off the wire, in any pieces, on both event loops; and which connections are asked again."""

import asyncio
import contextlib
import socket
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.outbound import connections
from relay.outbound.bulkheads import Bulkhead
from relay.outbound.connections import Connection, Connections, RawResponse
from relay.outbound.connector import Connector, Origin, Unresolved
from relay.outbound.lookups import Lookups
from relay.outbound.reservations import Reservations
from relay.outbound.transport import Transport, failure_class, tls_context
from relay.security.guard import Blocked, Guard
from tests.support.loopback import OK, Server, certificate, serving, serving_tls

LOOPBACK = Guard([ip_network("127.0.0.0/8")])
CAP = 1000
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\nX-Hint: 1\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Connection, socket.socket]]:
    """A connection, and the socket at its other end."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    _, connection = await asyncio.get_running_loop().create_connection(lambda: Connection(Reservations()), sock=ours)
    try:
        yield connection, theirs
    finally:
        theirs.close()
        connection.abort()
        await asyncio.sleep(0)


async def hear(connection: Connection, theirs: socket.socket, pieces: Sequence[bytes], *, end: bool) -> RawResponse:
    """What a connection makes of these pieces, each sent when the one before has been read."""
    asked = asyncio.ensure_future(connection.ask(GET, CAP))
    for piece in pieces:
        await asyncio.sleep(0)
        with contextlib.suppress(OSError):  # it has hung up
            await asyncio.get_running_loop().sock_sendall(theirs, piece)
        await asyncio.sleep(0.001)
    if end:
        with contextlib.suppress(OSError):
            theirs.shutdown(socket.SHUT_WR)
    return await asyncio.wait_for(asked, 5)


ANSWERS = {
    "a length": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: 1\r\n\r\nhello", False),
    "chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: 1\r\n\r\n2\r\nhe\r\n3;x=1\r\nllo\r\n0\r\n\r\n",
        False,
    ),
    "trailers": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: 1\r\n\r\n5\r\nhello\r\n0\r\nX: 2\r\n\r\n",
        False,
    ),
    "the end": (b"HTTP/1.1 200 OK\r\nX: 1\r\n\r\nhello", True),
    "interim answers": (INTERIM + b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: 1\r\n\r\nhello", False),
    "NUL": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: 1\r\nY: a\0b\r\n\r\nhello", False),
    "bare line feeds": (b"HTTP/1.1 200 OK\nContent-Length: 5\nX: 1\n\nhello", False),
}


@pytest.mark.anyio
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
async def test_an_answer_is_the_same_in_whatever_pieces_it_comes(answer: tuple[bytes, bool]) -> None:
    sent, end = answer
    for cut in range(0, len(sent), 3):
        async with connected() as (connection, theirs):
            received = await hear(connection, theirs, [sent[:cut], sent[cut:]], end=end)
            assert (received.status, received.body) == (200, b"hello")
            assert dict(received.headers).get(b"X") == b"1"
            assert dict(received.headers).get(b"Y") in (None, b"a b")
            assert len(received.headers) <= 3
            assert connection.usable is not end
    async with connected() as (connection, theirs):
        received = await hear(connection, theirs, [bytes([byte]) for byte in sent], end=end)
        assert received.body == b"hello"


def test_whatever_comes_is_an_answer_or_an_error() -> None:
    parts = st.sampled_from(
        [
            b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.0 200\r\n", b"HTTP/1.1 101 X\r\n",
            b"Content-Length: 5\r\n", b"Content-Length: 99999999999999999999\r\n", b"Content-Length: -1\r\n",
            b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n",
            b"Upgrade: h2c\r\nConnection: upgrade\r\n", b"\r\n", b"hello",
            b"5\r\nhello\r\n", b"0\r\n\r\n", b"x" * 2000, b"\0", b"\n", b": \r\n",
        ]
    )  # fmt: skip

    @settings(max_examples=300, deadline=None)
    @given(st.lists(parts | st.binary(max_size=40), max_size=8))
    def attack(pieces: list[bytes]) -> None:
        async def one() -> None:
            async with connected() as (connection, theirs):
                try:
                    received = await hear(connection, theirs, pieces, end=True)
                    assert len(received.body) <= CAP + 1
                    assert received.status >= 200
                    assert received.broken is None or not connection.usable
                except (httpx.RemoteProtocolError, httpx.ReadError):
                    assert not connection.usable

        asyncio.run(one())

    attack()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("answer", "again"),
    [
        (OK, True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", False),
        (OK + OK, False),
        (OK + b"HTTP/1.1 100 Continue\r\n\r\n", False),
        (OK + b"x", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * CAP) + b"x" * (2 * CAP), False),
    ],
)
async def test_only_a_connection_that_is_in_no_doubt_is_asked_again(answer: bytes, again: bool) -> None:
    async with connected() as (connection, theirs):
        received = await hear(connection, theirs, [answer], end=False)
        assert received.status in (200, 204)
        assert received.body in (b"ok", b"", b"x" * (CAP + 1))
        assert connection.usable is again
        if not again:
            assert await asyncio.get_running_loop().sock_recv(theirs, 65536) == GET
            assert await asyncio.get_running_loop().sock_recv(theirs, 65536) == b"", "it is not closed"


@pytest.mark.anyio
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: 1\r\n" * 4000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"x" * 20_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;" + b"x" * 20_000,
        b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 4000,
    ],
    ids=["another protocol", "trailers", "a long trailer", "interim answers", "a chunk extension", "headers"],
)
async def test_what_goes_on_and_on_is_no_answer(answer: bytes) -> None:
    async with connected() as (connection, theirs):
        try:
            error: Exception | None = (await hear(connection, theirs, [answer], end=False)).broken
        except httpx.TransportError as no_status:
            error = no_status
        assert isinstance(error, httpx.RemoteProtocolError)
        assert not connection.usable


BROKEN = {
    "a chunk that is none": b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a length that is none": b"Content-Length: -1\r\n\r\n",
    "two lengths": b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "a length and chunks": b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a header that is none": b"no header\r\n\r\n",
    "too many headers": b"X: 1\r\n" * 4000,
    "a body that breaks off": b"Content-Length: 100\r\n\r\nhalf",
    "a head that breaks off": b"X: 1\r\n",
    "nothing": b"",
}


@pytest.mark.anyio
@pytest.mark.parametrize(
    "status_line", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 \r\n", b"HTTP/1.1 200\r\n", INTERIM + b"HTTP/1.1 200 OK\r\n"]
)
@pytest.mark.parametrize("rest", BROKEN.values(), ids=BROKEN)
async def test_a_status_is_heard_whatever_is_broken_behind_it(status_line: bytes, rest: bytes) -> None:
    async with connected() as (connection, theirs):
        received = await hear(connection, theirs, [status_line + rest], end=True)
        assert (received.status, received.broken is None) == (200, False)
        assert not connection.usable


@pytest.mark.anyio
@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 ",
        b"HTTP/1.1 20",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"200 OK\r\n\r\n",
    ],
)
async def test_without_a_status_there_is_no_answer(answer: bytes) -> None:
    async with connected() as (connection, theirs):
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await hear(connection, theirs, [answer], end=True)
        assert not connection.usable


@pytest.mark.anyio
async def test_what_nobody_asked_for_ends_the_connection() -> None:
    async with connected() as (connection, theirs):
        await hear(connection, theirs, [OK], end=False)
        theirs.send(OK)
        async with asyncio.timeout(5):
            while connection.usable:
                await asyncio.sleep(0.001)


@pytest.mark.anyio
async def test_an_answer_that_comes_as_it_is_given_up_leaves_no_connection_behind() -> None:
    async with connected() as (connection, _):
        asked = asyncio.ensure_future(connection.ask(GET, CAP))
        await asyncio.sleep(0)
        connection.data_received(OK)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert not connection.usable


@pytest.mark.anyio
async def test_an_answer_that_comes_before_the_request_is_sent_is_the_last_on_its_connection() -> None:
    async with connected() as (connection, theirs):
        asked = asyncio.ensure_future(connection.ask(GET + b"x" * (8 << 20), CAP))
        await asyncio.sleep(0)
        theirs.send(OK)
        assert (await asyncio.wait_for(asked, 5)).body == b"ok"
        assert not connection.usable


# Many connections


@asynccontextmanager
async def wired(server: Server | None = None, proxy: tuple[Origin, bytes] | None = None) -> AsyncIterator[Any]:
    """What exchanges a GET with a server, or whatever is at another origin."""
    wired = Connections(Connector(LOOPBACK, tls_context(), Lookups("test", 64), proxy), Reservations(), Bulkhead())
    here = Origin(False, "127.0.0.1", server.port) if server else None

    async def get(origin: Origin | None = here, *, reuse: bool = True) -> RawResponse:
        assert origin is not None
        return await wired.exchange(origin, GET, CAP, reuse=reuse)

    try:
        yield get
    finally:
        wired.close()
        await asyncio.sleep(0)


@pytest.mark.anyio
async def test_a_connection_that_was_closed_in_silence_is_not_used() -> None:
    async def once(writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        writer.close()

    async with serving(once) as server, wired(server) as get:
        for _ in range(3):
            assert (await get(reuse=False)).body == b"ok"
            await asyncio.sleep(0.05)  # for the end of the connection to arrive, which nothing announces
        assert server.connections == 3


@pytest.mark.anyio
async def test_connections_with_tls_are_kept_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = certificate(tmp_path, "localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(chain))
    async with serving_tls(chain) as (server, names), wired() as get:
        for _ in range(3):
            assert (await get(Origin(True, "localhost", server.port))).body == b"ok"
        assert (server.connections, names) == (1, ["localhost"])


@pytest.mark.anyio
async def test_connections_that_nobody_uses_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "KEEP", 0.1)
    async with serving(OK) as server, wired(server) as get:
        await get()
        await asyncio.wait_for(server.hung_up.wait(), 5)


@pytest.mark.anyio
async def test_an_exchange_that_is_given_up_takes_its_connection_along() -> None:
    asked = asyncio.Event()

    async def silent_once(writer: asyncio.StreamWriter) -> None:
        if not asked.is_set():
            asked.set()
            return
        writer.write(OK)

    async with serving(silent_once) as server, wired(server) as get:
        first = asyncio.ensure_future(get())
        await asyncio.wait_for(asked.wait(), 5)
        first.cancel()
        assert (await get()).body == b"ok"
        assert server.connections == 2


@pytest.mark.anyio
async def test_an_exchange_that_ends_after_all_has_been_closed_keeps_nothing() -> None:
    asked, may_answer = asyncio.Event(), asyncio.Event()

    async def late(writer: asyncio.StreamWriter) -> None:
        asked.set()
        await may_answer.wait()
        writer.write(OK)

    async with serving(late) as server:
        closed = Connections(Connector(LOOPBACK, tls_context(), Lookups("test", 64)), Reservations(), Bulkhead())
        origin = Origin(False, "127.0.0.1", server.port)
        exchange = asyncio.ensure_future(closed.exchange(origin, GET, CAP, reuse=True))
        await asyncio.wait_for(asked.wait(), 5)
        closed.close()
        may_answer.set()
        assert (await exchange).body == b"ok"
        await asyncio.wait_for(server.hung_up.wait(), 5)


# Through a proxy


@asynccontextmanager
async def proxying(answer: bytes, heard: list[bytes]) -> AsyncIterator[Origin]:
    """A proxy that leads to wherever it is asked to, after this answer; it hangs up if that is not a success."""

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    leading: set[asyncio.Task[Any] | None] = set()

    async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        leading.add(asyncio.current_task())
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        if b" 200 " not in answer:
            writer.close()
            return
        host, _, port = heard[-1].split(b" ")[1].decode().rpartition(":")
        there = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pour(reader, there[1]), pour(there[0], writer))

    async with await asyncio.start_server(lead, "127.0.0.1", 0) as listening:
        yield Origin(False, "127.0.0.1", listening.sockets[0].getsockname()[1])
        await asyncio.wait([task for task in leading if task], timeout=5)


@pytest.mark.anyio
async def test_tls_leads_through_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = certificate(tmp_path, "localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(chain))
    heard: list[bytes] = []
    async with (
        serving_tls(chain) as (server, names),
        proxying(b"HTTP/1.1 200 Connection established\r\n\r\n", heard) as proxy,
        Transport(LOOPBACK, timeout=5, max_bytes=CAP, proxy=f"http://relay:p%40ss@127.0.0.1:{proxy.port}") as transport,
    ):
        for _ in range(2):
            url = server.url("/path", host="localhost", scheme="https")
            response = await transport.handle_async_request(httpx.Request("GET", url))
            assert response.content == b"ok"
        place = b"localhost:%d" % server.port
        login = b64encode(b"relay:p@ss")
        assert heard == [
            b"CONNECT %b HTTP/1.1\r\nHost: %b\r\nProxy-Authorization: Basic %b\r\n\r\n" % (place, place, login)
        ]
        assert names == ["localhost"]
        assert server.heard == [b"GET /path HTTP/1.1\r\nHost: %b\r\n\r\n" % place] * 2


@pytest.mark.anyio
async def test_the_name_of_the_certificate_counts_behind_a_proxy_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = certificate(tmp_path, "other.example")
    monkeypatch.setenv("SSL_CERT_FILE", str(chain))
    async with (
        serving_tls(chain) as (server, _),
        proxying(b"HTTP/1.1 200 OK\r\n\r\n", []) as proxy,
        wired(proxy=(proxy, b"")) as get,
    ):
        with pytest.raises(httpx.ConnectError) as caught:
            await get(Origin(True, "localhost", server.port))
        assert failure_class(caught.value) == "tls"
        assert server.heard == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
            "the proxy answered 407: it wants a user .+",
        ),
        (b"HTTP/1.1 2", "the proxy hung up"),
        (b"", "the proxy hung up"),
        (b"x" * 20_000, "the proxy answered "),
    ],
)
async def test_a_proxy_that_does_not_agree(answer: bytes, said: str) -> None:
    async with proxying(answer, []) as proxy, wired(proxy=(proxy, b"")) as get:
        with pytest.raises(httpx.ProxyError, match=f"^{said}$"):
            await get(Origin(True, "app.example", 443))


@pytest.mark.anyio
@pytest.mark.parametrize("host", ["a..example", "x" * 64 + ".example"])
async def test_what_is_no_name_is_said_to_be_none_through_a_proxy_too(host: str) -> None:
    proxy = Origin(False, "127.0.0.1", 9)  # which is not even asked
    async with wired(proxy=(proxy, b"")) as get:
        with pytest.raises(Unresolved, match="cannot be looked up: it is not a name"):
            await get(Origin(True, host, 443))


@pytest.mark.anyio
async def test_the_guard_judges_the_proxy() -> None:
    connector = Connector(Guard(), tls_context(), Lookups("test", 64), (Origin(False, "127.0.0.1", 9), b""))
    wired = Connections(connector, Reservations(), Bulkhead())
    with pytest.raises(Blocked):
        await wired.exchange(Origin(True, "app.example", 443), GET, CAP, reuse=True)


# Errors


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("host", "kind", "said"),
    [
        ("127.0.0.1", httpx.ConnectError, "Connection refused"),
        ("relay-test.invalid", Unresolved, "cannot be looked up: [A-Z]"),
        ("x" * 64 + ".example", Unresolved, "cannot be looked up: it is not a name"),
    ],
)
async def test_errors_say_what_happened_and_where(host: str, kind: type[Exception], said: str) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        async with wired() as get:
            with pytest.raises(kind, match=said) as caught:
                await get(Origin(False, host, nobody.getsockname()[1]))
    assert host in str(caught.value)
