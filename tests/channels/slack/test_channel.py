"""The Slack channel through the real SDK, against the simulator and against servers that behave worse than Slack."""

import asyncio
import fnmatch
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import orjson
import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from relay.channels.base import KEPT_ANSWER, Message
from relay.channels.slack.api import SlackApi
from relay.channels.slack.channel import SlackChannel
from relay.channels.slack.errors import GIVEN_UP, HOOK_ENDED, REFUSALS, Refusal, meaning
from relay.channels.slack.message import SHORT
from relay.model.delivery import Outcome, Verdict
from relay.security.guard import Guard
from relay.simulators.slack import WEBHOOK, Conversation, Fault, Limits, SimulatedSlack, WorkspaceOptions
from tests.support.channels import resources

pytestmark = pytest.mark.anyio

LOOPBACK = Guard([ip_network("127.0.0.0/8"), ip_network("::1/128")])
TOKEN = "xoxb-7012345678-SECRETTOKEN"
HOOK_SECRET = "SECRETOFTHEHOOK"
HOOK = f"T0STANDIN/B0HOOK/{HOOK_SECRET}"
POST = "chat.postMessage"
RENDERS, OLD = "C0RENDERS", "C0OLD"

DATA: dict[str, Any] = {
    "watch_id": "wch_01K6X15VHRFF09DKKQJRZWHM60",
    "task_id": "sora-2:task_1",
    "provider": "unified-video",
    "state": "completed",
    "result": {"url": "https://cdn.example/1.mp4", "thumbnail_url": "https://cdn.example/1.png"},
    "error": None,
    "metadata": {},
    "upstream": {"detail": {"input": {"prompt": "make animate"}}},
}
PLAIN: dict[str, Any] = {**DATA, "result": {"url": "https://cdn.example/1.mp4"}}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def serving(app: Any, **options: Any) -> AsyncIterator[str]:
    """The app on a real loopback port."""
    # asyncio switches Nagle's algorithm off only for sockets that say they are TCP; with it, every answer takes 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", access_log=False, **options))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            await asyncio.sleep(0.005)
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()


class Sender:
    """A channel, and how a test uses it."""

    def __init__(self, origin: str, *, token: str | None = TOKEN, guard: Guard = LOOPBACK) -> None:
        self.hook = f"{origin}/services/{HOOK}"
        self.channel = SlackChannel(resources(guard=guard))
        self.channel.api = self.api = SlackApi(guard, token, f"{origin}/api/")  # which may be one that settings refuse

    async def send(self, address: dict[str, Any], data: dict[str, Any] = PLAIN, body: bytes | None = None) -> Outcome:
        event = {"type": "task.completed", "timestamp": "2025-10-06T15:14:11.908Z", "data": data}
        return await self.channel.send(Message("evt_1", "task.completed", body or orjson.dumps(event), address, (), 0))

    async def post(self, data: dict[str, Any] = PLAIN, channel: str = "#renders") -> Outcome:
        return await self.send({"channel": channel}, data)

    async def call_hook(self, data: dict[str, Any] = PLAIN) -> Outcome:
        return await self.send({"webhook_url": self.hook}, data)


@asynccontextmanager
async def sender_to(origin: str, **options: Any) -> AsyncIterator[Sender]:
    sender = Sender(origin, **options)
    try:
        yield sender
    finally:
        await sender.api.aclose()


@asynccontextmanager
async def simulator(**options: Any) -> AsyncIterator[tuple[SimulatedSlack, Sender]]:
    given: dict[str, Any] = {
        "limits": None,
        "channels": [
            Conversation(RENDERS, "renders"),
            Conversation("C0QUIET", "quiet", member=False),
            Conversation(OLD, "old", archived=True),
        ],
        "tokens": {TOKEN: ["chat:write"]},
        "hooks": {HOOK: RENDERS},
    }
    slack = SimulatedSlack(WorkspaceOptions(**given | options))
    async with serving(slack.app) as place, sender_to(f"http://{place}") as sender:
        yield slack, sender


@pytest.fixture
async def slack_and_sender() -> AsyncIterator[tuple[SimulatedSlack, Sender]]:
    async with simulator() as both:
        yield both


@pytest.fixture
def slack(slack_and_sender: tuple[SimulatedSlack, Sender]) -> SimulatedSlack:
    return slack_and_sender[0]


@pytest.fixture
def sender(slack_and_sender: tuple[SimulatedSlack, Sender]) -> Sender:
    return slack_and_sender[1]


@asynccontextmanager
async def answering(*responses: Response) -> AsyncIterator[tuple[Sender, list[Request]]]:
    """A server that gives each of these to two requests, the last to all others too; and what it was asked."""
    asked: list[Request] = []

    async def answer(request: Request) -> Response:
        await request.body()
        asked.append(request)
        return responses[min((len(asked) - 1) // 2, len(responses) - 1)]

    app = Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])
    async with serving(app) as place, sender_to(f"http://{place}") as sender:
        yield sender, asked


# Delivered


async def test_a_message_is_posted_with_the_token(slack: SimulatedSlack, sender: Sender) -> None:
    outcome = await sender.post(DATA)
    assert (outcome.verdict, outcome.status, outcome.error, outcome.note) == (Verdict.DELIVERED, 200, None, None)
    said = orjson.loads(outcome.answer)
    assert (said["ok"], said["channel"]) == (True, RENDERS)
    [message] = slack.messages(RENDERS)
    assert message["text"].startswith("Video finished: “make animate”")
    assert [block["type"] for block in message["blocks"]] == ["section", "section", "image", "context"]
    assert message["metadata"] == {
        "event_type": "relay_task",
        "event_payload": {key: DATA[key] for key in ("watch_id", "task_id", "provider", "state")},
    }
    [call] = slack.calls
    assert (call.args["unfurl_links"], call.args["unfurl_media"], call.args["parse"]) == (False, False, "none")


async def test_a_message_is_posted_to_a_webhook(slack: SimulatedSlack, sender: Sender) -> None:
    assert await sender.call_hook(DATA) == Outcome(Verdict.DELIVERED, status=200, answer=b"ok")
    [message] = slack.messages(RENDERS)
    assert "metadata" not in message
    assert not [block for block in message["blocks"] if block["type"] == "actions"]
    [call] = slack.calls
    assert (call.method, call.args["unfurl_links"], call.args["unfurl_media"]) == (WEBHOOK, False, False)


async def test_a_webhook_needs_no_token(slack: SimulatedSlack, sender: Sender) -> None:
    async with sender_to(sender.hook.partition("/services/")[0], token=None) as poor:
        assert (await poor.call_hook()).verdict is Verdict.DELIVERED
        refused = await poor.post()
    assert (refused.verdict, refused.error) == (Verdict.RETRY, "not_configured")
    assert "SLACK_BOT_TOKEN" in (refused.note or "")
    assert len(slack.calls) == 1


async def test_connections_can_be_opened_again(slack: SimulatedSlack, sender: Sender) -> None:
    await sender.api.aclose()
    assert (await sender.post()).verdict is Verdict.DELIVERED
    await sender.api.aclose()
    assert (await sender.post()).verdict is Verdict.DELIVERED
    assert len(slack.messages(RENDERS)) == 2


async def test_what_is_kept_of_an_answer_is_bounded() -> None:
    said = {"ok": True, "message": "é" * KEPT_ANSWER}
    async with answering(JSONResponse(said)) as (sender, _):
        outcome = await sender.post()
    assert (outcome.verdict, len(outcome.answer), outcome.truncated) == (Verdict.DELIVERED, KEPT_ANSWER, True)


# Refused: every code of the list in reference/slack.md

EXPECTED: dict[Refusal, str] = {
    Refusal.RATE_LIMIT: "ratelimited rate_limited",
    Refusal.SAFE: "request_timeout update_failed",
    Refusal.SLOW: "message_limit_exceeded team_added_to_org org_login_required",
    Refusal.AMBIGUOUS: "internal_error fatal_error service_unavailable",
    Refusal.CREDENTIALS: "invalid_auth not_authed account_inactive token_revoked token_expired missing_scope"
    " not_allowed_token_type access_denied team_access_not_granted",
    Refusal.DESTINATION: "channel_not_found not_in_channel is_archived restricted_action"
    " restricted_action_read_only_channel restricted_action_thread_only_channel no_permission"
    " posting_to_channel_denied is_inactive",
    Refusal.LAYOUT: "invalid_blocks invalid_blocks_format msg_blocks_too_long msg_too_long invalid_arguments",
    Refusal.PAYLOAD: "no_text metadata_too_large invalid_metadata_format invalid_metadata_schema",
    Refusal.GONE: "message_not_found",
    Refusal.FROZEN: "cant_update_message edit_window_closed",
    Refusal.NO_THREAD: "cannot_reply_to_message thread_not_found",
    Refusal.UNKNOWN: "no_such_code_yet",
}
DOCUMENTED: dict[Refusal, str] = {
    Refusal.SAFE: "streaming_state_conflict",
    Refusal.SLOW: "external_channel_migrating migration_in_progress",
    Refusal.AMBIGUOUS: "messaging_processing_failed",
    Refusal.CREDENTIALS: "accesslimited as_user_not_supported enterprise_is_restricted metadata_must_be_sent_from_app"
    " two_factor_setup_required",
    Refusal.DESTINATION: "team_not_found user_not_found users_not_found method_not_supported_for_channel_type"
    " channel_is_archived action_prohibited ekm_access_denied posting_to_general_channel_denied user_is_restricted"
    " messages_tab_disabled cannot_dm_bot slack_connect_canvas_sharing_blocked slack_connect_file_link_sharing_blocked"
    " slack_connect_lists_sharing_blocked slack_connect_blocked_file_type slack_connect_clip_sharing_blocked"
    " slack_connect_file_upload_sharing_blocked restricted_action_of_a_new_kind",
    Refusal.LAYOUT: "block_mismatch alt_txt_too_large invalid_payload",
    Refusal.PAYLOAD: "missing_text_or_fallback_or_attachments markdown_text_conflict attachment_payload_limit_exceeded"
    " invalid_attachments too_many_attachments too_many_contact_cards duplicate_channel_not_found"
    " duplicate_message_not_found cant_broadcast_message no_dual_broadcast_content_update"
    " message_not_in_streaming_state send_on_behalf_not_allowed blocked_file_type file_deleted file_is_deleted"
    " file_not_found file_share_limit_reached max_file_sharing_exceeded missing_file_data unable_to_share_files"
    " missing_argument missing_post_type invalid_arg_name invalid_array_arg invalid_charset invalid_cursor"
    " invalid_form_data invalid_json invalid_limit invalid_post_type invalid_ts_latest invalid_ts_oldest invalid_types"
    " invalid_metadata_keys json_not_object deprecated_endpoint method_deprecated unknown_method upgrade_required",
    Refusal.FROZEN: "message_not_owned_by_app",
    Refusal.NO_THREAD: "restricted_action_non_threadable_channel restricted_action_thread_locked",
}
"""The other codes of Slack's pages about chat.postMessage, chat.update and conversations.*"""

EXPECTED_OF_HOOKS: dict[Refusal, str] = {
    Refusal.LAYOUT: "invalid_payload invalid_blocks",
    Refusal.PAYLOAD: "no_text too_many_attachments",
    Refusal.DESTINATION: "action_prohibited posting_to_general_channel_denied",
    Refusal.HOOK_ENDED: "channel_not_found no_service no_service_id no_active_hooks channel_is_archived invalid_token"
    " no_team team_disabled user_not_found",
    Refusal.AMBIGUOUS: "rollup_error",
    Refusal.UNKNOWN: "no_such_code_yet",
}


def cases(expected: dict[Refusal, str]) -> list[tuple[str, Refusal]]:
    return [(code, refusal) for refusal, codes in expected.items() for code in codes.split()]


def check(outcome: Outcome, refusal: Refusal, code: str) -> None:
    """The outcome that the class stands for."""
    given_up = refusal in GIVEN_UP
    assert outcome.error == code
    assert outcome.verdict is (Verdict.GIVE_UP if given_up else Verdict.RETRY)
    assert outcome.free is (refusal is Refusal.RATE_LIMIT)
    assert outcome.ends_target is (refusal is Refusal.HOOK_ENDED)
    assert bool(outcome.note) is (given_up or refusal is Refusal.SLOW)
    waits = {Refusal.RATE_LIMIT: pytest.approx(30), Refusal.SLOW: 3600}
    assert outcome.retry_after == waits.get(refusal)
    assert code.encode() in outcome.answer


async def test_errors_of_the_web_api(slack: SimulatedSlack, sender: Sender) -> None:
    for code, refusal in cases(EXPECTED):
        assert meaning(code, 200, hook=False)[0] is refusal, code
        tries = 2 if refusal is Refusal.LAYOUT else 1
        for _ in range(tries):
            slack.fail_next(POST, Fault.error(code))
        outcome = await sender.post(channel=f"#{code}")
        check(outcome, refusal, code)
        assert (outcome.status, len(slack.calls)) == (200, tries)
        slack.calls.clear()


def test_every_documented_error_has_its_meaning() -> None:
    for code, refusal in cases(DOCUMENTED):
        found, note = meaning(code, 200, hook=False)
        assert found is refusal, code
        assert bool(note) is (refusal in GIVEN_UP or refusal is Refusal.SLOW), code


async def test_errors_of_webhooks(slack: SimulatedSlack, sender: Sender) -> None:
    for code, refusal in cases(EXPECTED_OF_HOOKS):
        tries = 2 if refusal is Refusal.LAYOUT else 1
        for _ in range(tries):
            slack.fail_next(WEBHOOK, Fault.hook_error(code))
        outcome = await sender.call_hook()
        assert len(slack.calls) == tries
        slack.calls.clear()
        assert meaning(code, outcome.status or 0, hook=True)[0] is refusal, code
        check(outcome, refusal, code)
        assert ("create a new webhook" in (outcome.note or "")) is (refusal is Refusal.HOOK_ENDED)


def test_every_code_of_the_tables_is_expected() -> None:
    listed = {code for codes in REFUSALS.values() for code in codes} | set(HOOK_ENDED)
    expected = [code for code, _ in [*cases(EXPECTED), *cases(DOCUMENTED), *cases(EXPECTED_OF_HOOKS)]]
    assert {pattern for pattern in listed if not fnmatch.filter(expected, pattern)} == set()


async def test_refusals_of_the_simulator_itself(slack: SimulatedSlack, sender: Sender) -> None:
    for channel, code in [("#nowhere", "channel_not_found"), ("#quiet", "not_in_channel"), ("#old", "is_archived")]:
        check(await sender.post(channel=channel), Refusal.DESTINATION, code)
    assert "/invite @relay" in ((await sender.post(channel="#quiet")).note or "")
    slack.channel(RENDERS).archived = True
    check(await sender.call_hook(), Refusal.HOOK_ENDED, "channel_is_archived")
    sender.hook = sender.hook.replace(HOOK_SECRET, "wrong")
    check(await sender.call_hook(), Refusal.HOOK_ENDED, "invalid_token")
    async with sender_to(sender.hook.partition("/services/")[0], token="xoxb-wrong") as stranger:
        check(await stranger.post(), Refusal.CREDENTIALS, "invalid_auth")


YES = [
    (200, "ok"),
    (200, "OK"),
    (200, " ok\n"),
    (200, '"ok"'),
    (200, ""),
    (204, ""),
    (201, "created"),
    (202, "accepted"),
    (200, "1"),
    (200, "true"),
    (200, "Message posted"),
    (200, "Congratulations! You've fired the event"),
    (200, '{"ok":true}'),
    (200, '{"ok": "true", "error": null}'),
    (200, '{"success":true}'),
    (200, '{"success": 1, "errors": []}'),
    (200, '{"result": "success", "msg": "", "id": 7}'),
    (200, '{"status": "success", "request_id": "x"}'),
    (200, '{"status": "ok"}'),
    (200, '{"code": 0, "msg": "success"}'),
    (200, '{"errcode": 0, "errmsg": "ok"}'),
    (200, '{"code": 200, "message": "OK"}'),
    (200, '{"name": "spaces/A/messages/B", "text": "Render failed: invalid input, error"}'),
    (200, "{}"),
    (200, "[]"),
    (200, "null"),
    (200, "\U0001f44d"),
]
NO = [
    (200, "invalid_payload", "invalid_payload"),
    (200, "no_service", "no_service"),
    (200, "ratelimited", "ratelimited"),
    (200, "false", "false"),
    (200, "some_error_of_others", "some_error_of_others"),
    (200, "Webhook message delivery failed with error: HTTP error 429", "protocol"),
    (200, '{"ok":false,"error":"invalid_payload"}', "invalid_payload"),
    (200, '{"ok": false}', "protocol"),
    (200, '{"success": false, "error": "webhook_disabled"}', "webhook_disabled"),
    (200, '{"result": "error", "msg": "Invalid API key"}', "protocol"),
    (200, '{"status": "failed"}', "protocol"),
    (200, '{"error": {"message": "no"}}', "protocol"),
    (200, '{"code": 19001, "msg": "param invalid"}', "protocol"),
    (200, '{"errcode": 310000, "errmsg": "keywords not in content"}', "protocol"),
    (202, "<!DOCTYPE html><title>Sign in</title>", "protocol"),
    (400, "ok", "http_400"),
    (500, '{"ok": true}', "http_500"),
]


@pytest.mark.parametrize(("status", "answer"), YES)
async def test_a_hook_may_say_yes_in_other_words(status: int, answer: str) -> None:
    async with simulator() as (slack, sender):
        slack.fail_next(WEBHOOK, Fault.taken(answer, status))
        outcome = await sender.call_hook()
        assert (outcome.verdict, outcome.status, outcome.error) == (Verdict.DELIVERED, status, None)
        assert outcome.answer.decode() == answer
        assert len(slack.messages(RENDERS)) == 1


@pytest.mark.parametrize(("status", "answer", "error"), NO)
async def test_a_clear_no_of_a_hook_is_a_refusal(status: int, answer: str, error: str) -> None:
    async with answering(PlainTextResponse(answer, status)) as (sender, _):
        outcome = await sender.call_hook()
    assert outcome.verdict is not Verdict.DELIVERED
    assert (outcome.error, outcome.status) == (error, status)


async def test_a_yes_in_another_encoding_or_that_breaks_off_is_a_yes() -> None:
    async with answering(Response("成功".encode("gbk"), headers={"content-type": "text/plain"})) as (sender, _):
        assert (await sender.call_hook()).verdict is Verdict.DELIVERED
    broken = Response(b"o", headers={"content-length": "2"})
    async with answering(broken) as (sender, _):
        assert (await sender.call_hook()).verdict is Verdict.DELIVERED


async def test_other_answers_of_webhooks() -> None:
    retried = [(200, "<html>maintenance</html>"), (200, '{"ok":'), (400, "What?"), (404, "<html>"), (502, "<html>")]
    async with answering(*(Response(body, status) for status, body in retried)) as (sender, _):
        for status, body in retried:
            for outcome in (await sender.call_hook(), await sender.call_hook()):
                error = "protocol" if status == 200 else f"http_{status}"
                assert outcome == Outcome(Verdict.RETRY, error, status, answer=body.encode())
    async with answering(Response("Gone for good", 410)) as (sender, _):
        outcome = await sender.call_hook()
    assert (outcome.verdict, outcome.error, outcome.ends_target) == (Verdict.GIVE_UP, "http_410", True)


# Rate limits


@pytest.mark.parametrize("seconds", [7, 0])
async def test_retry_after_in_seconds(slack: SimulatedSlack, sender: Sender, seconds: int) -> None:
    slack.fail_next(POST, Fault.rate_limited(seconds))
    slack.fail_next(WEBHOOK, Fault.rate_limited(seconds))
    for outcome in (await sender.post(), await sender.call_hook()):
        assert (outcome.verdict, outcome.status, outcome.free) == (Verdict.RETRY, 429, True)
        assert outcome.retry_after == pytest.approx(seconds)


async def test_retry_after_as_a_date(slack: SimulatedSlack, sender: Sender) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    slack.fail_next(POST, Fault.rate_limited(date))
    slack.fail_next(WEBHOOK, Fault.rate_limited(date))
    for outcome in (await sender.post(), await sender.call_hook()):
        assert (outcome.free, outcome.retry_after) == (True, pytest.approx(19, abs=3))


async def test_retry_after_that_makes_no_sense(slack: SimulatedSlack, sender: Sender) -> None:
    for value in ("", "soon", "-5", "nan"):
        slack.fail_next(POST, Fault.rate_limited(value))
        outcome = await sender.post(channel=f"#{value}")
        assert (outcome.free, outcome.retry_after) == (True, pytest.approx(30))


async def test_retry_after_is_obeyed_up_to_an_hour(slack: SimulatedSlack, sender: Sender) -> None:
    slack.fail_next(POST, Fault.rate_limited("9" * 400))
    assert (await sender.post()).retry_after == pytest.approx(3600)


async def test_messages_that_came_too_fast_get_a_turn_each() -> None:
    async with simulator(limits=Limits(burst=2)) as (slack, sender):
        outcomes = await asyncio.gather(*(sender.post() for _ in range(6)))
        refused = sorted(outcome.retry_after or 0 for outcome in outcomes if outcome.free)
        assert len(slack.messages(RENDERS)) == 2
    assert refused == [pytest.approx(refused[0] + turn, abs=0.5) for turn in range(4)]


async def test_a_503_may_say_when_to_come_back() -> None:
    async with answering(Response("<html>", 503, {"retry-after": "40"})) as (sender, _):
        for outcome in (await sender.post(), await sender.call_hook()):
            assert (outcome.error, outcome.free, outcome.retry_after) == ("http_503", False, 40)


# Pictures


@pytest.mark.parametrize("hook", [False, True])
async def test_a_picture_that_slack_cannot_fetch_is_left_out(hook: bool) -> None:
    async def nothing(_url: str) -> bool:
        return False

    async with simulator(fetch_image=nothing) as (slack, sender):
        assert (await (sender.call_hook if hook else sender.post)(DATA)).verdict is Verdict.DELIVERED
        [message] = slack.messages(RENDERS)
        assert [block["type"] for block in message["blocks"]] == ["section", "section", "context"]
        assert len(slack.calls) == 2


@pytest.mark.parametrize("hook", [False, True])
async def test_blocks_that_slack_refuses_without_reason_go_as_text(
    slack: SimulatedSlack, sender: Sender, hook: bool
) -> None:
    slack.refuse_blocks()
    send = sender.call_hook if hook else sender.post
    assert (await send(DATA)).verdict is Verdict.DELIVERED
    [message] = slack.messages(RENDERS)
    assert "blocks" not in message
    assert message["text"].startswith("Video finished: “make animate”\n<https://cdn.example/1.mp4|Open the result>")
    shapes = [[block["type"] for block in call.args.get("blocks", [])] for call in slack.calls]
    assert shapes == [["section", "section", "image", "context"], ["section", "section", "context"], []]


@pytest.mark.parametrize("hook", [False, True])
async def test_a_text_that_is_too_long_is_followed_by_a_short_one(
    slack: SimulatedSlack, sender: Sender, hook: bool
) -> None:
    long = {**PLAIN, "task_id": "t" * 400, "upstream": {"model": "&" * 500, "prompt": "&" * 400}}
    slack.fail_next(
        WEBHOOK if hook else POST, Fault.hook_error("msg_too_long") if hook else Fault.error("msg_too_long")
    )
    assert (await (sender.call_hook if hook else sender.post)(long)).verdict is Verdict.DELIVERED
    [message] = slack.messages(RENDERS)
    assert "blocks" not in message
    assert len(message["text"]) <= SHORT < len(slack.calls[0].args["text"])
    assert message["text"].startswith("Video finished")
    assert "<https://cdn.example/1.mp4|Open the result>" in message["text"]
    assert len(slack.calls) == 2


async def test_what_slack_refuses_in_every_layout_is_given_up(slack: SimulatedSlack, sender: Sender) -> None:
    for _ in range(9):
        slack.fail_next(POST, Fault.error("invalid_blocks"))
    outcome = await sender.post(DATA)
    assert (outcome.verdict, outcome.error) == (Verdict.GIVE_UP, "invalid_blocks")
    assert len(slack.calls) == 3


async def test_a_rate_limit_after_a_refused_picture_is_not_free(slack: SimulatedSlack, sender: Sender) -> None:
    slack.fail_next(POST, Fault.error("invalid_blocks"))
    slack.fail_next(POST, Fault.rate_limited(2))
    outcome = await sender.post(DATA)
    assert (outcome.verdict, outcome.free, outcome.retry_after) == (Verdict.RETRY, False, pytest.approx(2))


# Everything else that can come back


@pytest.mark.parametrize(
    ("fault", "error", "stored"),
    [
        (Fault.html(503), "http_503", 0),
        (Fault.html(502, commit=True), "http_502", 1),
        (Fault.drop(), "disconnected", 1),
        (Fault.drop(commit=False), "disconnected", 0),
        (Fault.slow(30), "timeout", 1),
        (Fault.broken_json(commit=True), "protocol", 1),
        (Fault.plain_text(), "protocol", 0),
        (Fault(PlainTextResponse("upstream connect error", 503)), "http_503", 0),
    ],
)
async def test_faults_are_retried(
    monkeypatch: pytest.MonkeyPatch, slack: SimulatedSlack, sender: Sender, fault: Fault, error: str, stored: int
) -> None:
    if error == "timeout":
        monkeypatch.setattr("relay.channels.slack.channel.DEADLINE", 0.5)
    slack.fail_next(POST, fault)
    outcome = await sender.post()
    monkeypatch.undo()
    assert (outcome.verdict, outcome.error, outcome.free) == (Verdict.RETRY, error, False)
    assert len(slack.messages(RENDERS)) == stored
    assert len(slack.calls) == 1, "the SDK must not retry by itself"
    assert (await sender.post()).verdict is Verdict.DELIVERED


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.html(503), "http_503"),
        (Fault.drop(), "disconnected"),
        (Fault.slow(30), "timeout"),
        (Fault.broken_json(), "protocol"),
    ],
)
async def test_faults_of_webhooks_are_retried(
    monkeypatch: pytest.MonkeyPatch, slack: SimulatedSlack, sender: Sender, fault: Fault, error: str
) -> None:
    if error == "timeout":
        monkeypatch.setattr("relay.channels.slack.channel.DEADLINE", 0.5)
    slack.fail_next(WEBHOOK, fault)
    outcome = await sender.call_hook()
    assert (outcome.verdict, outcome.error, outcome.free) == (Verdict.RETRY, error, False)
    assert len(slack.calls) == 1


SENSELESS = [
    (b"null", "application/json"),
    (b"[]", "application/json"),
    (b"7", "application/json"),
    (b'"ok"', "application/json"),
    (b"", "application/json"),
    (b'{"ok": "true", "error": ["x"]}', "application/json"),
    (b'{"ok": false, "error": null}', "application/json"),
    (b'{"ok": false, "error": "Not A Code"}', "application/json"),
    (b'{"ok": false, "error": "' + b"x" * 99 + b'"}', "application/json"),
    (b'{"ok": false, "said": "\\ud800"}', "application/json"),
    (b'{"ok": false, "said": "\xff\xfe"}', "application/json"),
    (b'{"ok": false, "said": ' + b"9" * 5000 + b"}", "application/json"),
    (b"[" * 100_000, "application/json"),
    (b'{"ok": false}', "application/json; charset=rot13"),
    (b'{"ok": false}', "application/json; charset=no-such"),
    (b"\x1f\x8b", "application/gzip"),
    (b"ok\xff", "text/plain; charset=utf-8"),
    (b"x", "image/png"),
    (b"ok" * 1_000_000, "text/plain"),
]


@pytest.mark.parametrize("status", [200, 500])
async def test_no_answer_raises(status: int) -> None:
    async with answering(*(Response(body, status, {"content-type": kind}) for body, kind in SENSELESS)) as (
        sender,
        asked,
    ):
        for body, kind in SENSELESS:
            posted, hooked = await sender.post(), await sender.call_hook()
            assert posted.error in ("protocol", f"http_{status}", "null"), (body[:50], kind)
            assert hooked.error in ((None, "protocol") if status == 200 else (f"http_{status}", "null")), body[:50]
            for outcome in (posted, hooked):
                assert outcome.verdict is (Verdict.RETRY if outcome.error else Verdict.DELIVERED), (body[:50], kind)
                assert (outcome.free, len(outcome.answer) <= KEPT_ANSWER) == (False, True)
        assert len(asked) == 2 * len(SENSELESS)


async def test_redirects_are_refused() -> None:
    statuses = [301, 302, 303, 307, 308]
    async with answering(*(Response("", status, {"location": "/elsewhere"}) for status in statuses)) as (sender, asked):
        for status in statuses:
            for outcome in (await sender.post(), await sender.call_hook()):
                assert (outcome.verdict, outcome.error, outcome.status) == (Verdict.RETRY, f"http_{status}", status)
                assert "not followed" in (outcome.note or "")
        assert len(asked) == 2 * len(statuses)


async def test_connections_that_fail() -> None:
    async with serving(Starlette()) as place:
        pass
    for origin, error in [
        (f"http://{place}", "connect"),
        ("http://relay-test.invalid", "dns"),
        ("ftp://x.example", "protocol"),
    ]:
        async with sender_to(origin) as sender:
            for outcome in (await sender.post(), await sender.call_hook()):
                assert (outcome.verdict, outcome.error) == (Verdict.RETRY, error)
    async with serving(Starlette()) as place, sender_to(f"http://{place}", guard=Guard()) as guarded:
        for outcome in (await guarded.post(), await guarded.call_hook()):
            assert (outcome.verdict, outcome.error) == (Verdict.RETRY, "blocked")
            assert "RELAY_ALLOWED_NETWORKS" in (outcome.note or "")


async def test_certificates_are_verified(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(
        datetime.now(UTC) - timedelta(hours=1)
    )
    chain = tmp_path / "chain.pem"
    chain.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + builder.not_valid_after(datetime.now(UTC) + timedelta(hours=1))
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    tls = serving(Starlette(), ssl_certfile=str(chain), ssl_version=ssl.PROTOCOL_TLS_SERVER)
    async with tls as place, sender_to(f"https://{place}") as sender:
        for outcome in (await sender.post(), await sender.call_hook()):
            assert (outcome.verdict, outcome.error) == (Verdict.RETRY, "tls")


async def test_the_environments_proxies_are_not_used(
    monkeypatch: pytest.MonkeyPatch, slack: SimulatedSlack, sender: Sender
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert (await sender.post()).verdict is Verdict.DELIVERED
    assert (await sender.call_hook()).verdict is Verdict.DELIVERED


async def test_an_event_nested_too_deeply_is_told_without_its_data(slack: SimulatedSlack, sender: Sender) -> None:
    body = b'{"type": "task.completed", "data": {"upstream": ' + b"[" * 1024 + b"]" * 1024 + b"}}"
    assert (await sender.send({"channel": "#renders"}, body=body)).verdict is Verdict.DELIVERED
    assert slack.messages(RENDERS)[0]["text"].startswith("Task finished\n")


# Secrets


@asynccontextmanager
async def hearing(answer: Fault | Response) -> AsyncIterator[Sender]:
    """Somebody to send to who answers so, from the simulator or instead of it."""
    if isinstance(answer, Response):
        async with answering(answer) as (sender, _):
            yield sender
        return
    async with simulator() as (slack, sender):
        slack.fail_next(POST, answer)
        slack.fail_next(WEBHOOK, answer)
        yield sender


JSON = {"content-type": "application/json"}
ECHO = {"ok": False, "error": TOKEN, "said": [TOKEN, f"https://hooks.example/services/{HOOK}"]}


@pytest.mark.parametrize(
    "answer",
    [
        Fault(),
        Fault.html(503),
        Fault.drop(),
        Fault.slow(5),
        Fault.broken_json(),
        Fault.plain_text(),
        Fault.rate_limited("soon"),
        JSONResponse(ECHO),
        JSONResponse(ECHO, 500),
        PlainTextResponse(f"{TOKEN} {HOOK_SECRET}", 400),
        PlainTextResponse(HOOK_SECRET, 403),
        Response(
            f'{{"{TOKEN}": "https:\\/\\/hooks.example\\/{HOOK_SECRET}"', 200, {"content-type": "application/json"}
        ),
        Response("", 302, {"location": f"/services/{HOOK}?{TOKEN}"}),
    ],
)
async def test_no_secret_leaks(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, answer: Fault | Response
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr("relay.channels.slack.channel.DEADLINE", 0.3)
    async with hearing(answer) as sender:
        posted, hooked = await sender.post(), await sender.call_hook()
    assert TOKEN not in repr(posted) + repr(hooked) + caplog.text
    assert HOOK_SECRET not in repr(hooked) + caplog.text


async def test_a_hook_and_a_channel_name_the_noun_of_the_provider() -> None:
    async with simulator() as (slack, sender):
        assert (await sender.post(PLAIN | {"provider": "assemblyai"})).verdict is Verdict.DELIVERED
        assert (await sender.call_hook(PLAIN | {"provider": "of-another-release"})).verdict is Verdict.DELIVERED
        first, second = (message["text"] for message in slack.messages(RENDERS))
    assert first.startswith("Transcription finished")
    assert second.startswith("Task finished")
