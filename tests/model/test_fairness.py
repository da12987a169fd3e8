"""The places of a claim loop: equal parts for all that want them, and always room for the next."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model.fairness import GREED, fair_shares

COUNTS = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 60), max_size=8)


@pytest.mark.parametrize(
    ("places", "held", "due", "shares"),
    [
        (500, {}, {"a": 9999}, {"a": 450}),
        (500, {"a": 450}, {"a": 9999}, {"a": 0}),
        (500, {"a": 450}, {"a": 9999, "b": 1}, {"a": 0, "b": 1}),
        (500, {"a": 450}, {"b": 9999}, {"b": 45}),
        (500, {}, {"a": 9999, "b": 9999}, {"a": 237, "b": 236}),
        (500, {"a": 200}, {"a": 9999, "b": 100}, {"a": 160, "b": 100}),
        (20, {}, {"a": 100}, {"a": 18}),
        (1, {}, {"b": 2, "a": 2}, {"b": 1, "a": 0}),
        (10, {"a": 10}, {"b": 1}, {"b": 0}),
        (10, {}, {}, {}),
    ],
)
def test_places_are_shared(places: int, held: dict[str, int], due: dict[str, int], shares: dict[str, int]) -> None:
    assert fair_shares(places, held, due) == shares


@given(st.integers(1, 300), COUNTS, COUNTS)
def test_nobody_starves_and_nobody_has_more_than_the_others_leave(
    places: int, held: dict[str, int], due: dict[str, int]
) -> None:
    shares = fair_shares(places, held, due)
    free = places - sum(held.values())
    after = {app: held.get(app, 0) + shares[app] for app in due}
    left = free - sum(shares.values())
    assert sum(shares.values()) <= max(0, free)
    assert all(0 <= shares[app] <= due[app] for app in due)
    newcomers = [app for app in due if due[app] and not held.get(app)]
    assert sum(shares[app] > 0 for app in newcomers) == min(len(newcomers), max(0, free))
    for app in due:
        if shares[app] > 1 or (shares[app] and held.get(app)):
            assert after[app] <= GREED * (left + sum(shares[other] > 0 for other in newcomers)), "there is room"
        if shares[app] < due[app] and left > 0:
            assert after[app] >= GREED * (left - 1), "no place stays free that an app may have"
            assert all(after[other] <= max(after[app] + 1, held.get(other, 0)) for other in due), "equal parts"
