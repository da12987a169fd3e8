"""Clients that create tasks through relay without knowing it: an HTTP node of n8n, a form in a browser, curl."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Route

from relay.web.server import listen, serving
from tests.support.browser import CHROMIUM, browsing
from tests.support.deployment import API_KEY, SECRET, Deployment, deployment, environment
from tests.support.maker import Maker, making
from tests.support.parties import Receiver

pytestmark = pytest.mark.anyio

PATH = "/v1/video/create"

PAGE = """<!doctype html><title>A form</title>
<form><input name="prompt" value="a cat"><input name="image" type="file"><button>Create</button></form><output></output>
<script>
document.forms[0].onsubmit = async (event) => {
  event.preventDefault();
  const said = document.querySelector("output");
  const [url, key, hook] = decodeURIComponent(location.hash.slice(1)).split(" ");
  try {
    const answer = await fetch(url, {method: "POST", body: new FormData(event.target), headers: {
      "Authorization": "Bearer " + key, "Idempotency-Key": "form-1", "Relay-Webhook": hook, "X-Of-The-Upstream": "1"}});
    const shown = ["Relay-Watch", "Idempotent-Replayed"].map((name) => answer.headers.get(name));
    said.textContent = JSON.stringify([answer.status, (await answer.json()).id, ...shown]);
  } catch (error) {
    said.textContent = "refused";
  }
};
</script>"""


@dataclass
class Scene:
    """A relay that a page of `origin` may call."""

    relay: Deployment
    maker: Maker
    origin: str


@pytest.fixture
async def scene(database_url: str) -> AsyncIterator[Scene]:
    async with making() as maker:
        maker.found = lambda task_id: {
            "id": task_id, "status": "completed", "video_url": "https://c.example/v.mp4", "status_update_time": 1,
        }  # fmt: skip
        listener = listen("127.0.0.1", 0)
        origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
        page = Starlette(routes=[Route("/", lambda _: HTMLResponse(PAGE))])
        environ = environment(database_url, UNIFIED_VIDEO_BASE_URL=maker.url, RELAY_CORS_ORIGINS=origin)
        async with serving(page, listener, answering=1), deployment(environ) as relay:
            yield Scene(relay, maker, origin)


async def test_an_http_node_of_n8n(scene: Scene, receiver: Receiver) -> None:
    """As its version 4 sends it, by axios: the URL of the Wait node is a parameter, since it is made for each run."""
    resume = f"{receiver.url}/webhook-waiting/231?signature=a%2Fb"
    headers = {
        "accept": (
            "application/json,text/html,application/xhtml+xml,application/xml,text/*;q=0.9, image/*;q=0.8, */*;q=0.7"
        ),
        "authorization": f"Bearer {API_KEY}",
        "user-agent": "axios/1.12.0",
        "accept-encoding": "gzip, compress, deflate, br",
        "content-type": "application/json",
    }
    async with httpx.AsyncClient(verify=False) as node:
        node.headers.clear()
        answer = await node.post(
            scene.relay.url + PATH,
            params={"relay_webhook": resume},
            content='{"model":"sora-2","prompt":"ein Kätzchen"}'.encode(),
            headers=headers,
        )
    assert (answer.status_code, answer.json()["id"]) == (200, "task_1")
    (made,) = scene.maker.made
    assert (made.target, json.loads(made.body)["prompt"]) == (PATH, "ein Kätzchen")
    assert "br" not in made.header("accept-encoding")[0]
    (target,) = (await scene.relay.watch(answer.headers["relay-watch"]))["targets"]
    assert target["url"] == resume
    (post,) = await receiver.wait_for(1, "/webhook-waiting/231")
    assert (post.event["type"], post.event["data"]["task_id"]) == ("task.completed", "task_1")
    receiver.verify(SECRET)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")
async def test_a_form_of_a_page_of_another_origin(scene: Scene, receiver: Receiver) -> None:
    image = {"name": "a.png", "mimeType": "image/png", "buffer": b"\x89PNG"}
    where = f"{scene.relay.url}/v1/videos {API_KEY} {receiver.url}/hook"
    async with browsing() as page:
        await page.goto(f"{scene.origin}/#{where}")
        await page.set_input_files("input[name=image]", image)
        for replayed in (None, "true"):
            await page.evaluate("document.querySelector('output').textContent = ''")
            await page.get_by_role("button", name="Create").click()
            await page.wait_for_function("document.querySelector('output').textContent !== ''")
            status, task_id, watch_id, again = json.loads(await page.inner_text("output"))
            assert (status, task_id, again) == (200, "task_1", replayed)
            assert (await scene.relay.watch(watch_id))["task_id"] == "task_1"
    (made,) = scene.maker.made
    assert b"\x89PNG" in made.body
    assert made.header("content-type")[0].startswith("multipart/form-data; boundary=")
    assert made.header("x-of-the-upstream") == ["1"]
    (post,) = await receiver.wait_for(1, "/hook")
    assert post.event["data"]["task_id"] == "task_1"


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")
async def test_a_form_of_a_page_that_is_not_listed_sends_nothing(scene: Scene, receiver: Receiver) -> None:
    where = f"{scene.relay.url}/v1/videos {API_KEY} {receiver.url}/hook"
    async with browsing() as page:
        await page.goto(f"{scene.origin.replace('127.0.0.1', 'localhost')}/#{where}")
        await page.get_by_role("button", name="Create").click()
        await page.wait_for_function("document.querySelector('output').textContent !== ''")
        assert await page.inner_text("output") == "refused"
    assert scene.maker.made == []


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
async def test_curl_with_a_body_for_which_it_asks_first(scene: Scene) -> None:
    """From 1 MiB on, curl waits for `100 Continue`."""
    key = f"Authorization: Bearer {API_KEY}"
    curl = await asyncio.create_subprocess_exec(
        *("curl", "-sS", "-i", scene.relay.url + PATH, "-H", key, "--data-binary", "@-"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await curl.communicate(b"x" * 3_000_000)
    head, _, body = printed.rpartition(b"\r\n\r\n")
    assert b"HTTP/1.1 200" in head
    assert json.loads(body)["id"] == "task_1"
    assert (len(scene.maker.made[0].body), scene.maker.made[0].header("expect")) == (3_000_000, [])
