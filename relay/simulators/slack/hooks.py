"""The two kinds of URL that accept a message without a token: incoming webhooks and response URLs."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from relay.simulators.slack.errors import SlackError
from relay.simulators.slack.limits import TierLimiter
from relay.simulators.slack.workspace import APP_NAME, Content, Conversation, Workspace

MAX_USES = 5
LIFETIME = 30 * 60
"""Seconds for which a response URL works."""


class IncomingWebhooks:
    """The URLs `/services/<team>/<hook>/<secret>`, each bound to one channel."""

    def __init__(self, workspace: Workspace, limiter: TierLimiter, hooks: Mapping[str, str]) -> None:
        self._workspace = workspace
        self._limiter = limiter
        self._hooks = hooks

    async def post(self, path: str, payload: Any) -> None:
        """Post a payload to the channel of the hook at `path`, or raise `SlackError`."""
        channel = self._channel(path)
        if not isinstance(payload, dict):
            raise SlackError("invalid_payload")
        self._limiter.post(channel.id)
        hook_id = path.split("/")[1]
        author = {"subtype": "bot_message", "bot_id": hook_id, "username": APP_NAME}
        thread_ts = payload.get("thread_ts")
        self._workspace.post(channel, author, await self._workspace.content(payload), thread_ts=thread_ts)

    def _channel(self, path: str) -> Conversation:
        if path not in self._hooks:
            raise SlackError(self._path_error(path))
        channel = self._workspace.channels.get(self._hooks[path])
        if channel is None:
            raise SlackError("channel_not_found")
        if channel.archived:
            raise SlackError("channel_is_archived")
        return channel

    def _path_error(self, path: str) -> str:
        """Return Slack's error for the first segment of the path that is unknown."""
        team, hook, *_ = [*path.split("/"), ""]
        if not any(known.startswith(f"{team}/") for known in self._hooks):
            return "no_team"
        if not any(known.startswith(f"{team}/{hook}/") for known in self._hooks):
            return "no_service"
        return "invalid_token"


@dataclass
class ResponseUrl:
    """A URL that answers one interaction: of a person in a channel, with a message if its button was pressed."""

    channel: Conversation
    user_id: str
    message_ts: str | None
    issued: float
    uses: int = 0


class ResponseUrls:
    """The issued response URLs. Each works five times within half an hour."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._issued: dict[str, ResponseUrl] = {}

    def issue(self, kind: str, channel: Conversation, user_id: str, message_ts: str | None = None) -> str:
        """Issue a response URL and return its path. `kind` is `actions` or `commands`."""
        path = f"{kind}/{self._workspace.team_id}/{len(self._issued) + 1}/{secrets.token_urlsafe(12)}"
        self._issued[path] = ResponseUrl(channel, user_id, message_ts, self._workspace.clock())
        return path

    async def post(self, path: str, payload: Any) -> None:
        """Apply a payload that was sent to `path`, or raise `SlackError`."""
        response = self._issued.get(path)
        if response is None:
            raise SlackError("invalid_url")
        if self._workspace.clock() >= response.issued + LIFETIME:
            raise SlackError("expired_url")
        if response.uses >= MAX_USES:
            raise SlackError("used_url")
        if not isinstance(payload, dict):
            raise SlackError("invalid_payload")
        await self.respond(response, payload)
        response.uses += 1

    async def respond(self, response: ResponseUrl, payload: Mapping[str, Any]) -> None:
        """Delete or replace the original message, or post a new one, which only the person sees by default."""
        original = response.channel.find(response.message_ts)
        if payload.get("delete_original") and original:
            response.channel.messages.remove(original)
            return
        content = await self._workspace.content(payload)
        if payload.get("replace_original") and original:
            self._workspace.edit(original, content, original.get("user", ""))
        else:
            self._post(response, content, payload)

    def at(self, url: str) -> ResponseUrl:
        """Return the response URL that was issued as `url`."""
        return self._issued[urlsplit(url).path.lstrip("/")]

    def _post(self, response: ResponseUrl, content: Content, payload: Mapping[str, Any]) -> None:
        bot = next(iter(self._workspace.bots.values()))
        author = self._workspace.as_bot(bot)
        if payload.get("response_type") != "in_channel":
            author |= {"is_ephemeral": True, "ephemeral_user": response.user_id}
        self._workspace.post(response.channel, author, content, thread_ts=payload.get("thread_ts"))
