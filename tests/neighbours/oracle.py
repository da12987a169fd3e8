"""The oracle: what another app may feel of an attack, and what it may cost."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from statistics import median

from tests.neighbours.stage import DESCRIPTORS, Stage
from tests.neighbours.wire import Answer, Line

TOLD = 2.0
"""Seconds from a registration of a task that has ended to its event."""

HEALTHY = 0.5
"""Seconds that /healthz takes on a connection of its own."""

WORST = 5.0
"""Seconds that one of many may take: two cores are few, and tests run beside each other."""

MEMORY = 150.0
"""MB on top of what there was before."""

MOST_CROWDED = 6.0
"""How many times longer things may take where relay waits for a core."""

GIVEN_UP = 20.0
"""Seconds after which a probe counts as never answered."""

ENDS = {"done": "task.completed", "fail": "task.failed"}
"""With which event a task of each kind has to be told: as its upstream says."""


@dataclass(slots=True)
class Felt:
    """What was felt and used in some time.

    Attributes:
        told: seconds to each event; `GIVEN_UP` where none came.
        healthy: seconds to each answer of /healthz.
        lag: seconds by which the test itself was late, which are in the others.
        crowded: how much longer everything took because others had the cores: 1 if nobody did.
        wrong: what must not be at all.
    """

    told: list[float] = field(default_factory=list)
    healthy: list[float] = field(default_factory=list)
    lag: list[float] = field(default_factory=list)
    memory: float = 0.0
    descriptors: int = 0
    crowded: float = 1.0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"told {_figures(self.told)}; /healthz {_figures(self.healthy)}; {self.memory:.0f} MB; "
            f"{self.descriptors} descriptors; the test's own lag {_figures(self.lag)}; cores crowded {self.crowded:.1f}"
        )


def _figures(seconds: list[float]) -> str:
    return f"{median(seconds):.2f} s, worst {max(seconds):.2f} s of {len(seconds)}" if seconds else "never"


def verdict(before: Felt, during: Felt) -> list[str]:
    """Say in words what the other app has felt that it must not, and what the attack has cost too much."""
    broken = [f"{how} ({count} times)" for how, count in Counter(during.wrong).most_common(5)]
    # What others do on this machine meanwhile is not the attack's doing.
    factor = min(during.crowded, MOST_CROWDED)
    for name, seconds, most in (("told", during.told, TOLD), ("/healthz", during.healthy, HEALTHY)):
        if not seconds or median(seconds) >= most * factor or max(seconds) >= WORST * factor:
            broken.append(
                f"{name}: {_figures(seconds)}; it may take {most} s, one of them {WORST} s, times {factor:.1f}"
            )
    if during.memory - before.memory >= MEMORY:
        broken.append(f"memory: {before.memory:.0f} MB before, {during.memory:.0f} MB at most")
    if during.descriptors >= DESCRIPTORS / 2:
        broken.append(f"descriptors: {during.descriptors} of {DESCRIPTORS}")
    return broken


class Oracle:
    """Feels what beta feels, again and again, in a steady rhythm."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    async def feel(self, seconds: float) -> Felt:
        """Watch for so long, and until each event has come that beta was promised in that time."""
        felt = Felt()
        ran, waited = self._stage.cpu()
        async with asyncio.TaskGroup() as group:
            steady = [
                group.create_task(self._rhythm(0.1, lambda: self._health(felt), group)),
                group.create_task(self._meter(felt)),
            ]
            telling = group.create_task(self._rhythm(0.5, lambda: self._told(felt), group))
            await asyncio.sleep(seconds)
            for task in (*steady, telling):
                task.cancel()
        ran, waited = (now - then for now, then in zip(self._stage.cpu(), (ran, waited), strict=True))
        felt.crowded = (ran + waited) / ran
        return felt

    async def _rhythm(self, pause: float, probe: Callable[[], Awaitable[None]], group: asyncio.TaskGroup) -> None:
        """Begin a probe every `pause` seconds, however long those before it take."""
        while True:
            group.create_task(probe())  # type: ignore[arg-type]
            await asyncio.sleep(pause)

    async def _told(self, felt: Felt) -> None:
        """Register a task that has ended, and wait until its end is told."""
        number = self._stage.number()
        kind = ("done", "fail")[number % 2]
        task_id = f"{kind}-{number}"
        target = {"type": "webhook", "url": self._stage.url(f"/told/{task_id}")}
        # A short deadline, so that a task whose turn never comes is told as expired: which its upstream did not say.
        body = {"task_id": task_id, "targets": [target], "expires_in": 5}
        started = time.monotonic()
        answer = await self._ask("POST", "/v1/watches", body, felt)
        if answer is None:
            felt.told.append(GIVEN_UP)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GIVEN_UP):
                while not self._stage.told[task_id]:
                    await asyncio.sleep(0.02)
        came = self._stage.told[task_id]
        felt.told.append(came[0][1] - started if came else GIVEN_UP)
        felt.wrong += [f"a task that is {kind} was told as {how}" for how, _ in came if how != ENDS[kind]]

    async def _ask(self, method: str, path: str, body: object, felt: Felt) -> Answer | None:
        """Ask as beta, on a connection of its own; None where there is no good answer."""
        try:
            with Line(self._stage.port, self._stage.beta) as line:
                async with asyncio.timeout(GIVEN_UP):
                    answer = await line.ask(method, path, body)
        except (OSError, EOFError) as error:  # TimeoutError is an OSError
            felt.wrong.append(f"{method} {path}: {error!r}")
            return None
        if answer.status >= 400:
            felt.wrong.append(f"{method} {path}: {answer.status} {answer.body[:200]!r}")
            return None
        return answer

    async def _health(self, felt: Felt) -> None:
        started = time.monotonic()
        answer = await self._ask("GET", "/healthz", None, felt)
        felt.healthy.append(time.monotonic() - started if answer else GIVEN_UP)

    async def _meter(self, felt: Felt) -> None:
        while True:
            felt.memory = max(felt.memory, self._stage.memory())
            felt.descriptors = max(felt.descriptors, self._stage.descriptors())
            started = time.monotonic()
            await asyncio.sleep(0.05)
            felt.lag.append(time.monotonic() - started - 0.05)
