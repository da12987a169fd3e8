"""The last resort for a claim whose outcome cannot be saved: its row is put off, and nothing else of it is touched."""

from __future__ import annotations

import sqlalchemy as sa

from relay.model.times import Millis
from relay.store.schema import deliveries, erased_messages, messages, watches

_KEYS: dict[sa.Table, tuple[sa.Column[int], sa.ColumnElement[str]]] = {
    watches: (watches.c.next_poll_at, watches.c.id),
    deliveries: (deliveries.c.next_attempt_at, deliveries.c.id),
    messages: (messages.c.edit_at, messages.c.target_id),
    erased_messages: (erased_messages.c.edit_at, erased_messages.c.channel + "/" + erased_messages.c.ts),
}
"""Of each table, the column that says when a row is due, and what names its claims."""


def put_off(tx: sa.Connection, table: sa.Table, claim_id: str, lease: str, due: Millis) -> bool:
    """Give a claimed row of a table back, due again at `due`, if the claim still holds.

    Returns:
        Whether it still held.
    """
    column, key = _KEYS[table]
    change = sa.update(table).where(key == claim_id, table.c.lease == lease)
    return tx.execute(change.values({column.key: due, "lease": None})).rowcount == 1
