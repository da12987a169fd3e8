"""Who gets into the dashboard, and what a forged form comes to."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from structlog.testing import capture_logs

from relay.security.vault import Vault
from relay.web import site
from relay.web.dashboard import handlers, rendering
from relay.web.dashboard.sessions import LIFETIME, Session, Sessions
from relay.wiring import now
from tests.support.deployment import Deployment, deployment, environment
from tests.support.rows import NOW
from tests.web.callers import Caller
from tests.web.conftest import NewDatabase
from tests.web.dashboard.visitors import PAGES, PASSWORD, send, token_of

pytestmark = pytest.mark.anyio

# ----------------------------------------------------------------------------------------------------- with a password


@pytest.mark.parametrize("path", [*PAGES, "/live"])
async def test_a_stranger_is_sent_to_the_login(visitor: httpx.AsyncClient, path: str) -> None:
    response = await visitor.get(path)
    if path == "/live":
        assert response.status_code == 401
    else:
        assert response.status_code == 303
        assert response.headers["location"].startswith("/login")
    by_htmx = await visitor.get(path, headers={"HX-Request": "true"})
    assert by_htmx.status_code == 401
    assert by_htmx.headers["hx-redirect"].startswith("/login")
    assert not by_htmx.content


async def test_log_in_and_out(visitor: httpx.AsyncClient) -> None:
    wrong = await send(visitor, "/login", password="not-the-password")
    assert wrong.status_code == 401
    assert "This is not the password" in wrong.text
    assert (await visitor.get("/")).status_code == 303

    right = await send(visitor, "/login", password=PASSWORD)
    assert (right.status_code, right.headers["location"]) == (303, "/")
    cookie = right.headers["set-cookie"]
    assert re.search(r"; HttpOnly; .*Path=/; SameSite=lax", cookie)
    assert f"Max-Age={LIFETIME};" in cookie
    assert (await visitor.get("/")).status_code == 200

    left = await visitor.post("/logout", data={"token": token_of(await visitor.get("/"))})
    assert (left.status_code, left.headers["location"]) == (303, "/login")
    assert (await visitor.get("/")).status_code == 303


@pytest.mark.parametrize(
    ("to", "led"),
    [
        ("/watches/wch_1", "/watches/wch_1"),
        ("/search?q=a%20b", "/search?q=a%20b"),
        ("/?window=7d", "/?window=7d"),
        ("/?window=7d\\", "/"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example/", "/"),
        ("/watches/../\n", "/"),
    ],
)
async def test_the_login_leads_back_and_never_elsewhere(visitor: httpx.AsyncClient, to: str, led: str) -> None:
    token = token_of(await visitor.get("/login"))
    response = await visitor.post("/login", params={"to": to}, data={"token": token, "password": PASSWORD})
    assert (response.status_code, response.headers["location"]) == (303, led)


async def test_a_session_that_was_tampered_with_or_made_elsewhere_or_is_over_is_none(
    locked: Deployment, visitor: httpx.AsyncClient
) -> None:
    settings, vault = locked.relay.settings, locked.relay.vault
    sessions = Sessions(settings, vault)
    other = Sessions(settings.model_copy(update={"admin_password": "another-password"}), vault)
    good = cookie_of(sessions, Session("nonce", now() + 60_000, known=True))
    bad = {
        "over": cookie_of(sessions, Session("nonce", now() - 1, known=True)),
        "of another password": cookie_of(other, Session("nonce", now() + 60_000, known=True)),
        "a stranger's": cookie_of(sessions, Session("nonce", now() + 60_000, known=False)),
        "promoted": cookie_of(sessions, Session("nonce", now() + 60_000, known=False)).replace("stranger", "known"),
        "prolonged": re.sub(r"\.\d+\.", f".{now() + 999_999}.", good),
        "a form's token": f"form nonce.{sessions.token(Session('nonce', 0, known=False))}",
        "unsigned": good.rpartition(".")[0],
        "empty": "",
        "rubbish": "a.b.c.d.e",
    }
    for what, value in bad.items():
        response = await visitor.get("/", headers={"Cookie": f"{sessions.cookie}={value}"})
        assert response.status_code == 303, what
    assert (await visitor.get("/", headers={"Cookie": f"{sessions.cookie}={good}"})).status_code == 200


async def test_a_session_outlives_the_rotation_of_the_key(locked: Deployment) -> None:
    settings = locked.relay.settings
    old, new = (
        Sessions(settings, Vault(["old-key-old-key-old"])),
        Sessions(settings, Vault(["new-key-new-key-new", "old-key-old-key-old"])),
    )
    session = old.new(now(), known=True)
    cookie = f"{old.cookie}={cookie_of(old, session)}"
    request = Request({"type": "http", "headers": [(b"cookie", cookie.encode())]})
    assert new.read(request, now()) == session
    new.check(request, session, old.token(session))
    assert Sessions(settings, Vault(["new-key-new-key-new"])).read(request, now()) is None


def cookie_of(sessions: Sessions, session: Session) -> str:
    response = rendering.page("")
    sessions.give(response, session)
    return response.headers["set-cookie"].partition("=")[2].partition(";")[0]


async def test_what_a_form_has_made_is_for_the_next_page_of_its_session_and_for_a_minute(locked: Deployment) -> None:
    sessions = Sessions(locked.relay.settings, locked.relay.vault)
    ours, other = (Session(nonce, NOW + 60_000, known=True) for nonce in ("ours", "other"))
    response = rendering.page("")
    sessions.hand_on(response, ours, NOW, "a key", "rly_secret")
    cookie = response.headers["set-cookie"].partition(";")[0]
    assert "secret" not in cookie

    def handed_on(cookie: str, session: Session = ours, at: int = NOW) -> list[str]:
        headers = [(b"cookie", cookie.encode())]
        return sessions.handed_on(Request({"type": "http", "headers": headers}), session, at)

    assert handed_on(cookie) == ["a key", "rly_secret"]
    assert handed_on(cookie, other) == []
    assert handed_on(cookie, at=NOW + 60_000) == []
    name = sessions.made_cookie
    for wrong in (cookie[:-8] + "AAAAAAA=", f"{name}=", f"{name}=é", f"{name}=AA", "other=1"):
        assert handed_on(wrong) == [], wrong
    sessions.forget(response)
    assert f'{name}="";' in response.headers.getlist("set-cookie")[-1]


@pytest.mark.parametrize("change", [{"base_url": "https://relay.example"}, {"deployed": True}], ids=str)
async def test_over_https_the_cookie_is_for_https_and_this_host_only(
    locked: Deployment, change: dict[str, Any]
) -> None:
    sessions = Sessions(locked.relay.settings.model_copy(update=change), locked.relay.vault)
    response = rendering.page("")
    sessions.give(response, sessions.new(now(), known=True))
    cookie = response.headers["set-cookie"]
    assert cookie.startswith("__Host-relay_session=known.")
    assert "; Path=/;" in cookie
    assert "; Secure" in cookie
    assert "domain=" not in cookie.lower()


async def test_guessing_is_slowed_down_per_address_and_for_all_together(new_database: NewDatabase) -> None:
    environ = environment(new_database(), RELAY_ADMIN_PASSWORD=PASSWORD)
    async with deployment(environ, working=False) as relay:

        async def guess(address: str, password: str = "not-the-password") -> httpx.Response:
            way = httpx.AsyncHTTPTransport(local_address=address, verify=False)
            async with httpx.AsyncClient(base_url=relay.url, transport=way) as client:
                return await send(client, "/login", password=password)

        assert [(await guess("127.0.0.2")).status_code for _ in range(6)] == [401] * 5 + [429]
        refused = await guess("127.0.0.2", PASSWORD)
        assert refused.status_code == 429, "the right one is not heard either"
        assert 1 <= int(refused.headers["retry-after"]) <= 10
        assert (await guess("127.0.0.3", PASSWORD)).status_code == 303, "another address is"
        answers = [(await guess(f"127.0.1.{n}")).status_code for n in range(60)]
        assert set(answers) == {401, 429}
        assert answers.index(429) >= 20, "all together have more patience"


# --------------------------------------------------------------------------------------------------------------- forms

POSTS = [path.replace("{id}", "wch_any") for path, methods, _ in handlers.ROUTES if "POST" in methods]


@pytest.mark.parametrize("path", POSTS)
async def test_every_form_refuses_a_forged_request(locked: Deployment, operator: httpx.AsyncClient, path: str) -> None:
    token = token_of(await operator.get("/"))
    stranger = Sessions(locked.relay.settings, locked.relay.vault)
    others = stranger.token(stranger.new(now(), known=True))
    fields = {"password": PASSWORD, "do": "stop"}
    for what, answer in {
        "without a token": await operator.post(path, data=fields),
        "with another session's": await operator.post(path, data={**fields, "token": others}),
        "with an empty one": await operator.post(path, data={**fields, "token": ""}),
        "in the address": await operator.post(path, params={"token": token}, data=fields),
        "from another origin": await operator.post(
            path, data={**fields, "token": token}, headers={"Origin": "https://evil.example"}
        ),
        "from a hidden origin": await operator.post(path, data={**fields, "token": token}, headers={"Origin": "null"}),
        "from no origin at all": await operator.post(
            path, data={**fields, "token": token}, headers={"Origin": "http://["}
        ),
        "from another site": await operator.post(
            path, data={**fields, "token": token}, headers={"Sec-Fetch-Site": "cross-site"}
        ),
        "from a sibling": await operator.post(
            path, data={**fields, "token": token}, headers={"Sec-Fetch-Site": "same-site"}
        ),
    }.items():
        assert answer.status_code == 403, what
    honest = {"Origin": locked.url, "Sec-Fetch-Site": "same-origin"}
    answer = await operator.post(path, data={**fields, "token": token}, headers=honest)
    assert answer.status_code in (200, 303, 404, 422), answer.text


async def test_a_form_too_large_is_refused(operator: httpx.AsyncClient) -> None:
    assert (await operator.post("/login", content=b"password=" + b"x" * 20_000)).status_code == 413


# -------------------------------------------------------------------------------------------------- without a password


async def test_it_is_open_to_a_browser_of_this_machine_and_says_so(here: httpx.AsyncClient) -> None:
    page = await here.get("/")
    assert page.status_code == 200
    assert "No password is set" in page.text
    assert "Log out" not in page.text
    for host in ("localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000"):
        assert (await here.get("/", headers={"Host": host})).status_code == 200, host
    assert (await here.get("/login")).headers["location"] == "/"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "localhost.evil.example"},
        {"Host": "127.0.0.1.evil.example:80"},
        {"Host": "10.0.0.1"},
        {"Host": "["},
        {"X-Forwarded-For": "203.0.113.9"},
        {"Forwarded": "for=203.0.113.9"},
        {"Via": "1.1 proxy"},
    ],
    ids=str,
)
async def test_neither_a_proxy_nor_a_rebound_name_opens_it(here: httpx.AsyncClient, headers: dict[str, str]) -> None:
    for path in (*PAGES, "/live"):
        response = await here.get(path, headers=headers)
        assert response.status_code == 403, path
        assert "RELAY_ADMIN_PASSWORD" in response.text
    assert "Set a password" in (await here.get("/", headers=headers)).text


async def test_a_proxy_that_nobody_has_told_relay_about_is_warned_of_once(api: Caller) -> None:
    way = httpx.ASGITransport(site.build(api.relay.context), client=("192.0.2.1", 50_000))
    async with httpx.AsyncClient(transport=way, base_url="http://localhost") as client:
        with capture_logs() as logs:
            await client.get("/healthz")
            assert not logs
            for _ in range(3):
                await client.get("/healthz", headers={"X-Forwarded-For": "198.51.100.7"})
    assert [("RELAY_TRUSTED_HOPS" in line["event"], line["client"]) for line in logs] == [(True, "192.0.2.1")]


@pytest.mark.parametrize(
    ("address", "status"), [("203.0.113.9", 403), ("10.0.0.7", 403), ("::1", 200), ("127.9.9.9", 200)]
)
async def test_only_this_machines_addresses_are_let_in(api: Caller, address: str, status: int) -> None:
    way = httpx.ASGITransport(site.build(api.relay.context), client=(address, 50_000))
    async with httpx.AsyncClient(transport=way, base_url="http://localhost") as client:
        assert (await client.get("/")).status_code == status


@pytest.mark.parametrize("change", [{"deployed": True}, {"base_url": "https://relay.example"}], ids=str)
async def test_a_deployment_is_closed_without_a_password(
    api: Caller, here: httpx.AsyncClient, change: dict[str, Any]
) -> None:
    """A proxy may send on what it gets as if it came from here: nginx does, left to itself."""
    sessions = Sessions(api.relay.settings.model_copy(update=change), api.relay.vault)
    original = api.relay.context.settings
    api.relay.context.settings = original.model_copy(update=change)
    try:
        way = httpx.ASGITransport(site.build(api.relay.context), client=("127.0.0.1", 50_000))
        async with httpx.AsyncClient(transport=way, base_url="http://localhost") as client:
            assert (await client.get("/")).status_code == 403
    finally:
        api.relay.context.settings = original
    assert not sessions.wants_login
