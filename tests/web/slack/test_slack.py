"""What people do in Slack: signed or refused, allowed or told so, answered at once and done afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import httpx
import orjson
import psycopg
import pytest

from relay.model.ids import new_id
from relay.security import app_keys
from relay.simulators.slack import RESPONSE_URL, Fault, SimulatedSlack
from relay.simulators.slack.people import Ack, signature_headers
from relay.store import Database, apps
from relay.web import site
from relay.wiring import now
from tests.support.deployment import Deployment, deployment, environment
from tests.support.parties import Answer, Receiver, Upstream, done, says, until
from tests.support.workspace import RENDERS, SAM, SIGNING_SECRET, TEAM, calls, roots, variables, workspace
from tests.web.conftest import NewDatabase

pytestmark = pytest.mark.anyio

COMMANDS, INTERACTIONS = "/slack/commands", "/slack/interactions"


@dataclass
class House:
    """A relay and the workspace that it listens to."""

    relay: Deployment
    slack: SimulatedSlack

    async def says(self, text: str, user: str = SAM) -> str:
        """What somebody reads who types `/relay` and this."""
        before = len(self.slack.ephemeral(RENDERS))
        ack = await self.slack.command(
            self.relay.url + COMMANDS, SIGNING_SECRET, self.slack.slash_command(RENDERS, "/relay", text, user)
        )
        assert (ack.acknowledged, ack.body) == (True, "")

        async def answered() -> bool:
            return len(self.slack.ephemeral(RENDERS)) > before

        await until(answered)
        answer = self.slack.ephemeral(RENDERS)[-1]
        assert answer["ephemeral_user"] == user
        return str(answer["text"])

    async def presses(self, action: str, ts: str, user: str = SAM, **changed: Any) -> None:
        """Somebody presses a button."""
        payload = self.slack.block_actions(RENDERS, ts, action, user) | changed
        ack = await self.slack.click(self.relay.url + INTERACTIONS, SIGNING_SECRET, payload)
        assert (ack.acknowledged, ack.body) == (True, "")

    async def whispered(self, wanted: str) -> None:
        """Waits until somebody alone is told this."""

        async def told() -> bool:
            return any(wanted in one["text"] for one in self.slack.ephemeral(RENDERS))

        await until(told)

    async def root(self, wanted: str) -> dict[str, Any]:
        """The message that says this, once one does."""

        async def found() -> dict[str, Any] | None:
            return next((root for root in roots(self.slack) if wanted in root["text"]), None)

        return dict(await until(found))


@pytest.fixture
async def house(new_database: NewDatabase, upstream: Upstream) -> AsyncIterator[House]:
    async with workspace(people={SAM: "Sam", "U0OTHER": "Olga", "U0GUEST": "Gil"}) as slack:
        teams = f"{TEAM}=default,{TEAM}/U0OTHER=shop,{TEAM}/U0GUEST=nobody"
        granted = {"RELAY_SLACK_TEAMS": teams, "RELAY_SLACK_CHANNELS": "default=#renders"}
        given = variables(slack, UNIFIED_VIDEO_BASE_URL=upstream.url, **granted)
        async with deployment(environment(new_database(), **given)) as relay:
            app_id = new_id("app")
            sealed = relay.relay.vault.seal(orjson.dumps([]), app_id)
            await relay.relay.db.run(apps.create, app_id, "shop", app_keys.hash_key("rly_shop"), sealed, now())
            yield House(relay, slack)


CHANNEL = {"type": "slack", "channel": "#renders"}


async def test_commands(house: House, upstream: Upstream, name: str) -> None:
    upstream.scripts[name] = says("processing", progress=0.5)
    assert "/relay watch ID" in await house.says("help")
    assert await house.says("") == await house.says("watch") == await house.says("status")
    assert "There is no `frobnicate` here" in await house.says("frobnicate x")
    assert "Nothing is dead" in await house.says("dead")
    assert "Nothing is being watched" in await house.says("list")
    assert "Watching." in await house.says(f"watch {name}")
    root = await house.root(name)
    assert "Video under way" in root["text"]
    assert "watched already" in await house.says(f"WATCH `{name}`")
    (watch,) = (await house.relay.http.get("/v1/watches")).json()["data"]
    assert [target["channel"] for target in watch["targets"]] == [RENDERS]
    for about in (name, watch["id"]):
        assert f"`{name}`  watching" in await house.says(f"status {about}")
    assert f"https://relay.example/watches/{watch['id']}|Open in relay" in await house.says("list")
    upstream.scripts[name] = done()
    await house.root("Video finished")
    assert "|Open the result>" in await house.says(f"status {name}")


async def test_a_person_who_may_act_needs_no_entry_for_the_channel(house: House, name: str) -> None:
    """RELAY_SLACK_CHANNELS has the channel for the app by its name only, and not by the id that Slack sends."""
    by_id = {"task_id": name, "targets": [{**CHANNEL, "channel": RENDERS}]}
    assert (await house.relay.http.post("/v1/watches", json=by_id)).status_code == 422
    assert "Watching." in await house.says(f"watch {name}")


async def test_an_id_is_found_however_it_is_pasted(house: House, name: str) -> None:
    watch = await house.relay.register(name, CHANNEL)
    for pasted in (f"“{name}”", f"*{name}*", f"`{name}`", f"\u200b{name}.", f"<http://{name}.example|{name}>"):
        assert f"`{name}`  watching" in await house.says(f"status\u00a0{pasted}")
        assert "watched already" in await house.says(f"watch {pasted}")
    assert watch["id"] in await house.says(f"status “{watch['id']}”.")
    assert "Watching." in await house.says(f"watch ‘{name}-2’.")
    registered = (await house.relay.http.get("/v1/watches")).json()["data"]
    assert [one["task_id"] for one in registered] == [f"{name}-2", name]


async def test_an_id_that_holds_such_characters_is_found_if_it_is_given_exactly(house: House, name: str) -> None:
    for task_id in (f"_{name}_", f"“{name}”", f"{name}."):
        await house.relay.register(task_id, CHANNEL)
        assert f"`{task_id}`  watching" in await house.says(f"status {task_id}")
        assert "watched already" in await house.says(f"watch {task_id}")
    assert f"`_{name}_`  watching" in await house.says(f"status `_{name}_`")


async def test_what_cannot_be_is_told_in_words(house: House) -> None:
    assert "No task `nope` is watched here" in await house.says("status nope")
    assert "there is no watch" in await house.says("status wch_01K6X15VHRFF09DKKQJRZWHM60")
    assert "at most 512" in await house.says("watch " + "x" * 600)
    assert "&lt;!channel&gt;" in await house.says("status wch_<!channel>x")


async def test_a_provider_may_stand_before_the_id(house: House, name: str) -> None:
    assert "Watching." in await house.says(f"watch sandbox sandbox:never#{name}")
    assert "Watching." in await house.says(f"watch {name} sandbox")
    found = (await house.relay.http.get("/v1/watches")).json()["data"]
    assert [(one["provider"], one["task_id"]) for one in found] == [
        ("unified-video", f"{name} sandbox"),
        ("sandbox", f"sandbox:never#{name}"),
    ]


async def test_a_providers_name_is_taken_as_people_write_it(house: House, name: str) -> None:
    assert "Watching." in await house.says(f"watch Sandbox sandbox:never#{name}")
    assert "which task of 'sandbox'? Its id comes after it" in await house.says("watch Sandbox")
    assert "no provider 'sandbx'; did you mean 'sandbox'?" in await house.says(f"watch sandbx sandbox:never#{name}-2")
    found = (await house.relay.http.get("/v1/watches")).json()["data"]
    assert [(one["provider"], one["task_id"]) for one in found] == [("sandbox", f"sandbox:never#{name}")]


async def test_what_is_wrong_is_told_without_pointers(house: House) -> None:
    for command in ("watch " + "x" * 600, "watch sandbox a\0b", "status a\0b", "status wch_\0"):
        assert "/task_id" not in await house.says(command)


async def test_what_is_dead_is_listed(house: House, upstream: Upstream, receiver: Receiver, name: str) -> None:
    receiver.scripts[f"/{name}"] = Answer(status=404)
    upstream.scripts[name] = done()
    watch = await house.relay.register(name, f"{receiver.url}/{name}")

    async def dead() -> bool:
        return bool(await house.relay.deliveries(state="dead"))

    await until(dead)
    listed = await house.says("dead")
    assert "task.completed" in listed
    assert f"`{name}`" in listed
    assert "the receiver answered 404" in listed
    assert watch["id"] in listed


@contextlib.contextmanager
def nobody_reads_apps(db: Database) -> Iterator[None]:
    """The table is locked on PostgreSQL, and gone on SQLite, where a read waits for nobody."""
    if db.embedded:
        db.run_here(lambda tx: tx.exec_driver_sql("ALTER TABLE apps RENAME TO away"))
        yield
    else:
        with psycopg.connect(db.url) as blocker:
            blocker.execute("LOCK TABLE apps IN ACCESS EXCLUSIVE MODE")
            yield


async def test_a_database_that_does_not_answer_is_told_in_words(house: House, name: str) -> None:
    await house.relay.register(name, CHANNEL)
    root = await house.root(name)
    with nobody_reads_apps(house.relay.relay.db):
        assert "database does not answer" in await house.says("list")
        house.slack.channel(RENDERS).messages[:] = roots(house.slack)
        await house.presses("relay_stop", root["ts"])
        await house.whispered("database does not answer")


async def test_stop_watching(house: House, name: str) -> None:
    watch = await house.relay.register(name, CHANNEL)
    root = await house.root(name)
    await house.presses("relay_open", root["ts"])
    await house.presses("relay_stop", root["ts"])
    stopped = await house.root("No longer watched")
    assert (stopped["ts"], f"Stopped by <@{SAM}>." in stopped["text"]) == (root["ts"], True)
    assert (await house.relay.watch(watch["id"]))["state"] == "cancelled"
    await house.presses("relay_open", root["ts"], actions=[{"action_id": "relay_stop", "value": watch["id"]}])
    await house.whispered(f"`{name}` has ended already")
    assert await house.relay.deliveries(watch_id=watch["id"]) == []


async def test_send_again(house: House, upstream: Upstream, receiver: Receiver, name: str) -> None:
    receiver.scripts[f"/{name}"] = [Answer(status=410), Answer(b"ok")]
    upstream.scripts[name] = done()
    await house.relay.register(name, CHANNEL, f"{receiver.url}/{name}")
    root = await house.root("could not be notified")
    await house.presses("relay_again", root["ts"])
    await receiver.wait_for(2, f"/{name}")
    shown = await house.root(f"Sent again by <@{SAM}>")
    assert shown["ts"] == root["ts"]

    async def settled() -> bool:
        return "could not be notified" not in roots(house.slack)[0]["text"]

    await until(settled)
    again = {"actions": [{"action_id": "relay_again", "value": (await house.relay.deliveries())[0]["watch_id"]}]}
    await house.presses("relay_open", root["ts"], **again)
    await house.whispered("Nothing is left to be sent again")


async def test_who_looks_at_a_watch_notices_at_once_that_its_end_is_sent_again(
    house: House, upstream: Upstream, receiver: Receiver, name: str
) -> None:
    """Before the receiver, which takes long, has answered."""
    receiver.scripts[f"/{name}"] = [Answer(status=410), Answer(after=10)]
    upstream.scripts[name] = done()
    watch = await house.relay.register(name, CHANNEL, f"{receiver.url}/{name}")
    root = await house.root("could not be notified")

    async def settled() -> bool:
        return {delivery["state"] for delivery in await house.relay.deliveries()} == {"delivered", "dead"}

    await until(settled)
    path = f"/v1/watches/{watch['id']}"
    tag = (await house.relay.http.get(path)).headers["etag"]
    waiting = asyncio.create_task(house.relay.http.get(path, headers={"Prefer": "wait=20", "If-None-Match": tag}))

    async def followed() -> bool:
        return house.relay.relay.feed.followers == 1

    await until(followed)
    await house.presses("relay_again", root["ts"])
    async with asyncio.timeout(5):
        changed = await waiting
    assert "pending" in [target["delivery"] for target in changed.json()["targets"]]


@pytest.mark.parametrize("user", ["U0OTHER", "U0GUEST"])
async def test_another_apps_watch_is_not_there(house: House, user: str, name: str) -> None:
    """U0OTHER acts for another app; the app that U0GUEST may act for does not exist."""
    watch = await house.relay.register(name, CHANNEL)
    root = await house.root(name)
    for action in ("relay_stop", "relay_again"):
        pressed = {"actions": [{"action_id": action, "value": watch["id"]}]}
        await house.presses("relay_stop", root["ts"], user, **pressed)
        refusal = "there is no watch" if user == "U0OTHER" else "may not act"
        await house.whispered(refusal)
        house.slack.channel(RENDERS).messages[:] = roots(house.slack)
    said = await house.says(f"status {watch['id']}", user)
    assert refusal in said
    assert name not in await house.says("list", user)
    assert (await house.relay.watch(watch["id"]))["state"] == "watching"


async def test_who_is_of_another_workspace_may_nothing(house: House, name: str) -> None:
    watch = await house.relay.register(name, CHANNEL)
    root = await house.root(name)
    payload = house.slack.block_actions(RENDERS, root["ts"], "relay_stop")
    payload["user"]["team_id"] = "T0ELSEWHERE"
    await house.slack.click(house.relay.url + INTERACTIONS, SIGNING_SECRET, payload)
    await house.whispered("RELAY_SLACK_TEAMS=T0ELSEWHERE=APP")
    command = house.slack.slash_command(RENDERS, "/relay", f"watch {name}2") | {"team_id": "T0ELSEWHERE"}
    await house.slack.command(house.relay.url + COMMANDS, SIGNING_SECRET, command)

    async def both() -> bool:
        return sum("may not act" in one["text"] for one in house.slack.ephemeral(RENDERS)) == 2

    await until(both)
    assert len((await house.relay.http.get("/v1/watches")).json()["data"]) == 1
    assert (await house.relay.watch(watch["id"]))["state"] == "watching"


async def test_a_disabled_app_may_nothing(house: House, name: str) -> None:
    db = house.relay.relay.db
    found = await db.read(apps.by_name, "shop")
    assert found is not None
    await db.run(apps.change, found.id, disabled_at=now())
    assert "may not act" in await house.says("list", "U0OTHER")


async def test_the_answer_does_not_wait_for_slack_but_the_end_of_the_process_does(new_database: NewDatabase) -> None:
    async with workspace() as slack:
        async with deployment(environment(new_database(), **variables(slack))) as relay:
            slack.fail_next(RESPONSE_URL, Fault.slow(5))
            assert (await types_help(slack, relay)).seconds < 5
            assert slack.ephemeral(RENDERS) == []
        assert len(slack.ephemeral(RENDERS)) == 1


async def test_who_does_not_take_an_answer_is_not_waited_for(
    new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.web.slack.handlers.DEADLINE", 0.2)
    async with workspace() as slack, contextlib.AsyncExitStack() as stack:
        relay = await stack.enter_async_context(deployment(environment(new_database(), **variables(slack))))
        slack.fail_next(RESPONSE_URL, Fault(delay=60))
        await types_help(slack, relay)
        async with asyncio.timeout(5):
            await stack.aclose()


async def test_nobody_is_answered_beyond_the_grace_time(new_database: NewDatabase) -> None:
    async with workspace() as slack, contextlib.AsyncExitStack() as stack:
        environ = environment(new_database(), **variables(slack, RELAY_GRACE="0.5"))
        relay = await stack.enter_async_context(deployment(environ))
        slack.fail_next(RESPONSE_URL, Fault(delay=60))
        await types_help(slack, relay)
        async with asyncio.timeout(5):
            await stack.aclose()


async def types_help(slack: SimulatedSlack, relay: Deployment) -> Ack:
    return await slack.command(relay.url + COMMANDS, SIGNING_SECRET, slack.slash_command(RENDERS, "/relay", "help"))


async def test_nobody_else_is_answered(house: House) -> None:
    for url in ("https://evil.example/x", "http://169.254.169.254/", "nonsense", ""):
        command = house.slack.slash_command(RENDERS, "/relay", "help") | {"response_url": url}
        assert (await done_with(house, COMMANDS, urlencode(command))).status_code == 200
    assert house.slack.ephemeral(RENDERS) == []


async def done_with(house: House, path: str, body: str) -> httpx.Response:
    """The answer to a signed request, when all that is done afterwards is done, too."""
    transport = httpx.ASGITransport(site.build(house.relay.relay.context))
    async with httpx.AsyncClient(transport=transport, base_url=house.relay.url) as http:
        return await http.post(path, content=body, headers=signed(body))


# Who is not Slack


def signed(body: str | bytes, at: float | None = None, secret: str = SIGNING_SECRET) -> dict[str, str]:
    text = body.decode("latin-1") if isinstance(body, bytes) else body
    headers = signature_headers(secret, text, int(time.time() if at is None else at))
    return {**headers, "Content-Type": "application/x-www-form-urlencoded"}


BODY = urlencode({"team_id": TEAM, "user_id": SAM, "text": "list", "command": "/relay"})


@pytest.mark.parametrize("path", [COMMANDS, INTERACTIONS])
async def test_what_slack_did_not_sign_is_refused(house: House, path: str) -> None:
    good = signed(BODY)
    forged = BODY.replace(SAM, "U0OTHER")
    hostile: list[tuple[str | bytes, dict[str, str | bytes]]] = [
        (BODY, {}),
        (BODY, {"X-Slack-Signature": good["X-Slack-Signature"]}),
        (BODY, {"X-Slack-Request-Timestamp": good["X-Slack-Request-Timestamp"]}),
        (forged, dict(good)),
        (BODY, dict(signed(BODY, secret="another-secret"))),
        (BODY, dict(signed(BODY, at=time.time() - 310))),
        (BODY, dict(signed(BODY, at=time.time() + 310))),
        (BODY, {**good, "X-Slack-Request-Timestamp": "now"}),
        (BODY, {**good, "X-Slack-Request-Timestamp": "9" * 5000}),
        (BODY, {**good, "X-Slack-Request-Timestamp": "nan"}),
        (BODY, {**good, "X-Slack-Request-Timestamp": ""}),
        (BODY, {**good, "X-Slack-Signature": "v0=é".encode("latin-1")}),
        (BODY, {**good, "X-Slack-Signature": "v1=" + good["X-Slack-Signature"][3:]}),
        (b"text=\xff\xfe", dict(signed("text="))),
        ("", dict(good)),
    ]
    for body, headers in hostile:
        answer = await house.relay.http.post(path, content=body, headers=headers)
        assert answer.status_code == 401, (body[:40], headers)
        assert answer.json()["code"] == "bad_signature"
    assert house.slack.calls == []


async def test_a_signature_holds_for_five_minutes(house: House) -> None:
    fresh = signed(BODY, at=time.time() - 290)
    assert (await house.relay.http.post(COMMANDS, content=BODY, headers=fresh)).status_code == 200


async def test_a_body_of_a_megabyte_is_refused(house: House) -> None:
    body = "text=" + "x" * 1_000_000
    for path in (COMMANDS, INTERACTIONS):
        answer = await house.relay.http.post(path, content=body, headers=signed(body))
        assert answer.status_code == 413


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        (None, 400),
        ("{", 400),
        ("[" * 10_000, 400),
        ("null", 200),
        ("[]", 200),
        ('{"actions": 7}', 200),
        ('{"actions": [null, 7, "x", {}, {"action_id": ["relay_stop"], "value": {}}]}', 200),
        ('{"user": 7, "team": [], "response_url": {}, "actions": [{"action_id": "relay_stop", "value": null}]}', 200),
        ('{"actions": [{"action_id": "relay_stop", "value": "a\\u0000b"}]}', 200),
    ],
)
async def test_odd_payloads_break_nothing(house: House, payload: str | None, status: int) -> None:
    body = urlencode({} if payload is None else {"payload": payload})
    assert (await done_with(house, INTERACTIONS, body)).status_code == status


async def test_a_form_of_a_thousand_fields_is_refused(house: House) -> None:
    body = "&".join(f"f{number}=1" for number in range(1000))
    assert (await house.relay.http.post(COMMANDS, content=body, headers=signed(body))).status_code == 400


async def test_a_deployment_without_the_secret_does_not_listen(relay: Deployment) -> None:
    answer = await relay.http.post(COMMANDS, content=BODY, headers=signed(BODY))
    assert (answer.status_code, "SLACK_SIGNING_SECRET" in answer.text) == (404, True)


async def test_by_default_nobody_may_act(new_database: NewDatabase) -> None:
    async with (
        workspace() as slack,
        deployment(environment(new_database(), **variables(slack))) as relay,
    ):
        said = await House(relay, slack).says("list")
        assert f"RELAY_SLACK_TEAMS={TEAM}=APP" in said
        assert calls(slack, "chat.postMessage") == []
        assert json.loads((await relay.http.get("/v1/watches")).text)["data"] == []
