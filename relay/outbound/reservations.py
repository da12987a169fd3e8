"""Memory for large answers: how many bytes the answers that are under way may take together.

Most answers are small and pay nothing. One that outgrows `FREE` reserves at once all that it can come to need, before
it reads on. An answer therefore never waits while it holds a reservation of its own, and no two can wait for each
other. Reservations are granted in the order in which they were asked for.
"""

from __future__ import annotations

import asyncio
from collections import deque

import httpx

FREE = 64 * 1024
"""Bytes of an answer that need no reservation."""

UNDER_WAY = 64 * 1024 * 1024
"""Bytes that the large answers of a process may take together."""

PATIENCE = 10.0
"""Seconds that an answer waits for its reservation."""


class Reservation:
    """Bytes for one answer: they are given back when nothing refers to the reservation any more.

    An answer may be shared by several callers, and only the last of them to finish frees its memory.

    Attributes:
        size: the bytes; none until they are granted.
        granted: done when the answer may use them; it fails when that takes too long.
    """

    def __init__(self, of: Reservations) -> None:
        self._of = of
        self.size = 0
        self.granted: asyncio.Future[None] = of.loop.create_future()

    def keep(self, size: int) -> None:
        """Give back what is more than `size` bytes."""
        if size < self.size:
            self._of.give_back(self.size - size)
            self.size = size

    def __del__(self) -> None:
        # The garbage collector may run in any thread.
        if self.size and not self._of.loop.is_closed():
            self._of.loop.call_soon_threadsafe(self._of.give_back, self.size)


class Reservations:
    """The reservations of a process, in a running event loop.

    Args:
        total: bytes that they may come to.
    """

    def __init__(self, total: int = UNDER_WAY) -> None:
        self.loop = asyncio.get_running_loop()
        self._total = total
        self._free = total
        self._waiting: deque[tuple[int, Reservation]] = deque()

    def reserve(self, size: int) -> Reservation:
        """Ask for bytes, at most all there are."""
        reservation = Reservation(self)
        self._waiting.append((min(size, self._total), reservation))
        self._grant()
        if not reservation.granted.done():
            giving_up = self.loop.call_later(PATIENCE, self._refuse, reservation.granted)
            reservation.granted.add_done_callback(lambda _: self._settled(giving_up))
        return reservation

    def give_back(self, size: int) -> None:
        """Take bytes back, for the next answer that waits."""
        self._free += size
        self._grant()

    def _grant(self) -> None:
        while self._waiting:
            size, reservation = self._waiting[0]
            if not reservation.granted.done():  # else it has given up
                if size > self._free:
                    return
                self._free -= size
                reservation.size = size
                reservation.granted.set_result(None)
            self._waiting.popleft()

    def _settled(self, giving_up: asyncio.TimerHandle) -> None:
        """Look at the next in line when one has got its bytes or has given up."""
        giving_up.cancel()
        self._grant()

    def _refuse(self, granted: asyncio.Future[None]) -> None:
        if not granted.done():
            granted.set_exception(
                httpx.PoolTimeout("other large answers under way take all the memory there is for them")
            )
