"""The people of the workspace: they press buttons and type commands, and Slack tells relay about it, signed."""

import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import httpx

from relay.standin.hooks import ResponseUrls
from relay.standin.workspace import Message, Workspace

ACKNOWLEDGE_SECONDS = 3.0


@dataclass(frozen=True)
class Ack:
    """What came of a click or command. Slack shows the person an error unless it was acknowledged."""

    status: int | None
    body: str
    seconds: float

    @property
    def acknowledged(self) -> bool:
        """Whether a 2xx came within three seconds."""
        return self.status is not None and 200 <= self.status < 300 and self.seconds < ACKNOWLEDGE_SECONDS


def signature_headers(signing_secret: str, body: str, timestamp: int) -> dict[str, str]:
    """Slack's v0 signature over a raw body."""
    digest = hmac.new(signing_secret.encode(), f"v0:{timestamp}:{body}".encode(), hashlib.sha256).hexdigest()
    return {"X-Slack-Request-Timestamp": str(timestamp), "X-Slack-Signature": f"v0={digest}"}


class People:
    """Builds the payloads Slack would send and delivers them."""

    def __init__(self, workspace: Workspace, responses: ResponseUrls, http: Callable[[], httpx.AsyncClient]) -> None:
        self._workspace = workspace
        self._responses = responses
        self._http = http

    def block_actions(self, base_url: str, channel_id: str, ts: str, action_id: str, user_id: str) -> dict[str, Any]:
        """The payload of a press on a button of a posted message."""
        space, channel = self._workspace, self._workspace.channels[channel_id]
        message = channel.find(ts)
        if message is None:
            raise LookupError(f"no message {ts} in {channel_id}")
        path = self._responses.issue("actions", channel, user_id, ts)
        name = space.people.get(user_id, user_id)
        return {
            "type": "block_actions",
            "user": {"id": user_id, "username": name.lower(), "name": name.lower(), "team_id": space.team_id},
            "api_app_id": space.app_id,
            "token": "verification-token-not-to-be-used",
            "container": {
                "type": "message",
                "message_ts": ts,
                "channel_id": channel.id,
                "is_ephemeral": "is_ephemeral" in message,
            },
            "trigger_id": secrets.token_hex(16),
            "team": {"id": space.team_id, "domain": space.domain},
            "enterprise": None,
            "is_enterprise_install": False,
            "channel": {"id": channel.id, "name": channel.name},
            "message": message,
            "state": {"values": {}},
            "response_url": f"{base_url}/{path}",
            "actions": [_button(message, action_id) | {"action_ts": space.next_ts()}],
        }

    def slash_command(self, base_url: str, channel_id: str, command: str, text: str, user_id: str) -> dict[str, str]:
        """The form fields of a slash command."""
        space, channel = self._workspace, self._workspace.channels[channel_id]
        return {
            "token": "verification-token-not-to-be-used",
            "team_id": space.team_id,
            "team_domain": space.domain,
            "channel_id": channel.id,
            "channel_name": channel.name,
            "user_id": user_id,
            "user_name": space.people.get(user_id, user_id).lower(),
            "command": command,
            "text": text,
            "api_app_id": space.app_id,
            "is_enterprise_install": "false",
            "response_url": f"{base_url}/{self._responses.issue('commands', channel, user_id)}",
            "trigger_id": secrets.token_hex(16),
        }

    async def click(self, url: str, signing_secret: str, payload: Mapping[str, Any]) -> Ack:
        """Sends an interaction."""
        return await self._send(url, signing_secret, {"payload": json.dumps(payload)})

    async def command(self, url: str, signing_secret: str, payload: Mapping[str, str]) -> Ack:
        """Sends a slash command, and shows what the acknowledgement says."""
        ack = await self._send(url, signing_secret, payload)
        if ack.acknowledged and ack.body:
            await self._responses.respond(self._responses.at(payload["response_url"]), _said(ack.body))
        return ack

    async def _send(self, url: str, signing_secret: str, fields: Mapping[str, str]) -> Ack:
        body = urlencode(fields)
        headers = signature_headers(signing_secret, body, int(self._workspace.clock()))
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        started = time.monotonic()
        try:
            async with self._http() as client:
                answer = await client.post(url, content=body, headers=headers, timeout=ACKNOWLEDGE_SECONDS)
        except httpx.HTTPError:
            return Ack(None, "", time.monotonic() - started)
        return Ack(answer.status_code, answer.text, time.monotonic() - started)


def _said(body: str) -> dict[str, Any]:
    """An acknowledgement's message, JSON or plain."""
    try:
        payload = json.loads(body)
    except ValueError:
        payload = None
    return payload if isinstance(payload, dict) else {"text": body}


def _button(message: Message, action_id: str) -> dict[str, Any]:
    """A button of the message, as a payload names it."""
    for block in message.get("blocks", []):
        for element in [*block.get("elements", []), block.get("accessory", {})]:
            if element.get("action_id") == action_id:
                told = {name: element[name] for name in ("type", "text", "value", "style", "url") if name in element}
                return {"action_id": action_id, "block_id": block["block_id"], **told}
    raise LookupError(f"no button {action_id}")
