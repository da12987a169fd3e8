"""How much of an app's quotas is used, exactly, whichever process changes it.

The triggers of the schema count: a row of `usage` changes in the transaction that changes the rows it counts. So no
code that ends, erases or forgets a watch has to remember it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa

from relay.errors import RelayError, TooManyTargets, TooManyWatches
from relay.model.watch import State
from relay.store import hot
from relay.store.schema import targets, usage, watches

RETRY_AFTER = 10.0
"""Seconds after which a caller may ask again for room that it did not have."""


@dataclass(frozen=True, slots=True)
class Quota:
    """What one app may have: watches under way, and stored targets."""

    watches: int = 1_000_000
    targets: int = 2_000_000


_USED = hot.Statement(
    sa.select(usage.c.app_id, usage.c.watching, usage.c.targets)
    .where(hot.among(usage.c.app_id, "app_ids"))
    .order_by(usage.c.app_id)
    .with_for_update()
)

QUOTA = Quota()
"""What an app may have by default."""


@dataclass(slots=True)
class Used:
    """What one app has, with what this transaction adds."""

    watches: int
    targets: int

    def refusal(self, quota: Quota, watches: int, targets: int) -> RelayError | None:
        """Return why there is no room for so many more, or None."""
        if watches and self.watches + watches > quota.watches:
            why = "wait until some have ended, or stop some (DELETE /v1/watches/{id})"
            return TooManyWatches(f"an app may have {quota.watches} watches under way: {why}", retry_after=RETRY_AFTER)
        if targets and self.targets + targets > quota.targets:
            why = "erase tasks that have ended (DELETE /v1/watches/{id}?erase=true), or have RELAY_MAX_TARGETS raised"
            return TooManyTargets(f"an app may have {quota.targets} targets stored: {why}", retry_after=RETRY_AFTER)
        return None


def lock(tx: sa.Connection, app_ids: Collection[str]) -> dict[str, Used]:
    """Return what apps have, which no other transaction changes before this one ends.

    Call it when the rows of `watches` are locked, and before any is added or deleted: all transactions lock in this
    order, and apps in the order of their ids.
    """
    return {app_id: Used(watching, stored) for app_id, watching, stored in _USED.rows(tx, {"app_ids": list(app_ids)})}


def hold(tx: sa.Connection, app_ids: Collection[str]) -> None:
    """Lock as `lock` does, without reading: a statement that changes rows of many apps has an order of its own."""
    if app_ids:
        _USED.run(tx, {"app_ids": list(app_ids)})


def miscounted() -> sa.Select[str]:
    """Return the query of the apps of which more or less is counted than they have."""
    c = usage.c
    watching = sa.select(sa.func.count()).where(watches.c.app_id == c.app_id, watches.c.state == State.WATCHING)
    stored = sa.select(sa.func.count()).join_from(targets, watches).where(watches.c.app_id == c.app_id)
    wrong = sa.or_(c.watching != watching.scalar_subquery(), c.targets != stored.scalar_subquery())
    return sa.select(c.app_id).where(wrong)
