"""Which trace a watch belongs to, where tracing is on. Each function is the inside of one transaction."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from relay.store.schema import watches


def parents(tx: sa.Connection, watch_ids: Sequence[str]) -> dict[str, str]:
    """The `traceparent` of those watches that were registered with one."""
    query = sa.select(watches.c.id, watches.c.traceparent).where(watches.c.id.in_(watch_ids))
    return {row.id: row.traceparent for row in tx.execute(query) if row.traceparent is not None}
