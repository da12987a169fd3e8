"""Exchange indexes while others write: a migration that does so says `concurrent = True`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from alembic import op


@dataclass(frozen=True, slots=True)
class TableIndex:
    """An index that is made or dropped; an expression among its columns stands in parentheses."""

    name: str
    table: str
    columns: tuple[str, ...]
    where: str | None = None
    unique: bool = False


def exchange(made: Sequence[TableIndex], dropped: Sequence[TableIndex]) -> None:
    """Make indexes, then drop others. On PostgreSQL other processes write meanwhile, so no lock keeps them waiting."""
    concurrently = op.get_bind().dialect.name == "postgresql"
    for index in made:
        where = None if index.where is None else sa.text(index.where)
        if concurrently:  # an attempt that was broken off has left an index behind that is not valid
            op.drop_index(index.name, index.table, if_exists=True, postgresql_concurrently=True)
        op.create_index(
            index.name,
            index.table,
            [sa.text(column) if column.startswith("(") else column for column in index.columns],
            unique=index.unique,
            sqlite_where=where,
            postgresql_where=where,
            postgresql_concurrently=concurrently,
        )
    for index in dropped:
        op.drop_index(index.name, index.table, if_exists=True, postgresql_concurrently=concurrently)
