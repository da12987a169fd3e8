"""Slack targets as apps give them: a channel of the workspace, or an incoming webhook."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from relay.channels.base import ALL_ENDS, Events, Target
from relay.channels.urls import Url

CHANNEL = r"^[#@]?[^\s#@<>&,\x00-\x1f\x7f]{1,80}$"


def _channel(value: str) -> str:
    if not re.fullmatch(CHANNEL, value):
        raise ValueError("must be the name of a channel, such as '#renders', or its id")
    return value


class SlackTarget(Target):
    """A Slack channel (through this deployment's bot) or an incoming webhook; exactly one of the two."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": [given], "properties": {given: {"type": "string"}, other: {"type": "null"}}}
                for given, other in (("channel", "webhook_url"), ("webhook_url", "channel"))
            ]
        }
    )

    type: Literal["slack"]
    channel: Annotated[str, Field(json_schema_extra={"pattern": CHANNEL}), AfterValidator(_channel)] | None = None
    webhook_url: Url | None = Field(None, repr=False)
    events: Events = ALL_ENDS

    @model_validator(mode="after")
    def _either(self) -> SlackTarget:
        if (self.channel is None) == (self.webhook_url is None):
            raise ValueError("give either 'channel' or 'webhook_url'")
        return self

    @classmethod
    def written(cls, text: str) -> dict[str, Any]:
        """Return the target that a text stands for: an incoming webhook where it is a URL."""
        return {"type": "slack", "webhook_url": text} if "://" in text else super().written(text)
