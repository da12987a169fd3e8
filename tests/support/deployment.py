"""A relay of this process, with its API on a real port: `async with deployment(...) as relay`."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from relay.app import ANSWERING, Relay
from relay.security import signing
from relay.settings.sources import load
from relay.web import site
from relay.web.server import listen, serving

API_KEY = "rly_test-key-of-the-default-app"
SECRET = signing.new_secret()


@dataclass
class Deployment:
    """A running relay and a client of its API with the default app's key."""

    relay: Relay
    url: str
    http: httpx.AsyncClient

    async def register(self, task_id: str, *targets: dict[str, Any] | str, **fields: Any) -> dict[str, Any]:
        """Registers a task; a target that is a string is a webhook's URL."""
        given = [{"type": "webhook", "url": t} if isinstance(t, str) else t for t in targets]
        response = await self.http.post("/v1/watches", json={"task_id": task_id, "targets": given, **fields})
        assert response.status_code in (200, 201), response.text
        return response.json()

    async def watch(self, watch_id: str) -> dict[str, Any]:
        response = await self.http.get(f"/v1/watches/{watch_id}")
        assert response.status_code == 200, response.text
        return response.json()

    async def deliveries(self, **query: Any) -> list[dict[str, Any]]:
        response = await self.http.get("/v1/deliveries", params=query)
        assert response.status_code == 200, response.text
        return response.json()["data"]


def environment(database_url: str, **more: str) -> dict[str, str]:
    """The variables of a test's deployment: loopback allowed, fast polling, fast retries."""
    return {
        "DATABASE_URL": database_url,
        "RELAY_SECRET_KEY": "a-secret-key-for-the-tests",
        "RELAY_API_KEY": API_KEY,
        "RELAY_SIGNING_SECRET": SECRET,
        "RELAY_ALLOWED_NETWORKS": "127.0.0.0/8",
        "RELAY_POLL_INTERVAL": "0.1",
        "RELAY_RETRY_SCHEDULE": "0s,0.1s,0.1s,0.1s",
        "RELAY_SANDBOX": "1",
        "UNIFIED_VIDEO_API_KEY": "sk-upstream",
        **more,
    }


@contextlib.asynccontextmanager
async def deployment(environ: Mapping[str, str], *, working: bool = True) -> AsyncIterator[Deployment]:
    """Runs relay as `relay serve` does (without `working`: as `relay web` does)."""
    relay = await asyncio.to_thread(Relay, load(environ), environ)
    listener = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(relay.aclose)
        await stack.enter_async_context(relay.listening())
        if working:
            await stack.enter_async_context(relay.working())
        answering = math.ceil(min(ANSWERING, relay.settings.grace))
        await stack.enter_async_context(serving(site.build(relay.context), listener, answering))
        # Unverified, because there is no TLS, and to load the authorities takes longer than most requests.
        head = {"Authorization": f"Bearer {API_KEY}"}
        client = httpx.AsyncClient(base_url=url, headers=head, timeout=30, verify=False)
        yield Deployment(relay, url, await stack.enter_async_context(client))
