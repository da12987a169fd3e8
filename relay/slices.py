"""Long work in slices: between two of them the event loop serves the others of this process.

One request may ask for ten thousand things. Without slices, no one else would be answered until the last of them.
"""

from __future__ import annotations

import asyncio
import time

SLICE = 0.01
"""Seconds for which one piece of work may hold the event loop."""


class Slices:
    """The slices of one piece of work. Call `turn` between any two small steps of it."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    async def turn(self) -> None:
        """Let the others have their turn, if this slice is over."""
        if time.monotonic() - self._began >= SLICE:
            await asyncio.sleep(0)
            self._began = time.monotonic()
