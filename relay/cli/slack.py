"""The commands `relay slack …`: set up Slack and check the set-up."""

from __future__ import annotations

from typing import Annotated

import typer

from relay.cli.common import JsonOption, console, print_json, run_async, settings_of_environment

MARKS = {True: "ok      ", None: "note    ", False: "MISSING "}


def manifest() -> None:
    """Print the Slack app's manifest, and a link that creates it.

    Example: RELAY_BASE_URL=https://relay.example.com relay slack manifest

    Reads RELAY_BASE_URL and RELAY_CONFIG.
    """
    from relay.channels.slack import setup

    settings = settings_of_environment()
    text = setup.manifest(settings.config / "slack-manifest.yaml", settings.base_url)
    console.print(text, soft_wrap=True)
    console.print("# In one click:", soft_wrap=True)
    console.print(f"# {setup.link(text)}", soft_wrap=True)
    console.print(
        "# Then install it. SLACK_BOT_TOKEN: 'OAuth & Permissions'; SLACK_SIGNING_SECRET: 'Basic Information'",
        soft_wrap=True,
    )


def check(channel: Annotated[str, typer.Argument(help="A channel's name or id.")], as_json: JsonOption = False) -> None:
    """Check whether relay can post to a channel.

    It says what the Slack token lacks, and posts nothing.

    Example: relay slack check '#renders'

    Reads SLACK_BOT_TOKEN, SLACK_SIGNING_SECRET and RELAY_SLACK_TEAMS.
    """
    from relay.channels.slack import setup
    from relay.channels.slack.api import SlackApi
    from relay.errors import ConfigError
    from relay.wiring import EVERYWHERE, open_guard

    settings = settings_of_environment()
    if settings.slack_bot_token is None:
        raise ConfigError(
            "SLACK_BOT_TOKEN is not set: create the Slack app with 'relay slack manifest' and copy its bot token"
        )
    dialled = EVERYWHERE if settings.egress_proxy else open_guard(settings)

    async def go() -> list[setup.Finding]:
        api = SlackApi(dialled, settings.slack_bot_token, settings.slack_api_url, settings.egress_proxy)
        try:
            return await setup.check(api, channel)
        finally:
            await api.aclose()

    findings: list[setup.Finding] = run_async(go())
    if settings.slack_signing_secret is None:
        note = "SLACK_SIGNING_SECRET is not set: messages have links instead of buttons, and /relay does not work"
        findings.append(setup.Finding(None, note))
    elif not settings.slack_teams:
        note = "RELAY_SLACK_TEAMS is not set: no Slack user may press a button or use /relay"
        findings.append(setup.Finding(None, note))
    if as_json:
        print_json([{"well": finding.well, "words": finding.words} for finding in findings])
    for finding in findings if not as_json else ():
        console.print(f"{MARKS[finding.well]}{finding.words}", soft_wrap=True)
    if any(finding.well is False for finding in findings):
        raise typer.Exit(1)
