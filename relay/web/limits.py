"""How much one API key may ask: a bucket of requests that fills at a steady rate. Wrong passwords have one too.

Announced with every answer, as draft-ietf-httpapi-ratelimit-headers has it, so that a client can pace itself.
"""

from __future__ import annotations

import math

BURST = 10.0
"""Seconds' worth of requests that may come at once."""

MAX_KEYS = 10_000


class Bucket:
    """What is left of something that comes back at a steady rate.

    Args:
        size: what it holds, and begins with.
        rate: what it gains per second.
        now: monotonic seconds.
    """

    def __init__(self, size: float, rate: float, now: float) -> None:
        self._size, self._rate, self._at = size, rate, now
        self.left = size

    def wait(self, now: float) -> float:
        """Seconds until there is one to take; 0 if there is one now."""
        self.left, self._at = min(self._size, self.left + (now - self._at) * self._rate), now
        return max(0.0, (1 - self.left) / self._rate)

    def take(self) -> None:
        """Takes one, whether there is one or not."""
        self.left -= 1


class RateLimiter:
    """The buckets of this process.

    Args:
        per_second: requests that a key's bucket gains per second; it holds ten seconds' worth.
    """

    def __init__(self, per_second: int) -> None:
        self._rate, self._size = per_second, per_second * BURST
        self._buckets: dict[str, Bucket] = {}

    def take(self, key: str, now: float) -> tuple[float, dict[str, str]]:
        """One request: 0 if it may pass, else the seconds to wait; and the headers that say how things stand."""
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= MAX_KEYS:
                self._buckets.clear()
            bucket = self._buckets[key] = Bucket(self._size, self._rate, now)
        wait = bucket.wait(now)
        if not wait:
            bucket.take()
        full_in = math.ceil((self._size - bucket.left) / self._rate)
        return wait, {
            "RateLimit-Policy": f'"key";q={self._size:.0f};w={BURST:.0f}',
            "RateLimit": f'"key";r={math.floor(bucket.left)};t={full_in}',
        }
