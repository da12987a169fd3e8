"""What has ended in a window of time, on both databases."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from relay.model.delivery import DeliveryState
from relay.model.reading import Kind
from relay.store import Database, past, polling, watches
from relay.store.past import ProviderPast
from relay.store.schema import watches as table
from tests.store.test_reports import settle
from tests.support import rows
from tests.support.rows import NOW

HOUR = 3_600_000


def end(db: Database, watch_id: str, at: int, kind: Kind = Kind.COMPLETED) -> None:
    """Ends a watch that is due."""
    (claim,) = [one for one in rows.claim(db, at) if one.id == watch_id]
    db.run_here(polling.save, [rows.ended(claim, at, kind)])


def test_ends_deliveries_and_lags_are_counted_by_slice(db: Database) -> None:
    app = rows.app(db)
    ids = [rows.watch(db, app, f"task-{n}") for n in range(4)]
    end(db, ids[0], NOW)
    end(db, ids[1], NOW + HOUR, Kind.FAILED)
    settle(db, DeliveryState.DELIVERED, NOW + HOUR)
    db.run_here(watches.cancel, app, ids[2], NOW + HOUR)
    number = NOW // HOUR
    counted = db.run_here(past.count, HOUR, number - 1)
    assert counted.ends == {(number, "completed"): 1, (number + 1, "failed"): 1, (number + 1, "cancelled"): 1}
    assert counted.settled == {(number + 1, "delivered"): 1}
    assert counted.lags == {
        (number, "count"): 1,
        (number, "sum"): 0,
        (number, "most"): 0,
        (number + 1, "count"): 1,
        (number + 1, "sum"): HOUR,
        (number + 1, "most"): HOUR,
    }
    assert set(db.run_here(past.count, HOUR, number + 1).ends) == {(number + 1, "failed"), (number + 1, "cancelled")}
    assert set(db.run_here(past.count, HOUR, 0, number).ends) == {(number, "completed")}


def test_a_piece_has_about_so_many_rows_and_at_least_a_slice(db: Database) -> None:
    app = rows.app(db)
    number = NOW // HOUR
    for hour in range(6):
        end(db, rows.watch(db, app, f"task-{hour}", due=NOW + hour * HOUR), NOW + hour * HOUR)
    assert db.run_here(past.reach, HOUR, number - 9, number + 5, 100) == number - 9
    assert db.run_here(past.reach, HOUR, number, number + 5, 2) == number + 4
    assert db.run_here(past.reach, HOUR, number, number + 3, 2) == number + 2, "backwards from any slice"
    assert db.run_here(past.reach, HOUR, number, number + 3, 0) == number + 3


def test_providers_are_told_apart_by_how_their_tasks_ended(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    app = rows.app(db)
    for n in range(20):
        kind = Kind.FAILED if n == 19 else Kind.COMPLETED
        watch_id = rows.watch(db, app, f"task-{n}", due=NOW + n * 1000)
        end(db, watch_id, NOW + n * 1000, kind)
    db.run_here(watches.cancel, app, rows.watch(db, app, "stopped"), NOW + HOUR)
    inline = rows.watch(db, app, "inline")
    named = sa.update(table).where(table.c.id == inline).values(provider="inline:4711", inline=b"sealed")
    db.run_here(lambda tx: tx.execute(named).rowcount)
    db.run_here(watches.cancel, app, inline, NOW + HOUR)

    of = db.run_here(past.of_providers, NOW)
    assert of["p"] == ProviderPast(NOW, 19, 1, 1, 9_000, 18_000, 9_000, 18_000)
    assert of["inline"] == ProviderPast(NOW + HOUR, 0, 0, 1, None, None, None, None)
    assert db.run_here(past.of_providers, NOW + 10_000)["p"].completed == 9
    assert db.run_here(past.of_providers, NOW + 2 * HOUR) == {}
    monkeypatch.setattr(past, "NEWEST", 4)
    newest = db.run_here(past.of_providers, NOW)["p"]
    assert (newest.since, newest.completed, newest.failed, newest.others) == (NOW + 18_000, 1, 1, 1)
