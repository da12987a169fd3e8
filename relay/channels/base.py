"""The one seam between the outbox and the ways of telling: a channel sends one message and says what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from relay.model import Outcome

DEADLINE = 15.0
"""Seconds for one attempt: name resolution, connection, headers and body together."""

MAX_ANSWER = 64 * 1024
"""Bytes of a receiver's answer that are read."""

KEPT_ANSWER = 16 * 1024
"""Bytes of it that an attempt keeps."""


@dataclass(frozen=True, slots=True)
class Message:
    """One delivery on its way.

    Attributes:
        id: the `webhook-id`, the same on every attempt.
        type: the event's type.
        body: the event, the same bytes on every attempt.
        address: what the channel needs to reach the target.
        secrets: the app's signing secrets that are valid now.
        timestamp: unix seconds of this attempt.
        target_id: whom it is for; None for a message that is none of an event's deliveries.
        traceparent: names this attempt to whoever traces it; None where nobody does.
    """

    id: str
    type: str
    body: bytes
    address: dict[str, Any] = field(repr=False)
    secrets: Sequence[str] = field(repr=False)
    timestamp: int
    target_id: str | None = None
    traceparent: str | None = None


class Channel(Protocol):
    """A way of telling."""

    async def send(self, message: Message) -> Outcome:
        """Tries once, within `DEADLINE`. Whatever happens at the other end is an outcome, never an exception."""
        ...
