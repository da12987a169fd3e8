"""What a benchmark measures: figures with goals, each taken in several rounds beside its baseline.

A bench is a function that measures once: the baseline, then relay (or the other way round). `python -m tests.bench`
repeats it, so that the two alternate, and shows the medians. Figures of one run are comparable; those of two are not,
because machines differ, and other programs use them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Direction(StrEnum):
    """On which side of its goal a figure should be."""

    AT_LEAST = "≥"
    AT_MOST = "≤"


@dataclass(frozen=True)
class Figure:
    """A figure: what is measured, and what it should be.

    Attributes:
        name: what it says, with the unit, as the table shows it: "polls/s on one core, SQLite".
        direction: on which side of the goal it should be.
        goal: what it should be. Of a figure with a baseline, this is the share of the baseline, unless `absolute`. None
            for a unit cost, from which the cost of growth is calculated.
        absolute: the goal is of the value itself. The baseline, if there is one, is only shown beside it.
        digits: how many digits after the point the table shows.
    """

    name: str
    direction: Direction
    goal: float | None
    absolute: bool = False
    digits: int = 0

    @property
    def promise(self) -> str:
        """Return the goal as the table shows it."""
        return "–" if self.goal is None else f"{self.direction} {self.goal:,g}"


@dataclass(frozen=True)
class Sample:
    """A figure, measured once.

    Attributes:
        baseline: the same of what it is compared with, taken in the same round.
    """

    figure: Figure
    value: float
    baseline: float | None = None


@dataclass(frozen=True)
class Bench:
    """Figures that are measured together.

    Attributes:
        name: by which `--only` finds it.
        figures: all that it measures.
        measure: measures each of them once, in at most a minute.
    """

    name: str
    figures: tuple[Figure, ...]
    measure: Callable[[], Iterable[Sample]]


@dataclass(frozen=True)
class Result:
    """A figure after all rounds: medians. The ratio is the median of the ratios, each of one round."""

    figure: Figure
    value: float
    baseline: float | None
    ratio: float | None

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Result:
        """Return the medians of the samples of one figure."""
        value = statistics.median(sample.value for sample in samples)
        pairs = [(sample.value, sample.baseline) for sample in samples if sample.baseline is not None]
        if not pairs:
            return cls(samples[0].figure, value, None, None)
        baseline = statistics.median(baseline for _, baseline in pairs)
        return cls(samples[0].figure, value, baseline, statistics.median(of / baseline for of, baseline in pairs))

    @property
    def met(self) -> bool | None:
        """Return whether the goal is met, if there is one."""
        judged = self.value if self.figure.absolute or self.ratio is None else self.ratio
        goal = self.figure.goal
        if goal is None:
            return None
        return judged >= goal if self.figure.direction is Direction.AT_LEAST else judged <= goal
