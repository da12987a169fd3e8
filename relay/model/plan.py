"""When to ask about a task, of which it is known how long others took: often where its end is likely.

Of all ways to spend a number of queries, the end is noticed soonest if their density follows the square root of the
hazard, the rate at which tasks end that have got so far (docs/decisions/0026-learned-cadence.md has the sources). The
cadence of the provider's file says how many queries a task may cost on average; what was learned says when.

Everything here is pure. Times are seconds since the registration of a task.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, pairwise
from operator import mul

from relay.model.cadence import Cadence
from relay.model.experience import ENOUGH, HUNDREDTHS, Experience, Mark
from relay.model.histogram import BINS, EDGES, MEMORY, STEPS, Histogram, bin_of

DOUBT = MEMORY / 30
"""The weight of ends that may come at any time, whatever was learned: so every task is asked about now and then."""

WIDEST = 4
"""Steady intervals that two queries are apart at most, however sure it is that nothing ends between them."""

BEYOND = 2
"""Steady intervals that two queries are apart at most once a task has lasted longer than all that was seen."""

EARLY = 0.03
"""The part of the tasks that may have ended before the first query. Of those, nothing is learned."""

HARDLY = 1e-4
"""The part of the tasks of which nothing more is planned."""

SPREAD = 0.25
"""The part of the time to the first query over which first queries are spread."""

WIDTHS = tuple(upper - lower for lower, upper in pairwise(EDGES))


@dataclass(frozen=True, slots=True)
class Plan:
    """When to ask about tasks, as planned from what others took.

    Attributes:
        cadence: of the provider's file.
        density: queries per second, by bin.
        levels: queries from the registration to the beginning of each bin.
        alive: the part of the tasks that is still going on at the beginning of each bin.
        weights: the part that ends in each bin.
        scale: queries per square root of a hazard.
        last: the last bin in which an end was seen.
        horizon: the bin from which on hardly a task is still going on.
        ratios: by quarter of the progress, how likely each ratio is of a duration to what the progress foretells.
        patient: the first query may come later than the file says.
    """

    cadence: Cadence
    density: Sequence[float]
    levels: Sequence[float]
    alive: Sequence[float]
    weights: Sequence[float]
    scale: float
    last: int
    horizon: int
    patient: bool
    ratios: Sequence[Sequence[float]]

    def first(self, chance: float) -> float:
        """Return when to ask first, with `chance` between 0 and 1 to spread the queries."""
        by_file = self.cadence.first * (1 - chance / 2)
        if not self.patient:
            return by_file
        early = EDGES[next((index for index, alive in enumerate(self.alive) if alive < 1 - EARLY), BINS)]
        return max(by_file, min(self._when(1 - SPREAD * chance), early * (1 - SPREAD * chance)))

    def following(self, age: float, chance: float) -> float:
        """Return when to ask again after a query at `age`, with `chance` between 0 and 1 for the jitter."""
        index = bin_of(age)
        level = self.levels[index] + (age - EDGES[index]) * self.density[index]
        due = self._when(level + 1 - self.cadence.jitter * chance)
        return max(due, age + self.cadence.floor)

    def end(self, part: float, age: float = 0.0) -> float:
        """Return by when that part of the tasks has ended which are still going on at `age`."""
        index = bin_of(age)
        here = self.alive[index] - (self.alive[index] - self.alive[index + 1]) * (age - EDGES[index]) / WIDTHS[index]
        wanted = here * (1 - part)
        for later in range(index, BINS):
            if self.alive[later + 1] <= wanted:
                lost = self.alive[later] - self.alive[later + 1]
                inside = (self.alive[later] - wanted) / lost if lost > 0 else 1.0
                return max(age, EDGES[later] + inside * WIDTHS[later])
        return EDGES[-1]

    def sharpened(self, mark: Mark | None) -> Plan:
        """Return the plan for a task of which the progress is known.

        It is made for each query, so only the bins are looked at in which such a task may end.

        Args:
            mark: the newest figure, and when it came up; None where there is none.
        """
        if mark is None or not mark.tells or not (likely := self.ratios[mark.quarter]):
            return self
        first, end = bin_of(mark.age), self.horizon
        shift = math.log2(HUNDREDTHS / mark.naive_end) * STEPS
        floor = math.floor(shift)
        part = shift - floor
        # The ratio that an end in each bin would mean lies between two bins of the ratios.
        ratios = [likely[min(BINS - 1, max(0, index + floor))] for index in range(first, end + 1)]
        products = [
            weight * (one * (1 - part) + other * part)
            for weight, (one, other) in zip(self.weights[first:end], pairwise(ratios), strict=True)
        ]
        if (total := sum(products)) <= 0:
            return self
        weights = [product / total for product in products]
        alive = _alive(weights)
        hazards = _hazards(weights, alive, first)
        density = [*self.density[:first], *_density(self.cadence, hazards, self.scale, self.last - first)]
        density += self.density[end:]
        return replace(
            self,
            density=density,
            levels=_levels(density),
            alive=[1.0] * first + alive + [0.0] * (BINS - end),
        )

    def _when(self, level: float) -> float:
        """Return when so many queries have been made."""
        index = min(BINS - 1, bisect_right(self.levels, level) - 1)
        return EDGES[index] + (level - self.levels[index]) / self.density[index]


def plan(cadence: Cadence, known: Experience) -> Plan | None:
    """Return when to ask about tasks of which so much is known; None where it is too little.

    On average it makes at most the queries that the cadence would make. They are never closer than its floor, never
    further apart than `WIDEST` steady intervals, and beyond all that was seen than `BEYOND` of them.
    """
    if not cadence.learn or known.durations.ends < ENOUGH * 0.9 or known.count < ENOUGH:
        return None
    weights = _weights(known.durations)
    alive = _alive(weights)
    seen = [*known.durations.ended, *known.durations.running]
    last = max(seen)
    hazards = _hazards(weights, alive)
    roots = [math.sqrt(hazard) for hazard in hazards]
    exposure = [(alive[index] + alive[index + 1]) / 2 * WIDTHS[index] for index in range(last + 1)]
    budget = _budget(cadence, known)
    if budget <= 0:
        return None
    least = 1 / (WIDEST * cadence.steady)

    def cost(scale: float) -> float:
        return sum(max(scale * root, least) * seconds for root, seconds in zip(roots, exposure, strict=False))

    scale = _solve(cost, budget)
    density = _density(cadence, hazards, scale, last)
    horizon = next((index for index, left in enumerate(alive) if left < HARDLY and index > last), BINS)
    ratios = tuple(_likely(ratio) for ratio in known.ratios)
    return Plan(cadence, density, _levels(density), alive, weights, scale, last, horizon, known.seen, ratios)


def _density(cadence: Cadence, hazards: Sequence[float], scale: float, last: int) -> list[float]:
    """Return the queries per second in some bins, at so many per square root of a hazard.

    Args:
        last: the index of the last of these bins in which an end was seen.
    """
    most = 1 / max(cadence.floor, 0.001)
    widest, beyond = (1 / (times * cadence.steady) for times in (WIDEST, BEYOND))
    return [
        min(most, max(scale * math.sqrt(hazard), widest if index <= last else beyond))
        for index, hazard in enumerate(hazards)
    ]


def _levels(density: Sequence[float]) -> list[float]:
    """Return the queries up to each edge."""
    return list(accumulate(map(mul, density, WIDTHS), initial=0.0))


def _likely(ratios: Histogram) -> Sequence[float]:
    """Return how likely each ratio is, with some doubt; nothing where too little is known."""
    ends = ratios.ends
    return [weight + ends / 20 / BINS for weight in ratios.smoothed()] if ends >= ENOUGH / 2 else ()


def _weights(durations: Histogram) -> list[float]:
    """Return the part of all tasks that ends in each bin, with some doubt.

    What was seen running, and no more, ends later as the others do that got so far (Kaplan, Meier 1958).
    """
    ended = durations.smoothed()
    running = durations.running
    at_risk = sum(ended) + sum(running.values())
    spent = sum(weight * _middle(index) for weights in (durations.ended, running) for index, weight in weights.items())
    mean = max(1e-3, spent / durations.ends)
    alive, weights = 1.0, []
    for index in range(BINS):
        any_time = DOUBT * math.exp(-EDGES[index] / mean)
        ends_any_time = any_time - DOUBT * math.exp(-EDGES[index + 1] / mean)
        exposed = at_risk - running.get(index, 0.0) / 2 + any_time
        part = min(1.0, (ended[index] + ends_any_time) / exposed) if exposed > 1e-9 else 1.0
        weights.append(alive * part)
        alive *= 1 - part
        at_risk = max(0.0, at_risk - ended[index] - running.get(index, 0.0))
    return weights


def _alive(weights: Sequence[float]) -> list[float]:
    """Return the part that is still going on at each edge."""
    left = list(accumulate(reversed(weights), initial=0.0))
    return [min(1.0, part) for part in reversed(left)]


def _hazards(weights: Sequence[float], alive: Sequence[float], first: int = 0) -> list[float]:
    """Return the rate per second at which tasks end that have got so far, by bin, from the bin `first` on."""
    return [
        weight / max(1e-12, (left - weight / 2) * width)
        for weight, left, width in zip(weights, alive, WIDTHS[first:], strict=False)
    ]


def _budget(cadence: Cadence, known: Experience) -> float:
    """Return how many queries a task may cost on average, up to its end.

    It is what the cadence would make for the same tasks, less half a query, since an end comes between two, and less
    what was spent too much so far.
    """
    table = fixed_polls(cadence)
    fixed = sum(weight * table[index] for index, weight in known.durations.ended.items()) / known.durations.ends
    overspent = max(0.0, known.polls / known.fixed - 1) if known.fixed else 0.0
    return (fixed * max(0.5, 1 - 3 * overspent) - 0.5 - SPREAD / 2) * (1 - cadence.jitter / 2)


def _solve(cost: Callable[[float], float], budget: float) -> float:
    """Return the scale at which the plan costs the budget."""
    low, high = 1e-6, 1e3
    while high / low > 1.01:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if cost(middle) > budget else (middle, high)
    return low


@lru_cache(maxsize=256)
def fixed_polls(cadence: Cadence) -> tuple[float, ...]:
    """Return how many queries the fixed cadence makes on average for a task that ends in each bin."""
    times = [cadence.first * 0.75]
    interval = 0.0
    while interval < cadence.steady and len(times) < 500:
        grown = cadence.first * cadence.growth ** min(len(times), 64)
        interval = min(cadence.steady, grown) if cadence.growth > 1 else cadence.steady
        times.append(times[-1] + max(cadence.floor, interval * (1 - cadence.jitter / 2)))
    step = max(cadence.floor, cadence.steady * (1 - cadence.jitter / 2))
    counts = []
    for index in range(BINS):
        end = _middle(index)
        known = bisect_left(times, end)
        beyond = (end - times[-1]) / step if known == len(times) else 0.0
        counts.append(known + beyond + (0.5 if beyond else 1.0))
    return tuple(counts)


def fixed_polls_until(cadence: Cadence, seconds: float) -> float:
    """Return how many queries the fixed cadence makes on average for a task that takes so long."""
    return fixed_polls(cadence)[bin_of(seconds)]


def _middle(index: int) -> float:
    return (EDGES[index] + EDGES[index + 1]) / 2
