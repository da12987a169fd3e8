"""A small summary of durations: a log-spaced histogram in which what came long ago counts less and less."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

STEPS = 12
"""Bins for each doubling: a bin is 6 % wide."""

BINS = 256
"""Bins in all. The last one begins after 28 days, near the longest time for which a task can be watched."""

EDGES: tuple[float, ...] = (0.0, *(2.0 ** (step / STEPS) for step in range(BINS)))
"""Where bins begin and end, in seconds. The bin `i` holds what is more than `EDGES[i]` and at most `EDGES[i + 1]`."""

MEMORY = 150.0
"""Ends that count: each new one takes this part of their weight from those before it."""

LEAST = 1e-4
"""The weight of a bin that is forgotten."""


def bin_of(seconds: float) -> int:
    """Return the bin of a duration. All that is longer than the last one is in the last one."""
    if seconds <= 1.0:
        return 0
    step = min(BINS - 1, math.ceil(math.log2(seconds) * STEPS - 1e-9))
    return max(1, step)


@dataclass(slots=True)
class Histogram:
    """How long something took, by bin.

    Attributes:
        ended: what ended in each bin, by weight.
        running: what was still going on when it was last seen there.
    """

    ended: dict[int, float] = field(default_factory=dict)
    running: dict[int, float] = field(default_factory=dict)

    @property
    def ends(self) -> float:
        """Return the weight of all ends."""
        return sum(self.ended.values())

    def end(self, after: float, by: float) -> None:
        """Count an end that came `after` so many seconds and `by` so many, as seen by two queries.

        When in between is not known. One half of it is spread evenly, the other half as earlier ends suggest: the even
        half lets a change show, the other half keeps what is known precisely.
        """
        self._forget()
        first, last = bin_of(after * (1 + 1e-9)), bin_of(by)
        shares = {index: _overlap(index, after, by) for index in range(first, last + 1)}
        if (length := sum(shares.values())) <= 0:
            self.ended[last] = self.ended.get(last, 0.0) + 1.0
            return
        believed = {
            index: self.ended.get(index, 0.0) * share / (EDGES[index + 1] - EDGES[index])
            for index, share in shares.items()
        }
        known = sum(believed.values())
        for index, share in shares.items():
            even = share / length
            weight = even if known <= 0 else (even + believed[index] / known) / 2
            self.ended[index] = self.ended.get(index, 0.0) + weight

    def still_running(self, at: float) -> None:
        """Count something that had not ended after so many seconds, when it was seen for the last time."""
        self._forget()
        index = bin_of(at)
        self.running[index] = self.running.get(index, 0.0) + 1.0

    def _forget(self) -> None:
        for weights in (self.ended, self.running):
            for index in list(weights):
                weights[index] *= 1 - 1 / MEMORY
                if weights[index] < LEAST:
                    del weights[index]

    def add(self, other: Histogram, scale: float) -> None:
        """Add another histogram, each of its weights times `scale`."""
        for mine, theirs in ((self.ended, other.ended), (self.running, other.running)):
            for index, weight in theirs.items():
                mine[index] = mine.get(index, 0.0) + weight * scale

    def quantile(self, part: float) -> float | None:
        """Return the seconds within which that part of all ends came; None if there was none."""
        wanted = part * self.ends
        for index in sorted(self.ended):
            weight = self.ended[index]
            if wanted <= weight:
                return EDGES[index] + (EDGES[index + 1] - EDGES[index]) * wanted / weight
            wanted -= weight
        return EDGES[max(self.ended) + 1] if self.ended else None

    def smoothed(self) -> list[float]:
        """Return the weight of the ends in every bin, each spread over as many as hold a sixth of all.

        Where many ends are close together, they stay so: a constant duration has one bin. Where there are few, chance
        alone decides which bin has one.
        """
        weights = [0.0] * BINS
        need = self.ends / 6
        for index, weight in self.ended.items():
            reach, inside = 0, weight
            while inside < need and reach < STEPS:
                reach += 1
                inside += self.ended.get(index - reach, 0.0) + self.ended.get(index + reach, 0.0)
            around = range(max(0, index - reach), min(BINS, index + reach + 1))
            total = sum(reach + 1 - abs(other - index) for other in around)
            for other in around:
                weights[other] += weight * (reach + 1 - abs(other - index)) / total
        return weights

    def stored(self) -> dict[str, dict[str, float]]:
        """Return what is stored of it, as JSON has it."""
        return {"ended": _stored(self.ended), "running": _stored(self.running)}


def histogram(stored: Mapping[str, Mapping[str, float]]) -> Histogram:
    """Return what was stored of a histogram."""
    return Histogram(_read(stored.get("ended", {}).items()), _read(stored.get("running", {}).items()))


def _overlap(index: int, after: float, by: float) -> float:
    """Return how many seconds of a bin lie between two points."""
    return max(0.0, min(by, EDGES[index + 1]) - max(after, EDGES[index]))


def _stored(weights: Mapping[int, float]) -> dict[str, float]:
    return {str(index): round(weight, 5) for index, weight in weights.items()}


def _read(stored: Iterable[tuple[str, float]]) -> dict[int, float]:
    return {int(index): float(weight) for index, weight in stored if 0 <= int(index) < BINS}
