"""A Slack workspace to put beside relay: the simulator on a real port, and the variables that lead relay there."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from relay.simulators.slack import Conversation, PostedMessage, SimulatedSlack, WorkspaceOptions
from relay.web.server import listen, serving

RENDERS = "C0RENDERS"
TOKEN = "xoxb-7012345678-of-the-tests"
HOOK = "T0STANDIN/B0HOOK/secret-of-the-hook"
SIGNING_SECRET = "8f742231b10e8888abcd99yyyzzz85a5"
TEAM, SAM = "T0STANDIN", "U0PERSON"

SCOPES = ("chat:write", "commands", "channels:read", "channels:history", "groups:read", "groups:history")
"""What the manifest asks for."""


@contextlib.asynccontextmanager
async def workspace(**options: Any) -> AsyncIterator[SimulatedSlack]:
    """Serve a simulator with its usual rate limits, a channel #renders and a bot in it."""
    listener = listen("127.0.0.1", 0)
    given: dict[str, Any] = {
        "channels": [Conversation(RENDERS, "renders")],
        "tokens": {TOKEN: SCOPES},
        "hooks": {HOOK: RENDERS},
        "url": f"http://127.0.0.1:{listener.getsockname()[1]}",
    }
    slack = SimulatedSlack(WorkspaceOptions(**given | options))
    async with serving(slack.app, listener):
        yield slack


def variables(slack: SimulatedSlack, **more: str) -> dict[str, str]:
    """What relay has to know of the workspace."""
    return {
        "SLACK_BOT_TOKEN": TOKEN,
        "SLACK_API_URL": f"{slack.url}/api/",
        "SLACK_HOOK_HOSTS": "127.0.0.1",
        "SLACK_SIGNING_SECRET": SIGNING_SECRET,
        "RELAY_BASE_URL": "https://relay.example",
        **more,
    }


def roots(slack: SimulatedSlack, channel: str = RENDERS) -> list[PostedMessage]:
    """The messages in a channel itself, as everybody sees them."""
    return [one for one in slack.channel(channel).timeline() if "is_ephemeral" not in one]


def replies(slack: SimulatedSlack, root: PostedMessage, channel: str = RENDERS) -> list[PostedMessage]:
    """What stands in the thread of a message."""
    return slack.channel(channel).replies(root)


def calls(slack: SimulatedSlack, method: str) -> list[dict[str, Any]]:
    """What one method was called with."""
    return [call.args for call in slack.calls if call.method == method]
