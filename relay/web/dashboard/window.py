"""What has ended in a window of time, for the charts: counted piece by piece, and after that only where it changes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from relay.errors import Invalid
from relay.model.delivery import DeliveryState
from relay.model.times import Millis
from relay.model.watch import State
from relay.store import Database, past
from relay.store.past import Past, SliceCounts

MINUTE: Millis = 60_000

PIECE = 20_000
"""Rows of each kind that are counted for one page, so that the first one does not wait for a million."""

ANEW = 1800.0
"""Seconds after which everything is counted again: a retry changes the past."""


@dataclass(frozen=True, slots=True)
class Window:
    """A window of time that ends now.

    Attributes:
        words: how long it is.
        slice: milliseconds of what is counted by itself.
        per_column: slices of a column of the charts, and how long they are in words.
        columns: how many there are; the last one is still growing.
    """

    words: str
    slice: Millis
    per_column: int
    column_words: str
    columns: int

    def slices(self, now: Millis) -> tuple[int, int]:
        """Return the numbers of its first and its last slice. It begins with a whole column."""
        last = now // self.slice
        first_column = last // self.per_column - self.columns + 1
        return first_column * self.per_column, last

    def begin(self, now: Millis) -> Millis:
        """Return when it begins."""
        return self.slices(now)[0] * self.slice


WINDOWS = {
    "1h": Window("hour", 2 * MINUTE, 1, "2 minutes", 30),
    "24h": Window("24 hours", 30 * MINUTE, 1, "half an hour", 48),
    "7d": Window("7 days", 30 * MINUTE, 6, "3 hours", 56),
    "30d": Window("30 days", 30 * MINUTE, 24, "12 hours", 60),
}
"""The windows that can be looked at, by their names in an address."""

USUAL = "24h"


def name_of_window(given: str | None) -> str:
    """Return the name of the window that an address asks for.

    Raises:
        Invalid: there is no such window.
    """
    name = USUAL if given is None else given
    if name not in WINDOWS:
        raise Invalid.at("/window", f"must be one of {', '.join(WINDOWS)}")
    return name


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of a window: when it began, and how many of what."""

    at: Millis
    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class WindowFigures:
    """What became of watches and deliveries, and how soon ends were noticed, column by column, oldest first.

    Attributes:
        since: from when on everything is counted, while that is not the whole window.
    """

    window: Window
    ends: Sequence[Slice]
    settled: Sequence[Slice]
    lags: Sequence[Slice]
    since: Millis | None = None

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


class WindowCounter:
    """Counts a window of one database: the newest slices at each look, and one piece of the others, backwards.

    Args:
        db: the database.
        window: how long it is.
    """

    def __init__(self, db: Database, window: Window) -> None:
        self._db = db
        self._window = window
        self._known = Past({}, {}, {})
        self._known_from = 0
        self._known_to = -1
        self._piece_begins = 0
        self._anew_at = 0.0

    async def read(self, now: Millis) -> WindowFigures:
        """Return what is known of the window that ends now."""
        begun = time.monotonic()
        first, last = self._window.slices(now)
        nothing_known = not first <= self._known_to <= last
        # What is counted is what was committed by then: the last slices may have grown since.
        newest = last + 1 if nothing_known else max(first, self._known_to - 1)
        anew = nothing_known or begun >= self._anew_at
        piece_ends = newest if anew else max(first, self._piece_begins)
        piece_begins, counted = await self._db.read(_count, self._window.slice, first, piece_ends, newest)

        def renewed(known: SliceCounts, new: SliceCounts) -> SliceCounts:
            kept = {} if nothing_known else known
            parts = range(first, piece_begins), range(piece_ends, newest)
            return {key: count for key, count in kept.items() if any(key[0] in part for part in parts)} | new

        self._known = Past(
            renewed(self._known.ends, counted.ends),
            renewed(self._known.settled, counted.settled),
            renewed(self._known.lags, counted.lags),
        )
        self._known_from = piece_begins if nothing_known else max(first, min(self._known_from, piece_begins))
        self._known_to = last
        self._piece_begins = piece_begins
        if anew:
            self._anew_at = begun + ANEW
        return WindowFigures(
            self._window,
            self._columns(self._known.ends, first),
            self._columns(self._known.settled, first),
            self._columns(self._known.lags, first),
            None if self._known_from == first else self._known_from * self._window.slice,
        )

    def _columns(self, known: SliceCounts, first: int) -> list[Slice]:
        window = self._window
        columns = [Slice((first + n * window.per_column) * window.slice, {}) for n in range(window.columns)]
        for (number, name), count in known.items():
            column = (number - first) // window.per_column
            if column < window.columns:  # another process's clock may be ahead
                counts = columns[column].counts
                before = counts.get(name, 0)
                counts[name] = max(before, count) if name == past.MOST else before + count
        return columns


def _count(tx: sa.Connection, slice_: Millis, first: int, piece_ends: int, newest: int) -> tuple[int, Past]:
    """Count the newest slices, and the piece before `piece_ends`. Return where the piece begins, too."""
    counted = past.count(tx, slice_, newest)
    if piece_ends <= first:
        return first, counted
    begins = past.reach(tx, slice_, first, piece_ends - 1, PIECE)
    piece = past.count(tx, slice_, begins, piece_ends - 1)
    return begins, Past(piece.ends | counted.ends, piece.settled | counted.settled, piece.lags | counted.lags)
