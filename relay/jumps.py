"""Noticing that somebody set the clock: due times are wall-clock times, and so are APScheduler's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

JUMP = 5.0
"""Seconds by which the wall clock must move against the steady one to count as set."""

LOOK_EVERY = 1.0


async def watch_clock(jumped: Callable[[float], Awaitable[None]], late: Callable[[float], None]) -> None:
    """Calls `jumped` with the seconds whenever the wall clock is set ahead (positive) or back. Never ends.

    Args:
        late: told each time by how many seconds the event loop woke this up too late.
    """
    offset = time.time() - time.monotonic()
    while True:
        slept = time.monotonic()
        await asyncio.sleep(LOOK_EVERY)
        late(max(0.0, time.monotonic() - slept - LOOK_EVERY))
        moved = time.time() - time.monotonic() - offset
        if abs(moved) > JUMP:
            offset += moved
            await jumped(moved)
