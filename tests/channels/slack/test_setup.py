"""Setting Slack up in one paste, and being told in words what is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from typer.testing import CliRunner

from relay.channels.slack.api import SlackApi
from relay.channels.slack.setup import SCOPES, Finding, check, link, manifest
from relay.cli import cli
from relay.errors import ConfigError
from relay.simulators.slack import Conversation, Fault
from tests.channels.slack.test_channel import LOOPBACK
from tests.support import workspace as support
from tests.support.workspace import SIGNING_SECRET, TEAM, TOKEN, workspace

FILE = Path(__file__).parents[3] / "config/slack-manifest.yaml"
BASE = "https://relay.shop.example"
CHANNELS = [
    Conversation("C0RENDERS", "renders"),
    Conversation("C0QUIET", "quiet", member=False),
    Conversation("C0OLD", "old", archived=True),
    Conversation("C0SECRET", "secret", private=True),
]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_the_manifest_leads_to_this_deployment() -> None:
    made = yaml.safe_load(manifest(FILE, f"{BASE}/"))
    (command,) = made["features"]["slash_commands"]
    assert (command["command"], command["url"]) == ("/relay", f"{BASE}/slack/commands")
    assert made["settings"]["interactivity"] == {"is_enabled": True, "request_url": f"{BASE}/slack/interactions"}
    assert made["oauth_config"]["scopes"]["bot"] == list(SCOPES)
    assert set(SCOPES) == set(support.SCOPES), "the tests run with what the manifest asks for"
    assert len(made["display_information"]["description"]) <= 140


def test_one_click_makes_the_same_app() -> None:
    text = manifest(FILE, BASE)
    url = link(text)
    (carried,) = parse_qs(urlsplit(url).query)["manifest_yaml"]
    assert yaml.safe_load(carried) == yaml.safe_load(text)
    assert "#" not in carried.replace('"#1f2937"', "")
    assert len(url) < 4000


@pytest.mark.parametrize("base", ["", "http://relay.example", "https://", "https://a b", "https://x.example\ny: z"])
def test_slack_must_be_able_to_reach_relay(base: str) -> None:
    with pytest.raises(ConfigError, match="RELAY_BASE_URL"):
        manifest(FILE, base)


async def findings(channel: str, scopes: Iterable[str] = SCOPES, token: str = TOKEN, **options: Any) -> list[Finding]:
    given: dict[str, Any] = {"channels": CHANNELS, "tokens": {TOKEN: list(scopes)}, **options}
    fault = given.pop("fault", None)
    async with workspace(**given) as slack:
        if fault:
            slack.fail_next("auth.test", fault)
        api = SlackApi(LOOPBACK, token, f"{slack.url}/api/")
        found = await check(api, channel)
        await api.aclose()
        assert not any(slack.messages(channel.id) for channel in CHANNELS), "nothing is posted"
        return found


@pytest.mark.anyio
@pytest.mark.parametrize("channel", ["#renders", "renders", "C0RENDERS", "#secret"])
async def test_all_is_well(channel: str) -> None:
    found = await findings(channel)
    assert [one.well for one in found] == [True, True, True]
    assert TEAM in found[0].words


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("channel", "said"),
    [
        ("#quiet", "/invite @relay"),
        ("C0QUIET", "/invite @relay"),
        ("#old", "is archived"),
        ("#nowhere", "no channel #nowhere"),
        ("C0NOWHERE", "channel_not_found"),
    ],
)
async def test_what_is_wrong_with_a_channel(channel: str, said: str) -> None:
    last = (await findings(channel))[-1]
    assert (last.well, said in last.words) == (False, True), last


@pytest.mark.anyio
@pytest.mark.parametrize("lacking", list(SCOPES))
async def test_each_missing_scope_is_named_with_what_it_is_for(lacking: str) -> None:
    found = await findings("#renders", [scope for scope in SCOPES if scope != lacking])
    (named,) = [one for one in found if one.words.startswith(f"the scope {lacking} is missing")]
    assert SCOPES[lacking] in named.words
    assert named.well is (False if lacking == "chat:write" else None)
    assert all(one.well is not False for one in found if one is not named), "the rest works without it"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"token": "xoxb-wrong"}, "invalid_auth: set SLACK_BOT_TOKEN"),
        ({"fault": Fault.html()}, "503"),
        ({"fault": Fault.drop()}, "cannot be reached"),
        ({"fault": Fault.rate_limited(3)}, "ratelimited"),
    ],
)
async def test_what_is_wrong_with_the_token_or_with_slack(options: dict[str, Any], said: str) -> None:
    (only,) = await findings("#renders", **options)
    assert (only.well, said in only.words) == (False, True), only


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("variables", "channel", "code", "said"),
    [
        ({}, "#renders", 0, "note    SLACK_SIGNING_SECRET is not set"),
        ({"SLACK_SIGNING_SECRET": SIGNING_SECRET}, "#renders", 0, "note    RELAY_SLACK_TEAMS is not set"),
        (
            {"SLACK_SIGNING_SECRET": SIGNING_SECRET, "RELAY_SLACK_TEAMS": "T1=default"},
            "#renders",
            0,
            "ok      the app is in",
        ),
        ({}, "#quiet", 1, "MISSING the app is not in #quiet"),
        ({"SLACK_BOT_TOKEN": ""}, "#renders", 1, ""),
    ],
)
async def test_the_command(variables: dict[str, str], channel: str, code: int, said: str) -> None:
    async with workspace(channels=CHANNELS) as slack:
        given = {
            "SLACK_BOT_TOKEN": TOKEN,
            "SLACK_API_URL": f"{slack.url}/api/",
            "RELAY_ALLOWED_NETWORKS": "127.0.0.0/8",
        }
        run = CliRunner(env={**given, **variables}).invoke
        done = await asyncio.to_thread(run, cli, ["slack", "check", channel])
    assert (done.exit_code, said in done.output) == (code, True), done.output
    if "SLACK_BOT_TOKEN" in variables:
        assert "SLACK_BOT_TOKEN is not set" in str(done.exception)


def test_the_command_prints_what_can_be_pasted() -> None:
    done = CliRunner(env={"RELAY_BASE_URL": BASE}).invoke(cli, ["slack", "manifest"])
    assert done.exit_code == 0, done.output
    assert yaml.safe_load(done.output) == yaml.safe_load(manifest(FILE, BASE))
    assert link(manifest(FILE, BASE)) in done.output
