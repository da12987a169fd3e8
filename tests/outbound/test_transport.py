"""The outbound client against real servers on loopback: what goes out, what comes back, what is cut and refused."""

import asyncio
import gzip
import re
import socket
import struct
import threading
import time
import tracemalloc
import zlib
from base64 import b64encode
from collections.abc import Awaitable, Callable
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest

from relay.outbound import reservations
from relay.outbound import transport as transport_module
from relay.outbound.reservations import Reservations
from relay.outbound.transport import Transport, failure_class
from relay.security.guard import Blocked, Guard
from tests.support.loopback import OK, certificate, serving, serving_tls

pytestmark = pytest.mark.anyio

LOOPBACK = Guard([ip_network("127.0.0.0/8")])
CAP = 1000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def transport(guard: Guard = LOOPBACK, *, timeout: float = 10, proxy: str | None = None) -> Transport:
    return Transport(guard, timeout=timeout, max_bytes=CAP, proxy=proxy)


async def ask(url: str, *, guard: Guard = LOOPBACK, timeout: float = 10, **request: object) -> httpx.Response:
    async with transport(guard, timeout=timeout) as client:
        return await client.handle_async_request(httpx.Request("GET", url, **request))  # type: ignore[arg-type]


async def failure(
    url: str, *, guard: Guard = LOOPBACK, timeout: float = 10, method: str = "GET"
) -> httpx.TransportError:
    async with transport(guard, timeout=timeout) as client:
        with pytest.raises(httpx.TransportError) as caught:
            await client.handle_async_request(httpx.Request(method, url))
    return caught.value


def answer(body: bytes, *headers: str) -> bytes:
    head = "\r\n".join(("HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers))
    return head.encode() + b"\r\n\r\n" + body


# What goes out


async def test_a_get_is_its_own_bytes_and_nothing_else() -> None:
    async with serving(OK) as server:
        await ask(server.url("/v1/video/query?id=sora-2%3Aa%2Fb%2fc%23d%20e+f"), headers={"Authorization": "Bearer k"})
        assert server.heard == [
            b"GET /v1/video/query?id=sora-2%%3Aa%%2Fb%%2fc%%23d%%20e+f HTTP/1.1\r\n"
            b"Host: 127.0.0.1:%d\r\nAuthorization: Bearer k\r\n\r\n" % server.port
        ]


async def test_a_post_sends_its_body_and_its_headers() -> None:
    async with serving(OK) as server, transport() as client:
        await client.handle_async_request(httpx.Request("POST", server.url("/hook"), content=b'{"a":1}'))
        assert server.heard == [
            b'POST /hook HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 7\r\n\r\n{"a":1}' % server.port
        ]


async def test_the_target_extension_replaces_path_and_query() -> None:
    async with serving(OK) as server:
        await ask(server.url("/ignored"), extensions={"target": b"/v1/video/query?id=a%3Ab"})
        assert server.heard[0].startswith(b"GET /v1/video/query?id=a%3Ab HTTP/1.1\r\n")


async def test_credentials_and_fragment_of_the_url_stay_at_home() -> None:
    async with serving(OK) as server:
        await ask(f"http://user:password@127.0.0.1:{server.port}/path#fragment")
        assert server.heard == [b"GET /path HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % server.port]


async def test_redirects_are_not_followed() -> None:
    async with serving(b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n") as server:
        response = await ask(server.url())
        assert (response.status_code, response.headers["location"]) == (302, "/elsewhere")
        assert len(server.heard) == 1


async def test_cookies_are_not_kept() -> None:
    async with serving(answer(b"", "Set-Cookie: session=1; Path=/")) as server, transport() as client:
        for _ in range(2):
            await client.handle_async_request(httpx.Request("GET", server.url(host="localhost")))
        assert [b"cookie" in head.lower() for head in server.heard] == [False, False]


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with serving(OK) as server:
        assert (await ask(server.url())).content == b"ok"


async def test_a_given_proxy_is_used() -> None:
    async with serving(OK) as proxy, transport(proxy=proxy.url().replace("//", "//relay:p%40%2540@")) as client:
        await client.handle_async_request(httpx.Request("GET", "http://api.example/path"))
        assert proxy.heard == [
            b"GET http://api.example/path HTTP/1.1\r\nHost: api.example\r\n"
            b"Proxy-Authorization: Basic %b\r\n\r\n" % b64encode(b"relay:p@%40")
        ]


@pytest.mark.parametrize("url", ["http://api.example/path", None])
async def test_a_407_is_the_proxys_where_there_is_one(url: str | None) -> None:
    refusing = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    async with serving(refusing) as server, transport(proxy=server.url() if url else None) as client:
        request = httpx.Request("GET", url or server.url())
        if url is None:
            assert (await client.handle_async_request(request)).status_code == 407
        else:
            with pytest.raises(httpx.ProxyError, match=r"^the proxy answered 407: it wants a user and a password"):
                await client.handle_async_request(request)


@pytest.mark.parametrize(
    "request_",
    [
        {"headers": {"X": "1\r\nHost: elsewhere"}},
        {"headers": {"X": "1\nY: 2"}},
        {"headers": {"X": "1\rY: 2"}},
        {"headers": {"X\r\nY": "1"}},
        {"headers": {"X": "1\0"}},
        {"extensions": {"target": b"/ HTTP/1.1\r\nHost: elsewhere"}},
        {"extensions": {"target": b"/ HTTP/1.1"}},
    ],
)
async def test_nothing_makes_two_headers_or_requests_of_one(request_: dict[str, Any]) -> None:
    async with serving(OK) as server, transport() as client:
        with pytest.raises(httpx.LocalProtocolError, match="no way to carry"):
            await client.handle_async_request(httpx.Request("GET", server.url(), **request_))
        assert server.connections == 0


async def test_connections_are_kept() -> None:
    async with serving(OK) as server, transport() as client:
        for _ in range(3):
            await client.handle_async_request(httpx.Request("GET", server.url()))
        assert server.connections == 1


@pytest.mark.parametrize(
    ("method", "extensions", "connections"),
    [
        ("GET", {}, 1),
        ("POST", {"reuse": True}, 1),
        ("POST", {}, 3),
        ("GET", {"reuse": False}, 3),
    ],
)
async def test_a_request_that_may_not_be_sent_twice_goes_over_no_kept_connection(
    method: str, extensions: dict[str, Any], connections: int
) -> None:
    async with serving(OK) as server, transport() as client:
        for _ in range(3):
            await client.handle_async_request(httpx.Request(method, server.url(), extensions=extensions))
        assert server.connections == connections


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("ending", ["close", "reset"])
async def test_a_request_whose_kept_connection_ends_is_sent_once_more_on_a_fresh_one(method: str, ending: str) -> None:
    used: set[asyncio.StreamWriter] = set()

    async def once(writer: asyncio.StreamWriter) -> None:
        if writer in used:
            await (close if ending == "close" else reset)(writer)
        used.add(writer)
        writer.write(OK)

    async with serving(once) as server, transport() as client:
        for _ in range(4):
            request = httpx.Request(method, server.url(), content=b"{}", extensions={"reuse": True})
            assert (await client.handle_async_request(request)).content == b"ok"
        assert (len(server.heard), server.connections) == (7, 4)


@pytest.mark.parametrize("first_bytes", [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", b"H"])
async def test_a_request_of_whose_answer_a_byte_came_is_not_sent_again(first_bytes: bytes) -> None:
    used: set[asyncio.StreamWriter] = set()

    async def half_the_second_time(writer: asyncio.StreamWriter) -> None:
        if writer in used:
            writer.write(first_bytes)
            await writer.drain()
            raise ConnectionError
        used.add(writer)
        writer.write(OK)

    async with serving(half_the_second_time) as server, transport() as client:
        await client.handle_async_request(httpx.Request("GET", server.url()))
        with pytest.raises(httpx.ReadError):
            await client.handle_async_request(httpx.Request("GET", server.url()))
        assert (len(server.heard), server.connections) == (2, 1)


async def test_a_fresh_connection_that_ends_is_not_tried_again() -> None:
    async with serving(close) as server, transport() as client:
        with pytest.raises(httpx.ReadError):
            await client.handle_async_request(httpx.Request("GET", server.url()))
        assert (len(server.heard), server.connections) == (1, 1)


async def test_concurrency_is_not_bounded_here() -> None:
    all_there = asyncio.Barrier(150)

    async def when_all_are_there(writer: asyncio.StreamWriter) -> None:
        await all_there.wait()
        writer.write(OK)

    async with serving(when_all_are_there) as server, transport() as client:
        requests = [httpx.Request("GET", server.url()) for _ in range(150)]
        responses = await asyncio.gather(*map(client.handle_async_request, requests))
        assert [response.content for response in responses] == [b"ok"] * 150


# What comes back


async def test_headers_come_back_as_they_were_sent() -> None:
    async with serving(answer(b"", "X-A: 1", "X-A: 2", "Content-Encoding: gzip")) as server:
        response = await ask(server.url())
        assert response.headers.raw == [
            (b"Content-Length", b"0"), (b"X-A", b"1"), (b"X-A", b"2"), (b"Content-Encoding", b"gzip")
        ]  # fmt: skip


async def test_a_client_of_httpx_can_use_it() -> None:
    compressed = answer(gzip.compress(b'{"a": 1}'), "Content-Encoding: gzip")
    async with serving(compressed) as server, httpx.AsyncClient(transport=transport()) as client:
        assert (await client.get(server.url())).json() == {"a": 1}


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (gzip.compress(b"x" * 900), "gzip"),
        (gzip.compress(b"x" * 900), "GZIP"),
        (zlib.compress(b"x" * 900), "deflate"),
        (zlib.compress(b"x" * 900)[2:-4], "deflate"),
    ],
    ids=["gzip", "in capitals", "deflate", "deflate without a head"],
)
async def test_gzip_and_both_kinds_of_deflate_are_inflated(body: bytes, coding: str) -> None:
    async with serving(answer(body, f"Content-Encoding: {coding}")) as server:
        response = await ask(server.url())
        assert response.content == b"x" * 900
        assert "truncated" not in response.extensions


async def test_no_body_is_whole_whatever_it_would_be_coded_in() -> None:
    async with serving(b"HTTP/1.1 204 No Content\r\nContent-Encoding: gzip\r\n\r\n") as server:
        assert "truncated" not in (await ask(server.url())).extensions


@pytest.mark.parametrize(
    ("lines", "body"),
    [
        (["Content-Encoding: gzip "], gzip.compress(b"x" * 900)),
        (["Content-Encoding:\tx-gzip\t"], gzip.compress(b"x" * 900)),
        (["Content-Encoding: identity, gzip"], gzip.compress(b"x" * 900)),
        (["Content-Encoding: gzip, gzip"], gzip.compress(gzip.compress(b"x" * 900))),
        (["Content-Encoding: deflate", "content-encoding: gzip"], gzip.compress(zlib.compress(b"x" * 900))),
        (["Content-Encoding: gzip"], gzip.compress(b"x" * 400) + gzip.compress(b"x" * 500)),
    ],
    ids=["a blank", "tabs", "identity", "twice", "in two headers", "members"],
)
async def test_codings_are_read_as_servers_send_them(lines: list[str], body: bytes) -> None:
    async with serving(answer(body, *lines)) as server:
        response = await ask(server.url())
        assert response.content == b"x" * 900
        assert response.extensions == {}


@pytest.mark.parametrize(
    ("coding", "unread"), [("gzip", None), ("br", "br"), ("gzip, gzip", None), ("zstd, BR", "zstd, br")]
)
async def test_what_cannot_be_decoded_is_given_as_it_came(coding: str, unread: str | None) -> None:
    async with serving(answer(b'{"not": "compressed"}', f"Content-Encoding: {coding}")) as server:
        response = await ask(server.url())
        assert response.content == b'{"not": "compressed"}'
        assert response.extensions.get("unread") == unread


@pytest.mark.parametrize(("size", "truncated"), [(CAP, False), (CAP + 1, True), (100 * CAP, True)])
@pytest.mark.parametrize("compressed", [False, True])
async def test_a_body_is_cut_at_the_cap(size: int, truncated: bool, compressed: bool) -> None:
    body = b"x" * size
    sent = answer(gzip.compress(body), "Content-Encoding: gzip") if compressed else answer(body)
    async with serving(sent) as server:
        response = await ask(server.url())
        assert response.content == body[:CAP]
        assert response.extensions.get("truncated", False) is truncated


async def test_a_request_can_have_a_cap_of_its_own() -> None:
    async with serving(answer(b"x" * 100)) as server:
        response = await ask(server.url(), extensions={"max_bytes": 10})
        assert response.content == b"x" * 10
        assert response.extensions["truncated"] is True


async def test_a_compressed_body_that_breaks_off_is_marked() -> None:
    async with serving(answer(gzip.compress(b"x" * 900)[:-6], "Content-Encoding: gzip")) as server:
        response = await ask(server.url())
        assert response.content == b"x" * 900
        assert response.extensions["truncated"] is True


async def test_a_zip_bomb_takes_no_memory() -> None:
    bomb = gzip.compress(b"\0" * 50_000_000)
    async with serving(answer(bomb, "Content-Encoding: gzip")) as server:
        tracemalloc.start()
        response = await ask(server.url(), extensions={"max_bytes": 100_000})
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(response.content) == 100_000
        assert response.extensions["truncated"] is True
        assert peak < 2_000_000


@pytest.mark.parametrize(
    ("coding", "start", "block", "content"),
    [
        ("identity", b"x", b"x" * 100, b"x" * CAP),
        # Blocks that inflate to nothing: only the cap on the bytes that are read can end these.
        ("gzip", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", b"\x00\x00\x00\xff\xff" * 20, b""),
    ],
    ids=["plain", "gzip"],
)
async def test_an_endless_body_is_cut_and_its_connection_closed(
    coding: str, start: bytes, block: bytes, content: bytes
) -> None:
    closed = asyncio.Event()

    async def endless(writer: asyncio.StreamWriter) -> None:
        headers = f"Content-Encoding: {coding}\r\nTransfer-Encoding: chunked".encode()
        writer.write(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n%x\r\n%b\r\n" % (headers, len(start), start))
        try:
            while True:
                writer.write(b"%x\r\n%b\r\n" % (len(block), block))
                await writer.drain()
        finally:
            closed.set()

    async with serving(endless) as server, transport() as client:
        response = await client.handle_async_request(httpx.Request("GET", server.url()))
        assert response.content == content
        assert response.extensions["truncated"] is True
        await asyncio.wait_for(closed.wait(), 5)


# Large answers


MEGABYTE = 1_000_000


def large(size: int, coding: str) -> Callable[[asyncio.StreamWriter], Awaitable[None]]:
    """What sends a body of so many bytes, without holding it."""

    async def send(writer: asyncio.StreamWriter) -> None:
        if coding == "gzip":
            writer.write(answer(gzip.compress(b"x" * size), "Content-Encoding: gzip"))
            return
        framing = "Transfer-Encoding: chunked" if coding == "chunks" else f"Content-Length: {size}"
        writer.write(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode())
        piece = b"x" * 50_000
        for _ in range(size // len(piece)):
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if coding == "chunks" else piece)
            await writer.drain()
        if coding == "chunks":
            writer.write(b"0\r\n\r\n")

    return send


@pytest.mark.parametrize("coding", ["a length", "chunks", "gzip"])
async def test_large_answers_take_bounded_memory_all_together(coding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_module, "Reservations", partial(Reservations, 10 * MEGABYTE))
    async with serving(large(2 * MEGABYTE, coding)) as server, transport(timeout=60) as client:

        async def length() -> int:
            request = httpx.Request("GET", server.url(), extensions={"max_bytes": 4 * MEGABYTE})
            response = await client.handle_async_request(request)
            await asyncio.sleep(0.02)  # as one that does something with it
            assert not response.extensions.get("truncated")
            return len(response.content)

        tracemalloc.start()
        lengths = await asyncio.gather(*(length() for _ in range(30)))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert lengths == [2 * MEGABYTE] * 30
        assert peak < 25 * MEGABYTE, "30 at once would take 60 and more"


async def test_small_answers_do_not_wait_for_large_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_module, "Reservations", partial(Reservations, 2 * MEGABYTE))
    options = {"max_bytes": 2 * MEGABYTE}
    async with (
        serving(large(MEGABYTE, "chunks")) as server,
        serving(answer(b"x" * 50_000)) as other,
        transport() as client,
    ):
        held = await client.handle_async_request(httpx.Request("GET", server.url(), extensions=options))
        waiting = asyncio.ensure_future(
            client.handle_async_request(httpx.Request("GET", server.url(), extensions=options))
        )
        for _ in range(3):
            small = await client.handle_async_request(httpx.Request("GET", other.url(), extensions=options))
            assert len(small.content) == 50_000
        assert not waiting.done()
        del held
        assert len((await asyncio.wait_for(waiting, 5)).content) == MEGABYTE


@pytest.mark.parametrize("coding", ["a length", "gzip"])
async def test_an_answer_for_which_there_is_no_memory_fails_in_time(
    coding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport_module, "Reservations", partial(Reservations, MEGABYTE))
    monkeypatch.setattr(reservations, "PATIENCE", 0.1)
    options = {"max_bytes": MEGABYTE}
    async with serving(large(MEGABYTE, coding)) as server, transport() as client:
        held = await client.handle_async_request(httpx.Request("GET", server.url(), extensions=options))
        with pytest.raises(httpx.PoolTimeout, match="other large answers") as caught:
            await client.handle_async_request(httpx.Request("GET", server.url(), extensions=options))
        assert failure_class(caught.value) == "timeout"
        assert len(held.content) == MEGABYTE
        del held
        assert (await client.handle_async_request(httpx.Request("GET", server.url(), extensions=options))).is_success


# The deadline


async def silence(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(1)


async def trickle(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
    for _ in range(100):
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("behaviour", [silence, trickle])
async def test_one_deadline_covers_headers_and_body(
    behaviour: Callable[[asyncio.StreamWriter], Awaitable[None]],
) -> None:
    async with serving(behaviour) as server:
        began = time.monotonic()
        error = await failure(server.url(), timeout=0.3)
        assert isinstance(error, httpx.TimeoutException)
        assert failure_class(error) == "timeout"
        assert 0.25 < time.monotonic() - began < 0.9


async def test_the_deadline_covers_name_resolution(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answered.wait(5) and [])
    try:
        assert failure_class(await failure("http://slow.example/", timeout=0.2)) == "timeout"
    finally:
        answered.set()


async def test_a_request_can_have_a_deadline_of_its_own() -> None:
    async with serving(silence) as server:
        began = time.monotonic()
        with pytest.raises(httpx.TimeoutException):
            await ask(server.url(), extensions={"timeout": 0.1})
        assert time.monotonic() - began < 0.9


# Failures


async def close(writer: asyncio.StreamWriter) -> None:
    raise ConnectionError


async def reset(writer: asyncio.StreamWriter) -> None:
    # Lingering for no time makes the close a reset.
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise ConnectionError


async def half(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    raise ConnectionError


@pytest.mark.parametrize(
    ("behaviour", "kind", "expected"),
    [
        (close, httpx.ReadError, "disconnected"),
        (reset, httpx.ReadError, "disconnected"),
        (half, httpx.ReadError, "disconnected"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", httpx.RemoteProtocolError, "protocol"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", httpx.RemoteProtocolError, "protocol"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000, httpx.RemoteProtocolError, "protocol"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_broken_answers(
    behaviour: bytes | Callable[[asyncio.StreamWriter], Awaitable[None]],
    kind: type[Exception],
    expected: str,
    method: str,
) -> None:
    async with serving(behaviour) as server:
        error = await failure(server.url("/secret?id=secret"), method=method)
        assert isinstance(error, kind)
        assert failure_class(error) == expected
        assert "secret" not in repr(error)


@pytest.mark.parametrize(
    ("behaviour", "status", "content"),
    [
        (half, 200, b"half"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 200, b""),
        (b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nno header\r\n", 503, b""),
    ],
)
async def test_a_request_can_ask_for_as_much_as_came(
    behaviour: bytes | Callable[[asyncio.StreamWriter], Awaitable[None]], status: int, content: bytes
) -> None:
    async with serving(behaviour) as server:
        response = await ask(server.url(), extensions={"partial": True})
        assert (response.status_code, response.content) == (status, content)
        assert response.extensions["truncated"] is True


@pytest.mark.parametrize("behaviour", [b"HTTP/1.1 20", b"HTTP/1.1 099 X\r\nContent-Length: 0\r\n\r\n", b"x" * 50])
async def test_what_is_no_answer_at_all_is_an_error_all_the_same(behaviour: bytes) -> None:
    async def say(writer: asyncio.StreamWriter) -> None:
        writer.write(behaviour)
        await writer.drain()
        raise ConnectionError

    async with serving(say) as server:
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            await ask(server.url(), extensions={"partial": True})


@pytest.mark.parametrize("host", ["relay-test.invalid", "a..b", "x" * 64 + ".example"])
async def test_a_name_without_an_address(host: str) -> None:
    error = await failure(f"http://{host}/secret")
    assert isinstance(error, httpx.ConnectError)
    assert failure_class(error) == "dns"
    assert "secret" not in repr(error)


async def test_a_refused_connection() -> None:
    async with serving(OK) as server:
        pass
    error = await failure(server.url("/secret"))
    assert isinstance(error, httpx.ConnectError)
    assert failure_class(error) == "connect"
    assert "secret" not in repr(error)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/secret", "/secret"])
async def test_a_url_that_is_not_http(url: str) -> None:
    error = await failure(url)
    assert isinstance(error, httpx.UnsupportedProtocol)
    assert failure_class(error) == "protocol"
    assert "secret" not in repr(error)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (httpx.ConnectTimeout(""), "timeout"),
        (httpx.ProxyError(""), "connect"),
        (httpx.WriteError(""), "disconnected"),
        (httpx.LocalProtocolError(""), "protocol"),
    ],
)
def test_failures_of_other_transports_have_classes_too(error: Exception, expected: str) -> None:
    assert failure_class(error) == expected


# TLS


async def test_a_trusted_certificate_for_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = certificate(tmp_path, "localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(chain))
    async with serving_tls(chain) as (server, names):
        assert (await ask(server.url(host="localhost", scheme="https"))).content == b"ok"
        assert names == ["localhost"]
        assert b"Host: localhost:%d\r\n" % server.port in server.heard[0]


async def test_a_trusted_certificate_for_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = certificate(tmp_path, "other.example")
    monkeypatch.setenv("SSL_CERT_FILE", str(chain))
    async with serving_tls(chain) as (server, _):
        assert failure_class(await failure(server.url(host="localhost", scheme="https"))) == "tls"


async def test_an_untrusted_certificate(tmp_path: Path) -> None:
    async with serving_tls(certificate(tmp_path, "localhost")) as (server, _):
        error = await failure(server.url("/secret", host="localhost", scheme="https"))
        assert isinstance(error, httpx.ConnectError)
        assert failure_class(error) == "tls"
        assert server.heard == []
        assert "secret" not in repr(error)


# The guard


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "127.1", "0x7f.1", "[::ffff:127.0.0.1]", "0"])
async def test_the_guard_refuses_loopback_however_it_is_written(host: str) -> None:
    async with serving(OK) as server:
        error = await failure(server.url("/secret", host=host), guard=Guard())
        assert isinstance(error, Blocked)
        assert failure_class(error) == "blocked"
        assert server.connections == 0
        assert "secret" not in repr(error)


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Make every name resolve to these addresses."""

    def getaddrinfo(host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            if "." in address
            else (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
            for address in addresses
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["::1", "127.0.0.1"], ["127.0.0.1", "127.0.0.2", "::1"]])
async def test_the_guard_judges_every_address_of_a_name(monkeypatch: pytest.MonkeyPatch, addresses: list[str]) -> None:
    async with serving(OK) as server:
        resolve_to(monkeypatch, *addresses)
        error = await failure(server.url(host="rebound.example"), guard=Guard())
        assert failure_class(error) == "blocked"
        assert re.match(r"\S+ is not a public address; RELAY_ALLOWED_NETWORKS can allow it", str(error))
        assert "Errno" not in str(error)
        assert server.connections == 0


async def test_a_permitted_address_of_a_name_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(OK) as server:
        resolve_to(monkeypatch, "::1", "10.0.0.1", "127.0.0.1")
        assert (await ask(server.url(host="mixed.example"))).content == b"ok"
        assert b"Host: mixed.example:%d\r\n" % server.port in server.heard[0]
