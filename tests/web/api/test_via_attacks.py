"""Creates as a stranger with an API key would misuse them: over raw sockets, on both databases."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import uuid
from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest
from starlette.responses import Response

from tests.support import loopback
from tests.support.deployment import API_KEY, Deployment, deployment, environment
from tests.support.maker import Maker, making, says
from tests.support.parties import until
from tests.web.callers import by_hand, caller
from tests.web.conftest import NewDatabase

pytestmark = pytest.mark.anyio

PATH = "/v1/video/create"
SECRET = "sk-of-the deployment/+"
BODY = b'{"model": "m"}'
MOST = 1024 * 1024


@pytest.fixture(scope="module")
async def _running(new_database: NewDatabase) -> AsyncIterator[tuple[Deployment, Maker]]:
    async with making() as maker:
        environ = environment(
            new_database(),
            UNIFIED_VIDEO_BASE_URL=maker.url,
            UNIFIED_VIDEO_API_KEY=SECRET,
            RELAY_MAX_SUBMIT="1 MiB",
            RELAY_SUBMIT_APPS="*",
        )
        async with deployment(environ, working=False) as relay:
            yield relay, maker


@pytest.fixture
async def relay(_running: tuple[Deployment, Maker]) -> Deployment:
    return _running[0]


@pytest.fixture
async def maker(_running: tuple[Deployment, Maker]) -> Maker:
    _running[1].made.clear()
    _running[1].answer = None
    return _running[1]


def head(*lines: str, target: str = PATH, key: str = API_KEY) -> bytes:
    fixed = (f"POST {target} HTTP/1.1", "Host: relay", f"Authorization: Bearer {key}", "Connection: close")
    return "\r\n".join([*fixed, *lines, "", ""]).encode("latin-1")


# What goes out


@pytest.mark.parametrize(
    ("lines", "body"),
    [
        (["Content-Length: 14", "Transfer-Encoding: chunked"], b"0\r\n\r\nGET /x HTTP/1.1\r\n\r\n"),
        (["Content-Length: 14", "Content-Length: 0"], BODY),
        (["Content-Length: +14"], BODY),
        (["Transfer-Encoding: xchunked"], BODY),
        (["Transfer-Encoding: chunked, identity"], BODY),
        (["Transfer-Encoding : chunked"], b"0\r\n\r\n"),
        (["Content-Length: 14", "X-A: 1\nX-Real-IP: 1"], BODY),
        (["Content-Length: 14", "X-A: 1\r X-Real-IP: 1"], BODY),
        (["Content-Length: 14", "X-A: 1", " X-Real-IP: 1"], BODY),
        (["Content-Length: 14", "X-A: 1\0"], BODY),
        (["Content-Length: 14", "Host: elsewhere.example"], BODY),
    ],
)  # fmt: skip
async def test_a_head_that_can_be_read_in_two_ways_sends_nothing(
    relay: Deployment, maker: Maker, lines: list[str], body: bytes
) -> None:
    status, _, _ = await by_hand(relay.url, head(*lines) + body)
    assert 400 <= status < 500
    assert maker.made == []


async def test_one_request_in_is_one_request_out_whatever_it_looks_like(relay: Deployment, maker: Maker) -> None:
    hidden = b"POST /v1/models HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    chunked = b"%x\r\n%b\r\n0\r\nX-Trailer: 1\r\n\r\n" % (len(hidden), hidden)
    lines = (
        "Transfer_Encoding: chunked",
        "Content_Length: 5",
        "X-Length: 0",
        "Upgrade: websocket",
        "Trailer: X-Trailer",
    )
    for framing, sent in ((f"Content-Length: {len(hidden)}", hidden), ("Transfer-Encoding: chunked", chunked)):
        status, _, _ = await by_hand(relay.url, head(framing, *lines) + sent)
        assert status == 200
        (made,) = maker.made
        assert (made.method, made.target, made.body) == ("POST", PATH, hidden)
        assert made.header("content-length") == [str(len(hidden))]
        names = {name.replace("_", "-") for name, _ in made.headers}
        assert not names & {"transfer-encoding", "upgrade", "trailer", "x-trailer"}
        maker.made.clear()


@pytest.mark.parametrize(
    "target",
    [
        "http://elsewhere.example@relay/v1/models", "http://elsewhere.example/via/unified-video/v1/models",
        "//elsewhere.example/v1/video/create", "/via//elsewhere.example/v1/video/create",
        "/via/unified-video@x/v1/video/create", "/via/unified-video/http://elsewhere.example/v1/video/create",
        "/via/unified-video/%2e%2e/v1/video/create", "/via/unified-video/.%2e/v1/video/create",
        "/via/%2e%2e/v1/video/create", "/via/unified-video\\..\\v1/video/create", "/v1/video/create\\",
        "/via/unified-video/v1/video/create%2f..", "/via/unified-video/v1/video/create;x", "/v1/video/create%23",
        "/v1/video/creat%65", "/via/unified-video/%76%31/video/create",
    ],
)  # fmt: skip
async def test_no_target_leads_elsewhere(relay: Deployment, maker: Maker, target: str) -> None:
    status, _, body = await by_hand(relay.url, head("Content-Length: 14", target=target) + BODY)
    assert (status, json.loads(body)["code"]) in ((404, "not_declared"), (404, "not_found"), (400, "malformed_request"))
    assert maker.made == []


async def test_a_query_passes_as_it_came_or_not_at_all(relay: Deployment, maker: Maker) -> None:
    for query in ("a=%0d%0aX-A:1&b=/../%2e&=&&c;d=1", "relay%5Fwebhook=&a"):
        status, _, body = await by_hand(relay.url, head("Content-Length: 14", target=f"{PATH}?{query}") + BODY)
        if status == 200:
            assert maker.made.pop().target == PATH + "?a=%0d%0aX-A:1&b=/../%2e&=&c;d=1"
        else:
            assert (status, json.loads(body)["errors"][0]["pointer"]) == (422, "/relay_webhook")
    status, _, _ = await by_hand(relay.url, head("Content-Length: 14", target=f"{PATH}?a=\xff") + BODY)
    assert status in (400, 422)
    assert maker.made == []


# Keys


async def test_a_key_of_relays_goes_to_no_upstream(relay: Deployment, maker: Maker) -> None:
    async with caller(relay) as other:
        for lines, target in (
            (["Authorization: Bearer sk-own", f"Authorization: Bearer {other.key}"], PATH),
            (["Authorization: Bearer sk-own", f"Authorization: {other.key}", "Authorization: Bearer sk-own"], PATH),
            (["Authorization: Bearer sk-own", f"X-Api-Key: {other.key}"], PATH),
            (["Authorization: Bearer sk-own"], f"{PATH}?key={other.key}"),
            (["Authorization: Bearer rly_of-nobody"], PATH),
        ):
            start = (f"POST {target} HTTP/1.1", "Host: x", f"Relay-Key: {other.key}", "Content-Length: 14")
            request = "\r\n".join((*start, *lines, "Connection: close", "", "")).encode() + BODY
            status, _, body = await by_hand(relay.url, request)
            assert (status, "key of relay's" in json.loads(body)["detail"]) == (422, True), lines
    assert maker.made == []


@pytest.mark.parametrize("status", [200, 400, 500])
async def test_however_it_is_written_the_deployments_key_comes_back_to_nobody(
    relay: Deployment, maker: Maker, status: int
) -> None:
    forms = [SECRET, quote(SECRET), quote(SECRET, safe=""), json.dumps(SECRET)[1:-1].replace("/", "\\/")]
    task_id = uuid.uuid4().hex

    async def answer(_: int) -> Response:
        body = json.dumps({"id": f"{task_id}-{SECRET.replace(' ', '%20')}", "error": forms}).encode()
        coded = {"content-encoding": "gzip", "content-type": "application/json", "x-echo": f"Bearer {SECRET}"}
        return Response(gzip.compress(body), status, {**coded, "location": f"https://a.example/?key={forms[2]}"})

    maker.answer = answer
    key = {"Idempotency-Key": task_id}
    answers = [await relay.http.post(PATH, content=BODY, headers=key) for _ in range(2)]
    shown = [f"{one.status_code}{one.headers}{one.text}" for one in answers]
    shown.append((await relay.http.get("/v1/submissions")).text)
    shown.append((await relay.http.get("/v1/watches")).text)
    for form in forms:
        assert all(form not in one for one in shown)


async def test_the_file_of_a_provider_is_asked_for_its_address_and_no_other_is_connected_to(
    new_database: NewDatabase,
) -> None:
    async with making() as maker:
        environ = environment(new_database(), UNIFIED_VIDEO_BASE_URL=maker.url, RELAY_ALLOWED_NETWORKS="10.0.0.0/8")
        async with deployment(environ, working=False) as relay:
            answer = await relay.http.post(PATH, content=BODY)
            assert (answer.status_code, answer.json()["code"]) == (502, "upstream_unavailable")
            (row,) = (await relay.http.get("/v1/submissions")).json()["data"]
            assert row["state"] == "refused"
        assert maker.made == []


async def test_when_a_second_app_comes_nobody_spends_the_key_until_the_operator_says_who(
    new_database: NewDatabase,
) -> None:
    async with making() as maker:
        environ = environment(new_database(), UNIFIED_VIDEO_BASE_URL=maker.url)
        async with deployment(environ, working=False) as relay:
            assert (await relay.http.post(PATH, content=BODY)).status_code == 200
            async with caller(relay) as other:
                for client, key in ((relay.http, API_KEY), (other.http, other.key)):
                    refused = await client.post(PATH, content=BODY)
                    assert (refused.status_code, refused.json()["code"]) == (403, "submit_not_allowed")
                    own = {"Relay-Key": key, "Authorization": "Bearer sk-own"}
                    assert (await client.post(PATH, content=BODY, headers=own)).status_code == 200
        assert [made.header("authorization") for made in maker.made] == [
            ["Bearer sk-upstream"], ["Bearer sk-own"], ["Bearer sk-own"],
        ]  # fmt: skip


# Bodies


@contextlib.asynccontextmanager
async def sending(relay: Deployment, key: str) -> AsyncIterator[asyncio.StreamReader]:
    """One who has said that the largest body comes, and sends half of it."""
    host, _, port = relay.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(head(f"Content-Length: {MOST}", key=key) + b"x" * (MOST // 2))
        await writer.drain()
        yield reader
    finally:
        writer.close()


async def test_bodies_under_way_are_bounded_per_app_and_in_all(relay: Deployment, maker: Maker) -> None:
    async def refused(key: str) -> bool:
        async with sending(relay, key) as reader:
            try:
                async with asyncio.timeout(2):
                    return b" 503 " in await reader.readline()
            except TimeoutError:
                return False

    async def small(key: str) -> int:
        return (await by_hand(relay.url, head("Content-Length: 14", key=key) + BODY))[0]

    async with caller(relay) as other, contextlib.AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(sending(relay, API_KEY))
        await until(lambda: refused(API_KEY))
        assert not await refused(other.key), "one app leaves room for another"
        await stack.enter_async_context(sending(relay, other.key))
        await until(lambda: refused(other.key))
        assert (await small(API_KEY), await small(other.key)) == (200, 200), "what is small needs no room"
        assert len(maker.made) == 2
        await stack.aclose()

        async def room() -> bool:
            return not await refused(API_KEY)

        await until(room)
    assert {made.body for made in maker.made} == {BODY}


@pytest.mark.parametrize(
    ("content", "coding"),
    [
        (b'{"x": NaN, "web\\u0068ook": "https://a.example"}', "utf-8"),
        (b'{"x": NaN, "\\u0077ebhook": "https://a.example"}', "utf-8"),
        ('{"webhook": "https://a.example"}'.encode("utf-16-le"), "utf-16"),
        (b'\xef\xbb\xbf{"webhook": "https://a.example"}', "utf-8"),
        (b'{"webhook": "https://a.example",}', "utf-8"),
        (b'{"webhook": "https://a.example", "x": {"a": 1, "a": 2}}', "utf-8"),
        (b'{"webhook": "https://a.example", "x": ' + b"[" * 994 + b"]" * 994 + b"}", "utf-8"),
        (b'{"webhook": "https://a.example", "x": ' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}", "utf-8"),
    ],
)  # fmt: skip
async def test_a_callback_that_only_a_lenient_reader_would_find_is_refused(
    relay: Deployment, maker: Maker, content: bytes, coding: str
) -> None:
    kind = {"Content-Type": f"application/json; charset={coding}"}
    answer = await relay.http.post(PATH, content=content, headers=kind)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
    assert maker.made == []


async def test_a_body_of_any_depth_is_refused_or_passes(relay: Deployment, maker: Maker) -> None:
    kind = {"Content-Type": "application/json"}
    for depth in range(900, 1030):
        content = b'{"webhook": "https://127.0.0.1/", "x": ' + b"[" * depth + b"]" * depth + b"}"
        answer = await relay.http.post(PATH, content=content, headers=kind)
        assert answer.status_code in (200, 422), depth


async def test_each_create_has_a_connection_of_its_own(new_database: NewDatabase) -> None:
    """One that is kept may end in the moment in which it is used, and nobody knows whether the request was read."""
    answer = b'HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{"id": "x"}'
    async with loopback.serving(answer) as server:
        environ = environment(new_database(), UNIFIED_VIDEO_BASE_URL=server.url(""))
        async with deployment(environ, working=False) as relay:
            for _ in range(3):
                assert (await relay.http.post(PATH, content=BODY)).status_code == 200
        assert (len(server.heard), server.connections) == (3, 3)


async def test_what_was_created_and_cannot_be_watched_says_so_again(relay: Deployment, maker: Maker) -> None:
    async def answer(_: int) -> Response:
        return says({"id": "../../etc"})

    maker.answer = answer
    key = {"Idempotency-Key": uuid.uuid4().hex}
    for replayed in (None, "true"):
        got = await relay.http.post(PATH, content=BODY, headers=key)
        assert (got.status_code, got.headers["relay-error"]) == (200, "not_registered")
        assert got.headers.get("idempotent-replayed") == replayed
