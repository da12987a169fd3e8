"""How the places of a claim loop are shared between apps."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

GREED = 9
"""An app may hold so many times the places that are free: by itself nine tenths of all."""


def fair_shares(places: int, held: Mapping[str, int], due: Mapping[str, int]) -> dict[str, int]:
    """Return how many claims each app may make now.

    The next place goes to the app that holds least. What an app may hold shrinks with what is free, so that there is
    room for the others before they need it, whatever the calls of one app do.

    Args:
        places: places of the loop, free or not.
        held: places that each app holds.
        due: rows that each app has due; of those that hold as many places, the app that is named first goes first.
    """
    free = places - sum(held.values())
    shares = dict.fromkeys(due, 0)
    hungry = [(held.get(app, 0), order, app) for order, (app, rows) in enumerate(due.items()) if rows]
    heapq.heapify(hungry)
    while hungry and free > 0:
        holds, order, app = heapq.heappop(hungry)
        if holds and holds >= GREED * (free - 1):
            break  # the others hold at least as many
        free -= 1
        shares[app] += 1
        if shares[app] < due[app]:
            heapq.heappush(hungry, (holds + 1, order, app))
    return shares
