"""Submit and watch: a create that passes through relay, on both databases, against an upstream that counts."""

from __future__ import annotations

import asyncio
import gzip
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jwt
import pytest
import sqlalchemy as sa
from starlette.responses import Response

from relay.security.reseal import reseal
from relay.security.vault import Vault
from relay.store import Database, submissions
from relay.submissions import submitting
from relay.submissions.calls import CreateCall, Submitted
from relay.submissions.submitting import Submissions
from relay.web import http_limits
from relay.web.api import via
from relay.wiring import now
from tests.support.deployment import API_KEY, Deployment, deployment, environment
from tests.support.maker import Maker, always, making, never, says
from tests.support.parties import Receiver, until
from tests.web.callers import by_hand, caller
from tests.web.conftest import NewDatabase

pytestmark = pytest.mark.anyio

PATH = "/v1/video/create"
BODY = {"model": "sora-2", "prompt": "a cat", "images": []}
SECRET = "a secret that signs tokens, long enough"


@pytest.fixture(scope="module")
async def _running(new_database: NewDatabase) -> AsyncIterator[tuple[Deployment, Maker]]:
    async with making() as maker:
        environ = environment(
            new_database(),
            UNIFIED_VIDEO_BASE_URL=maker.url,
            OPENAI_COMPATIBLE_VIDEO_BASE_URL=maker.url,
            KLING_BASE_URL=maker.url,
            KLING_API_KEY=f"access:{SECRET}",
            RELAY_MAX_SUBMIT="1 MiB",
            RELAY_SUBMIT_APPS="default",
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


def new_key() -> str:
    return uuid.uuid4().hex


async def newest(relay: Deployment) -> dict[str, Any]:
    return (await relay.http.get("/v1/submissions", params={"limit": 1})).json()["data"][0]


def code(answer: httpx.Response) -> str:
    return answer.json()["code"]


# The way through


@pytest.mark.parametrize("where", [PATH, f"/via/unified-video{PATH}"])
async def test_the_answer_is_the_upstreams_own_and_the_watch_is_there_before_it(
    relay: Deployment, maker: Maker, where: str
) -> None:
    maker.answer = always({"id": f"task_{where}", "status": "pending"}, 201, x_of_theirs="1", set_cookie="a=b")
    answer = await relay.http.post(where + "?a=1&b=%2F", json=BODY, headers={"X-Mine": "2"})
    assert (answer.status_code, answer.json()["id"]) == (201, f"task_{where}")
    assert answer.headers["x-of-theirs"] == "1"
    assert "set-cookie" not in answer.headers
    watch = await relay.watch(answer.headers["relay-watch"])
    assert (watch["task_id"], watch["state"], watch["targets"]) == (f"task_{where}", "watching", [])
    (made,) = maker.made
    assert (made.method, made.target, json.loads(made.body)) == ("POST", f"{PATH}?a=1&b=%2F", BODY)
    assert made.header("authorization") == ["Bearer sk-upstream"]
    assert made.header("x-mine") == ["2"]
    row = await newest(relay)
    assert row["state"] == "created"
    assert (row["task_id"], row["watch_id"], row["path"]) == (watch["task_id"], watch["id"], PATH)
    assert (await relay.http.get(f"/v1/submissions/{row['id']}")).json() == row


async def test_whom_to_tell_stands_in_headers_parameters_and_the_body(
    relay: Deployment, maker: Maker, receiver: Receiver
) -> None:
    hook = f"{receiver.url}/{new_key()}"
    body = b'{ "model":"m" , "notify_hook": "%b/c",\n "n": 1.50, "webhook": "-1", "callback_url": "" }' % hook.encode()
    headers = [
        ("Content-Type", "application/json"),
        ("Relay-Webhook", f"{hook}/a"),
        ("Relay-Webhook", f"{hook}/b"),
        ("Relay-Metadata", '{"order": "42"}'),
        ("Relay-Expires-In", "3600"),
        ("Relay-Events", "task.completed, task.failed"),
    ]
    answer = await relay.http.post(PATH, params={"relay_webhook": f"{hook}/d", "x": "1"}, content=body, headers=headers)
    watch = await relay.watch(answer.headers["relay-watch"])
    assert sorted(target["url"].rpartition("/")[2] for target in watch["targets"]) == ["a", "b", "c", "d"]
    assert {tuple(target["events"]) for target in watch["targets"]} == {("task.completed", "task.failed")}
    assert watch["metadata"] == {"order": "42"}
    (made,) = maker.made
    assert made.body == b'{ "model":"m",\n "n": 1.50, "webhook": "-1", "callback_url": "" }'
    assert made.target == f"{PATH}?x=1"
    assert not [name for name, _ in made.headers if name.startswith("relay-")]


@pytest.mark.parametrize(
    ("headers", "body", "pointer"),
    [
        ({"Relay-Webhook": "http://10.0.0.1/"}, {}, "/Relay-Webhook"),
        ({"Relay-Webhook": "nonsense"}, {}, "/Relay-Webhook"),
        ({"Relay-Events": "task.unheard"}, {"notify_hook": "https://app.example/x"}, "/Relay-Events"),
        ({"Relay-Metadata": "[1]"}, {}, "/Relay-Metadata"),
        ({"Relay-Metadata": "{"}, {}, "/Relay-Metadata"),
        ({"Relay-Expires-In": "soon"}, {}, "/Relay-Expires-In"),
        ({"Relay-Expires-In": "99999999"}, {}, "/Relay-Expires-In"),
        ({"Idempotency-Key": "k" * 256}, {}, "/Idempotency-Key"),
        ({}, {"notify_hook": 7}, "/notify_hook"),
    ],
)
async def test_what_is_wrong_is_told_before_anything_is_sent(
    relay: Deployment, maker: Maker, headers: dict[str, str], body: dict[str, Any], pointer: str
) -> None:
    answer = await relay.http.post(PATH, json={**BODY, **body}, headers=headers)
    assert (answer.status_code, code(answer)) == (422, "validation_failed"), answer.text
    assert answer.json()["errors"][0]["pointer"] == pointer
    assert maker.made == []


async def test_a_body_that_names_a_callback_and_is_not_strict_is_refused_and_any_other_passes(
    relay: Deployment, maker: Maker
) -> None:
    json_type = {"Content-Type": "application/json"}
    for body in (b'{"webhook": "https://a.example", "x": NaN}', b'{"x": 1, "x": 2, "webhook": "https://a.example"}'):
        assert (await relay.http.post(PATH, content=body, headers=json_type)).status_code == 422
    assert maker.made == []
    odd = gzip.compress(b'{"webhook": "https://a.example"}')
    for body, more in ((b'{"x": NaN}', {}), (odd, {"Content-Encoding": "gzip"}), (b"\xff", {}), (b"", {})):
        assert (await relay.http.post(PATH, content=body, headers=json_type | more)).status_code == 200
        assert maker.made[-1].body == body


# Headers


async def test_headers_that_say_something_about_the_connection_or_the_caller_stop_here(
    relay: Deployment, maker: Maker
) -> None:
    stopped = [
        "Cookie", "X-Forwarded-For", "X_Forwarded_Host", "X-Real-IP", "X-Request-ID", "X-Original-URL", "X-Rewrite-URL",
        "X-HTTP-Method-Override", "Forwarded", "Via", "Traceparent", "TE", "Keep-Alive", "Proxy-Authorization",
        "Relay-Anything", "Idempotency-Key", "Expect-No",
    ]  # fmt: skip
    headers = dict.fromkeys(stopped, "x") | {"Connection": "close, expect-no", "Accept-Encoding": "br", "X-Passes": "1"}
    assert (await relay.http.post(PATH, json=BODY, headers=headers)).status_code == 200
    (made,) = maker.made
    names = {name for name, _ in made.headers}
    assert not names & {name.lower() for name in stopped}
    assert made.header("x-passes") == ["1"]
    assert made.header("host") == [maker.url.removeprefix("http://")]
    assert "br" not in made.header("accept-encoding")


async def test_of_the_answer_stops_what_is_not_the_upstreams_to_say(relay: Deployment, maker: Maker) -> None:
    stopped = {
        "Location": "https://a.example", "Refresh": "0", "Alt-Svc": "h3", "Strict-Transport-Security": "max-age=1",
        "Clear-Site-Data": "*", "Access-Control-Allow-Origin": "*", "RateLimit-Limit": "1", "Relay-Watch": "wch_x",
        "Idempotent-Replayed": "true", "X-Request-ID": "theirs-of-upstream", "Set-Cookie": "a=b", "Connection": "x-hop",
        "X-Hop": "1", "Content-Security-Policy": "default-src *",
    }  # fmt: skip

    async def answer(number: int) -> Response:
        good = await maker.good(number)
        return Response(good.body, 200, {**stopped, "X-RateLimit-Left": "7", "content-type": "application/json"})

    maker.answer = answer
    got = await relay.http.post(PATH, json=BODY)
    assert got.headers["x-ratelimit-left"] == "7"
    assert got.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert got.headers["x-content-type-options"] == "nosniff"
    for name, value in stopped.items():
        assert value not in got.headers.get_list(name), name


async def test_the_deployments_key_comes_back_to_nobody(relay: Deployment, maker: Maker) -> None:
    maker.answer = always({"id": new_key(), "echo": "Bearer sk-upstream"}, x_echo="sk-upstream")
    answer = await relay.http.post(PATH, json=BODY)
    assert "sk-upstream" not in answer.text + str(answer.headers)


# Who may


async def test_an_app_that_is_not_named_sends_with_its_own_key_only(relay: Deployment, maker: Maker) -> None:
    async with caller(relay) as other:
        refused = await other.http.post(PATH, json=BODY)
        assert (refused.status_code, code(refused)) == (403, "submit_not_allowed")
        own = {"Relay-Key": other.key, "Authorization": "Bearer sk-of-the-caller"}
        maker.answer = always({"id": f"own-{other.app_id}", "echo": "sk-of-the-caller"})
        answer = await other.http.post(PATH, json=BODY, headers=own)
        assert answer.json()["echo"] == "sk-of-the-caller"
        (made,) = maker.made
        assert made.header("authorization") == ["Bearer sk-of-the-caller"]
        assert (await other.watch(answer.headers["relay-watch"]))["task_id"] == f"own-{other.app_id}"
        for wrong in ("", f"Bearer {other.key}", f"Bearer {API_KEY}", "Bearer rly_x"):
            answer = await other.http.post(PATH, json=BODY, headers={"Relay-Key": other.key, "Authorization": wrong})
            assert answer.status_code == 422, wrong
    nobody = await relay.http.post(PATH, json=BODY, headers={"Authorization": ""})
    assert nobody.status_code == 401
    assert len(maker.made) == 1


async def test_what_lets_a_create_in_is_made_where_the_file_says_so(relay: Deployment, maker: Maker) -> None:
    maker.answer = always({"code": 0, "data": {"task_id": new_key(), "task_status": "submitted"}})
    where = "/via/kling/v1/videos/text2video"
    answer = await relay.http.post(where, json=BODY)
    (made,) = maker.made
    (sent,) = made.header("authorization")
    assert jwt.decode(sent.removeprefix("Bearer "), SECRET, algorithms=["HS256"])["iss"] == "access"
    watch = await relay.watch(answer.headers["relay-watch"])
    assert watch["task_id"] == f"text2video/{answer.json()['data']['task_id']}"
    own = {"Relay-Key": API_KEY, "Authorization": "Bearer of-mine"}
    refused = await relay.http.post(where, json=BODY, headers=own)
    assert (refused.status_code, len(maker.made)) == (422, 1), "nobody else can make what lets it in"


async def test_what_is_not_declared_is_not_there(relay: Deployment, maker: Maker) -> None:
    async def ask(method: str, target: str) -> tuple[int, dict[str, str], bytes]:
        head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {API_KEY}\r\n"
        return await by_hand(relay.url, f"{head}Content-Length: 2\r\n\r\n{{}}".encode())

    for target in (
        "/via/unified-video/v1/video/../video/create", "/via/unified-video/v1/video/%2e%2e/video/create",
        "/via/unified-video/v1%2fvideo/create", "/via/unified-video//v1/video/create", "/via/unified-video/",
        "/via/unified-video", "/via/unified-video/v1/video/create/", "/via/unified-video/v1/video\\create",
        "/via/nobody/v1/video/create", "/via/../via/unified-video/v1/models", "/via/unified-video/v1/video/create%00",
        "/via/openai-compatible-video/v1/videos/..%2f..%2fmodels", "/via/%75nified-video/v1/video/create",
    ):  # fmt: skip
        status, _, body = await ask("POST", target)
        assert (status, json.loads(body)["code"]) in ((404, "not_declared"), (404, "not_found")), target
    for method, target, allowed in (
        ("GET", f"/via/unified-video{PATH}", "POST"),
        ("DELETE", PATH, "POST"),
        ("POST", "/via/unified-video/v1/video/query", "GET"),
    ):
        status, headers, body = await ask(method, target)
        assert (status, json.loads(body)["code"], headers["allow"]) == (405, "method_not_allowed", allowed)
    assert maker.made == []
    status, _, _ = await ask("POST", f"http://elsewhere.example{PATH}")
    assert status == 200
    assert maker.made[0].header("host") == [maker.url.removeprefix("http://")]


async def test_the_query_of_every_provider_is_mirrored_under_its_own_path(relay: Deployment, maker: Maker) -> None:
    answer = await relay.http.get("/via/openai-compatible-video/v1/videos/video_1")
    assert answer.json() == {"id": "video_1", "status": "pending"}
    assert (await relay.http.get(f"/via/unified-video{PATH.replace('create', 'query')}?id=t")).json()["id"] == "t"


async def test_bodies_are_bounded(relay: Deployment, maker: Maker) -> None:
    large = await relay.http.post(PATH, content=b"x" * (1024 * 1024 + 1))
    assert (large.status_code, code(large)) == (413, "too_large")
    assert (await relay.http.post(PATH, content=b"x" * 1024 * 1024)).status_code == 200
    assert len(maker.made) == 1


async def test_a_body_may_take_its_time_while_it_moves(
    relay: Deployment, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_limits, "MESSAGE_DEADLINE", 0.3)

    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b"x" * 1000
            await asyncio.sleep(0.2)

    answer = await relay.http.post(PATH, content=slowly())
    assert (answer.status_code, maker.made[0].body) == (200, b"x" * 5000)
    assert maker.made[0].header("content-length") == ["5000"]
    monkeypatch.setattr(via, "BODY_PAUSE", 0.1)
    answer = await relay.http.post(PATH, content=slowly())
    assert (answer.status_code, code(answer)) == (408, "too_slow")
    assert len(maker.made) == 1


# What becomes of it


@pytest.mark.parametrize(
    ("status", "body", "state"),
    [
        (200, {"code": 1, "message": "no credit"}, "refused"),
        (400, {"error": {"message": "bad"}}, "refused"),
        (429, {"error": {"message": "slow down"}}, "refused"),
        (408, {}, "unknown"),
        (409, {}, "unknown"),
        (500, {"error": "oh"}, "unknown"),
        (200, {"status": "pending"}, "unknown"),
    ],
)
async def test_what_an_answer_says_of_the_task(
    relay: Deployment, maker: Maker, status: int, body: Any, state: str
) -> None:
    maker.answer = always(body, status, retry_after="7")
    key = {"Idempotency-Key": new_key()}
    answer = await relay.http.post(PATH, json=BODY, headers=key)
    assert (answer.status_code, answer.json(), answer.headers["retry-after"]) == (status, body, "7")
    assert answer.headers.get("x-should-retry") == ("false" if state == "unknown" else None)
    row = await newest(relay)
    assert (row["state"], row["status"], row["watch_id"]) == (state, status, None)
    maker.answer = None
    again = await relay.http.post(PATH, json=BODY, headers=key)
    if state == "refused":
        assert (again.status_code, len(maker.made)) == (200, 2)
    else:
        assert (again.status_code, code(again), again.headers["x-should-retry"]) == (409, "submission_unknown", "false")
        assert len(maker.made) == 1


async def test_an_answer_that_is_lost_or_leads_elsewhere_is_unknown(relay: Deployment, maker: Maker) -> None:
    maker.answer = always({}, 307, location="https://elsewhere.example")
    answer = await relay.http.post(PATH, json=BODY)
    assert (answer.status_code, code(answer), answer.headers["x-should-retry"]) == (502, "upstream_redirected", "false")

    async def cut(_: int) -> Response:
        return Response(b"{}", headers={"content-length": "100"})

    maker.answer = cut
    answer = await relay.http.post(PATH, json=BODY)
    assert (answer.status_code, code(answer), answer.headers["x-should-retry"]) == (502, "submission_unknown", "false")
    assert (await newest(relay))["state"] == "unknown"


async def test_without_a_connection_nothing_is_taken(new_database: NewDatabase) -> None:
    environ = environment(new_database(), UNIFIED_VIDEO_BASE_URL="http://127.0.0.1:9")
    async with deployment(environ, working=False) as relay:
        key = {"Idempotency-Key": new_key()}
        for _ in range(2):
            answer = await relay.http.post(PATH, json=BODY, headers=key)
            assert (answer.status_code, code(answer)) == (502, "upstream_unavailable")
        rows = (await relay.http.get("/v1/submissions", params={"state": "refused"})).json()["data"]
        assert len(rows) == 2


async def test_an_id_that_cannot_be_watched_is_not_lost(relay: Deployment, maker: Maker) -> None:
    maker.answer = always({"id": "../../etc"})
    answer = await relay.http.post(PATH, json=BODY)
    assert (answer.status_code, answer.json()["id"]) == (200, "../../etc")
    assert answer.headers["relay-error"] == "not_registered"
    assert "relay-watch" not in answer.headers


async def test_an_answer_does_not_wait_for_ever_for_its_commit(
    new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitting, "COMMIT_PATIENCE", 0.2)
    async with making() as maker:
        url = new_database()
        db = Database(url)
        held: list[sa.Connection] = []

        async def answer(number: int) -> Response:
            held.append(db.engine.connect())
            held[0].begin()  # which locks the file of SQLite
            if not db.embedded:
                held[0].execute(sa.text("LOCK TABLE submissions IN EXCLUSIVE MODE"))
            return await maker.good(number)

        maker.answer = answer
        async with deployment(environment(url, UNIFIED_VIDEO_BASE_URL=maker.url), working=False) as relay:
            answer_ = await relay.http.post(PATH, json=BODY)
            assert (answer_.status_code, answer_.json()["id"]) == (200, "task_1")
            assert answer_.headers["relay-error"] == "not_registered"
            held[0].rollback()
            held[0].close()

            async def registered() -> bool:
                return (await newest(relay))["state"] == "created"

            await until(registered)
        db.close()


# Idempotency


async def test_the_same_request_gets_the_first_answer(relay: Deployment, maker: Maker) -> None:
    key = new_key()
    maker.answer = always({"id": key}, 202, x_of_theirs="1")
    first = await relay.http.post(PATH, json=BODY, headers={"Idempotency-Key": key})
    assert "idempotent-replayed" not in first.headers
    for where, given in ((PATH, f'"{key}"'), (f"/via/unified-video{PATH}", key)):
        again = await relay.http.post(where, json=BODY, headers={"Idempotency-Key": given, "Relay-Webhook": "nonsense"})
        assert (again.status_code, again.content) == (202, first.content)
        assert (again.headers["idempotent-replayed"], again.headers["x-of-theirs"]) == ("true", "1")
        assert again.headers["relay-watch"] == first.headers["relay-watch"]
    for other in (
        relay.http.post(PATH, json={**BODY, "prompt": "a dog"}, headers={"Idempotency-Key": key}),
        relay.http.post(PATH + "?x=1", json=BODY, headers={"Idempotency-Key": key}),
        relay.http.post("/v1/videos", json=BODY, headers={"Idempotency-Key": key}),
    ):
        answer = await other
        assert (answer.status_code, code(answer)) == (422, "idempotency_mismatch")
    assert len(maker.made) == 1
    async with caller(relay) as stranger:
        own = {"Relay-Key": stranger.key, "Authorization": "Bearer sk-own", "Idempotency-Key": key}
        assert "idempotent-replayed" not in (await stranger.http.post(PATH, json=BODY, headers=own)).headers


async def test_of_a_form_the_parts_count_and_not_the_boundary(relay: Deployment, maker: Maker) -> None:
    key = {"Idempotency-Key": new_key()}
    form = {"data": {"prompt": "a cat"}, "files": {"image": ("a.png", b"\x89PNG", "image/png")}}
    first = await relay.http.post("/v1/videos", headers=key, **form)  # type: ignore[arg-type]
    again = await relay.http.post("/v1/videos", headers=key, **form)  # type: ignore[arg-type]
    assert (again.content, again.headers["idempotent-replayed"]) == (first.content, "true")
    other = {**form, "data": {"prompt": "a dog"}}
    assert (await relay.http.post("/v1/videos", headers=key, **other)).status_code == 422  # type: ignore[arg-type]
    assert b"a cat" in maker.made[0].body


async def test_while_the_first_is_under_way_and_when_its_caller_has_left(relay: Deployment, maker: Maker) -> None:
    go_on = asyncio.Event()

    async def slow(number: int) -> Response:
        await go_on.wait()
        return says({"id": f"slow-{new_key()}", "number": number})

    maker.answer = slow
    key = {"Idempotency-Key": new_key()}
    first = asyncio.create_task(relay.http.post(PATH, json=BODY, headers=key))

    async def asked() -> bool:
        return bool(maker.made)

    await until(asked)
    second = await relay.http.post(PATH, json=BODY, headers=key)
    assert (second.status_code, code(second)) == (409, "idempotency_in_progress")
    assert int(second.headers["retry-after"]) >= 1
    assert (await newest(relay))["state"] == "sending"
    first.cancel()
    go_on.set()

    async def answered() -> httpx.Response | None:
        answer = await relay.http.post(PATH, json=BODY, headers=key)
        return answer if answer.status_code == 200 else None

    replay = await until(answered)
    assert replay.headers["idempotent-replayed"] == "true"
    assert len(maker.made) == 1


async def test_a_handler_that_is_cancelled_loses_no_create(
    relay: Deployment, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those are that still wait when the server has to end."""
    go_on = asyncio.Event()
    handlers: list[asyncio.Task[Any]] = []
    submit = Submissions.submit

    async def noted(self: Submissions, app_id: str, call: CreateCall) -> Submitted:
        handler = asyncio.current_task()
        assert handler is not None
        handlers.append(handler)
        return await submit(self, app_id, call)

    async def slow(number: int) -> Response:
        await go_on.wait()
        return says({"id": f"slow-{new_key()}", "number": number})

    async def cancelled() -> bool:
        for handler in handlers if maker.made else ():
            handler.get_loop().call_soon_threadsafe(handler.cancel)
        return bool(handlers and handlers[0].done())

    maker.answer = slow
    key = {"Idempotency-Key": new_key()}
    monkeypatch.setattr(Submissions, "submit", noted)
    first = asyncio.create_task(relay.http.post(PATH, json=BODY, headers=key))
    await until(cancelled)
    go_on.set()
    await asyncio.gather(first, return_exceptions=True)

    async def answered() -> bool:
        return (await relay.http.post(PATH, json=BODY, headers=key)).status_code == 200

    await until(answered, within=20)
    assert len(maker.made) == 1


async def test_fifty_callers_with_one_key_are_one_create(relay: Deployment, maker: Maker) -> None:
    key = {"Idempotency-Key": new_key()}
    answers = await asyncio.gather(*(relay.http.post(PATH, json=BODY, headers=key) for _ in range(50)))
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert len(maker.made) == 1


async def test_when_the_watch_is_erased_the_key_stays_taken(relay: Deployment, maker: Maker) -> None:
    key = {"Idempotency-Key": new_key()}
    first = await relay.http.post(PATH, json=BODY, headers=key)
    await relay.http.delete(f"/v1/watches/{first.headers['relay-watch']}", params={"erase": "true"})
    again = await relay.http.post(PATH, json=BODY, headers=key)
    assert (again.status_code, code(again)) == (409, "answer_erased")
    assert (await newest(relay))["task_id"] is None
    assert len(maker.made) == 1


async def test_a_kept_answer_opens_after_a_rotation_and_is_forgotten_in_time(new_database: NewDatabase) -> None:
    url = new_database()
    key = {"Idempotency-Key": new_key()}
    older, newer = "the-older-secret-key-of-this", "the-newer-secret-key-of-this"
    async with making() as maker:
        environ = environment(url, UNIFIED_VIDEO_BASE_URL=maker.url, RELAY_IDEMPOTENCY_TTL="10s")
        async with deployment({**environ, "RELAY_SECRET_KEY": older}, working=False) as relay:
            first = await relay.http.post(PATH, json=BODY, headers=key)
        db = Database(url)
        reseal(db, Vault([newer, older]))
        db.close()
        async with deployment({**environ, "RELAY_SECRET_KEY": newer}, working=False) as relay:
            again = await relay.http.post(PATH, json=BODY, headers=key)
            assert (again.content, again.headers["idempotent-replayed"]) == (first.content, "true")
            await relay.relay.db.run(submissions.prune, 0, now() + 11_000, 100)
            anew = await relay.http.post(PATH, json=BODY, headers=key)
            assert (anew.status_code, "idempotent-replayed" in anew.headers, len(maker.made)) == (200, False, 2)


async def test_a_process_that_ends_says_what_it_does_not_know(new_database: NewDatabase) -> None:
    async with making() as maker:
        maker.answer = never
        url = new_database()
        environ = environment(url, UNIFIED_VIDEO_BASE_URL=maker.url, RELAY_GRACE="2s")
        async with deployment(environ, working=False) as relay:
            asking = asyncio.create_task(relay.http.post(PATH, json=BODY))

            async def asked() -> bool:
                return bool(maker.made)

            await until(asked)
            await relay.relay.halt()
            answer = await asking
            assert (answer.status_code, code(answer)) == (504, "submission_unknown")
        async with deployment(environ, working=False) as relay:
            assert (await newest(relay))["state"] == "unknown"
