"""The page of a delivery: what was sent, to the byte; it can be verified and sent by hand, and no secret is shown."""

from __future__ import annotations

import asyncio
import html
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from relay.security import signing
from tests.support import parties
from tests.web.callers import Caller
from tests.web.dashboard.visitors import send

pytestmark = pytest.mark.anyio


async def delivered(relay: Caller, receiver: parties.Receiver, upstream: parties.Upstream, name: str) -> Any:
    upstream.scripts[name] = parties.done()
    target = {"type": "webhook", "url": f"{receiver.url}/{name}?a=1", "headers": {"X-Token": "a-secret-of-the-app"}}
    watch = await relay.register(name, target, metadata={"quote": 'it\'s <b>"Éa"</b>'})
    await receiver.wait_for(1, f"/{name}")

    async def settled() -> Any:
        return next(iter(await relay.deliveries(watch_id=watch["id"], state="delivered")), None)

    return await parties.until(settled)


async def test_what_was_sent_is_shown_to_the_byte_and_no_secret(
    relay: Caller, upstream: parties.Upstream, receiver: parties.Receiver, name: str, tmp_path: Path
) -> None:
    delivery = await delivered(relay, receiver, upstream, name)
    (post,) = receiver.to(f"/{name}")
    async with httpx.AsyncClient(base_url=relay.url, verify=False, timeout=20) as here:
        page = await here.get(f"/deliveries/{delivery['id']}")
        assert page.status_code == 200
        text = html.unescape(page.text)
        assert f"{receiver.url}/{name}?a=1" in text
        for header in ("webhook-id", "webhook-timestamp", "webhook-signature", "content-type", "user-agent"):
            assert f"<code>{post.headers[header]}</code>" in text, header
        assert post.body.decode() in text
        assert f"{delivery['webhook_id']}.{post.headers['webhook-timestamp']}." in text
        assert "a-secret-of-the-app" not in text
        assert relay.secret not in text
        file = await here.get(f"/deliveries/{delivery['id']}/body")
        assert file.content == post.body
        assert "attachment" in file.headers["content-disposition"]
        assert file.headers["x-content-type-options"] == "nosniff"

        (tmp_path / f"{delivery['webhook_id']}.json").write_bytes(file.content)
        programs = {id_: re.search(rf'<pre id="{id_}-text"[^>]*>(.*?)</pre>', page.text, re.S) for id_ in COPIED}
        for id_, (command, wanted) in COPIED.items():
            found = programs[id_]
            assert found
            if shutil.which(command[0]) is None:
                continue
            for secret, says in ((relay.secret, wanted[0]), (signing.new_secret(), wanted[1])):
                ran = await asyncio.to_thread(run, [*command, html.unescape(found[1])], tmp_path, secret)
                assert says in ran.stdout, (id_, ran)
        again = receiver.to(f"/{name}")[-1]
        assert again.body == post.body, "curl sent it, to the byte"
        signing.verify(relay.secret, again.headers, again.body, int(again.headers["webhook-timestamp"]))


def run(command: list[str], folder: Path, secret: str) -> subprocess.CompletedProcess[bytes]:
    environ = {**os.environ, "WEBHOOK_SECRET": secret}
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, check=True)


COPIED = {
    "python": ([sys.executable, "-c"], (b"it matches", b"it does not match")),
    "node": (["node", "-e"], (b"it matches", b"it does not match")),
    "curl": (["sh", "-c"], (b"", b"")),
}


async def test_a_delivery_is_sent_again_from_its_page(
    relay: Caller, upstream: parties.Upstream, receiver: parties.Receiver, name: str
) -> None:
    delivery = await delivered(relay, receiver, upstream, name)
    async with httpx.AsyncClient(base_url=relay.url, verify=False, timeout=20) as here:
        answer = await send(here, f"/deliveries/{delivery['id']}", do="retry")
        assert "again" in answer.text
        posts = await receiver.wait_for(2, f"/{name}")
        assert {post.webhook_id for post in posts} == {delivery["webhook_id"]}
        assert json.loads(posts[1].body) == json.loads(posts[0].body)
        for attempt, status in (("1", 200), ("99", 422), ("\0", 422), ("x" * 9000, 422), ("", 422)):
            page = await here.get(f"/deliveries/{delivery['id']}", params={"attempt": attempt})
            assert page.status_code == status, attempt[:9]
        for path in ("/deliveries/dlv_none", "/deliveries/dlv_none/body", "/deliveries/%00", "/deliveries/a%20b/body"):
            assert (await here.get(path)).status_code == 404


async def test_stop_asks_first(api: Caller, here: httpx.AsyncClient, name: str) -> None:
    watch = await api.register(name, "https://app.example/hook")
    asks = await send(here, f"/watches/{watch['id']}", do="stop")
    assert "Nobody will be told" in asks.text
    assert (await api.watch(watch["id"]))["state"] == "watching"
    await send(here, f"/watches/{watch['id']}", do="stop", sure="1")
    assert (await api.watch(watch["id"]))["state"] == "cancelled"


async def test_a_missing_page_is_a_page_for_browsers_only(here: httpx.AsyncClient) -> None:
    page = await here.get("/nothing<b>", headers={"Accept": "text/html,*/*"})
    assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert "there is nothing at" in page.text
    assert "<b>" not in page.text
    for path, accept in (("/nothing", "*/*"), ("/v1/nothing", "text/html")):
        problem = await here.get(path, headers={"Accept": accept})
        assert problem.headers["content-type"] == "application/problem+json"
