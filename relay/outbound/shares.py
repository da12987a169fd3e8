"""Something that has an end, shared: threads, connections, memory. No owner's share leaves the others without any.

An owner is an app, or whatever else must not be hindered by its neighbours. An owner alone may have half of everything,
and each further one half of what the others leave. So there is always some left for one who comes new. Where several
apps have one owner's share together, the last tenth of it is for those that hold few.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from contextvars import ContextVar

from relay.outbound.lane import admits

OWNER: ContextVar[str] = ContextVar("OWNER", default="")
"""For whom this task works: the id of an app, the host of an upstream; empty for the deployment itself."""

APP: ContextVar[str] = ContextVar("APP", default="")
"""For which of the apps that have the owner's share together; empty if it is not shared."""


class on_behalf_of:
    """Lets what is used inside count as the share of an owner. (Each poll does it: a generator would cost thrice.)

    Args:
        app: for which of the apps that have the share together.
    """

    def __init__(self, owner: str, app: str = "") -> None:
        self._owner = owner
        self._app = app

    def __enter__(self) -> None:
        self._tokens = OWNER.set(self._owner), APP.set(self._app)

    def __exit__(self, *_error: object) -> None:
        owner, app = self._tokens
        OWNER.reset(owner)
        APP.reset(app)


class Shares:
    """What the owners hold of something, and who waits for some.

    Args:
        total: how much there is.

    Attributes:
        taken: how much all of them hold.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.taken = 0
        self._held: Counter[str] = Counter()
        self._by_app: Counter[tuple[str, str]] = Counter()
        self._waiting: dict[tuple[str, str], deque[asyncio.Future[None]]] = {}

    def room(self, owner: str) -> int:
        """Return how much more an owner may take; less than nothing if others have come since it took."""
        held = self._held[owner]
        return (self.total - (self.taken - held) + 1) // 2 - held

    def take(self, owner: str, size: int = 1, app: str = "") -> bool:
        """Take some for an owner, if there is room. Who waits goes before whoever comes later for the same owner.

        Args:
            app: for which of the apps that have the share together.
        """
        if self._waiting and (owner, app) in self._waiting:
            return False
        if size > self.room(owner) or not self._leaves_some(owner, app):
            return False
        self._count(owner, app, size)
        return True

    async def wait(self, owner: str, app: str = "") -> None:
        """Wait until an owner may take one more, and take it."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault((owner, app), deque()).append(turn)
        self._hand_out()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it came in the same moment
                self.give_back(owner, app=app)
            else:
                self._forget(owner, app, turn)
            raise

    def give_back(self, owner: str, size: int = 1, app: str = "") -> None:
        """Take back what an owner does not need any more, for those that wait."""
        self._count(owner, app, -size)
        if self._waiting:
            self._hand_out()

    def _leaves_some(self, owner: str, app: str) -> bool:
        """Return whether an app that takes one more leaves some to the others that have the share too."""
        held = self._held[owner]
        return not app or admits(self._by_app[owner, app], held, held + self.room(owner))

    def _count(self, owner: str, app: str, size: int) -> None:
        self.taken += size
        self._held[owner] += size
        if not self._held[owner]:
            del self._held[owner]
        self._by_app[owner, app] += size
        if not self._by_app[owner, app]:
            del self._by_app[owner, app]

    def _hand_out(self) -> None:
        """Give one to each in turn, as long as there is one with room."""
        handed = True
        while handed:
            handed = False
            for owner, app in list(self._waiting):
                if self.room(owner) > 0 and self._leaves_some(owner, app):
                    queue = self._waiting.pop((owner, app))
                    turn = queue.popleft()
                    if not turn.done():  # else the caller that waited has just given up
                        turn.set_result(None)
                        self._count(owner, app, 1)
                    handed = True
                    if queue:
                        self._waiting[owner, app] = queue  # behind the others

    def _forget(self, owner: str, app: str, turn: asyncio.Future[None]) -> None:
        """Take a turn that is not waited for any more out of the queue."""
        queue = self._waiting.get((owner, app), deque())
        if turn in queue:
            queue.remove(turn)
            if not queue:
                del self._waiting[owner, app]
