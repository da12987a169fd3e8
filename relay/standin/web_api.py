"""The methods of Slack's Web API that relay uses, with the errors Slack has for them."""

import base64
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from relay.standin.errors import Refusal
from relay.standin.limits import RateLimiter
from relay.standin.workspace import Bot, Channel, Message, Workspace

Args = Mapping[str, Any]
Answer = dict[str, Any]


class WebApi:
    """Answers calls, or raises `Refusal`."""

    def __init__(self, workspace: Workspace, rates: RateLimiter) -> None:
        self._workspace = workspace
        self._rates = rates
        self._methods: dict[str, Callable[[Bot, Args], Awaitable[Answer]]] = {
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

    async def call(self, method: str, token: str, args: Args) -> Answer:
        """One call, by whoever has the token."""
        if method not in self._methods:
            raise Refusal("unknown_method", req_method=method)
        if not token:
            raise Refusal("not_authed")
        bot = self._workspace.bots.get(token)
        if bot is None:
            raise Refusal("invalid_auth")
        self._rates.call(method)
        return {"ok": True} | await self._methods[method](bot, args)

    async def _auth_test(self, bot: Bot, _args: Args) -> Answer:
        space = self._workspace
        return {
            "url": f"https://{space.domain}.slack.com/",
            "team": space.name,
            "user": space.app_name,
            "team_id": space.team_id,
            "user_id": bot.user_id,
            "bot_id": bot.bot_id,
            "is_enterprise_install": False,
        }

    async def _post_message(self, bot: Bot, args: Args) -> Answer:
        bot.need("chat:write")
        channel = self._workspace.find_channel(args.get("channel"))
        if channel is None:
            raise Refusal("channel_not_found")
        if channel.archived:
            raise Refusal("is_archived")
        if not channel.member and "chat:write.public" not in bot.scopes:
            raise Refusal("not_in_channel")
        self._rates.post(channel.id)
        message = self._workspace.post(
            channel,
            self._workspace.as_bot(bot),
            await self._workspace.content(args),
            thread_ts=args.get("thread_ts"),
            broadcast=_truth(args.get("reply_broadcast")),
        )
        return {"channel": channel.id, "ts": message["ts"], "message": message}

    async def _update(self, bot: Bot, args: Args) -> Answer:
        bot.need("chat:write")
        channel = self._workspace.channels.get(_required(args, "channel"))  # an id: a name will not do here
        if channel is None:
            raise Refusal("channel_not_found")
        message = channel.find(_required(args, "ts"))
        if message is None or "is_ephemeral" in message:
            raise Refusal("message_not_found")
        if message.get("user") != bot.user_id:
            raise Refusal("cant_update_message")
        if channel.archived:
            raise Refusal("is_inactive")
        self._workspace.edit(message, await self._workspace.content(args), bot.user_id)
        return {"channel": channel.id, "ts": message["ts"], "text": message["text"], "message": message}

    async def _history(self, bot: Bot, args: Args) -> Answer:
        channel = self._conversation(bot, args, "history")
        oldest, latest = args.get("oldest") or "0", args.get("latest") or "9999999999.999999"
        bounds = (str(oldest), str(latest)) if _truth(args.get("inclusive")) else ()
        messages = [
            message
            for message in reversed(channel.timeline())
            if "is_ephemeral" not in message
            and (float(oldest) < float(message["ts"]) < float(latest) or message["ts"] in bounds)
        ]
        return _page("messages", _shown(messages, args), args)

    async def _replies(self, bot: Bot, args: Args) -> Answer:
        channel = self._conversation(bot, args, "history")
        root = channel.find(_required(args, "ts"))
        if root is None:
            raise Refusal("thread_not_found")
        root = channel.find(root.get("thread_ts")) or root
        return _page("messages", _shown([root, *channel.replies(root)], args), args)

    async def _info(self, bot: Bot, args: Args) -> Answer:
        return {"channel": _described(self._conversation(bot, args, "read"))}

    async def _list(self, bot: Bot, args: Args) -> Answer:
        bot.need("channels:read")
        kinds = str(args.get("types") or "public_channel").split(",")
        if "private_channel" in kinds:
            bot.need("groups:read")
        hide_archived = _truth(args.get("exclude_archived"))
        channels = [
            _described(channel)
            for channel in self._workspace.channels.values()
            if ("private_channel" if channel.private else "public_channel") in kinds
            and (channel.member or not channel.private)
            and not (channel.archived and hide_archived)
        ]
        return _page("channels", channels, args)

    async def _join(self, bot: Bot, args: Args) -> Answer:
        bot.need("channels:join")
        channel = self._workspace.channels.get(_required(args, "channel"))
        if channel is None or (channel.private and not channel.member):
            raise Refusal("channel_not_found")
        if channel.private:
            raise Refusal("method_not_supported_for_channel_type")
        if channel.archived:
            raise Refusal("is_archived")
        warning = {"warning": "already_in_channel"} if channel.member else {}
        channel.member = True
        return {"channel": _described(channel)} | warning

    async def _user_info(self, bot: Bot, args: Args) -> Answer:
        bot.need("users:read")
        user_id = _required(args, "user")
        name = self._workspace.people.get(user_id)
        is_bot = name is None and any(other.user_id == user_id for other in self._workspace.bots.values())
        if is_bot:
            name = self._workspace.app_name
        if name is None:
            raise Refusal("user_not_found")
        profile = {"real_name": name, "display_name": name}
        user = {"id": user_id, "team_id": self._workspace.team_id, "name": name.lower(), "deleted": False}
        return {"user": user | {"real_name": name, "profile": profile, "is_bot": is_bot, "tz": "Etc/UTC"}}

    def _conversation(self, bot: Bot, args: Args, action: str) -> Channel:
        """The channel to be read, if the token and the membership allow it."""
        channel = self._workspace.channels.get(_required(args, "channel"))
        bot.need(f"{'groups' if channel and channel.private else 'channels'}:{action}")
        if channel is None or (channel.private and not channel.member):
            raise Refusal("channel_not_found")
        if action == "history" and not channel.member:
            raise Refusal("not_in_channel")
        return channel


def _required(args: Args, name: str) -> str:
    value = args.get(name)
    if not value:
        problem = f"[ERROR] missing required field: {name}"
        raise Refusal("invalid_arguments", response_metadata={"messages": [problem]})
    return str(value)


def _truth(value: Any) -> bool:
    """A boolean argument, which a form writes as text."""
    return value in (True, "1", "true")


def _shown(messages: Sequence[Message], args: Args) -> list[Message]:
    """Messages as a reader gets them: metadata only on demand."""
    if _truth(args.get("include_all_metadata")):
        return list(messages)
    return [{name: value for name, value in message.items() if name != "metadata"} for message in messages]


def _described(channel: Channel) -> Answer:
    return {
        "id": channel.id,
        "name": channel.name,
        "is_channel": not channel.private,
        "is_group": channel.private,
        "is_private": channel.private,
        "is_archived": channel.archived,
        "is_member": channel.member,
    }


def _page(name: str, items: list[Answer], args: Args) -> Answer:
    """`limit` items from `cursor` on."""
    try:
        start = int(base64.b64decode(args.get("cursor") or "", validate=True).removeprefix(b"next:") or 0)
        end = start + min(max(int(args.get("limit") or 100), 1), 999)
    except ValueError:
        raise Refusal("invalid_cursor" if args.get("cursor") else "invalid_limit") from None
    has_more = end < len(items)
    cursor = base64.b64encode(b"next:%d" % end).decode() if has_more else ""
    return {name: items[start:end], "has_more": has_more, "response_metadata": {"next_cursor": cursor}}
