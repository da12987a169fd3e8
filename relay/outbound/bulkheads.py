"""Bulkheads: what one kind of calls has for itself, so that none of another kind can take it away.

Where receivers are called, whoever has a key chooses the hosts. Whatever these do, upstreams are asked as ever.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from relay.outbound.descriptors import NoRoom
from relay.outbound.lookups import Lookups
from relay.outbound.shares import APP, OWNER, Shares

PATIENCE = 5.0
"""Seconds that a call waits for a connection of its owner's share."""


class Closable(Protocol):
    """A connection that can be closed."""

    def abort(self) -> None:
        """Close it at once."""
        ...


class Bulkhead:
    """What one kind of calls may use, in a running event loop.

    Args:
        kind: what calls.
        threads: names that are looked up at once.
        connections: how many there are at once, those that are kept among them.

    Attributes:
        lookups: looks names up.
    """

    def __init__(self, kind: str = "call", threads: int = 64, connections: int = 1024) -> None:
        self.lookups = Lookups(kind, threads)
        self._calls = Shares(connections)
        self._kept: dict[Closable, None] = {}

    async def enter(self) -> tuple[str, str]:
        """Take a connection of the owner's share. Return whose it is, for `leave`.

        Raises:
            NoRoom: the owner's calls under way have taken its share, and none has ended in time.
        """
        owner, app = OWNER.get(), APP.get()
        if not self._calls.take(owner, app=app):
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._calls.wait(owner, app)
            except TimeoutError:
                raise NoRoom("relay has as many connections as it may have: nothing was sent") from None
        return owner, app

    def leave(self, owner: str, app: str) -> None:
        """Give a connection back, when its call is over."""
        self._calls.give_back(owner, app=app)

    def keep(self, connection: Closable) -> None:
        """Count a connection that is kept, when its call is over."""
        self._kept[connection] = None

    def forget(self, connection: Closable) -> None:
        """Count a connection no longer as kept: it is asked again, or closed."""
        self._kept.pop(connection, None)

    def make_room(self) -> None:
        """Close those kept connections that are in the way of a call which needs a new one, the oldest first."""
        while self._kept and self._calls.taken + len(self._kept) > self._calls.total:
            oldest = next(iter(self._kept))
            del self._kept[oldest]
            oldest.abort()
