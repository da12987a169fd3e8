"""A log-out ends the session everywhere, and nobody can lock the operator out."""

from __future__ import annotations

import contextlib

import httpx
import pytest
from structlog.testing import capture_logs

from relay.store import generations
from relay.web.dashboard import handlers, sessions
from relay.web.dashboard.sessions import KNOWN_FOR, Session, Sessions
from relay.wiring import now
from tests.support.deployment import Deployment, deployment, environment
from tests.support.parties import until
from tests.web.conftest import NewDatabase
from tests.web.dashboard.visitors import PASSWORD, send, token_of

pytestmark = pytest.mark.anyio


def browser(url: str, address: str = "127.0.0.1", **headers: str) -> httpx.AsyncClient:
    way = httpx.AsyncHTTPTransport(local_address=address, verify=False)
    return httpx.AsyncClient(base_url=url, transport=way, headers=headers)


async def test_a_log_out_ends_the_session_in_every_browser_and_process(
    new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "HEARTBEAT", 0.1)
    monkeypatch.setattr(handlers, "REST", 0.1)
    environ = environment(new_database(), RELAY_ADMIN_PASSWORD=PASSWORD)
    async with contextlib.AsyncExitStack() as stack:
        one, two = [await stack.enter_async_context(deployment(environ, working=False)) for _ in range(2)]
        mine, thiefs = [await stack.enter_async_context(browser(one.url)) for _ in range(2)]
        elsewhere = await stack.enter_async_context(browser(two.url))
        assert (await send(mine, "/login", password=PASSWORD)).status_code == 303
        for other in (thiefs, elsewhere):
            other.cookies.update(dict(mine.cookies))
            assert (await other.get("/")).status_code == 200
        live = await stack.enter_async_context(thiefs.stream("GET", "/live", timeout=30))
        left = await mine.post("/logout", data={"token": token_of(await mine.get("/"))})
        assert left.status_code == 303
        assert (await thiefs.get("/")).status_code == 303
        await until(lambda: is_out(elsewhere))
        async for _ in live.aiter_bytes():
            pass  # until it ends, though the process goes on
        assert (await send(mine, "/login", password=PASSWORD)).status_code == 303
        assert (await mine.get("/")).status_code == 200
        assert (await thiefs.get("/")).status_code == 303


async def is_out(client: httpx.AsyncClient) -> bool:
    return (await client.get("/")).status_code == 303


async def test_a_stranger_who_logs_out_ends_nobodys_session(locked: Deployment, operator: httpx.AsyncClient) -> None:
    before = await locked.relay.db.read(generations.current, generations.DASHBOARD)
    async with browser(locked.url) as stranger:
        left = await stranger.post("/logout", data={"token": token_of(await stranger.get("/login"))})
        assert left.status_code == 303
    assert await locked.relay.db.read(generations.current, generations.DASHBOARD) == before
    assert (await operator.get("/")).status_code == 200


def test_the_release_before_reads_the_same_cookie(locked: Deployment) -> None:
    """It splits the cookie at dots into three parts, and takes what stands before the signature for the nonce."""
    made = Sessions(locked.relay.settings, locked.relay.vault).new(now(), known=True, generation=7)
    assert "." not in made.nonce
    assert made.generation == 7
    assert Session("of-the-release-before", 0, known=True).generation is None


async def test_strangers_cannot_lock_out_a_browser_that_was_in_before(new_database: NewDatabase) -> None:
    environ = environment(new_database(), RELAY_ADMIN_PASSWORD=PASSWORD)
    async with deployment(environ, working=False) as relay, browser(relay.url) as operator:
        entered = await send(operator, "/login", password=PASSWORD)
        cookie = next(line for line in entered.headers.get_list("set-cookie") if "browser" in line)
        assert f"Max-Age={KNOWN_FOR};" in cookie
        assert "HttpOnly" in cookie
        await operator.post("/logout", data={"token": token_of(await operator.get("/"))})
        for _ in range(int(sessions.PER_ADDRESS[0]) + 2):
            async with browser(relay.url) as stranger:
                answer = await send(stranger, "/login", password="a-guess")
        assert answer.status_code == 429
        async with browser(relay.url) as forger:
            forger.cookies.set("relay_browser", "forged." + "0" * 64)
            assert (await send(forger, "/login", password=PASSWORD)).status_code == 429
        assert (await send(operator, "/login", password="a-slip")).status_code == 401
        assert (await send(operator, "/login", password=PASSWORD)).status_code == 303


async def test_a_browser_that_was_in_before_may_not_guess_faster(new_database: NewDatabase) -> None:
    environ = environment(new_database(), RELAY_ADMIN_PASSWORD=PASSWORD)
    async with deployment(environ, working=False) as relay, browser(relay.url) as thief:
        await send(thief, "/login", password=PASSWORD)
        thief.cookies.delete("relay_session")
        answers = [(await send(thief, "/login", password="a-guess")).status_code for _ in range(7)]
        assert answers[:5] == [401] * 5
        assert answers[-1] == 429
        async with browser(relay.url) as stranger:
            assert (await send(stranger, "/login", password=PASSWORD)).status_code == 303, "others are not slowed down"


async def test_the_log_names_who_guessed(new_database: NewDatabase) -> None:
    environ = environment(new_database(), RELAY_ADMIN_PASSWORD=PASSWORD, RELAY_TRUSTED_HOPS="1")
    proxied = {"X-Forwarded-For": "198.51.100.1, 203.0.113.9"}
    async with deployment(environ, working=False) as relay, browser(relay.url, **proxied) as stranger:
        with capture_logs() as lines:
            await send(stranger, "/login", password="a-guess")
    (line,) = [line for line in lines if line["event"] == "wrong password"]
    assert (line["log_level"], line["address"], line["known_browser"]) == ("warning", "203.0.113.9", False)


@pytest.mark.parametrize(("hops", "warnings"), [("0", 1), ("1", 0)])
async def test_a_proxy_of_which_nothing_is_configured_is_warned_of_once(
    new_database: NewDatabase, hops: str, warnings: int
) -> None:
    environ = environment(new_database(), RELAY_ADMIN_PASSWORD=PASSWORD, RELAY_TRUSTED_HOPS=hops)
    proxied = {"X-Forwarded-For": "203.0.113.9"}
    async with deployment(environ, working=False) as relay, browser(relay.url, **proxied) as visitor:
        with capture_logs() as lines:
            for _ in range(3):
                await visitor.get("/login")
    said = [line for line in lines if "RELAY_TRUSTED_HOPS is 0" in line["event"]]
    assert [line["log_level"] for line in said] == ["warning"] * warnings
