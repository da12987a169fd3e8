"""Small charts of the last day, as what a template draws with SVG: no script, no inline style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from relay.model import DeliveryState, State
from relay.web.day import LastDay, Slice
from relay.web.pages import span

WIDTH, HEIGHT = 480, 72
"""Units of the drawing."""

GOOD, BAD, DULL, CALM = "good", "bad", "dull", "calm"


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
    """The bars of one slice of time, and what they say in words."""

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


def ends(day: LastDay) -> Chart:
    """How many watches ended, and how."""
    colours: dict[str, str] = {
        State.COMPLETED: GOOD,
        State.FAILED: BAD,
        State.EXPIRED: BAD,
        State.LOST: BAD,
        State.CANCELLED: DULL,
    }
    return _stacked("ends", "Ends", day.ends, colours, "No watch ended.")


def settled(day: LastDay) -> Chart:
    """How many deliveries arrived, and how many were given up."""
    colours: dict[str, str] = {DeliveryState.DELIVERED: GOOD, DeliveryState.DEAD: BAD}
    return _stacked("settled", "Deliveries", day.settled, colours, "Nothing was to be delivered.")


def lag(day: LastDay) -> Chart:
    """For how long ends may have gone unnoticed, on average: from the query before to the one that told."""
    means = [one.counts["sum"] / one.counts["count"] if one.counts else None for one in day.lags]
    highest = max((mean for mean in means if mean is not None), default=0.0)
    unit = WIDTH / len(means)
    columns = []
    for number, (one, mean) in enumerate(zip(day.lags, means, strict=True)):
        bars = []
        if mean is not None:
            height = max(1.5, HEIGHT * mean / highest) if highest else 1.5
            bars.append(_bar(number * unit + 0.75, HEIGHT - height, unit - 1.5, height, CALM))
        said = "none" if mean is None else f"{span(mean)} on average, {span(one.counts['most'])} at most"
        columns.append(Column(round(number * unit, 2), round(unit, 2), bars, f"{_time(one)}: {said}"))
    count, summed = (sum(one.counts.get(name, 0) for one in day.lags) for name in ("count", "sum"))
    if not count:
        return Chart("lag", "Detection lag", "–", "No end was noticed.", columns)
    most = max(one.counts.get("most", 0) for one in day.lags)
    words = f"An end went unnoticed for {span(summed / count)} on average, for {span(most)} at most."
    return Chart("lag", "Detection lag", span(summed / count), words, columns)


def _stacked(id_: str, title: str, slices: Sequence[Slice], colours: Mapping[str, str], none: str) -> Chart:
    highest = max((sum(one.counts.values()) for one in slices), default=0)
    unit = WIDTH / len(slices)
    columns = []
    for number, one in enumerate(slices):
        bars, top = [], float(HEIGHT)
        for state, colour in colours.items():
            if count := one.counts.get(state, 0):
                height = max(1.5, HEIGHT * count / highest)
                top -= height
                bars.append(_bar(number * unit + 0.75, top, unit - 1.5, height, colour))
        said = f"{_time(one)}: {_words(one.counts, colours) or 'none'}"
        columns.append(Column(round(number * unit, 2), round(unit, 2), bars, said))
    summed = {state: sum(one.counts.get(state, 0) for one in slices) for state in colours}
    words = _words(summed, colours)
    return Chart(
        id_,
        title,
        f"{sum(summed.values()):,}",
        f"{words} in the last 24 hours; at most {highest:,} in half an hour." if words else none,
        columns,
    )


def _bar(x: float, y: float, width: float, height: float, colour: str) -> Bar:
    return Bar(round(x, 2), round(y, 2), round(width, 2), round(height, 2), colour)


def _time(one: Slice) -> str:
    return f"{datetime.fromtimestamp(one.at / 1000, UTC):%H:%M} UTC"


def _words(counts: Mapping[str, int], order: Mapping[str, str]) -> str:
    return ", ".join(f"{counts[state]:,} {state}" for state in order if counts.get(state))
