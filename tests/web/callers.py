"""A calling app of the test's own, what a problem must look like, and HTTP by hand."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import orjson

from relay.model.ids import new_id
from relay.security import app_keys, signing
from relay.store import apps
from relay.wiring import now
from tests.support.deployment import Deployment

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
REQUEST_ID = re.compile(r"[A-Za-z0-9._:=-]{8,128}")


@dataclass
class Caller(Deployment):
    """A running relay as one app sees it."""

    app_id: str
    key: str
    secret: str

    async def post(self, path: str, body: Any) -> httpx.Response:
        return await self.http.post(path, json=body)

    async def watch_of(self, task_id: str) -> dict[str, Any] | None:
        """The newest watch of a task."""
        response = await self.http.get("/v1/watches", params={"task_id": task_id})
        assert response.status_code == 200, response.text
        return next(iter(response.json()["data"]), None)


@contextlib.asynccontextmanager
async def caller(on: Deployment) -> AsyncIterator[Caller]:
    """A new app of a running relay, with a client of its own."""
    key, secret, app_id = f"rly_{secrets.token_urlsafe(32)}", signing.new_secret(), new_id("app")
    sealed = on.relay.vault.seal(orjson.dumps([{"secret": secret, "expires_at": None}]), app_id)
    await on.relay.db.run(apps.create, app_id, f"app {app_id}", app_keys.hash_key(key), sealed, now())
    headers = {"Authorization": f"Bearer {key}"}
    # Without verify=False each client would load the machine's certificates, which takes longer than a test.
    async with httpx.AsyncClient(base_url=on.url, headers=headers, timeout=30, verify=False) as client:
        yield Caller(on.relay, on.url, client, app_id, key, secret)


CODES = {
    400: "malformed_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    409: "conflict",
    413: "too_large",
    415: "unsupported_media_type",
    422: "validation_failed",
    431: "head_too_large",
}


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """The body of an error, checked against RFC 9457 and the contract."""
    assert response.status_code == status, (response.status_code, response.text)
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert set(body) - {"errors"} == {"type", "title", "status", "detail", "code", "request_id"}
    assert body["request_id"] == response.headers["x-request-id"]
    assert REQUEST_ID.fullmatch(body["request_id"])
    problem_item(body, status)
    return body


def problem_item(body: dict[str, Any], status: int) -> None:
    """Checks a problem wherever it stands."""
    assert (body["status"], body["code"]) == (status, CODES[status])
    assert body["type"] == f"/docs#{body['code']}"
    assert body["title"]
    assert body["detail"]
    for one in body.get("errors", []):
        assert set(one) == {"pointer", "detail"}
        assert one["pointer"] == "" or one["pointer"].startswith("/")
        assert one["detail"]


def pointers(response: httpx.Response) -> list[str]:
    """Where a 422 says that something is wrong."""
    return [one["pointer"] for one in problem(response, 422)["errors"]]


async def by_hand(url: str, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Sends bytes that no HTTP client would (they must close the connection): the answer's status, headers and body."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        async with asyncio.timeout(10):
            answer = await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(first.split()[1]), headers, body
