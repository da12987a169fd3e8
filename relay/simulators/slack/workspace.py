"""The state of the workspace: bots, channels and messages, with Slack's rules for posting and editing."""

import copy
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from relay.simulators.slack.blocks import Block, FetchImage, check_message
from relay.simulators.slack.errors import SlackError
from relay.simulators.slack.limits import USUAL_LIMITS, Limits

PostedMessage = dict[str, Any]
"""A message as Slack's API shows it."""

APP_NAME = "relay"
"""The name of the installed app and of its bot."""

METADATA_LIMIT = 16_000
"""Bytes of JSON. Slack does not publish the figure."""


@dataclass(frozen=True)
class Bot:
    """An installed app's bot user."""

    scopes: frozenset[str]
    user_id: str
    bot_id: str

    def require(self, scope: str) -> None:
        """Raise `SlackError` for a token that lacks the scope."""
        if scope not in self.scopes:
            raise SlackError("missing_scope", needed=scope, provided=",".join(sorted(self.scopes)))


@dataclass
class Conversation:
    """A channel, whether relay's bot is a member, and its messages."""

    id: str
    name: str
    member: bool = True
    private: bool = False
    archived: bool = False
    messages: list[PostedMessage] = field(default_factory=list, repr=False)

    def find(self, ts: Any) -> PostedMessage | None:
        """Return the message posted at `ts`."""
        return next((message for message in self.messages if message["ts"] == ts), None)

    def timeline(self) -> list[PostedMessage]:
        """Return the messages in the channel itself: of the replies in threads, only those that were broadcast."""
        return [
            message
            for message in self.messages
            if message.get("thread_ts", message["ts"]) == message["ts"] or message.get("subtype") == "thread_broadcast"
        ]

    def replies(self, root: PostedMessage) -> list[PostedMessage]:
        """Return the thread below a message."""
        return [message for message in self.messages if message.get("thread_ts") == root["ts"] != message["ts"]]


@dataclass(frozen=True)
class Content:
    """The content of a message. None means not given, which an edit treats differently from empty."""

    text: str | None
    blocks: list[Block] | None
    metadata: dict[str, Any] | None


async def accept_https(url: str) -> bool:
    """Count any https image as fetched, and no other: the demo has no network."""
    return url.startswith("https://")


@dataclass(frozen=True, kw_only=True)
class WorkspaceOptions:
    """What a simulated workspace is made of.

    Attributes:
        channels: the channels, with their messages so far.
        tokens: the scopes of each bot token; each token is a bot of its own.
        hooks: the channel id of each incoming webhook, by what follows `/services/` in its URL.
        people: names by user id.
        name: the workspace's name.
        url: where the app is served, for the response URLs that it issues.
        limits: the rate limits; None switches them off. What a message may contain is always checked.
        fetch_image: whether Slack can fetch an image from a URL.
        pictures: URLs on this machine by the URLs of images elsewhere, so that the page can show them.
        clock: returns the time in Unix seconds.
    """

    channels: Iterable[Conversation]
    tokens: Mapping[str, Iterable[str]]
    hooks: Mapping[str, str] = field(default_factory=dict)
    people: Mapping[str, str] = field(default_factory=lambda: {"U0PERSON": "Sam"})
    name: str = "Relay Demo"
    url: str = "http://127.0.0.1"
    limits: Limits | None = USUAL_LIMITS
    fetch_image: FetchImage = accept_https
    pictures: Mapping[str, str] = field(default_factory=dict)
    clock: Callable[[], float] = time.time


class Workspace:
    """A Slack workspace with one app installed."""

    team_id = "T0STANDIN"
    app_id = "A0STANDIN"

    def __init__(self, options: WorkspaceOptions) -> None:
        self.name = options.name
        self.channels = {channel.id: channel for channel in options.channels}
        self.bots = {
            token: Bot(frozenset(scopes), f"U0BOT{number}", f"B0BOT{number}")
            for number, (token, scopes) in enumerate(options.tokens.items(), start=1)
        }
        self.people = options.people
        self.clock = options.clock
        self.refuses_blocks = False
        self._fetch_image = options.fetch_image
        self._last_ts = 0
        self._last_block = 0

    @property
    def domain(self) -> str:
        """Return the workspace's name as it stands in its URL."""
        return self.name.lower().replace(" ", "-")

    def names(self) -> dict[str, str]:
        """Return what a mention shows for each id of a bot, a person or a channel."""
        bots = {bot.user_id: APP_NAME for bot in self.bots.values()}
        return bots | dict(self.people) | {channel.id: channel.name for channel in self.channels.values()}

    def find_channel(self, reference: Any) -> Conversation | None:
        """Return a channel by id or name, as chat.postMessage accepts both; a private one only for its members."""
        for channel in self.channels.values():
            if reference in (channel.id, channel.name, f"#{channel.name}"):
                return channel if channel.member or not channel.private else None
        return None

    def next_ts(self) -> str:
        """Return a timestamp that no other message has."""
        self._last_ts = max(self._last_ts + 1, int(self.clock() * 1_000_000))
        return f"{self._last_ts // 1_000_000}.{self._last_ts % 1_000_000:06d}"

    async def content(self, args: Mapping[str, Any]) -> Content:
        """Return text, blocks and metadata of a call, or raise `SlackError` for what Slack refuses.

        In a form, blocks and metadata are JSON in a string.
        """
        text = args.get("text")
        blocks = _parsed(args.get("blocks"), "invalid_blocks_format")
        metadata = _parsed(args.get("metadata"), "invalid_metadata_format")
        if text is not None and not isinstance(text, str):
            text = str(text)
        if blocks is not None and not isinstance(blocks, list):
            raise SlackError("invalid_blocks_format")
        if metadata:
            _check_metadata(metadata)
        if not text and not blocks:
            raise SlackError("no_text")
        if blocks and self.refuses_blocks:
            raise SlackError("invalid_blocks")
        await check_message(text or "", blocks or [], self._fetch_image)
        return Content(text, blocks, metadata)

    def post(
        self,
        channel: Conversation,
        author: Mapping[str, Any],
        content: Content,
        *,
        thread_ts: str | None = None,
        broadcast: bool = False,
    ) -> PostedMessage:
        """Add a message to a channel, or to the thread of `thread_ts`."""
        message: PostedMessage = {"type": "message", "ts": self.next_ts(), **author, "text": content.text or ""}
        if content.blocks:
            message["blocks"] = self._with_ids(content.blocks)
        if content.metadata:
            message["metadata"] = content.metadata
        if thread_ts is not None:
            root = channel.find(thread_ts)
            if root is None or "is_ephemeral" in root:
                raise SlackError("cannot_reply_to_message")
            root = channel.find(root.get("thread_ts")) or root
            message["thread_ts"] = root["thread_ts"] = root["ts"]
            root["reply_count"] = root.get("reply_count", 0) + 1
            root["latest_reply"] = message["ts"]
            if broadcast:
                message["subtype"] = "thread_broadcast"
        channel.messages.append(message)
        return message

    def edit(self, message: PostedMessage, content: Content, editor: str) -> None:
        """Change a message. Text without blocks removes the blocks, blocks without text keep the text.

        Slack shows no "edited" mark on a message with blocks.
        """
        if content.text is not None:
            message["text"] = content.text
        if content.blocks:
            message["blocks"] = self._with_ids(content.blocks)
        else:
            message.pop("blocks", None)
            message["edited"] = {"user": editor, "ts": self.next_ts()}
        if content.metadata:
            message["metadata"] = content.metadata
        elif content.metadata is not None:
            message.pop("metadata", None)

    def as_bot(self, bot: Bot) -> dict[str, Any]:
        """Return the fields that name a bot as the author of a message."""
        profile = {"id": bot.bot_id, "app_id": self.app_id, "name": APP_NAME, "team_id": self.team_id}
        return {
            "user": bot.user_id,
            "bot_id": bot.bot_id,
            "app_id": self.app_id,
            "team": self.team_id,
            "bot_profile": profile,
        }

    def _with_ids(self, blocks: list[Block]) -> list[Block]:
        """Return a copy of the blocks in which each has an id."""
        copies = copy.deepcopy(blocks)
        for block in copies:
            self._last_block += 1
            block.setdefault("block_id", f"b{self._last_block}")
        return copies


def author_name(message: PostedMessage) -> str:
    """Return the name that Slack shows above a message."""
    return str(message.get("bot_profile", {}).get("name") or message.get("username", ""))


def _parsed(value: Any, error: str) -> Any:
    """Parse JSON in a string. Return anything but a string as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise SlackError(error) from None


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, dict):
        raise SlackError("invalid_metadata_format")
    event_type = metadata.get("event_type")
    if not isinstance(event_type, str) or not event_type or not isinstance(metadata.get("event_payload"), dict):
        raise SlackError("invalid_metadata_schema")
    if len(json.dumps(metadata).encode()) > METADATA_LIMIT:
        raise SlackError("metadata_too_large")
