"""`Retry-After`, and the expiry in a link's own signature: whatever stands there, a value within bounds or none."""

from __future__ import annotations

import math
from datetime import datetime

from hypothesis import example, given
from hypothesis import strategies as st

from relay.model.delivery import Outcome, Verdict
from relay.model.retry import JITTER, MAX_RETRY_AFTER, next_attempt, parse_retry_after
from relay.providers.fields import link_expiry
from tests.fuzz.examples import fuzz

NOW = 1_800_000_000_000

ODD = [
    "",
    "0",
    "-1",
    "inf",
    "nan",
    "1e400",
    "9" * 400,
    "٣",
    "²",
    "1_000",
    "0x10",
    "1.2.3",
    "7, 8",
    "\x00",
    "12 s",
    " 5 ",
]
numbers = st.integers(-(10**20), 10**20).map(str) | st.floats().map(str) | st.sampled_from(ODD)
parts = st.sampled_from(
    [
        "Sun,",
        "Mon",
        "06",
        "99",
        "Nov",
        "Foo",
        "1994",
        "0",
        "99999",
        "08:49:37",
        "25:61:61",
        "GMT",
        "+9999",
        "-0000",
        "(",
    ]
)
dates = st.lists(parts, max_size=8).map(" ".join)


@given(numbers | dates | st.text(max_size=60), st.integers(0, 2**45))
@example("9" * 400, NOW)
@example("Fri, 31 Dec 9999 23:59:59 -2359", NOW)
@fuzz(400)
def test_retry_after_is_within_bounds_or_none(header: str, now: int) -> None:
    seconds = parse_retry_after(header, now)
    assert seconds is None or (math.isfinite(seconds) and seconds >= 0)
    outcome = Outcome(Verdict.RETRY, "http_429", 429, retry_after=seconds)
    delay = next_attempt((0, 5, 300), 1, outcome, 1.0)
    assert delay is not None
    assert 5 <= delay <= MAX_RETRY_AFTER * (1 + JITTER)


names = st.sampled_from(
    [
        "se",
        "SE",
        "Expires",
        "X-Amz-Expires",
        "X-Amz-Date",
        "x-goog-expires",
        "x-goog-date",
        "X-OSS-Expires",
        "x-tos-date",
    ]
)
values = (
    st.sampled_from(
        ["20251006T151411Z", "2025-10-06T15:14:11Z", "2025-10-06", "0001-01-01", "9999-12-31T23:59:59-23:59"]
    )
    | numbers
    | st.text(max_size=40)
)
queries = st.lists(st.tuples(names, values), max_size=4).map(lambda pairs: "&".join(f"{n}={v}" for n, v in pairs))


@given(st.sampled_from(["https://cdn.example/v.mp4?", "https://[::1?", "//?", ""]), queries | st.text(max_size=60))
@example("https://cdn.example/v.mp4?", "se=0001-01-01T00:00:00%2B23:59")
@example("https://cdn.example/v.mp4?", "se=9999-12-31T23:59:59-23:59")
@example("https://cdn.example/v.mp4?", "Expires=" + "9" * 5000)
@example("https://cdn.example/v.mp4?", "Expires=-62135596801")
@fuzz(400)
def test_a_links_expiry_is_a_time_or_none(url: str, query: str) -> None:
    expiry = link_expiry(url + query)
    assert expiry is None or datetime.fromisoformat(expiry).tzinfo is not None
