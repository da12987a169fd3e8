"""One read of the database for all pages that are open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class SharedRead(Generic[T]):
    """Something that is made at most so often, and shared by all who ask for it.

    Args:
        make: makes it.
        every: seconds from one time it is made to the next, at least.
    """

    def __init__(self, make: Callable[[], Awaitable[T]], every: float) -> None:
        self._make = make
        self._every = every
        self._lock = asyncio.Lock()
        self._made: tuple[float, T | Exception] | None = None

    async def get(self, age: float = 0.0, *, at_once: bool = False) -> T:
        """Return what was made at most `age` seconds before this call; make it if need be, when it may be made again.

        Args:
            at_once: if it must be made, make it now, however lately that was.
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
        """Make it. A failure is shared too, or all who wait would each wait for a failure of their own."""
        try:
            return await self._make()
        except Exception as error:
            return error
