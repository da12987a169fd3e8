"""How much one API key may ask: a bucket of requests that fills at a steady rate.

Announced with every answer, as draft-ietf-httpapi-ratelimit-headers has it, so that a client can pace itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

BURST = 10.0
"""Seconds' worth of requests that may come at once."""

MAX_KEYS = 10_000


@dataclass(slots=True)
class Bucket:
    """What is left of one key's requests, as of a monotonic time in seconds."""

    left: float
    at: float


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
            bucket = self._buckets[key] = Bucket(self._size, now)
        bucket.left = min(self._size, bucket.left + (now - bucket.at) * self._rate)
        bucket.at = now
        wait = 0.0
        if bucket.left >= 1:
            bucket.left -= 1
        else:
            wait = (1 - bucket.left) / self._rate
        full_in = math.ceil((self._size - bucket.left) / self._rate)
        return wait, {
            "RateLimit-Policy": f'"key";q={self._size:.0f};w={BURST:.0f}',
            "RateLimit": f'"key";r={math.floor(bucket.left)};t={full_in}',
        }
