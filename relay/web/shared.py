"""One reading of the database for however many pages are open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """Something that is made anew at most so often, and handed to everybody who asks.

    Args:
        make: makes it.
        every: seconds between two makings, at least.
    """

    def __init__(self, make: Callable[[], Awaitable[T]], every: float) -> None:
        self._make, self._every = make, every
        self._lock = asyncio.Lock()
        self._made: tuple[float, T | Exception] | None = None

    async def get(self, age: float = 0.0, *, at_once: bool = False) -> T:
        """The thing as it was at most `age` seconds before this call, or later; it may have to wait for its turn.

        Args:
            at_once: it is made now if it must be, however lately it was.
        """
        asked = time.monotonic()
        async with self._lock:
            if self._made is not None and self._made[0] < asked - age and not at_once:
                await asyncio.sleep(self._made[0] + self._every - time.monotonic())
            if self._made is None or self._made[0] < asked - age:
                self._made = time.monotonic(), await self._outcome()
            made = self._made[1]
        if isinstance(made, Exception):
            raise made
        return made

    async def _outcome(self) -> T | Exception:
        """What comes of making it; a failure is shared too, or those who wait would each wait for one of their own."""
        try:
            return await self._make()
        except Exception as error:
            return error
