"""What relay has learned of the tasks of one app at one model: how long they take, and what their progress means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from relay.model.histogram import MEMORY, Histogram, histogram

ENOUGH = 20
"""Ends that must be known before anything is concluded from them."""

QUARTERS = 4
"""Progress means one thing at its beginning and another at its end: each quarter is learned by itself."""

HUNDREDTHS = 100.0
"""A ratio of two durations is kept in hundredths, in a histogram of its own."""


class Mark(NamedTuple):
    """What an upstream said of the progress: 0 to 1, first said so many seconds after the registration."""

    progress: float
    age: float

    @property
    def quarter(self) -> int:
        """Return the quarter in which the progress is."""
        return min(QUARTERS - 1, int(self.progress * QUARTERS))

    @property
    def tells(self) -> bool:
        """Return whether it says anything about the end."""
        return 0.01 <= self.progress < 1 and self.age > 0

    @property
    def naive_end(self) -> float:
        """Return after how many seconds the task ends if it goes on as it went."""
        return self.age / self.progress


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one watch teaches when it is over. Times are seconds since its registration.

    Attributes:
        asked: when the upstream was asked before that, and the task was still going on; None if it never was.
        over: when the end was noticed, or when relay stopped to look.
        ended: the task itself has ended.
        polls: queries that it took.
        fixed: queries that the fixed cadence would have made.
        marks: what was said of the progress.
    """

    asked: float | None
    over: float
    ended: bool
    polls: int = 0
    fixed: float = 0.0
    marks: Sequence[Mark] = ()


@dataclass(slots=True)
class Experience:
    """What the watches of one app and one model have taught. What came long ago counts less and less.

    Attributes:
        durations: from registration to end.
        lags: from the query before it to the end: how long an end may have gone unnoticed.
        ratios: by quarter of the progress: the duration, in hundredths of what the progress alone foretold.
        count: ends that were learned, ever.
        unseen: the weight of ends that the first query found: they teach nothing of durations.
        polls: queries that the learned ends took, and
        fixed: what the fixed cadence would have made for them, both by weight.
    """

    durations: Histogram = field(default_factory=Histogram)
    lags: Histogram = field(default_factory=Histogram)
    ratios: list[Histogram] = field(default_factory=lambda: [Histogram() for _ in range(QUARTERS)])
    count: int = 0
    unseen: float = 0.0
    polls: float = 0.0
    fixed: float = 0.0

    def learn(self, lesson: Lesson) -> None:
        """Learn from a watch that is over. What was never seen pending may have ended before it was registered."""
        if lesson.asked is None:
            self.unseen += lesson.ended
            return
        if not lesson.ended:
            self.durations.still_running(lesson.over)
            return
        keep = 1 - 1 / MEMORY
        self.count += 1
        self.unseen *= keep
        self.polls = self.polls * keep + lesson.polls
        self.fixed = self.fixed * keep + lesson.fixed
        self.durations.end(lesson.asked, lesson.over)
        lag = max(0.0, lesson.over - lesson.asked)
        self.lags.end(lag, lag)
        for mark in first_of_quarters(lesson.marks):
            scale = HUNDREDTHS / mark.naive_end
            self.ratios[mark.quarter].end(lesson.asked * scale, lesson.over * scale)

    @property
    def seen(self) -> bool:
        """Return whether most tasks are still going on when they are first asked about."""
        return self.unseen <= (self.durations.ends + self.unseen) / 4

    def add(self, other: Experience, scale: float = 1.0) -> None:
        """Add what others have learned, each of its weights times `scale`."""
        self.durations.add(other.durations, scale)
        self.lags.add(other.lags, scale)
        for mine, theirs in zip(self.ratios, other.ratios, strict=True):
            mine.add(theirs, scale)
        self.count += other.count
        self.unseen += other.unseen * scale
        self.polls += other.polls * scale
        self.fixed += other.fixed * scale

    def stored(self) -> dict[str, Any]:
        """Return what is stored of it, as JSON has it."""
        return {
            "durations": self.durations.stored(),
            "lags": self.lags.stored(),
            "ratios": [ratio.stored() for ratio in self.ratios],
            "count": self.count,
            "unseen": round(self.unseen, 5),
            "polls": round(self.polls, 5),
            "fixed": round(self.fixed, 5),
        }


def experience(stored: Mapping[str, Any]) -> Experience:
    """Return what was stored of an experience."""
    return Experience(
        histogram(stored["durations"]),
        histogram(stored["lags"]),
        [histogram(ratio) for ratio in stored["ratios"]],
        stored["count"],
        stored["unseen"],
        stored["polls"],
        stored["fixed"],
    )


def first_of_quarters(marks: Iterable[Mark]) -> list[Mark]:
    """Return the first mark of each quarter that tells anything."""
    first: dict[int, Mark] = {}
    for mark in marks:
        if mark.tells:
            first.setdefault(mark.quarter, mark)
    return list(first.values())


def merged(experiences: Iterable[Experience]) -> Experience:
    """Return what an app has learned of several models."""
    whole = Experience()
    for one in experiences:
        whole.add(one)
    return whole


def together(experiences: Iterable[Experience]) -> Experience:
    """Return what several apps have learned, none of them counting for more than half of what is enough.

    So what is concluded of it is never what one app alone has taught.
    """
    pooled = Experience()
    for one in experiences:
        weight = one.durations.ends
        pooled.add(one, min(1.0, ENOUGH / 2 / weight) if weight > 0 else 1.0)
    return pooled


@dataclass(frozen=True, slots=True)
class TaskFigures:
    """What is shown of an experience. Times are seconds.

    Attributes:
        ends: how many ends were learned.
        median, p95: within which half, and 95 %, of the tasks ended.
        noticed, noticed_p95: within which half, and 95 %, of the ends were noticed.
        queries: that a task took, and
        queries_fixed: that the fixed cadence would have made.
    """

    ends: int
    median: float
    p95: float
    noticed: float
    noticed_p95: float
    queries: float
    queries_fixed: float


def figures(known: Experience) -> TaskFigures | None:
    """Return what is shown of an experience; None where too little is known."""
    ends = known.durations.ends
    if known.count < ENOUGH or ends <= 0:
        return None

    def within(times: Histogram, part: float) -> float:
        return round(times.quantile(part) or 0.0, 1)

    return TaskFigures(
        ends=known.count,
        median=within(known.durations, 0.5),
        p95=within(known.durations, 0.95),
        noticed=within(known.lags, 0.5),
        noticed_p95=within(known.lags, 0.95),
        queries=round(known.polls / ends, 1),
        queries_fixed=round(known.fixed / ends, 1),
    )
