"""Small charts of a window of time, as shapes that a template draws in SVG: no script, no inline style."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from relay.model.delivery import DeliveryState
from relay.model.watch import State
from relay.web.dashboard.rendering import span
from relay.web.dashboard.window import Slice, Window, WindowFigures

WIDTH = 480
HEIGHT = 72
"""Units of the drawing."""

MIN_HEIGHT = 1.5
"""Units that a bar has at least, so that it is seen."""

GAP = 1.5
"""Units between two bars."""

GOOD = "good"
BAD = "bad"
DULL = "dull"
CALM = "calm"


@dataclass(frozen=True, slots=True)
class Bar:
    """One rectangle."""

    x: float
    y: float
    width: float
    height: float
    colour: str


@dataclass(frozen=True, slots=True)
class Column:
    """The bars of one slice of time, and the same in words."""

    x: float
    width: float
    bars: Sequence[Bar]
    words: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing, what it is about, its most important figure, and all of it in words."""

    id: str
    title: str
    figure: str
    words: str
    columns: Sequence[Column]


def ends(figures: WindowFigures) -> Chart:
    """Draw how many watches ended, and how."""
    colours: dict[str, str] = {
        State.COMPLETED: GOOD,
        State.FAILED: BAD,
        State.EXPIRED: BAD,
        State.LOST: BAD,
        State.CANCELLED: DULL,
    }
    return _stacked("ends", "Ends", figures.ends, colours, "No watch ended.", figures.window)


def settled(figures: WindowFigures) -> Chart:
    """Draw how many deliveries arrived, and how many were given up."""
    colours: dict[str, str] = {DeliveryState.DELIVERED: GOOD, DeliveryState.DEAD: BAD}
    none = "Nothing was to be delivered."
    return _stacked("settled", "Deliveries", figures.settled, colours, none, figures.window)


def lag(figures: WindowFigures) -> Chart:
    """Draw for how long ends may have gone unnoticed, on average: from the query before to the one that showed it."""
    means = [part.counts["sum"] / part.counts["count"] if part.counts else None for part in figures.lags]
    highest = max((mean for mean in means if mean is not None), default=0.0)
    columns = []
    for number, (part, mean) in enumerate(zip(figures.lags, means, strict=True)):
        if mean is None:
            columns.append(_column(number, len(means), [], f"{_time(part)}: none"))
        else:
            height = _height(mean, highest)
            words = f"{span(mean)} on average, {span(part.counts['most'])} at most"
            bars = [_bar(number, len(means), HEIGHT - height, height, CALM)]
            columns.append(_column(number, len(means), bars, f"{_time(part)}: {words}"))
    count = sum(part.counts.get("count", 0) for part in figures.lags)
    if not count:
        return Chart("lag", "Detection lag", "–", "No end was noticed.", columns)
    average = span(sum(part.counts.get("sum", 0) for part in figures.lags) / count)
    most = span(max(part.counts.get("most", 0) for part in figures.lags))
    words = f"An end went unnoticed for {average} on average, for {most} at most."
    return Chart("lag", "Detection lag", average, words, columns)


def _stacked(
    id_: str, title: str, slices: Sequence[Slice], colours: Mapping[str, str], none: str, window: Window
) -> Chart:
    """Draw the counts of each slice as bars on top of each other.

    Args:
        colours: by state, in the order in which the bars are stacked.
        none: the words for a window without any.
    """
    highest = max((sum(part.counts.values()) for part in slices), default=0)
    columns = []
    for number, part in enumerate(slices):
        bars = []
        top = float(HEIGHT)
        for state, colour in colours.items():
            if count := part.counts.get(state, 0):
                height = _height(count, highest)
                top -= height
                bars.append(_bar(number, len(slices), top, height, colour))
        words = _words(part.counts, colours) or "none"
        columns.append(_column(number, len(slices), bars, f"{_time(part)}: {words}"))
    totals = {state: sum(part.counts.get(state, 0) for part in slices) for state in colours}
    words = _words(totals, colours)
    all_of_it = f"{words} in the last {window.words}; at most {highest:,} in {window.column_words}." if words else none
    return Chart(id_, title, f"{sum(totals.values()):,}", all_of_it, columns)


def _height(value: float, highest: float) -> float:
    return max(MIN_HEIGHT, HEIGHT * value / highest) if highest else MIN_HEIGHT


def _bar(number: int, of: int, y: float, height: float, colour: str) -> Bar:
    unit = WIDTH / of
    return Bar(round(number * unit + GAP / 2, 2), round(y, 2), round(unit - GAP, 2), round(height, 2), colour)


def _column(number: int, of: int, bars: Sequence[Bar], words: str) -> Column:
    unit = WIDTH / of
    return Column(round(number * unit, 2), round(unit, 2), bars, words)


def _time(part: Slice) -> str:
    return f"{datetime.fromtimestamp(part.at / 1000, UTC):%b %d, %H:%M} UTC"


def _words(counts: Mapping[str, int], order: Iterable[str]) -> str:
    return ", ".join(f"{counts[state]:,} {state}" for state in order if counts.get(state))
