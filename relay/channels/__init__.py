"""Ways to notify people and programs of the end of a task: the list of all channels, one line each."""

from __future__ import annotations

from typing import Any

from relay.channels.base import Channel, Resources, Target
from relay.channels.slack.channel import SlackChannel
from relay.channels.webhook import WebhookChannel

CHANNELS: tuple[type[Channel[Any]], ...] = (
    WebhookChannel,
    SlackChannel,
)


def open_channels(resources: Resources) -> dict[str, Channel[Any]]:
    """Make every channel, by the type of its targets."""
    return {channel.name(): channel(resources) for channel in CHANNELS}


CALLBACK: type[Target] = WebhookChannel.schema
"""What a URL stands for that a create call names where the upstream would look for it."""
