"""What becomes of the cadence where a lane is short: all intervals grow by one factor, and what is likely goes first.

A watch whose end is likely is asked about more often than others. If its lane cannot give that, and watches took turns
as they come due, all would wait equally long and nothing would be left of it. So every interval is stretched by the
same factor, just as much as the lane needs. Nobody waits beyond twice the even share, which is the watches of the lane
by its rate, and so the mean time between two queries about a watch.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from relay.model.times import Millis

WAITED: Millis = 250
"""Milliseconds that a query may be late without its lane being short."""

SLACK = 0.9
"""How much of the measured shortage is believed in after a query that did not have to wait: it may be over."""

WEIGHT = 0.002
"""What one query counts in a mean."""

OWED = 100
"""Queries that had no place and are still to be counted, at most."""

SHARES = 1.5
"""Even shares that intervals come to at most: less than two, because a watch waits in its lane, too."""


@dataclass(slots=True)
class Pace:
    """How short a lane is.

    Attributes:
        stretch: what its intervals are of those that were planned. The mean over all queries of the time since the one
            before, by the interval that was planned, is what the watches want by what the lane gives.
        even: the milliseconds between two queries about a watch, on average.
        waited: whether the query that is noted next had to wait.
        owed: queries that had no place, and come later.
    """

    stretch: float = 1.0
    even: float = 0.0
    waited: bool = False
    owed: int = 0

    def due(self, asked_at: Millis, due: Millis, before: Millis) -> Millis:
        """Note a query, and return when to ask again about a watch that was to be asked about at `due`.

        Args:
            before: when the query before about the same watch was made.
        """
        interval = max(1, due - asked_at)
        since = max(0, asked_at - before)
        self.even += (since - self.even) * (WEIGHT if self.even else 1.0)
        wanted = since / interval * (1.0 if self.waited else SLACK)
        self.stretch = max(1.0, self.stretch + WEIGHT * (wanted - self.stretch))
        return asked_at + round(max(interval, min(interval * self.stretch, self.even * SHARES)))


class Paces:
    """The lanes of a process that are short. Of the others, nothing is known or done."""

    def __init__(self) -> None:
        self._short: dict[Hashable, Pace] = {}

    def put_off(self, lane: Hashable) -> None:
        """Note that a lane had no place for a query."""
        pace = self._short.setdefault(lane, Pace())
        pace.owed = min(OWED, pace.owed + 1)

    def of(self, lane: Hashable, late: Millis) -> Pace | None:
        """Return the pace of a lane in which a query had to wait for so many milliseconds; None if it is not short."""
        if late > WAITED:
            self.put_off(lane)
        pace = self._short.get(lane)
        if pace is None:
            return None
        pace.waited = pace.owed > 0
        pace.owed = max(0, pace.owed - 1)
        if not pace.waited and pace.stretch <= 1.0:
            del self._short[lane]
            return None
        return pace
