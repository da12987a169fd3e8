"""Prepared requests: checked once, what holds for the first message holds for each."""

import json
from base64 import b64encode
from ipaddress import ip_network

import httpx
import pytest

from relay.outbound.prepared import OverHttpx, PreparedRequest
from relay.outbound.transport import Transport
from relay.security.guard import Blocked, Guard
from tests.support.loopback import OK, serving

pytestmark = pytest.mark.anyio

LOOPBACK = Guard([ip_network("127.0.0.0/8")])
HEADERS = {"Authorization": "Bearer k", "X-Plain": "yes"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def transport(**options: str) -> Transport:
    return Transport(LOOPBACK, timeout=10, max_bytes=1000, **options)  # type: ignore[arg-type]


def template(method: str, url: str, **extensions: object) -> httpx.Request:
    return httpx.Request(method, url, headers=HEADERS, stream=httpx.ByteStream(b""), extensions=extensions)


@pytest.mark.parametrize(("method", "body"), [("GET", b""), ("POST", b'{"id":1}'), ("POST", b"")])
async def test_a_message_is_what_httpx_would_have_sent(method: str, body: bytes) -> None:
    async with serving(OK) as server, transport() as client:
        await client.handle_async_request(
            httpx.Request(method, server.url("/a?id=b%20c"), headers=HEADERS, content=body or None)
        )
        prepared = client.prepare(template(method, server.url("/elsewhere")))
        for _ in range(2):
            response = await client.exchange(prepared, b"/a?id=b%20c", body)
            assert (response.status, response.body, response.truncated) == (200, b"ok", False)
    by_httpx, *prepared_ones = [sorted(message.split(b"\r\n")) for message in server.heard]
    assert prepared_ones == [by_httpx, by_httpx]


async def test_each_message_has_its_own_target_and_body() -> None:
    bodies = [b"{}", b'{"longer":true}', b"{}"]
    async with serving(OK) as server, transport() as client:
        prepared = client.prepare(template("POST", server.url(), reuse=True))
        for number, body in enumerate(bodies):
            await client.exchange(prepared, b"/%d" % number, body)
            assert server.request_line == f"POST /{number} HTTP/1.1"
            assert (server.body, server.headers["content-length"]) == (body, str(len(body)))
    assert server.connections == 1


async def test_each_message_has_its_own_headers_too() -> None:
    async with serving(OK) as server, transport() as client:
        prepared = client.prepare(template("POST", server.url()))
        for number in ("1", "2"):
            await client.exchange(prepared, b"/", b"{}", {"X-Number": number})
            assert (server.headers["x-number"], server.headers["x-plain"], server.body) == (number, "yes", b"{}")
        await client.exchange(prepared, b"/", b"{}")
        assert "x-number" not in server.headers


UNFIT = [{"X": "1\r\nHost: elsewhere"}, {"X": "1\nY: 2"}, {"X": "1\rY: 2"}, {"X\r\nY": "1"}, {"X": "1\0"}]


@pytest.mark.parametrize("headers", UNFIT)
def test_no_message_carries_a_header_that_would_be_read_as_more(headers: dict[str, str]) -> None:
    prepared = PreparedRequest(template("GET", "http://upstream.example"))
    assert prepared.message(b"/a", headers={"X": "1"}).endswith(b"\r\nX: 1\r\n\r\n")
    with pytest.raises(httpx.LocalProtocolError, match="no way to carry"):
        prepared.message(b"/a", headers=headers)


@pytest.mark.parametrize("byte", [*range(0x21), *range(0x7F, 0x100)])
def test_no_message_carries_a_target_that_would_be_read_as_more(byte: int) -> None:
    prepared = PreparedRequest(template("GET", "http://upstream.example"))
    assert prepared.message(b"/a").startswith(b"GET /a HTTP/1.1\r\n")
    for target in (b"/a%cb" % byte, b"%c/a" % byte, b"/a%c" % byte):
        with pytest.raises(httpx.LocalProtocolError, match="no way to carry"):
            prepared.message(target)


@pytest.mark.parametrize("headers", UNFIT)
def test_a_head_that_would_be_read_as_more_is_not_prepared(headers: dict[str, str]) -> None:
    with pytest.raises(httpx.LocalProtocolError, match="no way to carry"):
        PreparedRequest(httpx.Request("GET", "http://upstream.example", headers=headers))


async def test_headers_of_one_message_alone_go_with_it_and_with_no_other() -> None:
    signature = {"X-Signature": "abc", "X-Date": "today"}
    async with serving(OK) as server, transport() as client:
        prepared = client.prepare(template("POST", server.url()))
        await client.exchange(prepared, b"/a", b"{}", signature)
        assert (server.headers["x-signature"], server.headers["x-date"]) == ("abc", "today")
        assert (server.headers["x-plain"], server.headers["content-length"], server.body) == ("yes", "2", b"{}")
        await client.exchange(prepared, b"/b", b"{}")
        assert "x-signature" not in server.headers
        for name, value in (("X", "a\r\nY: b"), ("X: a\r\nY", "b"), ("X", "a\0"), ("X", "a\n")):
            with pytest.raises(httpx.LocalProtocolError):
                await client.exchange(prepared, b"/c", b"{}", {name: value})
    assert len(server.heard) == 2


async def test_every_message_is_passed_on_by_the_proxy() -> None:
    async with serving(OK) as proxy, transport(proxy=proxy.url().replace("//", "//relay:p%40@")) as client:
        prepared = client.prepare(template("POST", "http://api.example"))
        for number in range(2):
            await client.exchange(prepared, b"/%d" % number, b"{}")
            assert proxy.request_line == f"POST http://api.example/{number} HTTP/1.1"
            assert proxy.headers["proxy-authorization"] == f"Basic {b64encode(b'relay:p@').decode()}"
            assert proxy.headers["host"] == "api.example"


async def test_the_guard_and_the_cap_hold_for_each_message() -> None:
    async with serving(OK) as server, transport() as client, Transport(Guard(), timeout=10, max_bytes=1000) as guarded:
        prepared = client.prepare(template("GET", server.url(), max_bytes=1))
        for _ in range(2):
            response = await client.exchange(prepared, b"/")
            assert (response.body, response.truncated) == (b"o", True)
        with pytest.raises(Blocked):
            await guarded.exchange(prepared, b"/")


async def test_a_transport_of_httpx_gets_the_same() -> None:
    heard: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        heard.append(request)
        return httpx.Response(201, headers={"X-A": "1"}, json={"id": "t"})

    exchanger = OverHttpx(httpx.MockTransport(answer))
    response = await exchanger.exchange(exchanger.prepare(template("POST", "http://sandbox", timeout=5)), b"/q", b"{}")
    assert (response.status, json.loads(response.body)) == (201, {"id": "t"})
    assert (b"X-A", b"1") in response.headers
    (request,) = heard
    assert (request.method, request.url.host, request.content) == ("POST", "sandbox", b"{}")
    assert request.extensions == {"timeout": 5, "target": b"/q"}
    assert HEADERS.items() <= {name.title(): value for name, value in request.headers.items()}.items()
