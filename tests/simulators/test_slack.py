"""The simulator must refuse what Slack refuses, or the tests that lean on it prove nothing."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs

import aiohttp
import httpx
import pytest
import uvicorn
from rich.cells import cell_len
from slack_sdk.errors import SlackApiError
from slack_sdk.signature import SignatureVerifier
from slack_sdk.web.async_client import AsyncWebClient
from slack_sdk.webhook.async_client import AsyncWebhookClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from relay.simulators.slack import (
    RESPONSE_URL,
    WEBHOOK,
    Conversation,
    Fault,
    Limits,
    SimulatedSlack,
    WorkspaceOptions,
    render_text,
)

pytestmark = pytest.mark.anyio

RENDERS, QUIET, SECRET, OLD = "C0RENDERS", "C0QUIET", "C0SECRET", "C0OLD"
TOKEN, OTHER, POOR = "xoxb-relay", "xoxb-other", "xoxb-poor"
HOOK = "T0STANDIN/B0HOOK/hush"
SCOPES = [
    "channels:history",
    "channels:join",
    "channels:read",
    "chat:write",
    "groups:history",
    "groups:read",
    "users:read",
]
SIGNING_SECRET = "8f742231b10e8888abcd99yyyzzz85a5"
METADATA = {"event_type": "relay_task", "event_payload": {"task_id": "t1", "rev": 1}}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


class Clock:
    def __init__(self) -> None:
        self.now = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """The app on a real loopback port."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()


class Stage:
    """One server for all tests of this module: it plays whichever Slack is on."""

    url: str
    app: Any

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


@pytest.fixture(scope="module")
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    async with serving(stage) as stage.url:
        yield stage


Serve = Callable[..., SimulatedSlack]


@pytest.fixture
def serve(stage: Stage) -> Serve:
    """Puts a workspace on the stage, made with these options."""

    def put_on(**options: Any) -> SimulatedSlack:
        slack = workspace(url=stage.url, **options)
        stage.app = slack.app
        return slack

    return put_on


@pytest.fixture
def slack(serve: Serve) -> SimulatedSlack:
    return serve()


def workspace(**options: Any) -> SimulatedSlack:
    given: dict[str, Any] = {
        "limits": None,
        "channels": [
            Conversation(RENDERS, "renders"),
            Conversation(QUIET, "quiet", member=False),
            Conversation(SECRET, "secret", member=False, private=True),
            Conversation(OLD, "old", archived=True),
        ],
        "tokens": {TOKEN: SCOPES, OTHER: [*SCOPES, "chat:write.public"], POOR: []},
        "hooks": {
            HOOK: RENDERS,
            "T0STANDIN/B0OLD/hush": OLD,
            "T0STANDIN/B0LOST/hush": "C0LOST",
        },
    }
    return SimulatedSlack(WorkspaceOptions(**given | options))


def client(slack: SimulatedSlack, token: str = TOKEN, timeout: float = 5) -> AsyncWebClient:
    return AsyncWebClient(token, base_url=f"{slack.url}/api/", timeout=timeout, retry_handlers=[])  # type: ignore[arg-type]


def hook(slack: SimulatedSlack, path: str = HOOK) -> AsyncWebhookClient:
    return AsyncWebhookClient(f"{slack.url}/services/{path}", retry_handlers=[])


async def refused(call: Any) -> Any:
    """The answer of a call that Slack refuses."""
    with pytest.raises(SlackApiError) as caught:
        await call
    return caught.value.response


def section(text: str = "x", kind: str = "mrkdwn") -> dict[str, Any]:
    return {"type": "section", "text": {"type": kind, "text": text}}


def header(text: str) -> dict[str, Any]:
    return {"type": "header", "text": {"type": "plain_text", "text": text}}


def button(**properties: Any) -> dict[str, Any]:
    return {"type": "button", "text": {"type": "plain_text", "text": "Go"}, "action_id": "go"} | properties


def actions(*elements: dict[str, Any]) -> dict[str, Any]:
    return {"type": "actions", "elements": list(elements)}


def image(**properties: Any) -> dict[str, Any]:
    return {"type": "image", "image_url": "https://example.com/a.png", "alt_text": "a cat"} | properties


# Posting, editing, reading


async def test_a_message_is_posted_read_and_edited(slack: SimulatedSlack) -> None:
    web = client(slack)
    posted = await web.chat_postMessage(channel="#renders", text="10%", blocks=[section("*10%*")], metadata=METADATA)
    assert posted["channel"] == RENDERS
    assert posted["message"]["blocks"][0]["block_id"]

    plain = await web.conversations_history(channel=RENDERS)
    assert "metadata" not in plain["messages"][0]
    full = await web.conversations_history(channel=RENDERS, include_all_metadata=True)
    assert full["messages"][0]["metadata"] == METADATA

    await web.chat_update(channel=RENDERS, ts=posted["ts"], text="20%", blocks=[section("*20%*")])
    [message] = slack.messages(RENDERS)
    assert (message["ts"], message["text"], message["metadata"]) == (posted["ts"], "20%", METADATA)
    assert "edited" not in message

    await web.api_call("chat.update", json={"channel": RENDERS, "ts": posted["ts"], "blocks": [section("*30%*")]})
    assert (message["text"], message["blocks"][0]["text"]["text"]) == ("20%", "*30%*")

    await web.chat_update(channel=RENDERS, ts=posted["ts"], text="done", metadata={})
    assert "blocks" not in message
    assert "metadata" not in message
    assert message["edited"]["user"] == message["user"]


async def test_timestamps_differ_even_within_one_instant(serve: Serve) -> None:
    slack = serve(clock=Clock())
    for _ in range(3):
        await client(slack).chat_postMessage(channel=RENDERS, text="x")
    assert [message["ts"] for message in slack.messages(RENDERS)] == [
        "1790000000.000000",
        "1790000000.000001",
        "1790000000.000002",
    ]


async def test_replies_stay_out_of_the_channel_unless_broadcast(slack: SimulatedSlack) -> None:
    web = client(slack)
    root = (await web.chat_postMessage(channel=RENDERS, text="root"))["ts"]
    first = (await web.chat_postMessage(channel=RENDERS, text="first", thread_ts=root))["ts"]
    await web.chat_postMessage(channel=RENDERS, text="second", thread_ts=first, reply_broadcast=True)

    history = await web.conversations_history(channel=RENDERS)
    assert [message["text"] for message in history["messages"]] == ["second", "root"]
    thread = await web.conversations_replies(channel=RENDERS, ts=first)
    assert [message["text"] for message in thread["messages"]] == ["root", "first", "second"]
    assert thread["messages"][0]["reply_count"] == 2

    assert (await refused(web.chat_postMessage(channel=RENDERS, text="x", thread_ts="1.0")))["error"] == (
        "cannot_reply_to_message"
    )
    assert (await refused(web.conversations_replies(channel=RENDERS, ts="1.0")))["error"] == "thread_not_found"


async def test_history_has_bounds_and_pages(slack: SimulatedSlack) -> None:
    web = client(slack)
    stamps = [(await web.chat_postMessage(channel=RENDERS, text=str(n)))["ts"] for n in range(4)]

    async def texts(**bounds: Any) -> list[str]:
        answer = await web.conversations_history(channel=RENDERS, **bounds)
        return [message["text"] for message in answer["messages"]]

    assert await texts(oldest=stamps[1]) == ["3", "2"]
    assert await texts(oldest=stamps[1], latest=stamps[2], inclusive=True) == ["2", "1"]
    first = await web.conversations_history(channel=RENDERS, limit=3)
    assert first["has_more"]
    assert await texts(limit=3, cursor=first["response_metadata"]["next_cursor"]) == ["0"]


async def test_forms_and_json_are_both_understood(slack: SimulatedSlack) -> None:
    form = {
        "token": TOKEN,
        "channel": RENDERS,
        "text": "form",
        "blocks": json.dumps([section()]),
        "metadata": json.dumps(METADATA),
    }
    async with httpx.AsyncClient(base_url=f"{slack.url}/api/") as http:
        assert (await http.post("chat.postMessage", data=form)).json()["ok"]
        assert (await http.get("auth.test", params={"token": TOKEN})).headers["x-oauth-scopes"] == ",".join(SCOPES)
        for body, content_type, error in [
            ("{", "application/json", "invalid_json"),
            ("[]", "application/json; charset=utf-8", "json_not_object"),
            ("x", "text/csv", "invalid_post_type"),
            ("{}", "application/json", "not_authed"),
        ]:
            answer = await http.post("chat.postMessage", content=body, headers={"Content-Type": content_type})
            assert (answer.status_code, answer.json()["error"]) == (200, error)
    assert slack.messages(RENDERS)[0]["metadata"] == METADATA
    assert [call.method for call in slack.calls] == ["chat.postMessage", "auth.test", "chat.postMessage"]


async def test_channels_and_users_can_be_looked_up(slack: SimulatedSlack) -> None:
    web = client(slack)
    assert (await web.auth_test())["user_id"] == "U0BOT1"
    assert (await web.conversations_info(channel=OLD))["channel"]["is_archived"]
    assert not (await web.conversations_info(channel=QUIET))["channel"]["is_member"]
    listed = await web.conversations_list(types="public_channel,private_channel", exclude_archived=True)
    assert [channel["name"] for channel in listed["channels"]] == ["renders", "quiet"]
    assert (await web.users_info(user="U0PERSON"))["user"]["real_name"] == "Sam"
    assert (await web.users_info(user="U0BOT1"))["user"]["is_bot"]

    assert (await refused(web.chat_postMessage(channel=QUIET, text="x")))["error"] == "not_in_channel"
    await web.conversations_join(channel=QUIET)
    assert (await web.conversations_join(channel=QUIET))["warning"] == "already_in_channel"
    assert (await web.chat_postMessage(channel=QUIET, text="x"))["ok"]


Attempt = Callable[[AsyncWebClient], Any]


@pytest.mark.parametrize(
    ("error", "token", "attempt"),
    [
        ("invalid_auth", "xoxb-wrong", lambda web: web.auth_test()),
        ("unknown_method", TOKEN, lambda web: web.api_call("chat.shout")),
        ("missing_scope", POOR, lambda web: web.chat_postMessage(channel=RENDERS, text="x")),
        ("missing_scope", POOR, lambda web: web.conversations_history(channel=RENDERS)),
        ("channel_not_found", TOKEN, lambda web: web.chat_postMessage(channel="#nowhere", text="x")),
        ("channel_not_found", TOKEN, lambda web: web.chat_postMessage(channel=SECRET, text="x")),
        ("channel_not_found", TOKEN, lambda web: web.conversations_info(channel=SECRET)),
        ("channel_not_found", TOKEN, lambda web: web.chat_update(channel="#renders", ts="1.0", text="x")),
        ("not_in_channel", TOKEN, lambda web: web.chat_postMessage(channel=QUIET, text="x")),
        ("not_in_channel", TOKEN, lambda web: web.conversations_history(channel=QUIET)),
        ("is_archived", TOKEN, lambda web: web.chat_postMessage(channel=OLD, text="x")),
        ("is_archived", TOKEN, lambda web: web.conversations_join(channel=OLD)),
        ("channel_not_found", TOKEN, lambda web: web.conversations_join(channel=SECRET)),
        ("invalid_arguments", TOKEN, lambda web: web.api_call("conversations.info")),
        ("invalid_cursor", TOKEN, lambda web: web.conversations_history(channel=RENDERS, cursor="!")),
        ("user_not_found", TOKEN, lambda web: web.users_info(user="U0NOBODY")),
        ("message_not_found", TOKEN, lambda web: web.chat_update(channel=RENDERS, ts="1.0", text="x")),
        ("no_text", TOKEN, lambda web: web.api_call("chat.postMessage", json={"channel": RENDERS, "blocks": []})),
        ("msg_too_long", TOKEN, lambda web: web.chat_postMessage(channel=RENDERS, text="x" * 4001)),
        (
            "invalid_blocks_format",
            TOKEN,
            lambda web: web.api_call("chat.postMessage", json={"channel": RENDERS, "blocks": "[{"}),
        ),
        (
            "invalid_blocks_format",
            TOKEN,
            lambda web: web.api_call("chat.postMessage", json={"channel": RENDERS, "blocks": {"type": "divider"}}),
        ),
        (
            "invalid_metadata_format",
            TOKEN,
            lambda web: web.api_call("chat.postMessage", json={"channel": RENDERS, "text": "x", "metadata": ["x"]}),
        ),
        (
            "invalid_metadata_schema",
            TOKEN,
            lambda web: web.chat_postMessage(channel=RENDERS, text="x", metadata={"event_type": "x"}),
        ),
        (
            "metadata_too_large",
            TOKEN,
            lambda web: web.chat_postMessage(
                channel=RENDERS, text="x", metadata={"event_type": "x", "event_payload": {"a": "x" * 16_000}}
            ),
        ),
        (
            "msg_blocks_too_long",
            TOKEN,
            lambda web: web.chat_postMessage(channel=RENDERS, text="x", blocks=[section("x" * 2700)] * 5),
        ),
    ],
)
async def test_errors_have_slacks_names(slack: SimulatedSlack, error: str, token: str, attempt: Attempt) -> None:
    answer = await refused(attempt(client(slack, token)))
    assert (answer.status_code, answer["ok"], answer["error"]) == (200, False, error)
    assert not any(slack.messages(channel) for channel in (RENDERS, QUIET, SECRET, OLD))


async def test_a_missing_scope_is_named(slack: SimulatedSlack) -> None:
    answer = await refused(client(slack, POOR).conversations_info(channel=RENDERS))
    assert (answer["needed"], answer["provided"]) == ("channels:read", "")


async def test_only_the_author_may_edit_and_not_in_an_archive(slack: SimulatedSlack) -> None:
    ts = (await client(slack).chat_postMessage(channel=RENDERS, text="x"))["ts"]
    assert (await client(slack, OTHER).chat_postMessage(channel=QUIET, text="public"))["ok"]
    update = {"channel": RENDERS, "ts": ts, "text": "y"}
    assert (await refused(client(slack, OTHER).chat_update(**update)))["error"] == "cant_update_message"
    await hook(slack).send(text="x")
    update["ts"] = slack.messages(RENDERS)[-1]["ts"]
    assert (await refused(client(slack).chat_update(**update)))["error"] == "cant_update_message"
    slack.channel(RENDERS).archived = True
    update["ts"] = ts
    assert (await refused(client(slack).chat_update(**update)))["error"] == "is_inactive"


# What a message may contain


@pytest.mark.parametrize(
    ("problem", "blocks"),
    [
        ("no more than 50 items allowed [json-pointer:/blocks]", [section()] * 51),
        ("must provide an object [json-pointer:/blocks/0]", ["x"]),
        ("missing required field: type [json-pointer:/blocks/0]", [{}]),
        ("unsupported type: poem [json-pointer:/blocks/0/type]", [{"type": "poem"}]),
        ("must define either `text` or `fields` [json-pointer:/blocks/0/type]", [{"type": "section"}]),
        ("must be less than 3001 characters [json-pointer:/blocks/0/text/text]", [section("x" * 3001)]),
        ("failed to match all allowed schemas [json-pointer:/blocks/0/text]", [section("x" * 3001)]),
        ("must be more than 0 characters [json-pointer:/blocks/0/text/text]", [section("")]),
        ("unsupported type: html [json-pointer:/blocks/0/text/type]", [section("x", "html")]),
        (
            "must be less than 2001 characters [json-pointer:/blocks/0/fields/0/text]",
            [{"type": "section", "fields": [{"type": "mrkdwn", "text": "x" * 2001}]}],
        ),
        (
            "no more than 10 items allowed [json-pointer:/blocks/0/fields]",
            [{"type": "section", "fields": [{"type": "mrkdwn", "text": "x"}] * 11}],
        ),
        ("must be less than 151 characters [json-pointer:/blocks/0/text/text]", [header("x" * 151)]),
        ("unsupported type: mrkdwn [json-pointer:/blocks/0/text/type]", [{**section("x"), "type": "header"}]),
        ("invalid additional property: text [json-pointer:/blocks/0]", [{"type": "divider", "text": "x"}]),
        ("must provide at least 1 items [json-pointer:/blocks/0/elements]", [{"type": "context", "elements": []}]),
        ("must provide an array [json-pointer:/blocks/0/elements]", [{"type": "context", "elements": "x"}]),
        (
            "no more than 10 items allowed [json-pointer:/blocks/0/elements]",
            [{"type": "context", "elements": [{"type": "mrkdwn", "text": "x"}] * 11}],
        ),
        ("no more than 25 items allowed [json-pointer:/blocks/0/elements]", [actions(*[button()] * 26)]),
        (
            "must be less than 76 characters [json-pointer:/blocks/0/elements/0/text/text]",
            [actions(button(text={"type": "plain_text", "text": "x" * 76}))],
        ),
        (
            "must be less than 2001 characters [json-pointer:/blocks/0/elements/0/value]",
            [actions(button(value="x" * 2001))],
        ),
        (
            "must be less than 3001 characters [json-pointer:/blocks/0/elements/0/url]",
            [actions(button(url="https://example.com/" + "x" * 3000))],
        ),
        ("invalid url [json-pointer:/blocks/0/elements/0/url]", [actions(button(url="/t/1"))]),
        ("must be a valid enum value [json-pointer:/blocks/0/elements/0/style]", [actions(button(style="loud"))]),
        (
            '`action_id` "go" already exists [json-pointer:/blocks/0/elements/1/action_id]',
            [actions(button(), button())],
        ),
        (
            '`block_id` "b" already exists [json-pointer:/blocks/1/block_id]',
            [{"type": "divider", "block_id": "b"}, {"type": "divider", "block_id": "b"}],
        ),
        ("must be less than 256 characters [json-pointer:/blocks/0/block_id]", [section() | {"block_id": "x" * 256}]),
        ("must provide a string [json-pointer:/blocks/0/elements/0/value]", [actions(button(value=7))]),
        (
            "missing required field: alt_text [json-pointer:/blocks/0]",
            [{"type": "image", "image_url": "https://x.com"}],
        ),
        ("must be less than 2001 characters [json-pointer:/blocks/0/alt_text]", [image(alt_text="x" * 2001)]),
        (
            "must be less than 3001 characters [json-pointer:/blocks/0/image_url]",
            [image(image_url="https://example.com/" + "x" * 3000)],
        ),
        (
            "downloading image failed [json-pointer:/blocks/0/image_url]",
            [image(image_url="http://localhost:8000/a.png")],
        ),
        (
            "downloading image failed [json-pointer:/blocks/0/accessory/image_url]",
            [section() | {"accessory": image(image_url="http://localhost:8000/a.png")}],
        ),
        (
            "downloading image failed [json-pointer:/blocks/0/elements/0/image_url]",
            [{"type": "context", "elements": [image(image_url="http://localhost:8000/a.png")]}],
        ),
    ],
)
async def test_blocks_are_refused_in_slacks_words(slack: SimulatedSlack, problem: str, blocks: list[Any]) -> None:
    answer = await refused(client(slack).chat_postMessage(channel=RENDERS, text="x", blocks=blocks))
    assert answer["error"] == "invalid_blocks"
    assert problem in answer["errors"]
    assert answer["response_metadata"]["messages"] == [f"[ERROR] {each}" for each in answer["errors"]]
    assert slack.messages(RENDERS) == []


@pytest.mark.parametrize(
    "blocks",
    [
        [section("x" * 260)] * 50,
        [section("x" * 3000)],
        [{"type": "section", "fields": [{"type": "mrkdwn", "text": "x" * 1200}] * 10}],
        [header("x" * 150)],
        [actions(button(value="x" * 2000, url="https://example.com/" + "x" * 2980))],
        [image(alt_text="x" * 2000, title={"type": "plain_text", "text": "x"})],
    ],
)
async def test_what_just_fits_is_taken(slack: SimulatedSlack, blocks: list[Any]) -> None:
    await client(slack).chat_postMessage(channel=RENDERS, text="x" * 4000, blocks=blocks)
    assert len(slack.messages(RENDERS)) == 1


REFERENCE: dict[str, dict[str, Any]] = {
    "progress": {
        "text": "Generating video (10%): a kitten. https://relay.example.com/t/1",
        "blocks": [
            section(":hourglass_flowing_sand: *Generating video* · <https://relay.example.com/t/1|task_1>"),
            section("> A calico kitten &lt;look&gt; &amp; a butterfly") | {"block_id": "prompt"},
            {"type": "context", "elements": [{"type": "mrkdwn", "text": "started <!date^1790000000^{date_num}|then>"}]},
            actions(button(style="danger", value="task_1"), button(action_id="open", url="https://relay.example.com")),
        ],
    },
    "completed": {
        "text": "Video ready. https://relay.example.com/t/1",
        "blocks": [
            {
                "type": "section",
                "fields": [
                    {"type": "mrkdwn", "text": f"*{name}*\n{name.lower()}"} for name in ("Model", "Clip", "Took")
                ],
            },
            image(title={"type": "plain_text", "text": "First frame"}),
            {"type": "divider"},
        ],
    },
}


async def test_images_are_fetched_by_slack_itself(serve: Serve) -> None:
    asked = []

    async def fetch(url: str) -> bool:
        asked.append(url)
        return "good" in url

    slack = serve(fetch_image=fetch)
    web = client(slack)
    good, bad = (image(image_url=f"https://example.com/{name}.png") for name in ("good", "bad"))
    await web.chat_postMessage(channel=RENDERS, text="x", blocks=[good])
    assert (await refused(web.chat_postMessage(channel=RENDERS, text="x", blocks=[good, bad])))["errors"] == [
        "downloading image failed [json-pointer:/blocks/1/image_url]"
    ]
    assert (await hook(slack).send(text="x", blocks=[bad])).body == "invalid_blocks"
    assert asked == [each["image_url"] for each in (good, good, bad, bad)]


# Rate limits


async def test_one_message_per_second_and_channel(serve: Serve) -> None:
    clock = Clock()
    slack = serve(clock=clock, limits=Limits(burst=2))
    web = client(slack)
    slack.channel(QUIET).member = True
    for _ in range(2):
        await web.chat_postMessage(channel=RENDERS, text="x")
    answer = await refused(web.chat_postMessage(channel=RENDERS, text="x"))
    assert (answer.status_code, answer["error"], answer.headers["retry-after"]) == (429, "ratelimited", "2")
    assert (await hook(slack).send(text="x")).status_code == 429
    await web.chat_postMessage(channel=QUIET, text="another channel")
    clock.now += 2
    assert (await hook(slack).send(text="x")).body == "ok"
    assert len(slack.messages(RENDERS)) == 3


async def test_updates_share_one_budget_a_minute(serve: Serve) -> None:
    clock = Clock()
    slack = serve(clock=clock, limits=Limits())
    web = client(slack)
    ts = (await web.chat_postMessage(channel=RENDERS, text="0"))["ts"]
    for n in range(50):
        await web.chat_update(channel=RENDERS, ts=ts, text=str(n))
    answer = await refused(web.chat_update(channel=RENDERS, ts=ts, text="more"))
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "60")
    clock.now += 60
    await web.chat_update(channel=RENDERS, ts=ts, text="more")


# Incoming webhooks


async def test_a_webhook_posts_and_says_ok(slack: SimulatedSlack) -> None:
    answer = await hook(slack).send(text="done", blocks=[section()])
    assert (answer.status_code, answer.body) == (200, "ok")
    async with httpx.AsyncClient() as http:
        form = await http.post(f"{slack.url}/services/{HOOK}", data={"payload": '{"text": "form"}'})
    assert form.text == "ok"
    assert [message["text"] for message in slack.messages(RENDERS)] == ["done", "form"]
    assert [call.method for call in slack.calls] == [WEBHOOK, WEBHOOK]


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        (HOOK, "{", 400, "invalid_payload"),
        (HOOK, "[]", 400, "invalid_payload"),
        (HOOK, "{}", 400, "no_text"),
        (HOOK, json.dumps({"text": "x", "blocks": [{"type": "section"}]}), 400, "invalid_blocks"),
        ("T0STANDIN/B0HOOK/wrong", "{}", 403, "invalid_token"),
        ("T0STANDIN/B0GONE/hush", "{}", 404, "no_service"),
        ("T0OTHER/B0HOOK/hush", "{}", 404, "no_team"),
        ("T0STANDIN/B0LOST/hush", "{}", 404, "channel_not_found"),
        ("T0STANDIN/B0OLD/hush", "{}", 410, "channel_is_archived"),
    ],
)
async def test_webhook_errors_are_plain_text(
    slack: SimulatedSlack, path: str, body: str, status: int, error: str
) -> None:
    async with httpx.AsyncClient() as http:
        answer = await http.post(f"{slack.url}/services/{path}", content=body)
    assert (answer.status_code, answer.text) == (status, error)
    assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("error", "status"),
    [("action_prohibited", 403), ("no_active_hooks", 404), ("rollup_error", 500), ("team_disabled", 403)],
)
async def test_other_webhook_errors_are_made_to_order(slack: SimulatedSlack, error: str, status: int) -> None:
    slack.fail_next(WEBHOOK, Fault.hook_error(error))
    answer = await hook(slack).send(text="x")
    assert (answer.status_code, answer.body) == (status, error)
    assert slack.messages(RENDERS) == []


# Faults, and what slack_sdk makes of them


@pytest.mark.parametrize(
    ("fault", "raised", "stored"),
    [
        (Fault.html(503), SlackApiError, 0),
        (Fault.error("internal_error", commit=True), SlackApiError, 1),
        (Fault.rate_limited(7), SlackApiError, 0),
        (Fault.rate_limited("Wed, 21 Oct 2026 07:28:00 GMT"), SlackApiError, 0),
        (Fault.broken_json(commit=True), SlackApiError, 1),
        (Fault.plain_text(), AttributeError, 0),
        (Fault.drop(), aiohttp.ServerDisconnectedError, 1),
        (Fault.drop(commit=False), aiohttp.ServerDisconnectedError, 0),
        (Fault.slow(30), TimeoutError, 1),
    ],
)
async def test_faults_hit_one_call(slack: SimulatedSlack, fault: Fault, raised: type[Exception], stored: int) -> None:
    slack.fail_next("chat.postMessage", fault)
    web = client(slack, timeout=0.5)
    await web.auth_test()
    with pytest.raises(raised):
        await web.chat_postMessage(channel=RENDERS, text="x")
    assert len(slack.messages(RENDERS)) == stored
    assert len(slack.calls) == 2
    await web.chat_postMessage(channel=RENDERS, text="x")
    assert len(slack.messages(RENDERS)) == stored + 1


async def test_a_429_tells_when_to_come_back(slack: SimulatedSlack) -> None:
    slack.fail_next("chat.update", Fault.rate_limited(7))
    slack.fail_next("chat.update", Fault.rate_limited("Wed, 21 Oct 2026 07:28:00 GMT"))
    for expected in ("7", "Wed, 21 Oct 2026 07:28:00 GMT"):
        answer = await refused(client(slack).chat_update(channel=RENDERS, ts="1.0", text="x"))
        assert answer.headers["retry-after"] == expected


async def test_a_slow_answer_is_still_the_answer(slack: SimulatedSlack) -> None:
    slack.fail_next("auth.test", Fault.slow(0.05))
    assert (await client(slack).auth_test())["ok"]


# Clicks and commands


class Receiver:
    """An app that Slack tells about clicks."""

    def __init__(self, answer: Response | None = None, delay: float = 0) -> None:
        self.answer, self.delay = answer or Response(), delay
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.app = Starlette(routes=[Route("/slack", self.receive, methods=["POST"])])

    async def receive(self, request: Request) -> Response:
        self.requests.append((dict(request.headers), await request.body()))
        await asyncio.sleep(self.delay)
        return self.answer


async def test_a_click_is_signed_and_can_be_answered(slack: SimulatedSlack) -> None:
    blocks = [section() | {"accessory": button(action_id="accessory")}, actions(button(value="task_1"))]
    ts = (await client(slack).chat_postMessage(channel=RENDERS, text="x", blocks=blocks))["ts"]
    receiver = Receiver()
    async with serving(receiver.app) as url:
        ack = await slack.click(f"{url}/slack", SIGNING_SECRET, slack.block_actions(RENDERS, ts, "go"))
    assert ack.acknowledged
    assert slack.acks == [ack]
    [(headers, body)] = receiver.requests
    assert SignatureVerifier(SIGNING_SECRET).is_valid_request(body, headers)
    payload = json.loads(parse_qs(body.decode())["payload"][0])
    assert payload["container"]["message_ts"] == ts
    assert [(action["action_id"], action["value"]) for action in payload["actions"]] == [("go", "task_1")]
    assert slack.block_actions(RENDERS, ts, "accessory")["actions"][0]["type"] == "button"
    with pytest.raises(LookupError):
        slack.block_actions(RENDERS, ts, "missing")

    answer = AsyncWebhookClient(payload["response_url"], retry_handlers=[])
    assert (await answer.send(text="only you see this")).body == "ok"
    assert [message["text"] for message in slack.ephemeral(RENDERS)] == ["only you see this"]
    await answer.send(text="all see this", response_type="in_channel")
    await answer.send(text="stopped", replace_original=True)
    assert [message["text"] for message in slack.messages(RENDERS)] == ["stopped", "all see this"]
    history = await client(slack).conversations_history(channel=RENDERS)
    assert len(history["messages"]) == 2
    await answer.send(delete_original=True)
    assert [message["text"] for message in slack.messages(RENDERS)] == ["all see this"]
    await answer.send(text="the fifth")
    last = await answer.send(text="the sixth")
    assert (last.status_code, last.body) == (404, "used_url")


async def test_a_response_url_ends_after_half_an_hour(serve: Serve) -> None:
    clock = Clock()
    slack = serve(clock=clock)
    answer = AsyncWebhookClient(slack.slash_command(RENDERS, "/relay", "list")["response_url"], retry_handlers=[])
    slack.fail_next(RESPONSE_URL, Fault.html(502))
    assert (await answer.send(text="x")).status_code == 502
    assert (await answer.send_dict({"blocks": []})).body == "no_text"
    clock.now += 30 * 60
    late = await answer.send(text="x")
    assert (late.status_code, late.body) == (410, "expired_url")
    unknown = AsyncWebhookClient(f"{slack.url}/actions/T0STANDIN/9/x", retry_handlers=[])
    assert (await unknown.send(text="x")).status_code == 404


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (Response(), []),
        (PlainTextResponse("On it"), ["On it"]),
        (Response('{"text": "All see"}', media_type="application/json"), ["All see"]),
        (PlainTextResponse("Not found", 404), []),
    ],
)
async def test_a_command_shows_its_acknowledgement(slack: SimulatedSlack, answer: Response, shown: list[str]) -> None:
    receiver = Receiver(answer)
    async with serving(receiver.app) as url:
        ack = await slack.command(f"{url}/slack", SIGNING_SECRET, slack.slash_command(RENDERS, "/relay", "status 1"))
    assert ack.status == answer.status_code
    assert ack.acknowledged == (answer.status_code == 200)
    fields = parse_qs(receiver.requests[0][1].decode())
    assert (fields["command"], fields["text"]) == (["/relay"], ["status 1"])
    assert [message["text"] for message in slack.ephemeral(RENDERS)] == shown


async def test_a_late_answer_is_no_acknowledgement(slack: SimulatedSlack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.simulators.slack.people.ACKNOWLEDGE_SECONDS", 0.1)
    receiver = Receiver(delay=0.3)
    async with serving(receiver.app) as url:
        ack = await slack.click(f"{url}/slack", SIGNING_SECRET, {})
    assert (ack.status, ack.acknowledged) == (None, False)


# What people see


async def test_the_page_shows_what_people_would_see(slack: SimulatedSlack) -> None:
    web = client(slack)
    for message in REFERENCE.values():
        root = await web.chat_postMessage(channel=RENDERS, **message)
    await web.chat_postMessage(channel=RENDERS, thread_ts=root["ts"], text="A reply to <@U0PERSON>")
    hostile = await web.chat_postMessage(channel=RENDERS, text="x")
    await web.chat_update(
        channel=RENDERS,
        ts=hostile["ts"],
        text="&lt;b&gt; <script>\"'<javascript:alert(1)|click>\n```<i>&amp;```\nhttps://example.com/?a=1&amp;b=2.",
    )
    async with httpx.AsyncClient() as http:
        answer = await http.get(f"{slack.url}/?refresh=3")
    page = answer.text
    for piece in [
        "⏳ <b>Generating video</b> · <a",
        "<blockquote>A calico kitten &lt;look&gt; &amp; a butterfly</blockquote>",
        '<a class="button " href="https://relay.example.com"',
        '<span class="button danger"',
        "<p><b>Model</b><br>model</p>",
        "First frame <span>▾</span>",
        "<b>a cat</b><small>https://example.com/a.png</small>",
        "1 reply",
        '<span class="mention">@Sam</span>',
        "(edited)",
        "<pre>&lt;i&gt;&amp;</pre>",
        '<a href="https://example.com/?a=1&amp;b=2" rel="noreferrer">',
        '<meta http-equiv="refresh" content="3">',
    ]:
        assert piece in page
    assert "<script" not in page
    assert "javascript:" not in page
    assert "src=" not in page
    assert "default-src 'none'" in answer.headers["content-security-policy"]


async def test_only_an_image_on_this_machine_is_loaded(serve: Serve) -> None:
    async def fetch(url: str) -> bool:
        return bool(url)

    slack = serve(fetch_image=fetch)
    local = image(image_url="http://127.0.0.1:9/a.png")
    await client(slack).chat_postMessage(channel=RENDERS, text="x", blocks=[local, image()])
    async with httpx.AsyncClient() as http:
        page = (await http.get(slack.url)).text
    assert page.count("src=") == page.count('src="http://127.0.0.1:9/a.png" alt="a cat"') == 1


async def test_the_terminal_shows_it_too(slack: SimulatedSlack) -> None:
    for message in REFERENCE.values():
        await client(slack).chat_postMessage(channel=RENDERS, **message)
    progress, completed = (render_text(message, width=60) for message in slack.messages(RENDERS))
    assert progress.splitlines()[1:-1] == [
        "│ ⏳ Generating video · task_1",
        "│",
        "│ ▎ A calico kitten <look> & a butterfly",
        "│ started 2026-09-21",
        "│",
        "│ [ Go ]  [ Go ]",
    ]
    assert completed.splitlines()[1:-1] == [
        "│ Model                         Clip",
        "│ model                         clip",
        "│ Took",
        "│ took",
        "│",
        "│ ┌─ First frame ─",
        "│ │ a cat",
        "│ │ https://example.com/a.png",
        "│ └─",
        "│",
        "│ " + "─" * 58,
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("*bold* _italic_ ~gone~ `code *x*`", "bold italic ~gone~ `code *x*`"),
        ("2*3*4 snake_case_name :tada: :no_such:", "2*3*4 snake_case_name 🎉 :no_such:"),
        ("<https://a.example|label> <https://b.example>", "label https://b.example"),
        ("<!here> <#C0RENDERS> <@U0PERSON|sam> &amp;lt;", "@here #C0RENDERS @sam &lt;"),
        ("<!date^x^{time}|sometime> <!date^0^{nonsense}|y>", "sometime {nonsense}"),
        ("&gt; quoted\nnot", "▎ quoted\n│ not"),
    ],
)
def test_mrkdwn(text: str, shown: str) -> None:
    message = {"ts": "1790000000.000000", "text": text, "username": "relay"}
    assert render_text(message).split("\n", 1)[1].rsplit("\n", 1)[0] == f"│ {shown}"


@pytest.mark.parametrize("width", [20, 40, 78])
def test_no_line_is_wider_than_asked(width: int) -> None:
    text = "> " + "一只三花猫在追逐蝴蝶" * 9 + "\n" + "word " * 30 + "x" * 100
    rendered = render_text({"ts": "0", "text": text, "username": "relay"}, width=width).splitlines()[1:]
    assert max(map(cell_len, rendered)) <= width
