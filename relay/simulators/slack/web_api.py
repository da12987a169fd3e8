"""The methods of Slack's Web API that relay calls, with the errors that Slack answers."""

import base64
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from relay.simulators.slack.errors import SlackError
from relay.simulators.slack.limits import TierLimiter
from relay.simulators.slack.workspace import APP_NAME, Bot, Conversation, PostedMessage, Workspace

Args = Mapping[str, Any]
ResponseBody = dict[str, Any]


class WebApi:
    """Carries out Web API calls on the workspace, or raises `SlackError`."""

    def __init__(self, workspace: Workspace, limiter: TierLimiter) -> None:
        self._workspace = workspace
        self._limiter = limiter
        self._methods: dict[str, Callable[[Bot, Args], Awaitable[ResponseBody]]] = {
            "auth.test": self._auth_test,
            "chat.postMessage": self._post_message,
            "chat.update": self._update,
            "conversations.history": self._history,
            "conversations.info": self._info,
            "conversations.join": self._join,
            "conversations.list": self._list,
            "conversations.replies": self._replies,
            "users.info": self._user_info,
        }

    async def call(self, method: str, token: str, args: Args) -> ResponseBody:
        """Carry out one call and return the body of its answer."""
        if method not in self._methods:
            raise SlackError("unknown_method", req_method=method)
        if not token:
            raise SlackError("not_authed")
        bot = self._workspace.bots.get(token)
        if bot is None:
            raise SlackError("invalid_auth")
        self._limiter.call(method)
        return {"ok": True} | await self._methods[method](bot, args)

    async def _auth_test(self, bot: Bot, _args: Args) -> ResponseBody:
        workspace = self._workspace
        return {
            "url": f"https://{workspace.domain}.slack.com/",
            "team": workspace.name,
            "user": APP_NAME,
            "team_id": workspace.team_id,
            "user_id": bot.user_id,
            "bot_id": bot.bot_id,
            "is_enterprise_install": False,
        }

    async def _post_message(self, bot: Bot, args: Args) -> ResponseBody:
        bot.require("chat:write")
        channel = self._workspace.find_channel(args.get("channel"))
        if channel is None:
            raise SlackError("channel_not_found")
        if channel.archived:
            raise SlackError("is_archived")
        if not channel.member and "chat:write.public" not in bot.scopes:
            raise SlackError("not_in_channel")
        self._limiter.post(channel.id)
        message = self._workspace.post(
            channel,
            self._workspace.as_bot(bot),
            await self._workspace.content(args),
            thread_ts=args.get("thread_ts"),
            broadcast=_is_true(args.get("reply_broadcast")),
        )
        return {"channel": channel.id, "ts": message["ts"], "message": message}

    async def _update(self, bot: Bot, args: Args) -> ResponseBody:
        bot.require("chat:write")
        channel = self._workspace.channels.get(_required(args, "channel"))  # chat.update takes an id, no name
        if channel is None:
            raise SlackError("channel_not_found")
        message = channel.find(_required(args, "ts"))
        if message is None or "is_ephemeral" in message:
            raise SlackError("message_not_found")
        if message.get("user") != bot.user_id:
            raise SlackError("cant_update_message")
        if channel.archived:
            raise SlackError("is_inactive")
        self._workspace.edit(message, await self._workspace.content(args), bot.user_id)
        return {"channel": channel.id, "ts": message["ts"], "text": message["text"], "message": message}

    async def _history(self, bot: Bot, args: Args) -> ResponseBody:
        channel = self._conversation(bot, args, "history")
        oldest = str(args.get("oldest") or "0")
        latest = str(args.get("latest") or "9999999999.999999")
        bounds = (oldest, latest) if _is_true(args.get("inclusive")) else ()
        messages = [
            message
            for message in reversed(channel.timeline())
            if "is_ephemeral" not in message
            and (float(oldest) < float(message["ts"]) < float(latest) or message["ts"] in bounds)
        ]
        return _page("messages", _readable(messages, args), args)

    async def _replies(self, bot: Bot, args: Args) -> ResponseBody:
        channel = self._conversation(bot, args, "history")
        root = channel.find(_required(args, "ts"))
        if root is None:
            raise SlackError("thread_not_found")
        root = channel.find(root.get("thread_ts")) or root
        return _page("messages", _readable([root, *channel.replies(root)], args), args)

    async def _info(self, bot: Bot, args: Args) -> ResponseBody:
        return {"channel": _channel_object(self._conversation(bot, args, "read"))}

    async def _list(self, bot: Bot, args: Args) -> ResponseBody:
        bot.require("channels:read")
        types = str(args.get("types") or "public_channel").split(",")
        if "private_channel" in types:
            bot.require("groups:read")
        hide_archived = _is_true(args.get("exclude_archived"))
        channels = [
            _channel_object(channel)
            for channel in self._workspace.channels.values()
            if ("private_channel" if channel.private else "public_channel") in types
            and (channel.member or not channel.private)
            and not (channel.archived and hide_archived)
        ]
        return _page("channels", channels, args)

    async def _join(self, bot: Bot, args: Args) -> ResponseBody:
        bot.require("channels:join")
        channel = self._workspace.channels.get(_required(args, "channel"))
        if channel is None or (channel.private and not channel.member):
            raise SlackError("channel_not_found")
        if channel.private:
            raise SlackError("method_not_supported_for_channel_type")
        if channel.archived:
            raise SlackError("is_archived")
        warning = {"warning": "already_in_channel"} if channel.member else {}
        channel.member = True
        return {"channel": _channel_object(channel)} | warning

    async def _user_info(self, bot: Bot, args: Args) -> ResponseBody:
        bot.require("users:read")
        user_id = _required(args, "user")
        name = self._workspace.people.get(user_id)
        is_bot = name is None and any(other.user_id == user_id for other in self._workspace.bots.values())
        if is_bot:
            name = APP_NAME
        if name is None:
            raise SlackError("user_not_found")
        profile = {"real_name": name, "display_name": name}
        user = {"id": user_id, "team_id": self._workspace.team_id, "name": name.lower(), "deleted": False}
        return {"user": user | {"real_name": name, "profile": profile, "is_bot": is_bot, "tz": "Etc/UTC"}}

    def _conversation(self, bot: Bot, args: Args, action: str) -> Conversation:
        """Return the channel to read, if the token's scopes and the bot's membership allow it."""
        channel = self._workspace.channels.get(_required(args, "channel"))
        bot.require(f"{'groups' if channel and channel.private else 'channels'}:{action}")
        if channel is None or (channel.private and not channel.member):
            raise SlackError("channel_not_found")
        if action == "history" and not channel.member:
            raise SlackError("not_in_channel")
        return channel


def _required(args: Args, name: str) -> str:
    value = args.get(name)
    if not value:
        problem = f"[ERROR] missing required field: {name}"
        raise SlackError("invalid_arguments", response_metadata={"messages": [problem]})
    return str(value)


def _is_true(value: Any) -> bool:
    """Read a boolean argument, which is text in a form."""
    return value in (True, "1", "true")


def _readable(messages: Sequence[PostedMessage], args: Args) -> list[PostedMessage]:
    """Return the messages as a reader gets them: with metadata only on demand."""
    if _is_true(args.get("include_all_metadata")):
        return list(messages)
    return [{name: value for name, value in message.items() if name != "metadata"} for message in messages]


def _channel_object(channel: Conversation) -> ResponseBody:
    return {
        "id": channel.id,
        "name": channel.name,
        "is_channel": not channel.private,
        "is_group": channel.private,
        "is_private": channel.private,
        "is_archived": channel.archived,
        "is_member": channel.member,
    }


def _page(name: str, items: list[ResponseBody], args: Args) -> ResponseBody:
    """Return the page of `limit` items that starts at `cursor`."""
    try:
        start = int(base64.b64decode(args.get("cursor") or "", validate=True).removeprefix(b"next:") or 0)
        end = start + min(max(int(args.get("limit") or 100), 1), 999)
    except ValueError:
        raise SlackError("invalid_cursor" if args.get("cursor") else "invalid_limit") from None
    has_more = end < len(items)
    cursor = base64.b64encode(b"next:%d" % end).decode() if has_more else ""
    return {name: items[start:end], "has_more": has_more, "response_metadata": {"next_cursor": cursor}}
