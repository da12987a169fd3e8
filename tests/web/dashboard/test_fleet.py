"""The pages of apps and providers, and a task of the sandbox by a button."""

from __future__ import annotations

import re

import httpx
import pytest

from relay.store import apps
from tests.support import parties
from tests.support.deployment import API_KEY, SECRET
from tests.web.callers import Caller
from tests.web.dashboard.visitors import send, token_of

pytestmark = pytest.mark.anyio


async def fresh(here: httpx.AsyncClient, made: httpx.Response) -> str:
    """The key or secret that the page after a form shows, and shows this once."""
    assert (made.status_code, made.headers["location"]) == (303, "/apps"), made.text
    cookie = made.headers["set-cookie"]
    assert "httponly" in cookie.lower()
    page = await here.get("/apps")
    again = await here.get("/apps")
    assert 'id="fresh"' not in again.text, "a reload shows nothing, and makes nothing"
    found = re.search(r'id="fresh"[^>]*>([^<]*)</pre>', page.text)
    assert found, page.text
    return found[1]


async def test_apps_are_listed_rotated_and_disabled(api: Caller, here: httpx.AsyncClient, name: str) -> None:
    await api.register(name, "https://app.example/hook")
    app = f"app {api.app_id}"
    page = await here.get("/apps")
    row = re.search(rf'<li id="app-{api.app_id}".*?</li>', page.text, re.DOTALL)
    assert row
    assert "1 in flight" in row[0]
    assert "last used" in row[0]
    assert api.key not in page.text
    assert SECRET not in page.text
    assert API_KEY not in page.text

    asks = await send(here, "/apps", do="key", app=app)
    assert "Give &#39;app" in asks.text
    assert (await api.http.get("/v1/watches")).status_code == 200, "asked first"
    made = await send(here, "/apps", do="key", app=app, sure="1")
    assert "rly_" not in f"{made.text}{made.headers}", "it is sealed on its way"
    new = await fresh(here, made)
    headers = {"Authorization": f"Bearer {new}"}
    assert (await here.get("/v1/watches", headers=headers)).status_code == 200
    assert (await fresh(here, await send(here, "/apps", do="secret", app=app))).startswith("whsec_")

    await send(here, "/apps", do="disable", app=app)
    assert not (await api.relay.db.read(apps.by_name, app)).disabled_at
    await send(here, "/apps", do="disable", app=app, sure="1")
    assert "cannot call relay any more" in (await here.get("/apps")).text
    assert (await api.relay.db.read(apps.by_name, app)).disabled_at
    again = {"token": token_of(asks), "do": "key", "app": app, "sure": "1"}
    assert (await here.post("/apps", data=again)).status_code == 409


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"do": "key", "app": "default", "sure": "1"}, 409),
        ({"do": "secret", "app": "default"}, 409),
        ({"do": "disable", "app": "default", "sure": "1"}, 409),
        ({"do": "secret", "app": "\0nobody"}, 404),
        ({"do": "disable", "app": "<script>" * 500, "sure": "1"}, 404),
        ({"do": "?", "app": "default"}, 422),
        ({}, 422),
    ],
)
async def test_what_cannot_be_is_refused(here: httpx.AsyncClient, fields: dict[str, str], status: int) -> None:
    page = await send(here, "/apps", **fields)
    assert page.status_code == status
    assert "<script>" not in page.text


async def test_providers_are_listed_with_what_they_lack(here: httpx.AsyncClient) -> None:
    page = (await here.get("/providers")).text
    ready = re.search(r'<li id="p-unified-video".*?</li>', page, re.DOTALL)
    assert ready
    assert ">ready<" in ready[0]
    keyless = re.search(r'<li id="p-runway".*?</li>', page, re.DOTALL)
    assert keyless
    assert ">no key<" in keyless[0]
    assert "RUNWAY_API_KEY" in keyless[0]
    chosen = re.search(r'<li id="p-azure-openai-videos".*?</li>', page, re.DOTALL)
    assert chosen
    assert ">address of each watch<" in chosen[0]
    assert "*.openai.azure.com" in chosen[0]
    assert "set AZURE_OPENAI_VIDEOS_BASE_URL" in chosen[0]
    front = (await here.get("/")).text
    assert '<li id="p-unified-video"' in front
    for name in ("runway", "azure-openai-videos"):
        assert f'<li id="p-{name}"' not in front, "what is neither ready nor asked is on its own page"


async def test_providers_say_how_their_tasks_ended(
    relay: Caller, upstream: parties.Upstream, receiver: parties.Receiver, name: str
) -> None:
    upstream.scripts[name] = [parties.says("processing"), parties.done()]
    watch = await relay.register(name, f"{receiver.url}/{name}", provider="unified-video")
    await parties.until(lambda: ended(relay, watch["id"]))
    async with httpx.AsyncClient(base_url=relay.url, verify=False) as here:
        page = (await here.get("/providers?window=1h")).text
    row = re.search(r'<li id="p-unified-video".*?</li>', page, re.DOTALL)
    assert row
    assert re.search(r"in the last hour: [\d,]+ completed, [\d,]+ failed, [\d,]+ ended otherwise; half of them", row[0])
    assert "half of the ends noticed within" in row[0]


async def ended(relay: Caller, watch_id: str) -> bool:
    return (await relay.watch(watch_id))["state"] == "completed"


async def test_a_task_of_the_sandbox_is_tried_by_a_button(relay: Caller, receiver: parties.Receiver, name: str) -> None:
    async with httpx.AsyncClient(base_url=relay.url, verify=False, timeout=20) as here:
        app = f"app {relay.app_id}"
        given = {"task": "complete-in-5s", "app": app, "url": f"{receiver.url}/{name}"}
        made = await send(here, "/try", **given)
        assert made.status_code == 303
        watch = await relay.watch(made.headers["location"].rpartition("/")[2])
        assert watch["provider"] == "sandbox"
        await receiver.wait_for(1, f"/{name}")
        for wrong in ({"task": "?"}, {"url": "http://192.0.2.1/"}, {"url": "\0"}, {"url": ""}, {"app": "nobody"}):
            refused = await send(here, "/try", **{**given, **wrong})
            assert 'role="alert"' in refused.text, wrong
