"""What the processes of one database may take of a lane: never more than all of it, whatever they ask and when."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.model.lane_lease import LEASE, LONGEST_CALL, Ask, Lease, renewed, shares

NAMES = ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("total", "wants", "turn", "expected"),
    [
        (20, {"a": 20}, 0, {"a": 20}),
        (20, {"a": 1}, 0, {"a": 20}),
        (20, {"a": 20, "b": 20, "c": 20}, 0, {"a": 7, "b": 7, "c": 6}),
        (20, {"a": 20, "b": 20, "c": 20}, 1, {"a": 6, "b": 7, "c": 7}),
        (20, {"a": 20, "b": 1, "c": 1}, 0, {"a": 18, "b": 1, "c": 1}),
        (20, {"a": 2, "b": 4}, 0, {"a": 9, "b": 11}),
        (20, {"a": 20, "b": 0}, 0, {"a": 20, "b": 0}),
        (1, {"a": 1, "b": 1}, 0, {"a": 1, "b": 0}),
        (1, {"a": 1, "b": 1}, 1, {"a": 0, "b": 1}),
        (0, {"a": 1}, 0, {"a": 0}),
        (20, {"a": 0}, 0, {"a": 0}),
    ],
)
def test_what_is_fair(total: int, wants: dict[str, int], turn: int, expected: dict[str, int]) -> None:
    assert shares(total, wants, turn) == expected


@given(st.integers(0, 30), st.dictionaries(st.sampled_from(NAMES), st.integers(0, 30)), st.integers(0, 9))
def test_shares_are_all_of_it_and_whoever_wants_little_gets_it(total: int, wants: dict[str, int], turn: int) -> None:
    found = shares(total, wants, turn)
    assert sum(found.values()) == (total if any(wants.values()) else 0)
    if (asking := [name for name in wants if wants[name]]) and total >= len(asking):
        for name in asking:
            assert found[name] >= min(wants[name], total // len(asking)) >= 1


steps = st.lists(
    st.tuples(
        st.integers(0, 3_000),
        st.sampled_from(NAMES),
        st.integers(0, 12),
        st.integers(0, 12),
        st.floats(0, 1),
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=500)
@given(st.integers(1, 12), st.sampled_from([None, 0.2, 1.0, 2.5, 12.0]), steps)
def test_all_together_never_hold_more_than_there_is(
    places: int, per_second: float | None, steps: list[tuple[int, str, int, int, float]]
) -> None:
    """Processes that renew, fall silent and come back: what may start, and what may be under way, is within limits."""
    now = 1_000_000
    leases: dict[str, Lease] = {}
    for pause, name, wants_places, wants_starts, part in steps:
        now += pause
        mine = leases.get(name)
        busy = int(part * mine.places_held(now)) if mine else 0
        ask = Ask("lane", places, per_second, busy, wants_places, wants_starts)
        lease = renewed(ask, name, list(leases.values()), now)
        assert lease.places >= busy
        leases[name] = lease
        held = [one.places_held(now) for one in leases.values()]
        assert sum(held) <= places
        assert sum(one.starts_held(now, ask.echo) for one in leases.values()) <= ask.units
        assert lease.until == now + LEASE


def ask(per_second: float | None = 20.0, wants: int = 20, busy: int = 0) -> Ask:
    return Ask("lane", 20, per_second, busy, wants, wants)


def test_starts_that_are_given_up_count_for_another_second() -> None:
    alone = renewed(ask(), "a", [], 0)
    newcomer = renewed(ask(), "b", [alone], 100)
    assert (alone.starts, newcomer.starts, newcomer.places) == (20, 0, 0)
    less = renewed(ask(), "a", [alone, newcomer], 500)
    assert (less.starts, less.places) == (10, 10)
    assert renewed(ask(), "b", [less, newcomer], 600).starts == 0
    assert renewed(ask(), "b", [less, newcomer], 600).places == 10
    less = renewed(ask(), "a", [less, newcomer], 1_000)
    assert renewed(ask(), "b", [less, newcomer], 500 + ask().echo - 1).starts == 0
    assert renewed(ask(), "b", [less, newcomer], 500 + ask().echo).starts == 10


def test_a_process_that_is_busy_gives_places_back_as_its_calls_end() -> None:
    alone = renewed(ask(), "a", [], 0)
    newcomer = renewed(ask(), "b", [alone], 100)
    busy = renewed(ask(busy=20), "a", [alone, newcomer], 500)
    assert (busy.places, busy.usable) == (20, 10)
    ended = renewed(ask(busy=12), "a", [busy, newcomer], 1_000)
    assert (ended.places, ended.usable) == (12, 10)
    assert renewed(ask(), "b", [ended, newcomer], 1_100).usable == 8


def test_what_a_silent_process_had_comes_back() -> None:
    dead = renewed(ask(busy=5), "a", [], 0)
    assert renewed(ask(), "b", [dead], LEASE + ask().echo - 1).starts == 0
    assert renewed(ask(), "b", [dead], LEASE + ask().echo).starts == 20
    assert renewed(ask(), "b", [dead], LEASE + LONGEST_CALL - 1).places == 0, "its calls may still be under way"
    assert renewed(ask(), "b", [dead], LEASE + LONGEST_CALL).places == 20


@pytest.mark.parametrize(
    ("per_second", "units", "rate"), [(0.5, 1, 0.5), (1.0, 1, 1.0), (2.5, 2, 2.5), (20.0, 20, 20.0)]
)
def test_who_has_all_units_has_the_whole_rate(per_second: float, units: int, rate: float) -> None:
    alone = renewed(ask(per_second), "a", [], 0)
    assert (alone.starts, alone.rate(ask(per_second))) == (units, rate)


def test_without_a_rate_there_is_no_limit_to_it() -> None:
    assert renewed(ask(None), "a", [], 0).rate(ask(None)) is None
