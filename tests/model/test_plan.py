"""A cadence that was learned: what holds of it whatever was learned, and what it is good for."""

import json
import random
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from relay.model.cadence import Cadence
from relay.model.experience import ENOUGH, Experience, Lesson, Mark, experience, together
from relay.model.plan import BEYOND, WIDEST, Plan, fixed_polls_until, plan

CADENCE = Cadence()
cadences = st.builds(
    Cadence,
    first=st.floats(0.5, 60),
    steady=st.floats(1, 120),
    growth=st.floats(1, 3),
    floor=st.floats(0.1, 1),
    jitter=st.floats(0, 0.5),
)
durations = st.lists(st.floats(0.5, 5000), min_size=ENOUGH, max_size=60)


def learned(taken: list[float], cadence: Cadence = CADENCE, known: Experience | None = None) -> Experience:
    """What is known after tasks that took so long, each seen within 5 %."""
    known = known or Experience()
    for seconds in taken:
        fixed = fixed_polls_until(cadence, seconds)
        known.learn(Lesson(seconds * 0.97, seconds * 1.02, ended=True, polls=round(fixed), fixed=fixed))
    return known


def planned(known: Experience, cadence: Cadence = CADENCE) -> Plan:
    made = plan(cadence, known)
    assert made is not None
    return made


def asks(made: Plan, until: float, chance: float = 0.0) -> list[float]:
    times = [made.first(chance)]
    while times[-1] < until and len(times) < 3000:
        times.append(made.following(times[-1], chance))
    return times


@settings(max_examples=60, deadline=None)
@given(durations, cadences, st.floats(0, 1))
def test_no_two_queries_are_closer_than_the_floor_or_further_apart_than_may_be(
    taken: list[float], cadence: Cadence, chance: float
) -> None:
    made = planned(learned(taken, cadence), cadence)
    times = asks(made, max(taken) * 3, chance)
    longest = max(taken) * 1.1 + cadence.steady
    for before, after in pairwise(times):
        assert after - before >= cadence.floor * (1 - 1e-9)
        times_steady = BEYOND if before > longest else WIDEST
        assert after - before <= max(cadence.floor, times_steady * cadence.steady) * (1 + 1e-6)


@settings(max_examples=60, deadline=None)
@given(durations, st.floats(0, 1), st.floats(0.02, 0.99), st.floats(1, 500))
def test_progress_starves_no_task_either(taken: list[float], chance: float, progress: float, age: float) -> None:
    known = learned(taken)
    for ratio in known.ratios:
        for _ in range(ENOUGH):
            ratio.end(95.0, 105.0)
    mark = Mark(progress, age)
    sharp = planned(known).sharpened(mark)
    after = sharp.following(age, chance)
    assert age + CADENCE.floor <= after * (1 + 1e-9)
    assert after <= age + WIDEST * CADENCE.steady * (1 + 1e-6)


@settings(max_examples=40, deadline=None)
@given(durations)
def test_what_is_stored_is_what_was_learned(taken: list[float]) -> None:
    known = learned(taken)
    again = experience(json.loads(json.dumps(known.stored())))
    for part in (0.1, 0.5, 0.95):
        one, other = known.durations.quantile(part), again.durations.quantile(part)
        assert one is not None
        assert other is not None
        assert abs(one - other) < 0.01 * one + 0.01
    assert again.count == len(taken)


def test_too_little_is_known_at_first() -> None:
    known = learned([60.0] * (ENOUGH - 1))
    assert plan(CADENCE, known) is None
    assert plan(CADENCE, learned([60.0], known=known)) is not None
    assert plan(Cadence(learn=False), known) is None


def test_an_app_alone_does_not_teach_others() -> None:
    assert plan(CADENCE, together([learned([60.0] * 500)])) is None
    made = plan(CADENCE, together([learned([60.0] * 500), learned([200.0] * 30)]))
    assert made is not None
    assert 50 < made.end(0.25) < 70
    assert 150 < made.end(0.75) < 230


def test_what_was_never_seen_pending_teaches_no_duration() -> None:
    known = learned([60.0] * ENOUGH)
    known.learn(Lesson(None, 3.0, ended=True))
    assert known.count == ENOUGH
    for _ in range(50):
        known.learn(Lesson(None, 3.0, ended=True))
    assert planned(known).first(0.0) == CADENCE.first, "too many end before they are seen: ask as the file says"


def test_it_asks_where_ends_are_likely_and_hardly_where_none_is() -> None:
    chance = random.Random(3)
    made = planned(learned([chance.gauss(120, 5) for _ in range(100)]))
    times = asks(made, 140)
    assert sum(110 <= at <= 132 for at in times) > sum(at < 110 for at in times)


def test_a_mixture_is_asked_about_at_both_of_its_ends() -> None:
    chance = random.Random(4)
    made = planned(learned([chance.choice([12.0, 12.5, 13.0, 240.0, 250.0]) for _ in range(150)]))
    times = asks(made, 260)
    assert sum(11 <= at <= 14 for at in times) >= 1
    assert sum(230 <= at <= 260 for at in times) > sum(30 <= at <= 200 for at in times) * 0.9


def test_what_still_runs_when_it_is_given_up_counts_as_longer() -> None:
    known, other = learned([60.0] * 40), learned([60.0] * 40)
    for _ in range(40):
        known.learn(Lesson(290.0, 300.0, ended=False))
    assert planned(known).alive[100] > planned(other).alive[100] + 0.3


def test_a_new_speed_of_the_provider_is_followed_within_some_fifty_ends() -> None:
    known = learned([300.0] * 200)
    before = planned(known)
    learned([60.0] * 50, known=known)
    after = planned(known)
    assert sum(50 <= at <= 70 for at in asks(after, 70)) > sum(50 <= at <= 70 for at in asks(before, 70))
    assert after.end(0.25) < 70


def test_progress_says_when_as_far_as_it_was_right_before() -> None:
    chance = random.Random(5)
    known = Experience()
    for _ in range(100):
        seconds, pace = chance.uniform(30, 600), chance.uniform(0.9, 1.1)
        marks = [Mark(part * pace, part * seconds) for part in (0.1, 0.3, 0.6, 0.8)]
        known.learn(Lesson(seconds * 0.98, seconds * 1.01, ended=True, polls=10, fixed=10.0, marks=marks))
    sharp = planned(known).sharpened(Mark(0.3, 60.0))
    assert 170 < sharp.end(0.5, 60.0) < 230
    assert sharp.end(0.9, 60.0) - sharp.end(0.1, 60.0) < 100
    blunt = planned(known)
    assert blunt.end(0.9, 60.0) - blunt.end(0.1, 60.0) > 300


def test_a_progress_that_sits_at_99_percent_says_little() -> None:
    chance = random.Random(6)
    known = Experience()
    for _ in range(100):
        seconds = chance.uniform(100, 400)
        known.learn(Lesson(seconds * 0.98, seconds, ended=True, polls=10, fixed=10.0, marks=[Mark(0.99, 20.0)]))
    sharp = planned(known).sharpened(Mark(0.99, 20.0))
    assert 150 < sharp.end(0.5, 90.0) < 350


def test_what_was_overspent_is_paid_back() -> None:
    known = learned([60.0] * 100)
    lavish = learned([60.0] * 100)
    lavish.polls *= 1.3
    assert planned(lavish).scale < planned(known).scale
