"""Re-sealing: after this, only the newest RELAY_SECRET_KEY is needed, and the older ones can be taken away."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

from relay.poller import key_owner
from relay.store import Database
from relay.store.schema import AnyRow, apps, targets, watches
from relay.vault import Vault

BATCH = 500

_SEALED: tuple[tuple[sa.Table, str, Callable[[AnyRow], str]], ...] = (
    (apps, "secrets", lambda row: str(row.id)),
    (targets, "address", lambda row: str(row.id)),
    (watches, "upstream_key", lambda row: key_owner(row.app_id, row.provider, row.task_id)),
)


def reseal(db: Database, vault: Vault) -> int:
    """Seals everything stored with the newest key, in batches, while relay runs; returns how many values it sealed.

    Raises:
        ConfigError: something was sealed with a key that is not configured any more.
    """
    count = 0
    for table, name, owner in _SEALED:
        last: str | None = ""
        while last is not None:
            last, done = db.run_here(_batch, vault, table, name, owner, last)
            count += done
    return count


def _batch(
    tx: sa.Connection, vault: Vault, table: sa.Table, name: str, owner: Callable[[AnyRow], str], after: str
) -> tuple[str | None, int]:
    """One batch, after an id; returns the last id that it saw, None at the end, and how many it sealed."""
    column = table.c[name]
    query = sa.select(table).where(table.c.id > after, column.is_not(None)).order_by(table.c.id).limit(BATCH)
    rows = list(tx.execute(query))
    done = 0
    for row in rows:
        old = row._mapping[name]
        if vault.is_newest(old):
            continue
        fresh = vault.seal(vault.open(old, owner(row)), owner(row))
        # Only if nobody has changed it meanwhile: what is newer is sealed with the newest key anyway.
        change = sa.update(table).where(table.c.id == row.id, column == old)
        done += tx.execute(change.values({name: fresh})).rowcount
    return (rows[-1].id if len(rows) == BATCH else None), done
