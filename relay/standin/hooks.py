"""The two kinds of URL that take a message without a token: incoming webhooks and response URLs."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from relay.standin.errors import Refusal
from relay.standin.limits import RateLimiter
from relay.standin.workspace import Channel, Content, Workspace

RESPONSE_USES = 5
RESPONSE_SECONDS = 30 * 60


class IncomingWebhooks:
    """Posts to `/services/<team>/<hook>/<secret>`, each bound to one channel."""

    def __init__(self, workspace: Workspace, rates: RateLimiter, hooks: Mapping[str, str]) -> None:
        self._workspace = workspace
        self._rates = rates
        self._hooks = hooks

    async def post(self, path: str, payload: Any) -> None:
        """Posts a payload, or raises `Refusal`."""
        channel, hook_id = self._channel(path), path.split("/")[1]
        if not isinstance(payload, dict):
            raise Refusal("invalid_payload")
        self._rates.post(channel.id)
        author = {"subtype": "bot_message", "bot_id": hook_id, "username": self._workspace.app_name}
        thread_ts = payload.get("thread_ts")
        self._workspace.post(channel, author, await self._workspace.content(payload), thread_ts=thread_ts)

    def _channel(self, path: str) -> Channel:
        if path not in self._hooks:
            team, hook, *_ = [*path.split("/"), ""]
            known = [known.split("/") for known in self._hooks]
            if team not in [parts[0] for parts in known]:
                raise Refusal("no_team")
            raise Refusal("invalid_token" if [team, hook] in [parts[:2] for parts in known] else "no_service")
        channel = self._workspace.channels.get(self._hooks[path])
        if channel is None:
            raise Refusal("channel_not_found")
        if channel.archived:
            raise Refusal("channel_is_archived")
        return channel


@dataclass
class ResponseUrl:
    """Whom it answers: a person in a channel, perhaps about a message of theirs."""

    channel: Channel
    user_id: str
    message_ts: str | None
    issued: float
    uses: int = 0


class ResponseUrls:
    """Each of them works five times within half an hour."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._issued: dict[str, ResponseUrl] = {}

    def issue(self, kind: str, channel: Channel, user_id: str, message_ts: str | None = None) -> str:
        """The path of a new one; `kind` is `actions` or `commands`."""
        path = f"{kind}/{self._workspace.team_id}/{len(self._issued) + 1}/{secrets.token_urlsafe(12)}"
        self._issued[path] = ResponseUrl(channel, user_id, message_ts, self._workspace.clock())
        return path

    async def post(self, path: str, payload: Any) -> None:
        """Takes a payload, or raises `Refusal`."""
        response = self._issued.get(path)
        if response is None:
            raise Refusal("invalid_url")
        if self._workspace.clock() >= response.issued + RESPONSE_SECONDS:
            raise Refusal("expired_url")
        if response.uses >= RESPONSE_USES:
            raise Refusal("used_url")
        if not isinstance(payload, dict):
            raise Refusal("invalid_payload")
        await self.respond(response, payload)
        response.uses += 1

    async def respond(self, response: ResponseUrl, payload: Mapping[str, Any]) -> None:
        """Deletes or replaces the message it is about, or posts a new one that only the person sees."""
        channel, original = response.channel, response.channel.find(response.message_ts)
        if payload.get("delete_original") and original:
            channel.messages.remove(original)
            return
        content = await self._workspace.content(payload)
        if payload.get("replace_original") and original:
            self._workspace.edit(original, content, original.get("user", ""))
        else:
            self._post(response, content, payload)

    def at(self, url: str) -> ResponseUrl:
        """The one that was issued with this URL."""
        return self._issued[urlsplit(url).path.lstrip("/")]

    def _post(self, response: ResponseUrl, content: Content, payload: Mapping[str, Any]) -> None:
        bot = next(iter(self._workspace.bots.values()))
        author = self._workspace.as_bot(bot)
        if payload.get("response_type") != "in_channel":
            author |= {"is_ephemeral": True, "ephemeral_user": response.user_id}
        self._workspace.post(response.channel, author, content, thread_ts=payload.get("thread_ts"))
