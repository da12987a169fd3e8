"""When to try a delivery again."""

import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model.delivery import Outcome, Verdict
from relay.model.retry import JITTER, MAX_RETRY_AFTER, next_attempt, parse_retry_after
from relay.settings.options import Settings

MINUTE, HOUR = 60, 3600
SCHEDULE = (0, 5, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR)
RETRY = Outcome(Verdict.RETRY, "http_503", 503)
NOW = 1_760_000_000_000  # Thu, 09 Oct 2025 08:53:20 GMT


def asking(seconds: float | None, *, free: bool = False) -> Outcome:
    return Outcome(Verdict.RETRY, "http_429", 429, retry_after=seconds, free=free)


def test_the_default_schedule_is_that_of_the_contract() -> None:
    assert Settings().retry_schedule == SCHEDULE


@pytest.mark.parametrize(("counted", "seconds"), [*enumerate(SCHEDULE[1:], 1), (10, None), (11, None)])
def test_the_schedule_counts_from_the_attempt_before(counted: int, seconds: float | None) -> None:
    assert next_attempt(SCHEDULE, counted, RETRY, 0.0) == seconds


@pytest.mark.parametrize("verdict", [Verdict.DELIVERED, Verdict.GIVE_UP])
@pytest.mark.parametrize("free", [False, True])
def test_what_is_settled_is_not_tried_again(verdict: Verdict, free: bool) -> None:
    assert next_attempt(SCHEDULE, 1, Outcome(verdict, retry_after=60.0, free=free), 0.5) is None


def test_one_attempt_is_all_there_is() -> None:
    assert next_attempt(SCHEDULE[:1], 1, RETRY, 0.0) is None


@pytest.mark.parametrize(("chance", "seconds"), [(0.0, 300), (0.5, 315), (1.0, 330)])
def test_jitter_only_adds(chance: float, seconds: float) -> None:
    assert next_attempt(SCHEDULE, 2, RETRY, chance) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("asked", "counted", "seconds"),
    [
        (None, 1, 5),
        (0.0, 1, 5),
        (3.0, 1, 5),
        (120.0, 1, 120),
        (120.0, 2, 300),
        (48.0 * HOUR, 1, 24 * HOUR),
        (float("inf"), 1, 24 * HOUR),
        (120.0, 10, None),
    ],
)
def test_retry_after_postpones_up_to_a_cap(asked: float | None, counted: int, seconds: float | None) -> None:
    assert MAX_RETRY_AFTER == 24 * HOUR
    assert next_attempt(SCHEDULE, counted, asking(asked), 0.0) == seconds


@pytest.mark.parametrize(("asked", "seconds"), [(None, 1), (0.0, 1), (0.2, 1), (30.0, 30), (1e9, 24 * HOUR)])
@pytest.mark.parametrize("counted", [0, 1, 10, 1000])
def test_a_free_attempt_follows_what_was_asked_and_not_the_schedule(
    asked: float | None, seconds: float, counted: int
) -> None:
    assert next_attempt(SCHEDULE, counted, asking(asked, free=True), 0.0) == seconds


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=12),
    st.integers(1, 15),
    st.none() | st.floats(0, allow_nan=False),
    st.booleans(),
    st.floats(0, 1),
)
def test_every_delay_is_bounded(
    schedule: list[float], counted: int, asked: float | None, free: bool, chance: float
) -> None:
    delay = next_attempt(schedule, counted, asking(asked, free=free), chance)
    if not free and counted >= len(schedule):
        assert delay is None
        return
    least = max(1.0 if free else schedule[counted], min(asked or 0.0, MAX_RETRY_AFTER))
    assert delay is not None
    assert least <= delay <= least * (1 + JITTER)


@pytest.fixture(params=["UTC", "Asia/Tokyo", "America/New_York"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine's own time zone, which must not matter."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("zone")
@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("5", 5.0),
        (" 120 ", 120.0),
        ("1.5", 1.5),
        ("007", 7.0),
        ("Thu, 09 Oct 2025 08:54:20 GMT", 60.0),
        ("Thursday, 09-Oct-25 08:54:20 GMT", 60.0),
        ("Thu Oct  9 08:54:20 2025", 60.0),
        ("Thu, 09 Oct 2025 08:54:20 -0000", 60.0),
        ("Thu, 09 Oct 2025 10:54:20 +0200", 60.0),
        ("Thu, 09 Oct 2025 08:53:20 GMT", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
    ],
)
def test_retry_after_in_seconds_or_as_a_date(value: str, seconds: float) -> None:
    assert parse_retry_after(value, NOW) == seconds


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        " ",
        "-5",
        "+5",
        "1e3",
        "1.2.3",
        "5s",
        "5, 10",
        "soon",
        "nan",
        "inf",
        "\u00b2",
        ".",
        "2025-10-09T08:54:20Z",
        "Thu, 32 Oct 2025 08:54:20 GMT",
        "Thu, 09 Oct 99999 08:54:20 GMT",
        "Thu, 09 Oct 2025",
        "GMT",
        "\0",
    ],
)
def test_a_retry_after_that_makes_no_sense(value: str | None) -> None:
    assert parse_retry_after(value, NOW) is None


DATES = ["Thu,", "09", "9", "Oct", "2025", "08:54:20", "99:99:99", "GMT", "+0000", "-0000", "-9999", "+2400"]
PIECES = st.sampled_from([*DATES, ",", ".", ":", "(", "\0", "²", "1e5", "inf"])


@given(st.text(max_size=40) | st.lists(PIECES, max_size=8).map(" ".join) | st.lists(PIECES, max_size=8).map("".join))
def test_any_retry_after_is_seconds_or_nothing(value: str) -> None:
    seconds = parse_retry_after(value, NOW)
    assert seconds is None or seconds >= 0
    delay = next_attempt(SCHEDULE, 1, asking(seconds), 1.0)
    assert delay is not None
    assert 5 <= delay <= MAX_RETRY_AFTER * (1 + JITTER)
