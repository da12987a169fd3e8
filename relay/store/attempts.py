"""The attempts of deliveries: all are counted, the newest are kept. Each function runs inside one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from relay.model.delivery import Attempt
from relay.store.hot import Insert
from relay.store.schema import attempts

MOST = 20
"""Attempts of one delivery that are kept: it may be sent again as often as its app likes."""


_NEW = Insert(
    attempts,
    ("delivery_id", "number", "at", "latency_ms", "verdict", "status", "error", "note", "answer", "truncated"),
)


def add(tx: sa.Connection, made: Sequence[tuple[str, Attempt]]) -> None:
    """Add attempts of deliveries, and delete the old ones of those that have many.

    Args:
        made: (delivery id, attempt).
    """
    a = attempts.c
    _NEW.run(tx, [_row(delivery_id, attempt) for delivery_id, attempt in made])
    old = [{"of": delivery_id, "last": attempt.number - MOST} for delivery_id, attempt in made if attempt.number > MOST]
    if old:
        too_many = sa.and_(a.delivery_id == sa.bindparam("of"), a.number <= sa.bindparam("last"))
        tx.execute(sa.delete(attempts).where(too_many), old)


def _row(delivery_id: str, attempt: Attempt) -> dict[str, Any]:
    outcome = attempt.outcome
    return {
        "delivery_id": delivery_id,
        "number": attempt.number,
        "at": attempt.at,
        "latency_ms": attempt.latency_ms,
        "verdict": str(outcome.verdict),
        "status": outcome.status,
        "error": outcome.error,
        "note": outcome.note,
        "answer": outcome.answer,
        "truncated": outcome.truncated,
    }
