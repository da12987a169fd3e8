"""Sealing all stored secrets again, after which only the newest RELAY_SECRET_KEY is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from relay.security.vault import Vault, inline_owner, upstream_key_owner
from relay.store import Database
from relay.store.schema import AnyRow, apps, targets, watches
from relay.store.shared_schema import submissions

BATCH = 500
LARGE_BATCH = 4
"""Of values that may have many MiB each."""


@dataclass(frozen=True, slots=True)
class SealedColumn:
    """A column of sealed values, and for whom the value of a row is sealed; `batch` rows are read at a time."""

    table: sa.Table
    column: sa.Column[bytes]
    owner: Callable[[AnyRow], str]
    batch: int = BATCH


_SEALED = (
    SealedColumn(apps, apps.c.secrets, lambda row: str(row.id)),
    SealedColumn(targets, targets.c.address, lambda row: str(row.id)),
    SealedColumn(
        watches, watches.c.upstream_key, lambda row: upstream_key_owner(row.app_id, row.provider, row.task_id)
    ),
    SealedColumn(watches, watches.c.inline, lambda row: inline_owner(row.app_id, row.provider, row.task_id)),
    SealedColumn(submissions, submissions.c.answer, lambda row: str(row.id), LARGE_BATCH),
)


def reseal(db: Database, vault: Vault) -> int:
    """Seal everything stored with the newest key, in batches, while relay runs. Return how many values were sealed.

    Raises:
        ConfigError: something was sealed with a key that is not configured any more.
    """
    count = 0
    for sealed in _SEALED:
        last_id: str | None = ""
        while last_id is not None:
            last_id, resealed = db.run_here(_reseal_batch, vault, sealed, last_id)
            count += resealed
    return count


def _reseal_batch(tx: sa.Connection, vault: Vault, sealed: SealedColumn, after: str) -> tuple[str | None, int]:
    """Seal the values of the rows after an id.

    Returns:
        The last id of the batch, None if it was the last batch; and how many values were sealed.
    """
    table = sealed.table
    column = sealed.column
    query = sa.select(table).where(table.c.id > after, column.is_not(None)).order_by(table.c.id).limit(sealed.batch)
    rows = list(tx.execute(query))
    count = 0
    for row in rows:
        old = row._mapping[column]
        if vault.is_newest(old):
            continue
        new = vault.seal(vault.open(old, sealed.owner(row)), sealed.owner(row))
        # Leave a value alone that has changed since it was read: it was sealed with the newest key.
        change = sa.update(table).where(table.c.id == row.id, column == old)
        count += tx.execute(change.values({column: new})).rowcount
    return (rows[-1].id if len(rows) == sealed.batch else None), count
