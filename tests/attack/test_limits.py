"""Denial of service: slow, endless, oversized and too many, while somebody else's requests go on as ever."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import resource
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from relay.web import bodies, http_limits
from tests.support.deployment import API_KEY, Deployment, deployment, environment
from tests.support.parties import until
from tests.web.callers import caller

pytestmark = pytest.mark.anyio

SLOW = 1.0
"""Seconds that these tests' relay grants where it usually grants 10 to 60."""

HOOK = {"type": "webhook", "url": "https://app.example/hook"}
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
POST = f"POST /v1/watches HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {API_KEY}\r\nContent-Type: application/json\r\n"
ANONYMOUS = "POST /v1/watches HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@contextlib.asynccontextmanager
async def running(folder: Path, **more: str) -> AsyncIterator[Deployment]:
    environ = environment(f"sqlite:///{folder / 'relay.db'}", RELAY_PROVIDER="sandbox", **more)
    async with deployment(environ, working=False) as relay:
        yield relay


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[Deployment]:
    async with running(tmp_path) as found:
        yield found


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relay with little patience, so that these tests need not have much."""
    for module, name, patience in (
        (http_limits, "HEAD_DEADLINE", SLOW),
        (http_limits, "MESSAGE_DEADLINE", 1.5 * SLOW),
        (http_limits, "SEND_DEADLINE", SLOW),
        (bodies, "BODY_DEADLINE", SLOW),
    ):
        monkeypatch.setattr(module, name, patience)


class Line:
    """A connection to relay, by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.heard = b""
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await self.reader.read(65536):
                self.heard += data

    @property
    def closed(self) -> bool:
        return self._listening.done()

    async def say(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            self.writer.write(data)
            await self.writer.drain()

    async def drip(self, *pieces: bytes) -> None:
        """Sends pieces, the last one again and again, slowly, for as long as anybody listens."""
        for piece in itertools.chain(pieces, itertools.repeat(pieces[-1])):
            if self.closed:
                return
            await self.say(piece)
            await asyncio.wait([self._listening], timeout=0.05)

    async def answers(self) -> None:
        """Waits for an answer."""
        while b"HTTP/1.1 " not in self.heard:
            assert not self.closed, self.heard
            await asyncio.sleep(0.01)

    async def end(self) -> None:
        await self._listening


@contextlib.asynccontextmanager
async def line(relay: Deployment, **options: int) -> AsyncIterator[Line]:
    url = httpx.URL(relay.url)
    reader, writer = await asyncio.open_connection(url.host, url.port, **options)
    found = Line(reader, writer)
    try:
        yield found
    finally:
        writer.transport.abort()
        await found.end()


@contextlib.asynccontextmanager
async def traffic(relay: Deployment) -> AsyncIterator[list[float]]:
    """Somebody else's requests, one after the other, all the while; every one is answered well, and in no long time."""
    took: list[float] = []
    over = asyncio.Event()

    async def go_on() -> None:
        async with caller(relay) as somebody:
            for number in itertools.count():
                started = time.monotonic()
                if number % 4 == 0:
                    await somebody.register(f"sandbox:never#{number}", HOOK)
                else:
                    assert (await somebody.http.get("/v1/watches?limit=5")).status_code == 200
                took.append(time.monotonic() - started)
                if over.is_set():
                    return
                await asyncio.sleep(0.005)

    task = asyncio.create_task(go_on())
    try:
        yield took
    finally:
        over.set()
        await task
    assert max(took) < 5


# Slow


async def nothing(line: Line) -> None:
    await line.end()


async def a_head(line: Line) -> None:
    await line.drip(b"G", b"ET /healthz HTTP/1.1\r\n", b"X: y\r\n")


async def one_header(line: Line) -> None:
    await line.drip(b"GET /healthz HTTP/1.1\r\nX: ", b"y")


async def empty_lines(line: Line) -> None:
    await line.drip(b"\r\n")


async def a_second_head(line: Line) -> None:
    await line.say(GET)
    await line.answers()
    await line.drip(b"GET /", b"x")


async def empty_lines_after_an_answer(line: Line) -> None:
    await line.say(GET)
    await line.answers()
    await line.drip(b"\r\n")


async def a_body(line: Line) -> None:
    await line.drip(f"{POST}Content-Length: 1000\r\n\r\n".encode(), b"{", b" ")


async def a_body_that_never_comes(line: Line) -> None:
    await line.say(f"{POST}Content-Length: 1000\r\nExpect: 100-continue\r\n\r\n".encode())
    await line.end()
    assert b" 408 " in line.heard


async def chunks(line: Line) -> None:
    await line.drip(f"{POST}Transfer-Encoding: chunked\r\n\r\n".encode(), b"1\r\n{\r\n", b"1\r\n \r\n")


async def a_chunk_extension(line: Line) -> None:
    await line.drip(f"{POST}Transfer-Encoding: chunked\r\n\r\n".encode(), b"1;x=", b"y")


async def trailers(line: Line) -> None:
    await line.drip(f"{POST}Transfer-Encoding: chunked\r\n\r\n".encode(), b"0\r\n", b"X: y\r\n")


async def a_body_that_nobody_reads(line: Line) -> None:
    await line.say(f"{ANONYMOUS}Content-Length: 1000\r\n\r\n".encode())
    await line.answers()
    assert b" 401 " in line.heard
    await line.drip(b" ")


async def a_body_after_which_nothing_comes(line: Line) -> None:
    await line.say(f"{ANONYMOUS}Content-Length: 1000\r\n\r\n".encode())
    await line.answers()
    await line.say(b" ")
    await line.end()


async def a_body_with_get(line: Line) -> None:
    await line.say(b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
    await line.answers()
    await line.drip(b" ")


async def trailers_that_nobody_reads(line: Line) -> None:
    await line.say(f"{ANONYMOUS}Transfer-Encoding: chunked\r\n\r\n0\r\n".encode())
    await line.answers()
    await line.drip(b"X: y\r\n")


async def an_upgrade(line: Line) -> None:
    await line.say(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    await line.answers()
    await line.drip(b"\x00")


SLOW_ONES: tuple[Callable[[Line], Awaitable[None]], ...] = (
    nothing,
    a_head,
    one_header,
    empty_lines,
    a_second_head,
    empty_lines_after_an_answer,
    a_body,
    a_body_that_never_comes,
    chunks,
    a_chunk_extension,
    trailers,
    a_body_that_nobody_reads,
    a_body_after_which_nothing_comes,
    a_body_with_get,
    trailers_that_nobody_reads,
    an_upgrade,
)


@pytest.mark.usefixtures("impatient")
async def test_nobody_holds_a_connection_by_being_slow(relay: Deployment) -> None:
    """Sixteen ways, ten connections each."""
    left: list[str] = []

    async def attack(way: Callable[[Line], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(20), line(relay) as found:
                await way(found)
        except TimeoutError:
            left.append(way.__name__)

    async with traffic(relay) as took:
        await asyncio.gather(*(attack(way) for way in SLOW_ONES for _ in range(10)))
    assert left == []
    assert took, "others are answered meanwhile"


@pytest.mark.usefixtures("impatient")
async def test_nobody_holds_an_answer_by_not_taking_it(relay: Deployment) -> None:
    """Pages that need no key, asked for again and again down one line, by somebody who reads nothing."""
    url = httpx.URL(relay.url)
    loop = asyncio.get_running_loop()

    async def ask_on(deaf: socket.socket) -> None:
        while True:
            await loop.sock_sendall(deaf, b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n")
            await asyncio.sleep(0.001)

    async with traffic(relay):
        for _ in range(3):
            with socket.socket() as deaf:
                deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                deaf.setblocking(False)
                await loop.sock_connect(deaf, (url.host, url.port))
                with pytest.raises(ConnectionError):
                    await asyncio.wait_for(ask_on(deaf), 20)


# Endless and oversized

X = b"x" * 4096
LINES = b"".join(b"X-%d: y\r\n" % number for number in range(1000))
ENDLESS: dict[str, tuple[bytes, bytes]] = {
    "a path": (b"GET /", X),
    "a query": (b"GET /?", X),
    "a header": (b"GET / HTTP/1.1\r\nX: ", X),
    "a header's name": (b"GET / HTTP/1.1\r\nX", X),
    "headers": (b"GET / HTTP/1.1\r\n", LINES),
    "headers of a second request": (GET + b"GET / HTTP/1.1\r\n", LINES),
    "empty lines": (b"", b"\r\n" * 1000),
    "a chunk's extension": (f"{POST}Transfer-Encoding: chunked\r\n\r\n1;x=".encode(), X),
    "trailers": (f"{POST}Transfer-Encoding: chunked\r\n\r\n1\r\n{{\r\n0\r\n".encode(), LINES),
    "trailers that nobody reads": (f"{ANONYMOUS}Transfer-Encoding: chunked\r\n\r\n0\r\n".encode(), LINES),
    "a trailer": (f"{ANONYMOUS}Transfer-Encoding: chunked\r\n\r\n0\r\nX: ".encode(), X),
    "a body": (f"{POST}Transfer-Encoding: chunked\r\n\r\n".encode(), b"1000\r\n" + X + b"\r\n"),
    "a body that nobody reads": (f"{ANONYMOUS}Transfer-Encoding: chunked\r\n\r\n".encode(), b"1000\r\n" + X + b"\r\n"),
    "a body of single bytes": (f"{POST}Transfer-Encoding: chunked\r\n\r\n".encode(), b"1\r\n \r\n" * 1000),
    "nonsense": (b"\x16\x03\x01", X),
}


@pytest.mark.usefixtures("impatient")
async def test_nothing_is_endless(relay: Deployment) -> None:
    left: list[str] = []
    answers: dict[str, bytes] = {}

    async def attack(name: str, start: bytes, more: bytes) -> None:
        try:
            async with asyncio.timeout(20), line(relay) as found:
                await found.say(start)
                while not found.closed:
                    await found.say(more)
                    await asyncio.sleep(0)
                answers[name] = found.heard
        except TimeoutError:
            left.append(name)

    async with traffic(relay):
        await asyncio.gather(*(attack(name, *what) for name, what in ENDLESS.items()))
    assert left == []
    for name in ("a path", "a header", "headers"):  # where the line was not cut before the answer was read
        assert answers[name] == b"" or b" 431 " in answers[name] or b" 408 " in answers[name]


async def test_a_head_of_32_kib_is_enough(relay: Deployment) -> None:
    for size, expected in ((30_000, 200), (40_000, 431)):
        async with line(relay) as found:
            await found.say(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: ")
            for _ in range(size // 1000):
                await found.say(b"y" * 1000)
                await asyncio.sleep(0.001)  # so that it does not come in one piece
            await found.say(b"\r\n\r\n")
            await found.answers()
            assert f" {expected} ".encode() in found.heard[:20]
    assert b'"code":"head_too_large"' in found.heard


async def test_who_has_no_key_is_answered_before_the_body_comes(relay: Deployment) -> None:
    async with line(relay) as found:
        await found.say(f"{ANONYMOUS}Content-Length: 16000000\r\n\r\n".encode())
        async with asyncio.timeout(5):
            await found.answers()
        assert b" 401 " in found.heard


SMUGGLED = b"GET /v1/watches HTTP/1.1\r\nHost: x\r\n\r\n"
TWO_READINGS = {
    "length and chunks": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n",
    "a list of lengths": b"Content-Length: 0, 5\r\n\r\n",
    "a length with a sign": b"Content-Length: +5\r\n\r\n",
    "a length in hex": b"Content-Length: 0x5\r\n\r\n",
    "a negative length": b"Content-Length: -5\r\n\r\n",
    "a very long length": b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
    "an unknown coding": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunks last but one": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a space before the colon": b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a folded header": b"Transfer-Encoding:\r\n chunked\r\nContent-Length: 0\r\n\r\n",
    "a bare line feed": b"X: y\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
    "a carriage return in a value": b"X: y\rTransfer-Encoding: chunked\r\n\r\n",
    "a NUL": b"X: \0\r\n\r\n",
    "a chunk with a sign": b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
    "a chunk too large": b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 17 + b"\r\n",
}


async def test_what_could_be_read_in_two_ways_is_refused_and_ends_the_line(relay: Deployment) -> None:
    """So that behind a proxy no request is smuggled in another's body."""
    for name, tail in TWO_READINGS.items():
        async with line(relay) as found:
            await found.say(b"POST /healthz HTTP/1.1\r\nHost: x\r\n" + tail + SMUGGLED)
            async with asyncio.timeout(5):
                await found.end()
            assert b" 400 " in found.heard, name
            assert b" 401 " not in found.heard, name


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_a_request_names_one_host(relay: Deployment, version: str) -> None:
    named = {
        "": version == "1.0",
        "Host: x\r\n": True,
        "Host: x\r\nHost: y\r\n": False,
        "hOST: x\r\nHost: x\r\n": False,
    }
    for hosts, taken in named.items():
        async with line(relay) as found:
            await found.say(f"GET /healthz HTTP/{version}\r\n{hosts}Connection: close\r\n\r\n".encode() + SMUGGLED)
            async with asyncio.timeout(20):
                await found.end()
            assert (b" 200 " in found.heard) is taken, hosts
            assert (b" 400 " in found.heard) is not taken, hosts
            assert b" 401 " not in found.heard


# Many


async def test_a_thousand_idle_connections_hinder_nobody(relay: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that have been answered may be closed meanwhile; those that have said nothing are all still there."""
    monkeypatch.setattr(http_limits, "HEAD_DEADLINE", 120.0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    try:
        async with contextlib.AsyncExitStack() as stack:
            idle = []
            async with traffic(relay) as took:
                for number in range(1000):
                    idle.append(await stack.enter_async_context(line(relay)))
                    if number % 2:
                        await idle[-1].say(GET)
                for one in idle[1::2]:
                    await one.answers()
                count = len(took)

                async def fifty_more() -> bool:
                    return len(took) > count + 50

                await until(fifty_more)
            assert not any(one.closed for one in idle[::2])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# Of one key


async def test_a_key_that_asks_too_often_is_told_to_wait_and_nobody_else_is(tmp_path: Path) -> None:
    async with running(tmp_path, RELAY_RATE_LIMIT="2") as relay:
        left = []
        for _ in range(20):
            response = await relay.http.get("/v1/providers")
            assert response.status_code == 200
            assert response.headers["ratelimit-policy"] == '"key";q=20;w=10'
            left.append(response.headers["ratelimit"])
        assert left[0] == '"key";r=19;t=1'
        for method, path in (("GET", "/v1/watches"), ("POST", "/v1/watches"), ("DELETE", "/v1/watches/wch_x")):
            async with asyncio.timeout(10):
                while (response := await relay.http.request(method, path)).status_code != 429:
                    pass
            assert response.headers["content-type"] == "application/problem+json"
            assert (response.json()["code"], response.json()["status"]) == ("rate_limited", 429)
            assert response.headers["retry-after"] == "1"
            assert response.headers["ratelimit"].startswith('"key";r=0;t=')
            assert response.headers["ratelimit-policy"] == '"key";q=20;w=10'
        async with caller(relay) as other:
            assert (await other.http.get("/v1/providers")).headers["ratelimit"] == '"key";r=19;t=1'
        assert (await relay.http.get("/healthz")).status_code == 200
        unknown = {"Authorization": "Bearer rly_unknown"}
        assert (await relay.http.get("/v1/providers", headers=unknown)).status_code == 401

        async def waited() -> bool:
            return (await relay.http.get("/v1/providers")).status_code == 200

        await until(waited)


async def test_an_app_has_so_many_watches_under_way_and_no_more(tmp_path: Path) -> None:
    async with running(tmp_path, RELAY_MAX_WATCHES="3") as relay:
        found = [await relay.register(f"sandbox:never#{number}", HOOK) for number in range(3)]
        body = {"task_id": "sandbox:never#4", "targets": [HOOK]}
        response = await relay.http.post("/v1/watches", json=body)
        assert (response.status_code, response.json()["code"]) == (429, "too_many_watches")
        assert int(response.headers["retry-after"]) >= 1
        same = {"task_id": "sandbox:never#0", "targets": [HOOK]}
        more = {"task_id": "sandbox:never#0", "targets": [{**HOOK, "url": f"{HOOK['url']}/2"}]}
        again = await relay.http.post("/v1/watches", json=same)
        assert (again.status_code, again.json()["id"]) == (200, found[0]["id"])
        batch = await relay.http.post("/v1/watches/batch", json={"watches": [same, body, more, body]})
        assert [item["status"] for item in batch.json()["data"]] == [200, 429, 200, 429]
        assert batch.json()["data"][1]["error"]["code"] == "too_many_watches"
        assert len(batch.json()["data"][2]["watch"]["targets"]) == 2
        async with caller(relay) as other:
            await other.register("sandbox:never", HOOK)
        assert (await relay.http.delete(f"/v1/watches/{found[0]['id']}")).status_code == 204
        assert (await relay.http.post("/v1/watches", json=body)).status_code == 201
        assert (await relay.http.post("/v1/watches", json={**body, "task_id": "sandbox:never#5"})).status_code == 429


async def test_an_app_has_so_many_targets_stored_and_no_more(tmp_path: Path) -> None:
    async with running(tmp_path, RELAY_MAX_TARGETS="3") as relay:
        hooks = [{**HOOK, "url": f"{HOOK['url']}/{number}"} for number in range(4)]
        watch = await relay.register("sandbox:never#1", *hooks[:3])
        response = await relay.http.post("/v1/watches", json={"task_id": "sandbox:never#2", "targets": hooks[:1]})
        assert (response.status_code, response.json()["code"]) == (429, "too_many_targets")
        assert "RELAY_MAX_TARGETS" in response.json()["detail"]
        more = await relay.http.post("/v1/watches", json={"task_id": "sandbox:never#1", "targets": hooks[3:]})
        assert more.status_code == 429
        same = await relay.http.post("/v1/watches", json={"task_id": "sandbox:never#1", "targets": hooks[:3]})
        assert same.status_code == 200
        erased = await relay.http.delete(f"/v1/watches/{watch['id']}", params={"erase": "true"})
        assert erased.status_code == 204
        await relay.register("sandbox:never#2", *hooks[:3])


# Other origins


def cors(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name.startswith("access-control-")}


async def test_no_page_of_another_origin_may_call_unless_it_is_listed(relay: Deployment, tmp_path: Path) -> None:
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    for origin in ("https://app.example", "null", relay.url):
        for path in ("/v1/watches", "/healthz", "/openapi.json", "/docs", "/nowhere"):
            assert cors(await relay.http.get(path, headers={"Origin": origin})) == {}
            preflight = await relay.http.options(path, headers={"Origin": origin, **asks})
            assert (preflight.status_code in (404, 405), cors(preflight)) == (True, {})
    (tmp_path / "listed").mkdir()
    async with running(tmp_path / "listed", RELAY_CORS_ORIGINS="https://app.example,https://b.example:8443") as listed:
        for origin in ("https://app.example", "https://b.example:8443"):
            for path, status in (
                ("/v1/watches", 200),
                ("/v1/watches/x", 404),
                ("/v1/watches?x=1", 422),
                ("/nowhere", 404),
            ):
                response = await listed.http.get(path, headers={"Origin": origin})
                assert response.status_code == status
                assert response.headers["access-control-allow-origin"] == origin
                assert "origin" in response.headers["vary"].lower()
                assert "access-control-allow-credentials" not in response.headers
            preflight = await listed.http.options("/v1/watches", headers={"Origin": origin, **asks})
            assert preflight.headers["access-control-allow-origin"] == origin
            sent = {"Access-Control-Request-Headers": "if-none-match,last-event-id,prefer,x-request-id"}
            preflight = await listed.http.options("/v1/watches/x", headers={"Origin": origin, **asks, **sent})
            assert preflight.status_code == 200
            exposed = response.headers["access-control-expose-headers"].split(", ")
            assert {"ETag", "Preference-Applied", "Age", "Relay-Watch", "Retry-After", "X-Request-ID"} <= set(exposed)
        for origin in (
            "http://app.example",
            "https://app.example:443",
            "https://app.example.evil.example",
            "https://evil.example/https://app.example",
            "https://xapp.example",
            "https://APP.example",
            "https://b.example",
            "null",
            "*",
            "",
        ):
            response = await listed.http.get("/v1/watches", headers={"Origin": origin})
            assert "access-control-allow-origin" not in response.headers, origin
            preflight = await listed.http.options("/v1/watches", headers={"Origin": origin, **asks})
            assert "access-control-allow-origin" not in preflight.headers, origin
