"""Where a lane is short, likely ends still go first, and nobody waits beyond twice the even share."""

import heapq
import random

from relay.worker.pace import Paces

RATE = 10.0
LIKELY, UNLIKELY = 5.0, 40.0
"""Seconds after which a watch is to be asked about again whose end is likely, and one whose end is not."""


def cycles(watches: int, seconds: float) -> dict[int, list[float]]:
    """The times between two queries of each watch, late in a lane that gives ten queries a second to them all."""
    chance = random.Random(1)
    paces = Paces()
    due = [(chance.uniform(0, UNLIKELY), number, 0.0) for number in range(watches)]
    heapq.heapify(due)
    free, between = 0.0, dict[int, list[float]]()
    while due and free < seconds:
        at, number, before = heapq.heappop(due)
        start = max(at, free)
        free = start + 1 / RATE
        pace = paces.of("lane", round((start - at) * 1000))
        following = start + (LIKELY if number % 4 == 0 else UNLIKELY) * chance.uniform(0.9, 1.0)
        if pace is not None:
            following = pace.due(round(start * 1000), round(following * 1000), round(before * 1000)) / 1000
        heapq.heappush(due, (following, number, start))
        if start > seconds / 2:
            between.setdefault(number, []).append(start - before)
    return between


def test_a_lane_with_room_is_left_alone() -> None:
    between = cycles(40, 600)
    assert max(max(times) for number, times in between.items() if number % 4 == 0) < LIKELY * 1.2


def test_in_a_short_lane_likely_ends_go_first_and_nobody_waits_beyond_twice_the_even_share() -> None:
    watches = 1000
    between = cycles(watches, 3000)
    even = watches / RATE
    assert len(between) == watches
    assert max(max(times) for times in between.values()) < 2 * even
    likely = [time for number, times in between.items() if number % 4 == 0 for time in times]
    unlikely = [time for number, times in between.items() if number % 4 for time in times]
    assert sum(likely) / len(likely) < 0.6 * sum(unlikely) / len(unlikely)
