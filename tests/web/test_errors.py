"""Every error is problem+json with a request id, and nothing that a caller sends is answered with 5xx."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.channels.targets import SCHEMAS
from relay.web import http_limits
from relay.web.api.schemas import RetryIn, WatchIn
from relay.web.bodies import MAX_BATCH_BODY, MAX_BODY
from tests.support.parties import Receiver
from tests.web.callers import REQUEST_ID, Caller, by_hand, pointers, problem, problem_item

pytestmark = pytest.mark.anyio

HOOK = {"type": "webhook", "url": "https://app.example/hook"}
JSON = {"Content-Type": "application/json"}
BODIES = ("/v1/watches", "/v1/watches/batch", "/v1/deliveries/retry", "/v1/targets/test")
"""The routes that take a body."""


# Keys


async def test_without_a_valid_key_there_is_nothing_under_v1(api: Caller) -> None:
    keys = {
        "none": {},
        "empty": {"Authorization": ""},
        "no key": {"Authorization": "Bearer"},
        "unknown": {"Authorization": "Bearer rly_unknown"},
        "one more letter": {"Authorization": f"Bearer {api.key}x"},
        "bare": {"Authorization": api.key},
        "basic": {"Authorization": f"Basic {api.key}"},
        "digest": {"Authorization": f"Digest {api.key}"},
        "elsewhere": {"X-API-Key": api.key},
        "not ASCII": {"Authorization": "Bearer clé".encode()},  # type: ignore[dict-item]
        "not UTF-8": {"Authorization": b"Bearer \xff"},  # type: ignore[dict-item]
    }
    routes = [
        ("GET", "/v1/watches"),
        ("POST", "/v1/watches"),
        ("POST", "/v1/watches/batch"),
        ("GET", "/v1/watches/wch_x"),
        ("DELETE", "/v1/watches/wch_x"),
        ("GET", "/v1/deliveries"),
        ("GET", "/v1/deliveries/dlv_x"),
        ("POST", "/v1/deliveries/dlv_x/retry"),
        ("POST", "/v1/deliveries/retry"),
        ("POST", "/v1/targets/test"),
        ("GET", "/v1/providers"),
    ]
    async with httpx.AsyncClient(base_url=api.url, verify=False) as http:
        for headers in keys.values():
            problem(await http.get("/v1/watches", headers=headers), 401)
        for method, path in routes:
            response = await http.request(method, path)
            problem(response, 401)
            assert response.headers["www-authenticate"].startswith("Bearer")
        for header in (f"bearer {api.key}", f"BEARER   {api.key}"):
            assert (await http.get("/v1/watches", headers={"Authorization": header})).status_code == 200


# Routes


async def test_what_is_not_there_is_404_and_other_methods_are_405_with_allow(api: Caller) -> None:
    for path in (
        "/v1",
        "/v1/",
        "/v1/watch",
        "/v1/watches/",
        "/v1/watches/a/b",
        "/v2/watches",
        "//",
        "/v1//watches",
    ):
        assert "nothing at" in problem(await api.http.get(api.url + path), 404)["detail"], path
    allowed = {
        "/v1/watches": {"GET", "HEAD", "POST"},
        "/v1/watches/wch_x": {"GET", "HEAD", "DELETE"},
        "/v1/deliveries/dlv_x/retry": {"POST"},
        "/v1/providers": {"GET", "HEAD"},
        "/healthz": {"GET", "HEAD"},
    }
    for path, methods in allowed.items():
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} - methods:
            response = await api.http.request(method, path)
            body = problem(response, 405)
            assert set(response.headers["allow"].split(", ")) == methods, (method, path)
            assert all(one in body["detail"] for one in methods)


async def test_head_is_get_without_a_body(api: Caller) -> None:
    watch = await api.register("head", HOOK)
    for path in ("/v1/watches", f"/v1/watches/{watch['id']}", "/v1/providers", "/healthz", "/readyz", "/openapi.json"):
        head, get = await api.http.head(path), await api.http.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(get.content))
    missing = await api.http.head("/v1/watches/wch_x")
    assert (missing.status_code, missing.content) == (404, b"")


BROKEN_HOSTS = ["[", "a b", "", "[::1", "x" * 5000, "\xff"]


async def test_a_broken_host_header_breaks_nothing(api: Caller) -> None:
    for host in BROKEN_HOSTS:
        for path, expected in (("/nowhere", 404), ("/v1/watches", 401), ("/healthz", 200), ("/docs", 200)):
            request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            status, headers, _ = await by_hand(api.url, request.encode("latin-1"))
            assert status in (expected, 400), path
            assert REQUEST_ID.fullmatch(headers["x-request-id"])


NO_REQUESTS = {
    b"nonsense\r\n\r\n": 400,
    b"GET / HTTP/9.9\r\n\r\n": 400,
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n": 400,
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nHost: ": 408,
}


async def test_what_is_no_request_is_a_problem_too(api: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_limits, "HEAD_DEADLINE", 1.0)
    for sent, expected in NO_REQUESTS.items():
        status, headers, body = await by_hand(api.url, sent)
        assert (status, headers["content-type"]) == (expected, "application/problem+json"), sent[:40]
        assert (headers["connection"], int(headers["content-length"])) == ("close", len(body))
        problem_item(json.loads(body), expected)
        assert REQUEST_ID.fullmatch(headers["x-request-id"])
        assert json.loads(body)["request_id"] == headers["x-request-id"]


# Request ids


async def test_a_sane_request_id_is_echoed_and_a_hostile_one_replaced(api: Caller) -> None:
    for sane in (
        "abcd1234",
        "0a1b2c3d-0000-4000-8000-000000000000",
        "Root=1-67891233-abcdef012345678912345678",
        "x" * 128,
    ):
        for path, status in (("/v1/providers", 200), ("/v1/watches/x", 404), ("/nowhere", 404), ("/healthz", 200)):
            response = await api.http.get(path, headers={"X-Request-ID": sane})
            assert (response.status_code, response.headers.get_list("x-request-id")) == (status, [sane])
            assert status == 200 or problem(response, 404)["request_id"] == sane
    seen = set()
    for hostile in (
        "",
        "short",
        "x" * 129,
        "two words",
        "<script>alert(1)</script>",
        '"; DROP TABLE',
        "a\tb-cdefgh",
        "ä" * 8,
    ):
        response = await api.http.get("/v1/watches/x", headers={"X-Request-ID": hostile.encode()})
        (given,) = response.headers.get_list("x-request-id")
        assert REQUEST_ID.fullmatch(given)
        assert given != hostile
        seen.add(problem(response, 404)["request_id"])
    assert len(seen) == 8


# Bodies


BROKEN = {
    "empty": b"",
    "half": b'{"task_id": "x", "targets": [',
    "no JSON": b"task_id=x",
    "two values": b"{} {}",
    "comment": b"{} // x",
    "trailing comma": b'{"task_id": "x",}',
    "single quotes": b"{'task_id': 'x'}",
    "NaN": b'{"task_id": "x", "targets": [], "metadata": {"x": NaN}}',
    "Infinity": b'{"metadata": {"x": -Infinity}}',
    "infinite": b'{"metadata": {"x": 1e999}}',
    "a whole number that is too long": b'{"metadata": {"x": ' + b"9" * 5000 + b"}}",
    "a key twice": b'{"task_id": "x", "task_id": "y"}',
    "a key twice, deep": b'{"task_id": "x", "targets": [{"type": "webhook", "url": "a", "url": "b"}]}',
    "a key twice, spelt differently": b'{"task_id": "x", "task\\u005fid": "y"}',
    "a lone surrogate": b'{"task_id": "\\ud800"}',
    "a lone surrogate as a key": b'{"\\udfff": 1}',
    "no UTF-8": b'{"task_id": "\xff"}',
    "a surrogate in UTF-8": b'{"task_id": "\xed\xa0\x80"}',
    "UTF-16": '{"task_id": "x"}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "a control character": b'{"task_id": "a\nb"}',
    "too deep": b'{"metadata": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "too deep, open": b"[" * 200_000,
    "too deep, objects": b'{"a":' * 50_000,
}


async def test_what_is_not_json_is_malformed(api: Caller) -> None:
    for what, body in BROKEN.items():
        for path in BODIES:
            response = await api.http.post(path, content=body, headers=JSON)
            assert "valid JSON" in problem(response, 400)["detail"], (what, path)


async def test_json_that_is_no_object_is_refused(api: Caller) -> None:
    for body in (b"null", b"[]", b'"x"', b"1", b"true", b"[{}]"):
        for path in BODIES:
            assert pointers(await api.http.post(path, content=body, headers=JSON)) == [""]


async def test_only_json_is_taken(api: Caller) -> None:
    body = json.dumps({"task_id": "typed", "targets": [HOOK]}).encode()
    refused = [None, "", "text/plain", "application/x-www-form-urlencoded", "text/json", "application/json5", "json"]
    for content_type in refused:
        headers = {} if content_type is None else {"Content-Type": content_type}
        problem(await api.http.post("/v1/watches", content=body, headers=headers), 415)
    for content_type in ("application/json", "Application/JSON; charset=utf-8", "application/vnd.relay+json"):
        response = await api.http.post("/v1/watches", content=body, headers={"Content-Type": content_type})
        assert response.status_code in (200, 201)


async def test_a_compressed_body_is_refused_with_what_to_do(api: Caller) -> None:
    body = json.dumps({"task_id": "plain", "targets": [HOOK]}).encode()
    for coding in ("gzip", "br", "identity, gzip", "x"):
        response = await api.http.post(
            "/v1/watches", content=gzip.compress(body), headers={**JSON, "Content-Encoding": coding}
        )
        assert "without 'Content-Encoding'" in problem(response, 415)["detail"]
    response = await api.http.post("/v1/watches", content=body, headers={**JSON, "Content-Encoding": "Identity"})
    assert response.status_code == 201


async def chunks(size: int) -> AsyncIterator[bytes]:
    yield b'{"task_id": "'
    for _ in range(size // 65536):
        yield b"x" * 65536
    yield b'"}'


async def test_a_body_that_is_too_large_is_refused_declared_or_not(api: Caller) -> None:
    for path in BODIES:
        limit = MAX_BATCH_BODY if path.endswith("batch") else MAX_BODY
        declared = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\nConnection: close\r\n"
        declared += f"Content-Type: application/json\r\nContent-Length: {limit + 1}\r\n\r\n"
        status, headers, body = await by_hand(api.url, declared.encode())  # it never comes, and is not waited for
        assert (status, headers["content-type"]) == (413, "application/problem+json")
        problem_item(json.loads(body), 413)
        response = await api.http.post(path, content=chunks(limit + 65536), headers=JSON)
        assert str(limit) in problem(response, 413)["detail"]
    exactly = b'{"task_id": "x"' + b" " * (MAX_BODY - 16) + b"}"
    assert len(exactly) == MAX_BODY
    assert pointers(await api.http.post("/v1/watches", content=exactly, headers=JSON)) == ["/targets"]
    problem(await api.http.post("/v1/watches", content=exactly + b" ", headers=JSON), 413)


async def test_a_body_of_very_many_fields_is_judged_quickly_and_answered_briefly(api: Caller) -> None:
    fields = [f'"{number}":0' for number in range(45_000)]
    for body in ("{" + ",".join(fields) + "}", "{" + ",".join([*fields, fields[-1]]) + "}"):
        started = time.monotonic()
        response = await api.http.post("/v1/watches", content=body, headers=JSON)
        assert time.monotonic() - started < 30, "what grows with the square of the fields takes minutes"
        assert response.status_code in (400, 422)
        assert len(response.content) < 64 * 1024


# NUL bytes, which PostgreSQL's texts cannot hold, and other ids that cannot be


async def test_nul_bytes_and_broken_utf_8_anywhere(api: Caller) -> None:
    for odd in ("%00", "wch_%00", "%ff", "%ed%a0%80", "%0a", "x" * 5000, "%F0%9F%8E%AC", "%2e%2e", "a%2Fb"):
        problem(await api.http.get(f"{api.url}/v1/watches/{odd}"), 404)
        problem(await api.http.delete(f"{api.url}/v1/watches/{odd}?erase=true"), 404)
        problem(await api.http.get(f"{api.url}/v1/deliveries/{odd}"), 404)
        problem(await api.http.post(f"{api.url}/v1/deliveries/{odd}/retry"), 404)
    for path, names in (
        ("watches", ("task_id", "provider", "state", "cursor", "limit", "x")),
        ("deliveries", ("watch_id", "state", "cursor", "limit", "x")),
    ):
        for name in names:
            assert pointers(await api.http.get(f"/v1/{path}?{name}=%00")) == [f"/{name}"]
        assert (await api.http.get(f"/v1/{path}?%00=1")).status_code == 422
        assert (await api.http.get(f"/v1/{path}?{names[0]}=%ff%ed%a0%80")).status_code == 200
    for fields, pointer in (
        ({"task_id": "a\0"}, "/task_id"),
        ({"provider": "\0"}, "/provider"),
        ({"upstream_key": "\0"}, "/upstream_key"),
        ({"targets": [{**HOOK, "url": "https://app.example/\0"}]}, "/targets/0/url"),
        ({"targets": [{**HOOK, "headers": {"X\0": "x"}}]}, "/targets/0/headers"),
        ({"targets": [{"type": "slack", "channel": "#\0"}]}, "/targets/0/channel"),
        ({"targets": [{"type": "\0"}]}, "/targets/0"),
        ({"\0": 1}, "/\0"),
    ):
        body = {"task_id": "x", "targets": [HOOK], **fields}
        assert pointers(await api.post("/v1/watches", body)) == [pointer]
    for field in ("host", "since", "until", "state"):
        assert pointers(await api.post("/v1/deliveries/retry", {field: "a\0"})) == [f"/{field}"]


# Whatever comes


FIELDS = [
    *WatchIn.model_fields,
    *(name for schema in SCHEMAS.values() for name in schema.model_fields),
    *RetryIn.model_fields,
    "watches",
]
RECEIVER = "http://receiver.invalid"
"""In what is generated, the place of the test's receiver."""

TEXTS = [
    "webhook",
    "slack",
    "task.completed",
    "task.progress",
    "unified-video",
    "sandbox",
    "dead",
    "held",
    "https://hook.invalid/x",
    "https://hooks.slack.com/services/T/B/x",
    "http://10.0.0.1/",
    "http://[::ffff:7f00:1]/",
    "https://[",
    "//",
    "#renders",
    "2025-10-06T15:14:11.908Z",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",
    "2025-10-06",
    "24:00",
    "\0",
    "\u202e",
    "🎬",
    "é" * 600,
]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.integers(0, 90_000)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(TEXTS),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=6)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=12,
)


def often(plain: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly what may be valid, now and then anything: so that the fuzz comes past the first check."""
    return st.integers(0, 9).flatmap(lambda dice: VALUES if dice == 0 else plain)


def shaped(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[Any]:
    return often(
        st.fixed_dictionaries(
            {name: often(value) for name, value in required.items()},
            optional={name: often(value) for name, value in optional.items()},
        )
    )


def events() -> st.SearchStrategy[Any]:
    return st.lists(st.sampled_from(["task.completed", "task.failed", "task.progress"]), min_size=1, max_size=3)


def targets() -> st.SearchStrategy[Any]:
    headers = st.dictionaries(st.text(max_size=5) | st.just("X-Shop"), st.text(max_size=5), max_size=3)
    urls = st.sampled_from([f"{RECEIVER}/fuzz", *(text for text in TEXTS if "/" in text)])
    return shaped({"type": st.just("webhook"), "url": urls}, {"events": events(), "headers": headers}) | shaped(
        {"type": st.just("slack")},
        {"channel": st.just("#renders"), "webhook_url": urls, "events": events()},
    )


def watches() -> st.SearchStrategy[Any]:
    ids = st.text(min_size=1, max_size=30) | st.sampled_from(["a", "b"])
    return shaped(
        {"task_id": ids, "targets": st.lists(targets(), min_size=1, max_size=3)},
        {
            "provider": st.sampled_from(["unified-video", "sandbox", "nobody"]),
            "metadata": st.dictionaries(st.text(max_size=8), VALUES, max_size=3),
            "expires_in": st.integers(0, 10**7),
            "upstream_key": st.text(max_size=20),
        },
    )


def retries() -> st.SearchStrategy[Any]:
    times = st.datetimes().map(str) | st.sampled_from(TEXTS)
    states = st.sampled_from(["dead", "delivered", "pending", "held", "waiting"])
    return shaped({}, {"state": states, "since": times, "until": times, "host": st.text(max_size=10)})


MODERATELY = settings(
    max_examples=40,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)


async def send(api: Caller, receiver: Receiver, path: str, body: Any) -> dict[str, Any]:
    """Posts a body; what is not a success must be a problem of the caller's."""
    content = json.dumps(body).replace(RECEIVER, receiver.url)
    response = await api.http.post(path, content=content, headers=JSON)
    assert response.status_code < 500, (body, response.text)
    if response.status_code >= 400:
        problem(response, response.status_code)
    return response.json()


@MODERATELY
@given(body=watches())
async def test_no_registration_is_answered_with_5xx(api: Caller, receiver: Receiver, body: Any) -> None:
    answer = await send(api, receiver, "/v1/watches", body)
    if "id" in answer:
        assert await api.watch(answer["id"]) == answer


@MODERATELY
@given(body=shaped({"watches": st.lists(watches(), min_size=1, max_size=6)}, {}))
async def test_no_batch_is_answered_with_5xx(api: Caller, receiver: Receiver, body: Any) -> None:
    answer = await send(api, receiver, "/v1/watches/batch", body)
    for item in answer.get("data", []):
        assert item["status"] in (200, 201, 422)
        if item["status"] == 422:
            problem_item(item["error"], 422)


@MODERATELY
@given(body=retries())
async def test_no_retry_is_answered_with_5xx(api: Caller, receiver: Receiver, body: Any) -> None:
    await send(api, receiver, "/v1/deliveries/retry", body)


@MODERATELY
@given(body=targets())
async def test_no_test_of_a_target_is_answered_with_5xx(api: Caller, receiver: Receiver, body: Any) -> None:
    await send(api, receiver, "/v1/targets/test", body)
