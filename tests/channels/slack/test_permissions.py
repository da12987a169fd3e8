"""Which app may post to which channel: judged at registration, what is registered stays."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from relay.channels.slack import channel
from relay.model.ids import new_id
from relay.security import app_keys
from relay.store import apps
from relay.wiring import now
from tests.support.deployment import Deployment, deployment, environment

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "LOOK_EVERY", 0.0)


@contextlib.asynccontextmanager
async def house(tmp_path: Path, channels: str) -> AsyncIterator[Deployment]:
    url = f"sqlite:///{tmp_path / 'relay.db'}"
    given = {"SLACK_BOT_TOKEN": "xoxb-never-used", "UNIFIED_VIDEO_BASE_URL": "http://127.0.0.1:9"}
    if channels:
        given["RELAY_SLACK_CHANNELS"] = channels
    async with deployment(environment(url, **given), working=False) as running:
        yield running


async def app(of: Deployment, name: str) -> dict[str, str]:
    """Make an app; return the headers with its key."""
    key, app_id = f"rly_{secrets.token_urlsafe(32)}", new_id("app")
    sealed = of.relay.vault.seal(orjson.dumps([]), app_id)
    await of.relay.db.run(apps.create, app_id, name, app_keys.hash_key(key), sealed, now())
    return {"Authorization": f"Bearer {key}"}


async def register(of: Deployment, headers: dict[str, str], *channels: str) -> httpx.Response:
    targets = [{"type": "slack", "channel": name} for name in channels]
    return await of.http.post("/v1/watches", json={"task_id": new_id("evt"), "targets": targets}, headers=headers)


GRANTS = "shop=#renders,#orders,crm=C0123,ops=*,*=lobby"


@pytest.mark.parametrize(
    ("name", "given", "permitted"),
    [
        ("shop", "#renders", True),
        ("shop", "renders", True),
        ("shop", "#orders", True),
        ("shop", "#lobby", True),
        ("shop", "C0123", False),
        ("shop", "#Renders", False),
        ("shop", "@renders", False),
        ("crm", "C0123", True),
        ("crm", "#renders", False),
        ("ops", "#renders", True),
        ("new", "#lobby", True),
        ("new", "#renders", False),
        ("*", "#orders", False),
    ],
)
async def test_an_app_posts_where_it_may(tmp_path: Path, name: str, given: str, permitted: bool) -> None:
    async with house(tmp_path, GRANTS) as running:
        headers = await app(running, name)
        answer = await register(running, headers, "#lobby", given)
        assert answer.status_code == (201 if permitted else 422), answer.text
        if not permitted:
            (error,) = answer.json()["errors"]
            assert error["pointer"] == "/targets/1/channel"
            assert "RELAY_SLACK_CHANNELS" in error["detail"]
            assert "orders" not in error["detail"], "nobody is told what others may"
            wanted: dict[str, Any] = {"type": "slack", "channel": given}
            tried = await running.http.post("/v1/targets/test", json=wanted, headers=headers)
            assert (tried.status_code, tried.json()["errors"][0]["pointer"]) == (422, "/channel")


async def test_by_default_one_app_may_do_all_and_several_nothing_and_what_is_registered_stays(tmp_path: Path) -> None:
    async with house(tmp_path, "") as running:
        default = dict(running.http.headers)
        first = await register(running, default, "#renders")
        assert first.status_code == 201
        shop = await app(running, "shop")
        for headers in (default, shop):
            refused = await register(running, headers, "#renders")
            assert refused.status_code == 422
            assert "several apps" in refused.json()["detail"]
        hook = {"type": "slack", "webhook_url": "https://hooks.slack.com/services/T0/B0/x"}
        body = {"task_id": "hook", "targets": [hook]}
        assert (await running.http.post("/v1/watches", json=body, headers=shop)).status_code == 201
        watch = await running.watch(first.json()["id"])
        assert [target["channel"] for target in watch["targets"]] == ["#renders"]
        (other,) = [one for one in await running.relay.db.read(apps.every) if one.name == "shop"]
        await running.relay.db.run(apps.change, other.id, disabled_at=now())
        assert (await register(running, default, "#renders")).status_code == 201, "a disabled app does not count"
