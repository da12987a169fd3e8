"""Slack's rate limits, so that a test shows when relay calls faster than Slack allows."""

import math
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from relay.simulators.slack.errors import SlackError

TIERS = {
    "chat.update": 50,
    "conversations.history": 50,
    "conversations.info": 50,
    "conversations.join": 50,
    "conversations.list": 20,
    "conversations.replies": 50,
    "users.info": 100,
}
"""Calls per minute of each method in a workspace."""


@dataclass(frozen=True)
class Limits:
    """One message per second and channel, up to `burst` of them at once, and `calls_per_minute` of each method."""

    burst: int = 3
    calls_per_minute: Mapping[str, int] = field(default_factory=lambda: TIERS)


USUAL_LIMITS = Limits()


class TierLimiter:
    """Counts calls in sliding windows and refuses those over a limit. Without limits it admits everything."""

    def __init__(self, limits: Limits | None, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self.refused = 0
        self._admitted_at: defaultdict[str, deque[float]] = defaultdict(deque)

    def post(self, channel_id: str) -> None:
        """Count a message to a channel, or raise `SlackError`."""
        if self._limits:
            self._count(channel_id, self._limits.burst, self._limits.burst)

    def call(self, method: str) -> None:
        """Count a call of a method, or raise `SlackError`."""
        if self._limits and (calls := self._limits.calls_per_minute.get(method)):
            self._count(method, calls, 60)

    def _count(self, key: str, calls: int, seconds: float) -> None:
        now = self._clock()
        admitted_at = self._admitted_at[key]
        while admitted_at and admitted_at[0] <= now - seconds:
            admitted_at.popleft()
        if len(admitted_at) >= calls:
            self.refused += 1
            raise SlackError("ratelimited", status=429, retry_after=math.ceil(admitted_at[0] + seconds - now))
        admitted_at.append(now)
