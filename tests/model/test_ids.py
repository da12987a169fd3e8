"""Ids: they sort by their making, and can be derived again."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ulid import ULID

from relay.model import ids
from relay.model.ids import Prefix, derived_id, new_id

WATCH = "wch_01K6X15VHRFF09DKKQJRZWHM60"
PREFIXES = get_args(Prefix)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_an_id_is_a_prefix_and_a_ulid_of_now(prefix: Prefix) -> None:
    before = time.time()
    made = new_id(prefix)
    assert re.fullmatch(rf"{prefix}_[0-9A-HJKMNP-TV-Z]{{26}}", made)
    assert before - 1 <= ULID.from_str(made[4:]).timestamp <= time.time() + 1


def test_ids_sort_in_the_order_of_their_making() -> None:
    """Also within a millisecond: a hundred thousand take longer than one, but not by much."""
    made = [new_id("wch") for _ in range(100_000)]
    assert all(earlier < later for earlier, later in pairwise(made))


def test_ids_of_several_threads_differ() -> None:
    with ThreadPoolExecutor(8) as pool:
        made = [one for batch in pool.map(lambda _: [new_id("evt") for _ in range(2000)], range(8)) for one in batch]
    assert len(set(made)) == 16_000


def test_ids_sort_although_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    an_hour_ahead = int((time.time() + 3600) * 1000) << 80
    monkeypatch.setattr(ids, "_last", an_hour_ahead)
    made = [new_id("wch") for _ in range(3)]
    assert made == sorted(set(made))
    assert made[0] > f"wch_{ULID(an_hour_ahead.to_bytes(16, 'big'))}"


def test_a_derived_id_is_always_the_same() -> None:
    assert derived_id("dlv", WATCH, "tgt_1", "end") == "dlv_01K6X15VHR2PHQZ213YYP8DAD2"


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), max_size=3))
def test_derived_ids_are_equal_only_for_equal_parts(parts: list[str]) -> None:
    made = derived_id("dlv", WATCH, *parts)
    assert made == derived_id("dlv", WATCH, *parts)
    assert made != derived_id("dlv", WATCH, *parts, "")
    assert made != derived_id("dlv", WATCH, *parts, "x")
    assert made != derived_id("dlv", "wch_01K6X15VHRFF09DKKQJRZWHM61", *parts)
    assert made != derived_id("evt", WATCH, *parts)
    if len(parts) > 1:
        assert made != derived_id("dlv", WATCH, "".join(parts[:2]), *parts[2:])
    if parts != parts[::-1]:
        assert made != derived_id("dlv", WATCH, *parts[::-1])


def test_a_derived_id_sorts_beside_its_ancestor() -> None:
    earlier, ancestor, later = "wch_01K6X15VHQ" + "Z" * 16, WATCH, "wch_01K6X15VHS" + "0" * 16
    for part in map(str, range(100)):
        assert earlier[4:] < derived_id("dlv", ancestor, part)[4:] < later[4:]


def test_an_id_can_be_derived_from_any_id_of_ours() -> None:
    for prefix in PREFIXES:
        assert derived_id("evt", new_id(prefix), "end").startswith("evt_")
