"""The last day in figures, for the charts: counted once, and from then on only where it still grows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from relay.model import DeliveryState, Millis, State
from relay.store import Database, overview

SLICE: Millis = 1_800_000
SLICES = 48
"""Half hours in a day."""

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

    @property
    def success(self) -> float | None:
        """Which part of the settled deliveries was delivered; None when none was settled."""
        delivered, dead = (total(self.settled, state) for state in (DeliveryState.DELIVERED, DeliveryState.DEAD))
        return delivered / (delivered + dead) if delivered + dead else None


def total(slices: Sequence[Slice], *states: State | DeliveryState) -> int:
    """How many in all slices, of these states."""
    return sum(one.counts.get(state, 0) for one in slices for state in states)


class Day:
    """The last day of one database."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._known = overview.Past({}, {}, {})
        self._anew_at = float("-inf")
        self._known_to = 0

    async def read(self, now: Millis) -> LastDay:
        """The day that ends now."""
        last = now // SLICE
        first, begun = last - SLICES + 1, time.monotonic()
        anew = begun >= self._anew_at or not first <= self._known_to <= last
        # What is counted is what was committed by then.
        begin = first if anew else max(first, self._known_to - 1)
        past, known = await self._db.read(overview.past, begin * SLICE, SLICE), self._known
        if anew:
            self._anew_at = begun + ANEW
        self._known = overview.Past(
            _renewed(known.ends, past.ends, first, begin),
            _renewed(known.settled, past.settled, first, begin),
            _renewed(known.lags, past.lags, first, begin),
        )
        self._known_to = last
        known = self._known
        return LastDay(*(_slices(one, first, last) for one in (known.ends, known.settled, known.lags)))


def _renewed(
    known: dict[tuple[int, str], int], new: dict[tuple[int, str], int], first: int, begin: int
) -> dict[tuple[int, str], int]:
    return {key: count for key, count in known.items() if first <= key[0] < begin} | new


def _slices(counted: dict[tuple[int, str], int], first: int, last: int) -> list[Slice]:
    slices = [Slice(number * SLICE, {}) for number in range(first, last + 1)]
    for (number, state), count in counted.items():
        if first <= number <= last:
            slices[number - first].counts[state] = count
    return slices
