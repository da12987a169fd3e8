"""The commands that set Slack up."""

from __future__ import annotations

import typer

from relay.cli.base import console, run_async, settings_of_environment

MARKS = {True: "ok      ", None: "note    ", False: "MISSING "}


def manifest() -> None:
    """Prints the Slack app's manifest for this deployment, and a link that makes the app with one click.

    Example: RELAY_BASE_URL=https://relay.example.com relay slack manifest
    """
    from relay import slack_setup

    settings = settings_of_environment()
    text = slack_setup.manifest(settings.config / "slack-manifest.yaml", settings.base_url)
    console.print(text, soft_wrap=True)
    console.print("# In one click:", soft_wrap=True)
    console.print(f"# {slack_setup.link(text)}", soft_wrap=True)
    console.print(
        "# Then install it. SLACK_BOT_TOKEN: 'OAuth & Permissions'; SLACK_SIGNING_SECRET: 'Basic Information'",
        soft_wrap=True,
    )


def check(channel: str) -> None:
    """Says in words what the token lacks, and whether relay can post to a channel; posts nothing.

    Example: relay slack check '#renders'
    """
    from relay import slack_setup
    from relay.channels.slack_api import SlackApi
    from relay.errors import ConfigError
    from relay.parts import EVERYWHERE, open_transports

    settings = settings_of_environment()
    if settings.slack_bot_token is None:
        raise ConfigError("SLACK_BOT_TOKEN is not set: 'relay slack manifest' makes an app that has one")
    guard, *_ = open_transports(settings)
    dialled = EVERYWHERE if settings.egress_proxy else guard

    async def go() -> list[slack_setup.Finding]:
        api = SlackApi(dialled, settings.slack_bot_token, settings.slack_api_url, settings.egress_proxy)
        try:
            return await slack_setup.check(api, channel)
        finally:
            await api.aclose()

    found: list[slack_setup.Finding] = run_async(go())
    if settings.slack_signing_secret is None:
        note = "SLACK_SIGNING_SECRET is not set: messages have links instead of buttons, and /relay does not work"
        found.append(slack_setup.Finding(None, note))
    elif not settings.slack_teams:
        note = "RELAY_SLACK_TEAMS is not set: nobody may press a button or use /relay"
        found.append(slack_setup.Finding(None, note))
    for one in found:
        console.print(f"{MARKS[one.well]}{one.words}", soft_wrap=True)
    if any(one.well is False for one in found):
        raise typer.Exit(1)
