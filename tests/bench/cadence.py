"""How much sooner a learned cadence notices ends than a fixed one that makes as many queries.

`python -m tests.bench.cadence [--durations FILE] [--progress-bias 0.3] [--splits 20]`

FILE is a JSON list of seconds that tasks took, such as `[81.2, 64.0, 97.5]`. For each of 20 random halves, relay's own
functions learn from one half as relay would (they see no duration, only what the queries would have found) and then ask
about the other half, from which nothing is learned. Then the same half is asked about at a fixed interval, chosen so
that it makes as many queries on average. The last line is the mean of the ratios of the two mean lags: how long an end
goes unnoticed. Before that, built-in shapes are measured, and tasks whose durations drift while relay learns from
them; without FILE, the last line is about lognormal durations.

`--progress-bias 0.3` lets the upstream say a progress with each answer. For each task it runs at a pace of its own, up
to 30 % too fast or too slow, and stops at 99 %.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from relay.model.cadence import Cadence, first_poll, next_poll
from relay.model.experience import Experience, Lesson, Mark
from relay.model.plan import Plan, fixed_polls_until, plan
from relay.model.reading import Kind, Reading
from relay.model.watch import Watch

CADENCE = Cadence()
PENDING = Reading(Kind.PENDING)
FOREVER = 1 << 60
LONGEST = 30 * 86_400.0
"""Seconds that a task may take: no watch is longer."""


@dataclass(frozen=True)
class Task:
    """A task that takes so many seconds, and how fast its progress runs (None: it has none)."""

    seconds: float
    pace: float | None = None

    def mark(self, age: float) -> float | None:
        """Return the progress that is shown at an age."""
        return None if self.pace is None else min(0.99, age / self.seconds * self.pace)


@dataclass
class Outcome:
    """What asking about a task came to."""

    lag: float
    polls: int
    lesson: Lesson


def ask(task: Task, cadence: Cadence, current: Plan | None, chance: random.Random) -> Outcome:
    """Ask about a task as the poller does, by the functions that it uses."""
    first = first_poll(cadence, 0, chance.random(), current)
    watch = Watch(created_at=0, expires_at=FOREVER)
    age, asked, polls = first / 1000, None, 1
    marks: list[Mark] = []
    while age < task.seconds:
        watch = watch._replace(polls=polls)
        sharp = current
        if (progress := task.mark(age)) is not None:
            if not marks or progress > marks[-1].progress:
                marks.append(Mark(progress, age))
            if current is not None:
                sharp = current.sharpened(marks[-1])
        now = round(age * 1000)
        asked, age = age, next_poll(cadence, watch, PENDING, now, now, chance.random(), sharp) / 1000
        polls += 1
    fixed = fixed_polls_until(cadence, age if asked is None else (asked + age) / 2)
    return Outcome(age - task.seconds, polls, Lesson(asked, age, True, polls, fixed, marks))


@dataclass
class Learner:
    """Learns from what it asks about, and plans anew after every few ends."""

    cadence: Cadence = CADENCE
    known: Experience = field(default_factory=Experience)
    current: Plan | None = None

    def run(self, tasks: Sequence[Task], chance: random.Random, *, learning: bool) -> list[Outcome]:
        """Ask about tasks one after the other."""
        outcomes = []
        for number, task in enumerate(tasks):
            outcomes.append(ask(task, self.cadence, self.current, chance))
            if learning:
                self.known.learn(outcomes[-1].lesson)
                if number % 5 == 4:
                    self.current = plan(self.cadence, self.known)
        return outcomes


def fixed_lag(tasks: Sequence[Task], polls: float) -> float:
    """Return the mean lag at the fixed interval that makes so many queries on average."""

    def at(interval: float) -> tuple[float, float]:
        chance = random.Random(7)
        cadence = Cadence(interval, interval, 1.0, 0.0, CADENCE.jitter, learn=False)
        lag = count = 0.0
        for task in tasks:
            age = first_poll(cadence, 0, chance.random()) / 1000
            count += 1
            while age < task.seconds:  # what `next_poll` gives, without its rounding
                age += interval * (1 - cadence.jitter * chance.random())
                count += 1
            lag += age - task.seconds
        return lag / len(tasks), count / len(tasks)

    low, high = 0.05, min(86_400.0, 20 * max(task.seconds for task in tasks))
    while high / low > 1.005:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if at(middle)[1] > polls else (low, middle)
    return fmean((at(low)[0], at(high)[0]))


@dataclass
class Measured:
    """Means over all rounds."""

    ratio: float
    lag: float
    polls: float
    budget: float

    def __str__(self) -> str:
        return (
            f"ratio {self.ratio:.2f}, lag {self.lag:.1f} s, {self.polls:.1f} queries a task, of {self.budget:.1f} that "
            "the file's cadence makes"
        )


def measured(tasks: Sequence[Task], outcomes: Sequence[Outcome]) -> Measured:
    """Return what some outcomes came to."""
    lag, polls = fmean(o.lag for o in outcomes), fmean(o.polls for o in outcomes)
    budget = fmean(fixed_polls_until(CADENCE, task.seconds) for task in tasks)
    return Measured(lag / max(1e-9, fixed_lag(tasks, polls)), lag, polls, budget)


def halves(durations: Sequence[float], splits: int, bias: float | None) -> Measured:
    """Learn from one random half and ask about the other, so many times."""
    rounds = []
    for split in range(splits):
        chance = random.Random(split)
        tasks = [Task(seconds, bias and chance.uniform(1 - bias, 1 + bias)) for seconds in durations]
        chance.shuffle(tasks)
        learner = Learner()
        learner.run(tasks[: len(tasks) // 2], chance, learning=True)
        learner.current = plan(CADENCE, learner.known)
        held_out = tasks[len(tasks) // 2 :]
        rounds.append(measured(held_out, learner.run(held_out, chance, learning=False)))
    return Measured(*(fmean(getattr(r, name) for r in rounds) for name in ("ratio", "lag", "polls", "budget")))


def drifting(durations: Sequence[float], splits: int) -> Measured:
    """Ask about tasks in their order, learning all the while."""
    tasks = [Task(seconds) for seconds in durations]
    rounds = [measured(tasks, Learner().run(tasks, random.Random(split), learning=True)) for split in range(splits)]
    return Measured(*(fmean(getattr(r, name) for r in rounds) for name in ("ratio", "lag", "polls", "budget")))


def _many(one: Callable[[random.Random, float], float], count: int = 400) -> list[float]:
    """Return durations, the same in every run. `one` gets how far the run has got, 0 to 1."""
    chance = random.Random(17)
    return [one(chance, number / count) for number in range(count)]


def _around(chance: random.Random, median: float, sigma: float) -> float:
    return chance.lognormvariate(math.log(median), sigma)


SHAPES = {
    "lognormal": _many(lambda chance, _: _around(chance, 90, 0.6), 1000),
    "bimodal": _many(lambda chance, _: _around(chance, *((12, 0.2) if chance.random() < 0.4 else (200, 0.2)))),
    "constant": _many(lambda _chance, _: 90.0),
    "exponential": _many(lambda chance, _: chance.expovariate(1 / 90)),
    "uniform": _many(lambda chance, _: chance.uniform(20, 300)),
}
DRIFTS = {
    "slower and slower": _many(lambda chance, done: _around(chance, 60 * 3**done, 0.3)),
    "faster and faster": _many(lambda chance, done: _around(chance, 180 / 3**done, 0.3)),
    "suddenly slower": _many(lambda chance, done: _around(chance, 60 if done < 0.5 else 180, 0.3)),
    "suddenly faster": _many(lambda chance, done: _around(chance, 300 if done < 0.5 else 60, 0.2)),
}


def seconds_in(file: Path, parser: argparse.ArgumentParser) -> list[float]:
    """Return the durations in a file, or end with one line that says what is wrong with it."""
    try:
        durations = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        parser.error(f"{file} cannot be read as JSON: {error}")
    if not isinstance(durations, list) or len(durations) < 2:
        parser.error(f"{file} must be a JSON list of at least two numbers of seconds")
    for number, seconds in enumerate(durations):
        is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not is_number or not 0 < seconds <= LONGEST:
            parser.error(f"{file}: [{number}] is {seconds!r}; must be seconds, more than 0, at most {LONGEST:.0f}")
    return [float(seconds) for seconds in durations]


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.cadence", description=__doc__)
    parser.add_argument("--durations", type=Path, help="a JSON list of seconds")
    parser.add_argument("--progress-bias", type=float, help="let the upstream say a progress that is so far off")
    parser.add_argument("--splits", type=int, default=20, help="random halves of the durations")
    given = parser.parse_args()
    held = seconds_in(given.durations, parser) if given.durations else None
    last = None
    for name, durations in SHAPES.items():
        measured_shape = halves(durations, given.splits if held is None else 5, given.progress_bias)
        print(f"{name:20} {measured_shape}", flush=True)
        last = last or measured_shape
    for name, durations in DRIFTS.items():
        print(f"{name:20} {drifting(durations, 3)}", flush=True)
    if held is not None:
        last = halves(held, given.splits, given.progress_bias)
        print(f"{given.durations.name:20} {last}")
    if last is not None:
        print(f"lag ratio at equal polls: {last.ratio:.3f}")


if __name__ == "__main__":
    main()
