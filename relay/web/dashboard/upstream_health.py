"""How well the upstreams answer: what this process has seen of them, and what the database knows."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from relay.model.experience import TaskFigures, figures
from relay.model.reading import Kind
from relay.providers.provider import Provider
from relay.providers.upstreams import Upstreams
from relay.store.learned import Learned
from relay.store.reports import Counts
from relay.telemetry import metrics


@dataclass(frozen=True, slots=True)
class UpstreamHealth:
    """How well one upstream answers.

    Attributes:
        known: how long its tasks take, and what it costs to notice their ends; as all processes have learned.
        in_flight, silent: watches under way, and how many of them had no usable answer lately. From the database.
        kinds: answers by kind; this and what follows since this process started, and about this process alone.
        half, most: seconds within which half, and 95 %, of the ends were noticed; None if none was.
        asking, paused: queries under way, and for how many seconds the upstream is left alone.
    """

    provider: Provider
    known: TaskFigures | None
    in_flight: int
    silent: int
    kinds: Mapping[str, int]
    half: float | None
    most: float | None
    asking: int
    paused: float

    @property
    def ready(self) -> bool:
        """Return whether apps can have it asked without a key or an address of their own."""
        return self.state == "ready"

    @property
    def state(self) -> str:
        """Return whether it can be asked, or what is missing, in a few words."""
        if not self.provider.configured:
            return "no address"
        if self._addresses:
            return "address of each watch"
        return "no key" if self.provider.lacks_key(None) else "ready"

    @property
    def remedy(self) -> str:
        """Return what to do where it is not ready."""
        if self._addresses:
            return f"a watch brings its address and its key; or {self.provider.remedy}"
        return self.provider.key_remedy if self.provider.configured else self.provider.remedy

    @property
    def at(self) -> str:
        """Return where it is asked, as far as that is known."""
        return self.provider.host or ", ".join(self._addresses)

    @property
    def _addresses(self) -> Sequence[str]:
        """Return the hosts among which each watch chooses, where the deployment has no address."""
        return () if self.provider.host else self.provider.definition.hosts

    @property
    def busy(self) -> bool:
        """Return whether there is something to show of it."""
        return bool(self.in_flight or self.kinds)


async def health(upstreams: Upstreams, counts: Counts, learned: Learned) -> list[UpstreamHealth]:
    """Return how well each upstream answers; those with most under way first."""
    await learned.refresh()
    answers = _answers()
    healths = [_health(provider, upstreams, counts, answers, learned) for provider in await upstreams.readable()]
    return sorted(healths, key=lambda of: (not (of.busy or of.ready), -of.in_flight, of.provider.name))


def _health(
    provider: Provider,
    upstreams: Upstreams,
    counts: Counts,
    answers: Mapping[tuple[str, str], int],
    learned: Learned,
) -> UpstreamHealth:
    in_flight, silent = counts.in_flight.get(provider.name, (0, 0))
    lanes = upstreams.lanes.lanes_at(provider.host)
    lags = _lags(provider.name)
    now = time.monotonic()
    return UpstreamHealth(
        provider=provider,
        known=figures(learned.of_all(provider.name)),
        in_flight=in_flight,
        silent=silent,
        kinds={kind: count for kind in Kind if (count := answers.get((provider.name, kind)))},
        half=_within(lags, 0.5),
        most=_within(lags, 0.95),
        asking=sum(lane.held for lane in lanes),
        paused=max((lane.pause.until - now for lane in lanes if lane.pause.until > now), default=0.0),
    )


def _answers() -> dict[tuple[str, str], int]:
    """Return how many answers of each kind came, by provider and kind."""
    return {
        (sample.labels["provider"], sample.labels["kind"]): int(sample.value)
        for metric in metrics.POLLS.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    }


def _lags(provider: str) -> list[tuple[float, int]]:
    """Return the histogram of the detection lag: (at most so many seconds, how many ends), the last without a bound."""
    return [
        (float(sample.labels["le"]), int(sample.value))
        for metric in metrics.DETECTION_LAG.collect()
        for sample in metric.samples
        if sample.name.endswith("_bucket") and sample.labels["provider"] == provider
    ]


def _within(lags: list[tuple[float, int]], part: float) -> float | None:
    """Return the bound within which that part of all lags is."""
    wanted = lags[-1][1] * part if lags else 0
    return next((bound for bound, count in lags if count >= wanted), None) if wanted else None
