"""The last queries in a row about a watch that told nothing: how many, since when, and what came instead of an answer.

A failing upstream answers with pages, empty bodies and texts. They are no answers about the task, so `answers` does not
have them; but they say what is wrong. Each function is the inside of one transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from relay.model.times import Millis
from relay.store.hot import Insert, Update
from relay.store.schema import AnyRow, misses

KEPT = 4096
"""Bytes of an answer that are kept."""


@dataclass(frozen=True, slots=True)
class Miss:
    """A query that told nothing.

    Attributes:
        at: when the upstream was asked.
        count: how many there were in a row, with this one.
        status: of HTTP; None where no answer came.
        message: why it tells nothing, in words.
        body: the first bytes of what came, without secrets.
    """

    at: Millis
    count: int
    status: int | None
    message: str
    body: bytes


_LATER = ("at", "count", "status", "message", "body")
_first = Insert(misses, ("watch_id", "since", *_LATER))
_later = Update(misses, ("watch_id",), _LATER)


def save(tx: sa.Connection, missed: Sequence[tuple[str, Miss]]) -> None:
    """Save misses of watches whose rows are locked. With the first of a run, the run before is forgotten."""
    rows = [
        {
            "watch_id": watch_id,
            "since": miss.at,
            "at": miss.at,
            "count": miss.count,
            "status": miss.status,
            "message": miss.message,
            "body": miss.body,
        }
        for watch_id, miss in missed
    ]
    first = [row for row in rows if row["count"] == 1]
    if first:
        tx.execute(sa.delete(misses).where(misses.c.watch_id.in_([row["watch_id"] for row in first])))
        _first.run(tx, first)
    _later.run(tx, [row for row in rows if row["count"] != 1])


def of_watch(tx: sa.Connection, watch_id: str) -> AnyRow | None:
    """Return the last misses in a row of a watch."""
    return tx.execute(sa.select(misses).where(misses.c.watch_id == watch_id)).first()
