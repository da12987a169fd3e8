"""Slack's rate limits, so that what relay may send is known before Slack says 429."""

import math
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from relay.standin.errors import Refusal

TIERS = {
    "chat.update": 50,
    "conversations.history": 50,
    "conversations.info": 50,
    "conversations.join": 50,
    "conversations.list": 20,
    "conversations.replies": 50,
    "users.info": 100,
}
"""Calls a minute of each method and workspace."""


@dataclass(frozen=True)
class Limits:
    """One message per second and channel, `burst` of them at once, and so many calls a minute of each method."""

    burst: int = 3
    calls_per_minute: Mapping[str, int] = field(default_factory=lambda: TIERS)


USUAL = Limits()


class RateLimiter:
    """Sliding windows: at most so many calls in so many seconds. With no limits it admits everything."""

    def __init__(self, limits: Limits | None, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self.refused = 0
        self._admitted: defaultdict[str, deque[float]] = defaultdict(deque)

    def post(self, channel_id: str) -> None:
        """Counts a message to a channel."""
        if self._limits:
            self._spend(channel_id, self._limits.burst, self._limits.burst)

    def call(self, method: str) -> None:
        """Counts a call of a method."""
        if self._limits and (calls := self._limits.calls_per_minute.get(method)):
            self._spend(method, calls, 60)

    def _spend(self, what: str, calls: int, seconds: float) -> None:
        now, admitted = self._clock(), self._admitted[what]
        while admitted and admitted[0] <= now - seconds:
            admitted.popleft()
        if len(admitted) >= calls:
            self.refused += 1
            raise Refusal("ratelimited", status=429, retry_after=math.ceil(admitted[0] + seconds - now))
        admitted.append(now)
