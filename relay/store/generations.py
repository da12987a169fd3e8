"""Generations: a number in a row, so that one step of it ends everything that was given out before, everywhere."""

from __future__ import annotations

import sqlalchemy as sa

from relay.store.shared_schema import generations

DASHBOARD = "dashboard"
"""The generation of the operator's sessions."""


def current(tx: sa.Connection, name: str) -> int:
    """Return the generation of this name; 0 before the first step."""
    return tx.execute(sa.select(generations.c.number).where(generations.c.name == name)).scalar() or 0


def advance(tx: sa.Connection, name: str) -> int:
    """Begin the next generation, and return it."""
    change = sa.update(generations).where(generations.c.name == name).values(number=generations.c.number + 1)
    if not tx.execute(change).rowcount:
        tx.execute(sa.insert(generations).values(name=name, number=1))
    return current(tx, name)
