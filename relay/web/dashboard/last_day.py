"""The last day in figures, for the charts: counted once, and after that only where it still grows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from relay.model.delivery import DeliveryState
from relay.model.times import Millis
from relay.model.watch import State
from relay.store import Database, reports

SLICE: Millis = 1_800_000
"""Milliseconds of a slice: half an hour."""

SLICES = 48
"""Slices of a day."""

ANEW = 1800.0
"""Seconds after which everything is counted again: a retry changes the past."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Half an hour: when it began, and how many of what."""

    at: Millis
    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class LastDay:
    """What became of watches and deliveries, and how soon ends were noticed, half hour by half hour, oldest first."""

    ends: Sequence[Slice]
    settled: Sequence[Slice]
    lags: Sequence[Slice]

    def success(self, failing: int = 0) -> float | None:
        """Return which part of the deliveries was delivered; None if there was none.

        Args:
            failing: deliveries that are not settled, because they fail.
        """
        delivered = total(self.settled, DeliveryState.DELIVERED)
        tried = total(self.settled, DeliveryState.DELIVERED, DeliveryState.DEAD) + failing
        return delivered / tried if tried else None


def total(slices: Sequence[Slice], *states: State | DeliveryState) -> int:
    """Return how many there were of these states in all slices."""
    return sum(part.counts.get(state, 0) for part in slices for state in states)


class DayCounter:
    """Counts the last day of one database.

    Args:
        db: the database.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._known = reports.Past({}, {}, {})
        self._anew_at = float("-inf")
        self._known_to = 0

    async def read(self, now: Millis) -> LastDay:
        """Return the day that ends now."""
        begun = time.monotonic()
        last = now // SLICE
        first = last - SLICES + 1
        anew = begun >= self._anew_at or not first <= self._known_to <= last
        # What is counted is what was committed by then: the last slices may have grown since.
        begin = first if anew else max(first, self._known_to - 1)
        counted = await self._db.read(reports.past, begin * SLICE, SLICE)
        if anew:
            self._anew_at = begun + ANEW
        self._known_to = last
        self._known = reports.Past(
            _renewed(self._known.ends, counted.ends, first, begin),
            _renewed(self._known.settled, counted.settled, first, begin),
            _renewed(self._known.lags, counted.lags, first, begin),
        )
        return LastDay(
            _slices(self._known.ends, first, last),
            _slices(self._known.settled, first, last),
            _slices(self._known.lags, first, last),
        )


def _renewed(
    known: dict[tuple[int, str], int], new: dict[tuple[int, str], int], first: int, begin: int
) -> dict[tuple[int, str], int]:
    """Return what is known of the slices from `first` to `begin`, and what is new from there on."""
    return {key: count for key, count in known.items() if first <= key[0] < begin} | new


def _slices(counted: dict[tuple[int, str], int], first: int, last: int) -> list[Slice]:
    slices = [Slice(number * SLICE, {}) for number in range(first, last + 1)]
    for (number, state), count in counted.items():
        if first <= number <= last:
            slices[number - first].counts[state] = count
    return slices
