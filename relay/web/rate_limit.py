"""How many requests an API key may make: a bucket that fills at a steady rate. Wrong passwords have one too.

Every answer says how full the bucket is (draft-ietf-httpapi-ratelimit-headers), so that a client can pace itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from starlette.requests import Request

from relay.errors import TooManyRequests
from relay.outbound.descriptors import limit, parts

BURST = 10.0
"""Seconds' worth of requests that may come at once."""

MAX_KEYS = 10_000
"""Buckets that one process keeps."""


MAX_IN_LINE = 100
MAX_BYTES_IN_LINE = 32 * 1024 * 1024
"""Heavy requests of one app that one process lets wait for their turn, and what they may hold in memory."""


class Bucket:
    """A bucket of tokens that fills at a steady rate.

    Args:
        size: how many tokens it holds, and begins with.
        rate: how many it gains per second.
        now: monotonic seconds.
    """

    def __init__(self, size: float, rate: float, now: float) -> None:
        self._size = size
        self._rate = rate
        self._filled_at = now
        self.left = size

    def wait(self, now: float, tokens: float = 1) -> float:
        """Fill the bucket; return the seconds until it has so many tokens, 0 if it has them now."""
        self.left = min(self._size, self.left + (now - self._filled_at) * self._rate)
        self._filled_at = now
        return max(0.0, (tokens - self.left) / self._rate)

    def take(self, tokens: float = 1) -> None:
        """Take so many tokens, even if there are fewer left."""
        self.left -= tokens


class RateLimiter:
    """The buckets of this process.

    Args:
        per_second: how many requests a key may make per second; its bucket holds ten seconds' worth.
    """

    def __init__(self, per_second: int) -> None:
        self._rate = per_second
        self._size = per_second * BURST
        self._policy = f'"key";q={self._size:.0f};w={BURST:.0f}'
        self._buckets: dict[str, Bucket] = {}

    def take(self, key: str, now: float, cost: float = 1, paid: float = 0) -> tuple[float, dict[str, str]]:
        """Count a request.

        Args:
            cost: its price in tokens. It never costs more than the bucket holds, so that a full one is always enough.
            paid: how much of that is paid.

        Returns:
            0 if it may pass, else the seconds to wait; and the headers that say how full the bucket is.
        """
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= MAX_KEYS:
                self._buckets.clear()
            bucket = self._buckets[key] = Bucket(self._size, self._rate, now)
        due = min(cost, self._size) - paid
        wait = bucket.wait(now, due)
        if not wait:
            bucket.take(due)
        full_in = math.ceil((self._size - bucket.left) / self._rate)
        return wait, {
            "RateLimit-Policy": self._policy,
            "RateLimit": f'"key";r={math.floor(bucket.left)};t={full_in}',
        }


def charge(request: Request, cost: float) -> None:
    """Have a request cost so many tokens, of which one is paid.

    Raises:
        TooManyRequests: the bucket of its app does not hold them.
    """
    request.state.charge(cost)


@dataclass(slots=True)
class _Line:
    """The heavy requests of one app: one has its turn, the others wait."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    length: int = 0
    size: int = 0


class counted:
    """Counts one more of an app while inside. (Each request is counted: a generator would cost thrice.)"""

    def __init__(self, held: Counter[str], app_id: str) -> None:
        self._held = held
        self._app_id = app_id

    def __enter__(self) -> None:
        self._held[self._app_id] += 1

    def __exit__(self, *_error: object) -> None:
        self._held[self._app_id] -= 1
        if not self._held[self._app_id]:
            del self._held[self._app_id]


class RequestsAtOnce:
    """The requests of each app that are being worked on: three quarters of the connections of callers, at most.

    So however long they take, there are connections for other apps. A stream that has begun does not count here.
    """

    def __init__(self) -> None:
        self._held: Counter[str] = Counter()

    def one(self, app_id: str) -> counted:
        """Return a context that counts one more while inside.

        Raises:
            TooManyRequests: the app has as many as it may have.
        """
        most = max(1, parts(limit()).incoming * 3 // 4)
        if self._held[app_id] >= most:
            raise TooManyRequests(f"an app may have {most} requests at once at this process", retry_after=1)
        return counted(self._held, app_id)


class HeavyRequests:
    """Heavy requests take turns: each app has one under way, whatever it sends at once.

    So the work of other apps waits for one heavy request of an app, and not for all of them.
    """

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}

    @contextlib.asynccontextmanager
    async def one_at_a_time(self, app_id: str, size: int = 0) -> AsyncIterator[None]:
        """Wait for the turn of a request of this app, and have it while inside.

        Args:
            size: bytes that the request holds meanwhile.

        Raises:
            TooManyRequests: too many wait already.
        """
        line = self._lines.setdefault(app_id, _Line())
        if line.length and (line.length >= MAX_IN_LINE or line.size + size > MAX_BYTES_IN_LINE):
            raise TooManyRequests("too many large requests of this app wait for their turn", retry_after=2)
        line.length += 1
        line.size += size
        try:
            async with line.turn:
                yield
        finally:
            line.length -= 1
            line.size -= size
            if not line.length:
                del self._lines[app_id]
