"""The workspace's state: who may do what, and the messages of each channel with Slack's rules for them."""

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from relay.standin.blocks import Block, FetchImage, vet
from relay.standin.errors import Refusal

Message = dict[str, Any]
"""A message as Slack's API shows it."""

METADATA_LIMIT = 16_000
"""Bytes of JSON; Slack does not publish the figure."""


@dataclass(frozen=True)
class Bot:
    """An installed app's bot user."""

    scopes: frozenset[str]
    user_id: str
    bot_id: str

    def need(self, scope: str) -> None:
        """Refuses a token that lacks the scope."""
        if scope not in self.scopes:
            raise Refusal("missing_scope", needed=scope, provided=",".join(sorted(self.scopes)))


@dataclass
class Channel:
    """A channel, whether relay's bot is in it, and what has been said."""

    id: str
    name: str
    member: bool = True
    private: bool = False
    archived: bool = False
    messages: list[Message] = field(default_factory=list, repr=False)

    def find(self, ts: Any) -> Message | None:
        """The message posted at `ts`."""
        return next((message for message in self.messages if message["ts"] == ts), None)

    def timeline(self) -> list[Message]:
        """What stands in the channel itself: thread replies only if they were broadcast."""
        return [
            message
            for message in self.messages
            if message.get("thread_ts", message["ts"]) == message["ts"] or message.get("subtype") == "thread_broadcast"
        ]

    def replies(self, root: Message) -> list[Message]:
        """The thread below a message."""
        return [message for message in self.messages if message.get("thread_ts") == root["ts"] != message["ts"]]


@dataclass(frozen=True)
class Content:
    """What a message says. `None` means not given, which an update treats differently from empty."""

    text: str | None
    blocks: list[Block] | None
    metadata: dict[str, Any] | None


class Workspace:
    """One Slack workspace with one app installed."""

    team_id = "T0STANDIN"
    app_id = "A0STANDIN"

    def __init__(
        self,
        *,
        name: str,
        app_name: str,
        channels: Iterable[Channel],
        tokens: Mapping[str, Iterable[str]],
        people: Mapping[str, str],
        fetch_image: FetchImage,
        unfurl_domains: Iterable[str],
        clock: Callable[[], float],
    ) -> None:
        self.name = name
        self.app_name = app_name
        self.channels = {channel.id: channel for channel in channels}
        self.bots = {
            token: Bot(frozenset(scopes), f"U0BOT{number}", f"B0BOT{number}")
            for number, (token, scopes) in enumerate(tokens.items(), start=1)
        }
        self.people = people
        self.clock = clock
        self._fetch_image = fetch_image
        self._unfurl_domains = frozenset(unfurl_domains)
        self._last_ts = 0
        self._serial = 0

    @property
    def domain(self) -> str:
        return self.name.lower().replace(" ", "-")

    def names(self) -> dict[str, str]:
        """What to show for ids in mentions."""
        bots = {bot.user_id: self.app_name for bot in self.bots.values()}
        return bots | dict(self.people) | {channel.id: channel.name for channel in self.channels.values()}

    def find_channel(self, reference: Any) -> Channel | None:
        """A channel by id or name, as chat.postMessage takes both; a private one only from within."""
        for channel in self.channels.values():
            if reference in (channel.id, channel.name, f"#{channel.name}"):
                return channel if channel.member or not channel.private else None
        return None

    def next_ts(self) -> str:
        """A timestamp that no other message has."""
        self._last_ts = max(self._last_ts + 1, int(self.clock() * 1_000_000))
        return f"{self._last_ts // 1_000_000}.{self._last_ts % 1_000_000:06d}"

    async def content(self, args: Mapping[str, Any]) -> Content:
        """Text, blocks and metadata of a call, vetted. In a form, blocks and metadata are JSON in a string."""
        text = args.get("text")
        blocks = _parsed(args.get("blocks"), "invalid_blocks_format")
        metadata = _parsed(args.get("metadata"), "invalid_metadata_format")
        if text is not None and not isinstance(text, str):
            text = str(text)
        if blocks is not None and not isinstance(blocks, list):
            raise Refusal("invalid_blocks_format")
        if metadata:
            _check_metadata(metadata)
        if not text and not blocks:
            raise Refusal("no_text")
        await vet(text or "", blocks or [], self._fetch_image, self._unfurl_domains)
        return Content(text, blocks, metadata)

    def post(
        self,
        channel: Channel,
        author: Mapping[str, Any],
        content: Content,
        *,
        thread_ts: str | None = None,
        broadcast: bool = False,
    ) -> Message:
        """Adds a message, as a reply if the thread exists."""
        message: Message = {"type": "message", "ts": self.next_ts(), **author, "text": content.text or ""}
        if content.blocks:
            message["blocks"] = self._identified(content.blocks)
        if content.metadata:
            message["metadata"] = content.metadata
        if thread_ts is not None:
            root = channel.find(thread_ts)
            if root is None or "is_ephemeral" in root:
                raise Refusal("cannot_reply_to_message")
            root = channel.find(root.get("thread_ts")) or root
            message["thread_ts"] = root["thread_ts"] = root["ts"]
            root["reply_count"] = root.get("reply_count", 0) + 1
            root["latest_reply"] = message["ts"]
            if broadcast:
                message["subtype"] = "thread_broadcast"
        channel.messages.append(message)
        return message

    def edit(self, message: Message, content: Content, editor: str) -> None:
        """Changes a message. Text without blocks removes the blocks, blocks without text keep the text.

        Slack shows no "edited" mark on a message with blocks.
        """
        if content.text is not None:
            message["text"] = content.text
        if content.blocks:
            message["blocks"] = self._identified(content.blocks)
        else:
            message.pop("blocks", None)
            message["edited"] = {"user": editor, "ts": self.next_ts()}
        if content.metadata:
            message["metadata"] = content.metadata
        elif content.metadata is not None:
            message.pop("metadata", None)

    def as_bot(self, bot: Bot) -> dict[str, Any]:
        """The author's part of a bot's message."""
        profile = {"id": bot.bot_id, "app_id": self.app_id, "name": self.app_name, "team_id": self.team_id}
        return {
            "user": bot.user_id,
            "bot_id": bot.bot_id,
            "app_id": self.app_id,
            "team": self.team_id,
            "bot_profile": profile,
        }

    def _identified(self, blocks: list[Block]) -> list[Block]:
        """The blocks as stored: each has an id."""
        stored = copy.deepcopy(blocks)
        for block in stored:
            self._serial += 1
            block.setdefault("block_id", f"b{self._serial}")
        return stored


def _parsed(value: Any, error: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise Refusal(error) from None


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, dict):
        raise Refusal("invalid_metadata_format")
    event_type, payload = metadata.get("event_type"), metadata.get("event_payload")
    if not isinstance(event_type, str) or not event_type or not isinstance(payload, dict):
        raise Refusal("invalid_metadata_schema")
    if len(json.dumps(metadata).encode()) > METADATA_LIMIT:
        raise Refusal("metadata_too_large")
