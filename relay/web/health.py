"""How the upstreams do: what this process has seen of them, and what the database knows."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from relay import metrics
from relay.budget import Budget
from relay.model import Kind
from relay.provider import Provider
from relay.store.overview import Counts


@dataclass(frozen=True, slots=True)
class Health:
    """How one upstream does.

    Attributes:
        in_flight, silent: watches under way, and of how many of them the last answers told nothing. From the database.
        kinds: answers by kind; this and what follows since this process started, and about this process alone.
        half, most: seconds within which half, and 95 %, of the ends were noticed; None when none was.
        asking, paused: queries under way, and for how many seconds the upstream is left alone.
    """

    provider: Provider
    in_flight: int
    silent: int
    kinds: Mapping[str, int]
    half: float | None
    most: float | None
    asking: int
    paused: float


def health(providers: Mapping[str, Provider], budget: Budget, counts: Counts) -> list[Health]:
    """How each provider does, those first that have something under way."""
    kinds = _kinds()
    found = []
    for name, provider in providers.items():
        lanes, now, lags = budget.lanes_at(provider.host), time.monotonic(), _lags(name)
        found.append(
            Health(
                provider,
                *counts.in_flight.get(name, (0, 0)),
                {kind: count for kind in Kind if (count := kinds.get((name, kind)))},
                _within(lags, 0.5),
                _within(lags, 0.95),
                sum(lane.in_flight for lane in lanes),
                max((lane.paused_until - now for lane in lanes if lane.paused_until > now), default=0.0),
            )
        )
    return sorted(found, key=lambda one: (not one.provider.configured, -one.in_flight, one.provider.name))


def _kinds() -> dict[tuple[str, str], int]:
    return {
        (sample.labels["provider"], sample.labels["kind"]): int(sample.value)
        for metric in metrics.POLLS.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    }


def _lags(provider: str) -> list[tuple[float, int]]:
    """The detection lag's histogram: (at most so many seconds, how many ends), the last without a bound."""
    return [
        (float(sample.labels["le"]), int(sample.value))
        for metric in metrics.DETECTION_LAG.collect()
        for sample in metric.samples
        if sample.name.endswith("_bucket") and sample.labels["provider"] == provider
    ]


def _within(lags: list[tuple[float, int]], part: float) -> float | None:
    """The bound that holds for that part of all."""
    wanted = lags[-1][1] * part if lags else 0
    return next((bound for bound, count in lags if count >= wanted), None) if wanted else None
