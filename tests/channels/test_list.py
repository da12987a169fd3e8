"""A channel is one file and one line: the one of docs/add-a-channel.md, added to a copy of relay, works everywhere."""

from __future__ import annotations

import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import parties
from tests.support.deployment import environment
from tests.support.parties import until
from tests.support.processes import Serve, serve

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "add-a-channel.md").read_text("utf-8")
TOKEN = "token-of-the-room"


def code(language: str) -> str:
    """Return the code block of the page in a language."""
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(block)


@pytest.fixture(scope="module")
async def upstream() -> AsyncIterator[parties.Upstream]:
    async with parties.upstream() as party:
        yield party


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[parties.Receiver]:
    """The chat server."""
    async with parties.receiver() as party:
        yield party


@pytest.fixture(scope="module")
async def relay(tmp_path_factory: pytest.TempPathFactory, upstream: parties.Upstream) -> AsyncIterator[Serve]:
    """A relay with the channel of the page, as a process of its own."""
    folder = tmp_path_factory.mktemp("chat")
    shutil.copytree(ROOT / "relay", folder / "relay", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "relay/channels/chat.py").write_text(code("python"))
    the_list = folder / "relay/channels/__init__.py"
    import_, entry = re.findall(r"^\+(.*)$", code("diff"), re.MULTILINE)
    text = (
        the_list.read_text().replace("\nCHANNELS", f"{import_}\n\nCHANNELS", 1).replace("\n)\n", f"\n{entry}\n)\n", 1)
    )
    the_list.write_text(text)
    environ = environment(f"sqlite:///{folder / 'relay.db'}", UNIFIED_VIDEO_BASE_URL=upstream.url)
    async with serve(environ, folder) as running:
        await running.ready()
        yield running


def room(server: parties.Receiver, name: str) -> dict[str, Any]:
    return {"type": "chat", "url": f"{server.url}/rooms/{name}", "token": TOKEN}


async def refusals(relay: Serve, path: str, body: Any) -> list[tuple[str, str]]:
    """Return the pointers and the details of the errors in a body."""
    response = await relay.http.post(path, json=body)
    assert response.status_code == 422, response.text
    return [(error["pointer"], error["detail"]) for error in response.json()["errors"]]


@pytest.mark.parametrize(
    ("wrong", "pointer", "detail"),
    [
        ({"url": "ftp://chat.example/"}, "/url", "must begin with https://"),
        ({"url": "http://192.0.2.1/"}, "/url", "leads to an address that is not public"),
        ({"token": "short"}, "/token", "must have at least 8 characters"),
        ({"chat": 1}, "/chat", "is not a field here"),
        ({"events": ["task.over"]}, "/events/0", "must be 'task.completed'"),
        ({"type": "chatter"}, "", "must have a 'type' of 'webhook' or 'slack' or 'chat'"),
    ],
)
async def test_an_error_points_at_the_field(
    relay: Serve, server: parties.Receiver, wrong: dict[str, Any], pointer: str, detail: str
) -> None:
    target = room(server, "refused") | wrong
    watch = {"task_id": "refused", "targets": [room(server, "good"), target]}
    for path, body, above in (("/v1/watches", watch, "/targets/1"), ("/v1/targets/test", target, "")):
        ((where, what),) = await refusals(relay, path, body)
        assert where == above + pointer
        assert what.startswith(detail)


async def test_the_document_has_it(relay: Serve) -> None:
    document = (await relay.http.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]
    reference = "#/components/schemas/ChatTarget"
    test = document["paths"]["/v1/targets/test"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    for union in (schemas["WatchIn"]["properties"]["targets"]["items"], test):
        assert {"$ref": reference} in union["oneOf"]
        assert union["discriminator"]["mapping"]["chat"] == reference
    assert schemas["ChatTarget"]["properties"]["token"]["minLength"] == 8
    assert "chat" in schemas["TargetOut"]["properties"]["type"]["enum"]
    assert schemas["TargetOut"]["properties"]["token"] == {"title": "Token", "type": "string"}
    assert "A room of a chat server." in (await relay.http.get("/docs")).text


async def test_a_test_event(relay: Serve, server: parties.Receiver) -> None:
    response = await relay.http.post("/v1/targets/test", json=room(server, "tested"))
    assert response.status_code == 200, response.text
    assert response.json()["delivered"] is True
    (post,) = server.to("/rooms/tested")
    assert post.event == {"text": "test: relay.test"}
    assert post.headers["authorization"] == f"Bearer {TOKEN}"


async def test_a_delivery_and_what_is_shown(relay: Serve, server: parties.Receiver, upstream: parties.Upstream) -> None:
    target = room(server, "told")
    response = await relay.http.post("/v1/watches", json={"task_id": "told", "targets": [target]})
    assert response.status_code == 201, response.text
    watch = response.json()
    masked = {"type": "chat", "url": target["url"], "token": "********", "delivery": "waiting"}
    assert masked.items() <= watch["targets"][0].items()

    upstream.scripts["told"] = parties.done()
    (post,) = await server.wait_for(1, "/rooms/told")
    assert post.event == {"text": "told: task.completed"}

    async def delivered() -> bool:
        again = (await relay.http.get(f"/v1/watches/{watch['id']}")).json()
        return again["targets"][0]["delivery"] == "delivered"

    await until(delivered)
    (delivery,) = (await relay.http.get("/v1/deliveries", params={"watch_id": watch["id"]})).json()["data"]
    assert post.headers["idempotency-key"] == delivery["webhook_id"]
    page = await relay.http.get(f"/watches/{watch['id']}")
    assert page.status_code == 200
    assert target["url"] in page.text
    assert "chat · " in page.text
    assert TOKEN not in page.text
