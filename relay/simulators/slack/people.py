"""The people of the workspace: they press buttons and type commands, and Slack sends relay signed requests."""

import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import httpx

from relay.simulators.slack.hooks import ResponseUrls
from relay.simulators.slack.workspace import PostedMessage, Workspace

ACKNOWLEDGE_SECONDS = 3.0
"""The time that Slack gives an app to acknowledge an interaction."""

VERIFICATION_TOKEN = "verification-token-not-to-be-used"  # noqa: S105 - a fixed value that apps must ignore


@dataclass(frozen=True)
class Ack:
    """The answer to a click or a command. Slack shows the person an error unless it is an acknowledgement.

    Attributes:
        status: None when no answer came in time.
        seconds: how long the answer took.
    """

    status: int | None
    body: str
    seconds: float

    @property
    def acknowledged(self) -> bool:
        """Return whether a 2xx status came in time."""
        return self.status is not None and 200 <= self.status < 300 and self.seconds < ACKNOWLEDGE_SECONDS


def signature_headers(signing_secret: str, body: str, timestamp: int) -> dict[str, str]:
    """Return the headers with Slack's v0 signature over a raw body."""
    digest = hmac.new(signing_secret.encode(), f"v0:{timestamp}:{body}".encode(), hashlib.sha256).hexdigest()
    return {"X-Slack-Request-Timestamp": str(timestamp), "X-Slack-Signature": f"v0={digest}"}


class People:
    """Builds the payloads that Slack sends for people's clicks and commands, and sends them.

    Args:
        url: where the simulator is served, for the response URLs in the payloads.
    """

    def __init__(self, workspace: Workspace, responses: ResponseUrls, url: str) -> None:
        self._workspace = workspace
        self._responses = responses
        self._url = url

    def block_actions(self, channel_id: str, ts: str, action_id: str, user_id: str) -> dict[str, Any]:
        """Return the payload for a press on a button of a posted message."""
        workspace = self._workspace
        channel = workspace.channels[channel_id]
        message = channel.find(ts)
        if message is None:
            raise LookupError(f"no message {ts} in {channel_id}")
        path = self._responses.issue("actions", channel, user_id, ts)
        username = workspace.people.get(user_id, user_id).lower()
        return {
            "type": "block_actions",
            "user": {"id": user_id, "username": username, "name": username, "team_id": workspace.team_id},
            "api_app_id": workspace.app_id,
            "token": VERIFICATION_TOKEN,
            "container": {
                "type": "message",
                "message_ts": ts,
                "channel_id": channel.id,
                "is_ephemeral": "is_ephemeral" in message,
            },
            "trigger_id": secrets.token_hex(16),
            "team": {"id": workspace.team_id, "domain": workspace.domain},
            "enterprise": None,
            "is_enterprise_install": False,
            "channel": {"id": channel.id, "name": channel.name},
            "message": message,
            "state": {"values": {}},
            "response_url": f"{self._url}/{path}",
            "actions": [_button(message, action_id) | {"action_ts": workspace.next_ts()}],
        }

    def slash_command(self, channel_id: str, command: str, text: str, user_id: str) -> dict[str, str]:
        """Return the form fields of a slash command."""
        workspace = self._workspace
        channel = workspace.channels[channel_id]
        return {
            "token": VERIFICATION_TOKEN,
            "team_id": workspace.team_id,
            "team_domain": workspace.domain,
            "channel_id": channel.id,
            "channel_name": channel.name,
            "user_id": user_id,
            "user_name": workspace.people.get(user_id, user_id).lower(),
            "command": command,
            "text": text,
            "api_app_id": workspace.app_id,
            "is_enterprise_install": "false",
            "response_url": f"{self._url}/{self._responses.issue('commands', channel, user_id)}",
            "trigger_id": secrets.token_hex(16),
        }

    async def click(self, url: str, signing_secret: str, payload: Mapping[str, Any]) -> Ack:
        """Send an interaction to an app at `url`."""
        return await self._send(url, signing_secret, {"payload": json.dumps(payload)})

    async def command(self, url: str, signing_secret: str, payload: Mapping[str, str]) -> Ack:
        """Send a slash command to an app at `url`, and post the message of its acknowledgement."""
        ack = await self._send(url, signing_secret, payload)
        if ack.acknowledged and ack.body:
            await self._responses.respond(self._responses.at(payload["response_url"]), _message(ack.body))
        return ack

    async def _send(self, url: str, signing_secret: str, fields: Mapping[str, str]) -> Ack:
        body = urlencode(fields)
        headers = signature_headers(signing_secret, body, int(self._workspace.clock()))
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        started = time.monotonic()
        try:
            async with httpx.AsyncClient(trust_env=False) as client:
                answer = await client.post(url, content=body, headers=headers, timeout=ACKNOWLEDGE_SECONDS)
        except httpx.HTTPError:
            return Ack(None, "", time.monotonic() - started)
        return Ack(answer.status_code, answer.text, time.monotonic() - started)


def _message(body: str) -> dict[str, Any]:
    """Return the message in an acknowledgement, JSON or plain text."""
    try:
        payload = json.loads(body)
    except ValueError:
        payload = None
    return payload if isinstance(payload, dict) else {"text": body}


def _button(message: PostedMessage, action_id: str) -> dict[str, Any]:
    """Return a button of the message as a payload describes it."""
    for block in message.get("blocks", []):
        for element in [*block.get("elements", []), block.get("accessory", {})]:
            if element.get("action_id") == action_id:
                fields = {name: element[name] for name in ("type", "text", "value", "style", "url") if name in element}
                return {"action_id": action_id, "block_id": block["block_id"], **fields}
    raise LookupError(f"no button {action_id}")
