"""When to poll next."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model.cadence import MAX_BACKOFF, MAX_RETRY_AFTER, Cadence, first_poll, next_poll
from relay.model.reading import Kind, Reading
from relay.model.watch import Watch
from relay.providers.definition import load_definition

NOW = 1_760_000_000_000
DAY = 86_400_000
WATCH = Watch(created_at=NOW, expires_at=NOW + DAY, polls=1)
STEADY = Cadence(first=10, steady=10, growth=1.25, floor=1, jitter=0)
PENDING = Reading(Kind.PENDING, "pending")
NOT_ANSWERED = Reading(Kind.NOT_ANSWERED)


def wait(
    cadence: Cadence, watch: Watch = WATCH, reading: Reading = PENDING, *, chance: float = 0.0, took: float = 0.0
) -> float:
    """Seconds from asking until asking again."""
    return (next_poll(cadence, watch, reading, NOW, NOW + round(took * 1000), chance) - NOW) / 1000


@pytest.mark.parametrize(("chance", "seconds"), [(0.0, 8.0), (0.5, 6.0), (1.0, 4.0)])
def test_the_first_poll_is_spread_over_the_second_half(chance: float, seconds: float) -> None:
    assert first_poll(Cadence(first=8), NOW, chance) == NOW + seconds * 1000


@pytest.mark.parametrize(
    ("polls", "seconds"), [(0, 10), (1, 12), (2, 14.4), (3, 17.28), (4, 20), (5, 20), (1_000_000_000, 20)]
)
def test_intervals_grow_until_steady(polls: int, seconds: float) -> None:
    assert wait(Cadence(first=10, steady=20, growth=1.2, jitter=0), WATCH._replace(polls=polls)) == seconds


@pytest.mark.parametrize("growth", [1.0, 0.5])
def test_without_growth_the_interval_is_steady_at_once(growth: float) -> None:
    assert wait(Cadence(first=2, steady=30, growth=growth, jitter=0)) == 30


@pytest.mark.parametrize(("chance", "seconds"), [(0.0, 10.0), (0.5, 9.0), (1.0, 8.0)])
def test_jitter_takes_off(chance: float, seconds: float) -> None:
    assert wait(replace(STEADY, jitter=0.2), chance=chance) == seconds


def test_no_interval_is_shorter_than_the_floor() -> None:
    assert wait(replace(STEADY, jitter=1.0, floor=3), chance=1.0) == 3
    assert wait(Cadence(first=0.1, steady=0.1, floor=5, jitter=0)) == 5


@pytest.mark.parametrize(("misses", "times"), [(0, 1), (1, 1), (2, 2), (3, 4), (4, 8), (5, 8), (100_000, 8)])
def test_answers_that_tell_nothing_stretch_the_interval(misses: int, times: int) -> None:
    assert times <= MAX_BACKOFF
    assert wait(STEADY, WATCH._replace(misses=misses), NOT_ANSWERED) == 10 * times


@pytest.mark.parametrize(("took", "seconds"), [(0, 10), (4, 10), (10, 10), (25, 25)])
def test_intervals_run_from_the_time_of_asking(took: float, seconds: float) -> None:
    assert wait(STEADY, took=took) == seconds


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [(None, 10), (0.0, 10), (5.0, 10), (60.0, 62), (3600.0, 3602), (86400.0, 3602), (float("inf"), 3602)],
)
def test_retry_after_postpones_from_now_up_to_a_cap(retry_after: float | None, seconds: float) -> None:
    assert MAX_RETRY_AFTER == 3600
    assert wait(STEADY, reading=NOT_ANSWERED._replace(retry_after=retry_after), took=2) == seconds


@pytest.mark.parametrize(("asked", "seconds"), [(60.0, 60), (3.0, 10), (1e9, 3600)])
def test_a_pending_answer_may_ask_for_a_longer_wait(asked: float, seconds: float) -> None:
    assert wait(STEADY, reading=PENDING._replace(retry_after=asked)) == seconds


@pytest.mark.parametrize("reading", [PENDING, NOT_ANSWERED._replace(retry_after=3600.0)])
@pytest.mark.parametrize(("left", "seconds"), [(7000, 7), (0, 0), (-5000, 0)])
def test_nothing_extends_the_deadline(reading: Reading, left: int, seconds: float) -> None:
    """The last poll is at the deadline, or at once if that has passed."""
    assert wait(STEADY, WATCH._replace(expires_at=NOW + left), reading) == seconds


@pytest.mark.parametrize(
    "values",
    [
        {"first": -1.0},
        {"steady": 0.0},
        {"steady": float("inf")},
        {"steady": float("nan")},
        {"floor": -0.1},
        {"growth": 0.0},
        {"growth": 1e10},
        {"jitter": 1.5},
        {"jitter": -0.1},
    ],
)
def test_a_cadence_that_makes_no_sense(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Cadence(**values)


def test_the_documented_endpoint_is_asked_every_ten_to_twenty_seconds() -> None:
    file = Path(__file__).parents[2] / "config/providers/unified-video.toml"
    cadence = load_definition(file, {}).cadence
    waits = [wait(cadence, WATCH._replace(polls=polls), chance=chance) for polls in range(1, 100) for chance in (0, 1)]
    assert min(waits) >= 9
    assert max(waits) == 20


seconds = st.floats(0, 86400)
cadences = st.builds(Cadence, seconds, st.floats(0.001, 86400), st.floats(0.01, 10), seconds, st.floats(0, 1))
kinds = st.sampled_from(Kind)


@given(
    cadences,
    st.integers(0, 10**12),
    st.integers(0, 10**6),
    kinds,
    st.none() | st.floats(0, allow_nan=False),
    st.integers(0, DAY),
    st.integers(-DAY, DAY),
    st.floats(0, 1),
)
def test_every_wait_is_bounded(
    cadence: Cadence,
    polls: int,
    misses: int,
    kind: Kind,
    retry_after: float | None,
    took: int,
    left: int,
    chance: float,
) -> None:
    now = NOW + took
    watch = WATCH._replace(polls=polls, misses=misses, expires_at=now + left)
    due = next_poll(cadence, watch, Reading(kind, retry_after=retry_after), NOW, now, chance)
    assert now <= due <= max(now, watch.expires_at)
    assert due <= now + max(MAX_BACKOFF * max(cadence.steady, cadence.floor), MAX_RETRY_AFTER) * 1000 + 1
    assert due >= min(NOW + round(cadence.floor * 1000), watch.expires_at)
    assert NOW <= first_poll(cadence, NOW, chance) <= NOW + cadence.first * 1000 + 1
