"""Who calls, and the order in which those get a turn that wait for a place in a lane."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class CallKind(StrEnum):
    """What a call is for."""

    POLL = "poll"
    LAST = "last"  # the last poll of a watch, past its deadline; or what ends one that has begun
    WAKE = "wake"  # a poll that a callback made due before its time
    MIRROR = "mirror"
    CREATE = "create"
    DELIVER = "deliver"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: what for, and for which app."""

    kind: CallKind
    app: str


@dataclass(eq=False, slots=True)
class Waiter:
    """A caller that waits for a place until some time: True hands one over, False sends it away."""

    caller: Caller
    place: asyncio.Future[bool]
    until: float


class FairQueue:
    """Callers that wait. Their apps take turns; within an app, the one that waits longest is first.

    Attributes:
        length: how many there are. (Each call asks for it some ten times: `len` would cost more than the rest.)
    """

    def __init__(self) -> None:
        self._by_app: OrderedDict[str, deque[Waiter]] = OrderedDict()
        self.length = 0

    def __len__(self) -> int:
        return self.length

    @property
    def waiters(self) -> list[Waiter]:
        """Return all, app by app."""
        return [waiter for waiters in self._by_app.values() for waiter in waiters]

    def of(self, app: str) -> int:
        """Return how many callers of an app wait."""
        return len(self._by_app.get(app, ()))

    def ahead_of(self, app: str) -> int:
        """Return how many callers would have a turn before a new one of an app."""
        own = self.of(app)
        return sum(min(len(waiters), own + 1) for name, waiters in self._by_app.items() if name != app) + own

    def put(self, waiter: Waiter) -> None:
        """Add a caller."""
        self._by_app.setdefault(waiter.caller.app, deque()).append(waiter)
        self.length += 1

    def pop(self, may: Callable[[Caller], bool]) -> Waiter | None:
        """Remove and return the caller whose turn it is among those that `may` have a place."""
        for app, waiters in self._by_app.items():
            if may(waiters[0].caller):
                waiter = waiters.popleft()
                self._by_app.move_to_end(app)
                self._dropped(app)
                return waiter
        return None

    def remove(self, waiter: Waiter) -> None:
        """Remove a caller that has gone, if it is still here."""
        if waiter in self._by_app.get(waiter.caller.app, ()):
            self._by_app[waiter.caller.app].remove(waiter)
            self._dropped(waiter.caller.app)

    def drain(self) -> list[Waiter]:
        """Remove and return all."""
        waiters = self.waiters
        self._by_app.clear()
        self.length = 0
        return waiters

    def _dropped(self, app: str) -> None:
        self.length -= 1
        if not self._by_app[app]:
            del self._by_app[app]
