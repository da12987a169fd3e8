"""The type of points in time, whole milliseconds since the epoch, and how they are written."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache

Millis = int
"""Milliseconds since the epoch. Durations are seconds unless their type is `Millis`."""


def rfc3339(at: Millis) -> str:
    """Format a time after RFC 3339 in UTC with milliseconds: `2025-10-06T15:14:11.908Z`."""
    return f"{_second(at // 1000)}.{at % 1000:03}Z"


@lru_cache(1024)
def _second(at: int) -> str:
    """Return a whole second. Many times of one answer, and of one moment, have it in common."""
    return datetime.fromtimestamp(at, UTC).replace(tzinfo=None).isoformat(timespec="seconds")
