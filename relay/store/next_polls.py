"""Which watches of all apps are polled next. The index of due times begins with the app, so it is read app by app."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from heapq import nlargest
from typing import Any

import sqlalchemy as sa

from relay.model.providers import family
from relay.store.schema import AnyRow, usage, watches

COUNTED = 10_000
"""Rows that are counted for a page."""

LARGEST = 50
"""Apps of which some watches are counted, where there are too many to count all."""


def first(tx: sa.Connection, most: int) -> list[str]:
    """Return the ids of the watches that are polled next: they are among those of the apps whose first comes first."""
    c = watches.c
    first_of_app = sa.select(sa.func.min(c.next_poll_at)).where(c.app_id == usage.c.app_id, c.next_poll_at.is_not(None))
    app_ids = sa.select(usage.c.app_id).where(usage.c.watching > 0).order_by(first_of_app.scalar_subquery()).limit(most)
    rows: list[AnyRow] = []
    for app_id in tx.execute(app_ids).scalars().all():
        rows += tx.execute(_of_app_next(app_id, most, c.next_poll_at, c.id))
    return [row.id for row in sorted(rows)[:most]]


def by_provider(tx: sa.Connection, watching: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Count watches under way by provider, and of how many of them the last answers told nothing.

    Args:
        watching: how many each app has. Of more than `COUNTED`, those of the largest apps that are polled next.
    """
    c = watches.c
    every = sa.select(c.provider, c.misses).where(c.next_poll_at.is_not(None)).order_by(c.app_id, c.next_poll_at)
    some = [every.limit(COUNTED)]
    if sum(watching.values()) > COUNTED:
        largest = nlargest(LARGEST, watching, key=watching.__getitem__)
        some = [_of_app_next(app_id, COUNTED // len(largest), c.provider, c.misses) for app_id in largest]
    seen, silent = Counter[str](), Counter[str]()
    for part in (query.subquery().c for query in some):
        missed = sa.func.sum(sa.case((part.misses > 0, 1), else_=0))
        counted = sa.select(part.provider, sa.func.count(), missed).group_by(part.provider)
        for provider, count, of_them in tx.execute(counted):
            seen[family(provider)] += count
            silent[family(provider)] += int(of_them)
    return {provider: (count, silent[provider]) for provider, count in seen.items()}


def _of_app_next(app_id: str, most: int, *columns: sa.Column[Any]) -> sa.Select[Any]:
    of_app = sa.select(*columns).where(watches.c.app_id == app_id, watches.c.next_poll_at.is_not(None))
    return of_app.order_by(watches.c.next_poll_at).limit(most)
