"""Leases of lanes, which the processes of one PostgreSQL share. Each function is the inside of one transaction.

SQLite has one process, which needs no lease.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from relay.model.lane_lease import Ask, Lease, renewed
from relay.model.times import Millis
from relay.store.processes import SERVER_TIME
from relay.store.shared_schema import lane_leases, lanes

OLD: Millis = 3_600_000
"""How long leases and lanes are kept that no one renews: a start of the slowest lane counts for less."""

COLUMNS = [field.name for field in fields(Lease) if field.name != "usable"]


@dataclass(frozen=True, slots=True)
class Grant:
    """The answer to an `Ask`.

    Attributes:
        rate: starts per second; None if there is no limit.
        pause: milliseconds for which the place is to be left alone, as some process has learned.
    """

    places: int
    rate: float | None
    pause: Millis


def renew(tx: sa.Connection, process: str, asks: Sequence[Ask]) -> list[Grant]:
    """Renew the leases of a process, in the order of `asks`."""
    names = sorted(ask.lane for ask in asks)
    paused = _locked(tx, names)
    if len(paused) < len(names):
        new = [{"lane": name, "paused_until": 0} for name in names if name not in paused]
        tx.execute(insert(lanes).on_conflict_do_nothing(), new)
        paused = _locked(tx, names)
    leases: defaultdict[str, list[Lease]] = defaultdict(list)
    # The clock is read behind the locks: what others wrote before is older.
    now: Millis = tx.execute(sa.select(SERVER_TIME)).scalar_one()
    for row in tx.execute(sa.select(lane_leases).where(lane_leases.c.lane.in_(names))):
        leases[row.lane].append(Lease(*(getattr(row, name) for name in COLUMNS)))
    mine = {ask.lane: renewed(ask, process, leases[ask.lane], now) for ask in asks}
    _save(tx, mine)
    pauses = {ask.lane: now + ask.pause for ask in asks if now + ask.pause > paused[ask.lane]}
    _pause(tx, {lane: until for lane, until in pauses.items() if until > now})
    paused |= pauses
    return [Grant(mine[ask.lane].usable, mine[ask.lane].rate(ask), max(0, paused[ask.lane] - now)) for ask in asks]


def _locked(tx: sa.Connection, names: Sequence[str]) -> dict[str, Millis]:
    query = sa.select(lanes).where(lanes.c.lane.in_(names)).order_by(lanes.c.lane).with_for_update()
    return {row.lane: row.paused_until for row in tx.execute(query)}


def _save(tx: sa.Connection, mine: dict[str, Lease]) -> None:
    rows = [{"lane": lane} | {name: getattr(lease, name) for name in COLUMNS} for lane, lease in mine.items()]
    change = insert(lane_leases)
    new = {name: change.excluded[name] for name in COLUMNS if name != "process"}
    tx.execute(change.on_conflict_do_update(index_elements=["lane", "process"], set_=new), rows)


def _pause(tx: sa.Connection, pauses: dict[str, Millis]) -> None:
    if pauses:
        change = sa.update(lanes).where(lanes.c.lane == sa.bindparam("of")).values(paused_until=sa.bindparam("until"))
        tx.execute(change, [{"of": lane, "until": until} for lane, until in pauses.items()])


def forget(tx: sa.Connection, now: Millis) -> None:
    """Delete the leases that have been over for long, and the lanes that no one uses."""
    tx.execute(sa.delete(lane_leases).where(lane_leases.c.until < now - OLD))
    used = sa.exists().where(lane_leases.c.lane == lanes.c.lane)
    tx.execute(sa.delete(lanes).where(lanes.c.paused_until < now - OLD, ~used))
