"""The test inbox of a deployment: it verifies what arrives, says what it found, and takes nothing from strangers."""

from __future__ import annotations

import time

import httpx
import pytest

from relay.security import signing
from relay.security.path_tokens import INBOX, PathTokens
from relay.web.bodies import MAX_BODY
from tests.support import parties
from tests.web.callers import Caller
from tests.web.dashboard.visitors import send

pytestmark = pytest.mark.anyio

BODY = b'{"type": "task.completed"}'


def inbox(caller: Caller) -> str:
    """The path of the inbox of the caller's app."""
    url = PathTokens(INBOX, caller.relay.vault, "https://relay.example").url(caller.app_id)
    assert url
    return url.removeprefix("https://relay.example")


def signed(secret: str, body: bytes = BODY, age: int = 0) -> dict[str, str]:
    at = int(time.time()) - age
    return {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(at),
        "webhook-signature": signing.sign([secret], "evt_1", at, body),
    }


async def test_an_inbox_takes_what_its_app_has_signed_and_nothing_else(api: Caller, stranger: Caller) -> None:
    async with httpx.AsyncClient(base_url=api.url, verify=False) as sender:

        async def post(path: str, headers: dict[str, str], body: bytes = BODY) -> tuple[int, str]:
            answer = await sender.post(path, content=body, headers=headers)
            return answer.status_code, answer.text

        good = signed(api.secret)
        assert await post(inbox(api), good) == (200, "evt_1 arrived, 26 bytes, and its signature verifies.\n")
        for wrong, why in (
            (signed(stranger.secret), "no signature in webhook-signature matches"),
            (signed(api.secret, b"{}"), "no signature in webhook-signature matches"),
            (signed(api.secret, age=1000), "webhook-timestamp differs"),
            ({}, "is missing"),
        ):
            status, text = await post(inbox(api), wrong)
            assert status == 401
            assert why in text
        assert (await post(inbox(api), good, bytes(MAX_BODY + 1)))[0] == 413
        forged = f"{INBOX}{api.app_id}.{inbox(stranger).rpartition('.')[2]}"
        for path in (forged, f"{INBOX}{api.app_id}", f"{INBOX}x", f"{INBOX}%00.%ff"):
            assert (await post(path, good))[0] == 404
        assert (await sender.get(inbox(api))).status_code == 405, "there is nothing to read"


async def test_a_task_of_the_sandbox_is_told_to_the_test_inbox(relay: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    context = relay.relay.context
    async with httpx.AsyncClient(base_url=relay.url, verify=False, timeout=20) as here:
        assert "RELAY_BASE_URL" in (await here.get("/try")).text
        monkeypatch.setattr(context, "inbox_tokens", PathTokens(INBOX, context.vault, relay.url))
        assert "Leave the address empty" in (await here.get("/try")).text
        made = await send(here, "/try", task="complete-in-5s", app=f"app {relay.app_id}", url="")
        assert made.status_code == 303, made.text
        page = made.headers["location"]

        async def arrived() -> bool:
            return "its signature verifies" in (await here.get(page)).text

        await parties.until(arrived)
