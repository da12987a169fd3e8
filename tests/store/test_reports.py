"""The dashboard's queries, on both databases."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from relay.model.delivery import Attempt, DeliveryState, Outcome, Verdict
from relay.model.reading import Kind
from relay.store import Database, census, invariants, next_polls, outbox, past, polling, reports, schema
from relay.store.schema import ailments, deliveries
from tests.support import rows
from tests.support.databases import migrated_file
from tests.support.rows import NOW
from tests.support.statements import statements_seen

MINUTE = 60_000


def settle(db: Database, state: DeliveryState, at: int = NOW) -> str:
    """Claims the one delivery that is due and lets it come to `state`."""
    (claim,) = db.run_here(rows.claim_of, outbox, at, at + MINUTE, "me.1", 1)
    verdict = Verdict.DELIVERED if state is DeliveryState.DELIVERED else Verdict.RETRY
    attempt = Attempt(claim.attempts + 1, at, 5, Outcome(verdict))
    due = at + 10 * MINUTE if state is DeliveryState.PENDING else None
    settled = at if state in (DeliveryState.DELIVERED, DeliveryState.DEAD) else None
    db.run_here(outbox.record, [outbox.Tried(claim, attempt, claim.counted + 1, state, due, settled, "why")])
    return claim.id


def end(db: Database, watch_id: str, at: int = NOW, kind: Kind = Kind.COMPLETED) -> None:
    (claim,) = [one for one in rows.claim(db, at) if one.id == watch_id]
    db.run_here(polling.save, [rows.ended(claim, at, kind)])


def test_in_flight_is_newest_first_and_of_every_app(db: Database) -> None:
    first, second = rows.app(db, "shop"), rows.app(db, "studio")
    ids = [rows.watch(db, app, f"task-{n}", due=NOW + n) for n, app in enumerate((first, second, first))]
    end(db, ids[0])
    found = db.run_here(reports.in_flight, 10)
    assert [(row.id, row.app) for row in found] == [(ids[2], "shop"), (ids[1], "studio")]
    assert [row.id for row in db.run_here(reports.in_flight, 1)] == [ids[2]]


def test_old_watches_in_flight_are_found_behind_many_that_have_ended(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "WINDOW", 2)
    app = rows.app(db)
    old = rows.watch(db, app, "old", due=NOW + 1)
    for n in range(3):
        end(db, rows.watch(db, app, f"task-{n}"))
    assert [row.id for row in db.run_here(reports.in_flight, 5)] == [old]


def test_of_all_apps_those_are_found_that_are_polled_next(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "WINDOW", 0)
    shop, lab, bakery = (rows.app(db, name) for name in ("shop", "lab", "bakery"))
    dues = (shop, 5), (lab, 1), (bakery, 3), (shop, 0), (lab, 4), (lab, 2)
    ids = {due: rows.watch(db, app, f"task-{due}", due=NOW + due) for app, due in dues}
    for most in (1, 2, 4, 10):
        found = {row.id for row in db.run_here(reports.in_flight, most)}
        assert found == {ids[due] for due in range(min(most, 6))}


def test_of_very_many_watches_some_of_the_largest_apps_are_counted(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(next_polls, "LARGEST", 2)
    for name, count in (("shop", 8), ("lab", 1), ("bakery", 5)):
        app_id = rows.app(db, name)
        for n in range(count):
            rows.watch(db, app_id, f"task-{n}")
        of_app = sa.update(schema.watches).where(schema.watches.c.app_id == app_id)
        db.run_here(lambda tx, change: tx.execute(change), of_app.values(provider=name))
    for counted, in_flight in (
        (14, {"lab": (1, 0), "bakery": (5, 0), "shop": (8, 0)}),
        (12, {"bakery": (5, 0), "shop": (6, 0)}),
        (6, {"bakery": (3, 0), "shop": (3, 0)}),
    ):
        monkeypatch.setattr(next_polls, "COUNTED", counted)
        counts = db.run_here(reports.counts)
        assert (counts.watching, counts.in_flight) == (14, in_flight)


def test_ended_is_the_last_first(db: Database) -> None:
    app = rows.app(db)
    ids = [rows.watch(db, app, f"task-{n}") for n in range(3)]
    for n, watch_id in enumerate((ids[1], ids[0])):
        end(db, watch_id, NOW + n * 100_000)
    assert [row.id for row in db.run_here(reports.ended, 10)] == [ids[0], ids[1]]
    assert [row.id for row in db.run_here(reports.ended, 1)] == [ids[0]]


def test_attention_is_for_dead_then_held_then_long_pending_and_nothing_else(db: Database) -> None:
    app = rows.app(db)
    made = {}
    db.run_here(lambda tx: tx.execute(sa.insert(ailments).values(place="held", since=NOW, exhausted=3, probe_at=NOW)))
    states = (DeliveryState.PENDING, DeliveryState.HELD, DeliveryState.DELIVERED, DeliveryState.DEAD)
    for state in states:
        end(db, rows.watch(db, app, f"task-{state}", rows.target(state)))
        made[state] = settle(db, state)
    wanted = [made[DeliveryState.DEAD], made[DeliveryState.HELD]]
    assert [row.id for row in db.run_here(reports.needing_attention, NOW, 10)] == wanted
    later = NOW + reports.LONG_PENDING
    found = db.run_here(reports.needing_attention, later, 10)
    assert [row.id for row in found] == [*wanted, made[DeliveryState.PENDING]]
    assert (found[0].task_id, found[0].app, found[0].reason) == ("task-dead", "shop", "why")
    assert len(db.run_here(reports.needing_attention, later, 2)) == 2
    counts = db.run_here(reports.counts)
    assert counts == reports.Counts(0, {}, dead=1, held=1, failing=1)


def test_progress_that_was_not_taken_needs_no_attention(db: Database) -> None:
    app = rows.app(db)
    end(db, rows.watch(db, app, "task"))
    settle(db, DeliveryState.DEAD)
    db.run_here(lambda tx: tx.execute(sa.update(deliveries).values(event_type="task.progress")).rowcount)
    assert db.run_here(reports.needing_attention, NOW, 10) == []


def test_what_is_in_flight_is_counted_by_provider(db: Database) -> None:
    app = rows.app(db)
    end(db, rows.watch(db, app, "task-0"))
    rows.watch(db, app, "task-1")
    assert db.run_here(reports.counts).in_flight == {"p": (1, 0)}


@pytest.mark.anyio
async def test_a_census_in_slices_counts_every_row_once(db: Database) -> None:
    app = rows.app(db)
    ids = [rows.watch(db, app, f"task-{n}") for n in range(7)]
    end(db, ids[0], NOW)
    settle(db, DeliveryState.DEAD)
    end(db, ids[1], NOW + 100_000)
    db.run_here(
        lambda tx: tx.execute(sa.update(schema.watches).where(schema.watches.c.id > ids[4]).values(state="lost"))
    )
    found = await census.take(db, most=3)
    assert found.watches == {("p", "watching"): 3, ("p", "completed"): 2, ("p", "lost"): 2}
    assert found.deliveries == {"dead": 1, "pending": 1}
    violations = db.run_here(invariants.find_violations)
    assert found.violations == sum(len(each.ids) for each in violations if "app" not in each.what) > 0


def test_the_story_of_a_watch_is_whole(db: Database) -> None:
    app = rows.app(db)
    watch_id = rows.watch(db, app, "task", rows.target(), rows.target("other"))
    end(db, watch_id)
    settle(db, DeliveryState.DELIVERED)
    story = db.run_here(reports.watch_history, watch_id)
    assert (story.app, story.watch.row.id, story.answer) == ("shop", watch_id, b"{}")
    assert [one.row.state for one in story.deliveries] == ["delivered", "pending"]
    assert [len(one.attempts) for one in story.deliveries] == [1, 0]
    assert db.run_here(reports.owner, story.deliveries[0].row.id) == (app, watch_id)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_lists_are_read_by_index(db: Database) -> None:
    """However much is stored: nothing that an open page asks for reads a whole table."""
    plans: list[str] = []

    def explain(tx: sa.Connection) -> None:
        seen: list[tuple[str, tuple[object, ...]]] = []
        sa.event.listen(tx, "before_cursor_execute", lambda _c, _k, sql, values, *_: seen.append((sql, values)))
        reports.in_flight(tx, 10)
        reports.ended(tx, 10)
        reports.needing_attention(tx, NOW, 10)
        past.count(tx, MINUTE, NOW // MINUTE)
        past.reach(tx, MINUTE, 0, NOW // MINUTE, 10)
        past.of_providers(tx, NOW)
        reports.counts(tx)
        reports.search(tx, "task", 10)
        for sql, values in seen.copy():
            plans.extend(str(row[3]) for row in tx.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values))

    db.run_here(explain)
    assert any("ix_deliveries_dead" in plan for plan in plans)
    assert any("ix_deliveries_settled" in plan for plan in plans)
    assert any("ix_watches_cancelled" in plan for plan in plans)
    assert [plan for plan in plans if re.match(r"SCAN (watches|deliveries)(?! USING)", plan)] == []


def test_sqlite_counts_what_is_stuck_through_the_index_of_nothing_else(tmp_path: Path) -> None:
    db = Database(migrated_file(tmp_path / "relay.db"))
    seen: list[tuple[str, Any]] = []
    with db.engine.connect() as tx:
        with statements_seen(tx, lambda sql, values, _: seen.append((sql, values))):
            reports.counts(tx)
        plans = [str(tx.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values).all()) for sql, values in seen]
    db.close()
    used = re.findall(r"INDEX (ix_deliveries_\w+)", " ".join(plans))
    assert used == ["ix_deliveries_dead", "ix_deliveries_held_at", "ix_deliveries_app_again"]
