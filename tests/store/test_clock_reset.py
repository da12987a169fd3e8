"""What time does to stored rows: forgetting, clocks that are set, and the invariant's eye on all of it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import sqlalchemy as sa

from relay.model.delivery import DeliveryState
from relay.store import Database, cleanup, invariants, last_answers, migrate, outbox, polling, processes
from relay.store.clock_reset import rebase
from relay.store.schema import answers, attempts, deliveries, events, targets
from relay.store.schema import watches as watch_rows
from tests.store.test_claims import claim_deliveries, count, sound, tried
from tests.support import rows
from tests.support.rows import NOW

HOUR = 3_600_000
TABLES = (watch_rows, targets, answers, events, deliveries, attempts)


def delivered(db: Database, app: str, task: str, at: int) -> None:
    """A watch that ended and was told, at `at`."""
    rows.watch(db, app, task, due=at)
    (one,) = rows.claim(db, at)
    db.run_here(polling.save, [rows.ended(one, at)])
    (delivery,) = claim_deliveries(db, at)
    db.run_here(outbox.record, [tried(delivery, DeliveryState.DELIVERED, at)])


def test_what_ended_long_ago_is_pruned_with_all_that_belongs_to_it(db: Database) -> None:
    app = rows.app(db)
    for n in range(7):
        delivered(db, app, f"old-{n}", NOW + n)
    assert [db.run_here(cleanup.prune, NOW + 100, 3) for _ in range(4)] == [3, 3, 1, 0], "in small batches"
    assert [count(db, table) for table in TABLES] == [0] * len(TABLES)


def test_of_a_watch_with_very_much_no_transaction_deletes_more_than_a_slice(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its progress goes first, slice by slice; its end goes with it, so that no promise is broken in between."""
    monkeypatch.setattr(cleanup, "SLICE", 10)
    app = rows.app(db)
    large = rows.watch(db, app, "large", *[rows.target(f"place-{n}") for n in range(6)])
    rows.watch(db, app, "large-too", *[rows.target(f"place-{n}") for n in range(6)])
    both = rows.claim(db)
    db.run_here(polling.save, [rows.ended(one) for one in both])
    for delivery in claim_all(db):
        db.run_here(outbox.record, [tried(delivery, DeliveryState.DELIVERED)])
    (like,) = db.run_here(lambda tx: tx.execute(sa.select(deliveries).where(deliveries.c.watch_id == large).limit(1)))
    more = [
        {**like._mapping, "id": f"dlv_{n}", "webhook_id": f"evt_{n}", "event_key": f"progress:{n}"} for n in range(25)
    ]
    told = [{"watch_id": large, "key": f"progress:{n}", "type": "p", "at": NOW, "body": b"{}"} for n in range(25)]
    db.run_here(lambda tx: tx.execute(sa.insert(events), told) and tx.execute(sa.insert(deliveries), more))
    left = [count(db, deliveries) + count(db, events)]
    while db.run_here(cleanup.thin_old, NOW + 1, 100):
        left.append(count(db, deliveries) + count(db, events))
        assert invariants_hold(db)
    assert all(before - after <= 2 * 10 for before, after in pairwise(left))
    assert len(left) > 3
    assert [db.run_here(cleanup.prune, NOW + 1, 100) for _ in range(3)] == [1, 1, 0], "one by one: 6 and 6 are too much"


def invariants_hold(db: Database) -> bool:
    return db.run_here(invariants.find_violations) == []


def test_what_is_young_or_watched_or_still_to_be_told_stays(db: Database) -> None:
    app = rows.app(db)
    rows.watch(db, app, "watched", due=NOW + HOUR)
    rows.watch(db, app, "untold")
    (one,) = rows.claim(db)
    db.run_here(polling.save, [rows.ended(one)])
    assert db.run_here(cleanup.prune, NOW + HOUR, 100) == 0
    (delivery,) = claim_deliveries(db)
    db.run_here(outbox.record, [tried(delivery, DeliveryState.DEAD)])
    assert db.run_here(cleanup.prune, NOW, 100) == 0, "it has just ended"
    assert db.run_here(cleanup.prune, NOW + 1, 100) == 1
    assert count(db, watch_rows) == 1


def test_a_sqlite_file_shrinks_when_its_rows_are_pruned(tmp_path: Path) -> None:
    file = tmp_path / "relay.db"
    db = Database(f"sqlite:///{file}")
    db.run_here(migrate.upgrade)
    app = rows.app(db)
    for n in range(400):
        rows.watch(db, app, f"task-{n}")
    body = b"x" * 10_000
    saved = [rows.ended(one)._replace(answer=body) for one in rows.claim(db, most=400)]
    db.run_here(polling.save, saved)
    for one in claim_all(db):
        db.run_here(outbox.record, [tried(one, DeliveryState.DELIVERED)])
    size = pages(db)
    while db.run_here(cleanup.prune, NOW + 1, 100):
        db.run_here(cleanup.shrink)
    db.run_here(cleanup.shrink)
    assert pages(db) < size / 5
    db.close()


def claim_all(db: Database) -> list[outbox.DeliveryClaim]:
    return db.run_here(rows.claim_of, outbox, NOW, NOW + 60_000, "all.1", 1000)


def pages(db: Database) -> int:
    return int(db.run_here(lambda tx: tx.exec_driver_sql("PRAGMA page_count").scalar()) or 0)


def due(db: Database, table: sa.Table, column: str) -> list[int]:
    return sorted(db.run_here(lambda tx: list(tx.execute(sa.select(table.c[column])).scalars())))


def test_a_clock_set_back_means_no_silence(db: Database) -> None:
    """Polled and tried by a clock that was an hour ahead: due in an hour and some, unless it is reckoned anew."""
    app = rows.app(db)
    rows.watch(db, app, "polled", due=NOW)
    (one,) = rows.claim(db)
    db.run_here(polling.save, [polling.Polled(one, one.watch, NOW, NOW + 20_000)])
    rows.watch(db, app, "new", due=NOW + 5_000)
    rows.watch(db, app, "ended")
    (one,) = rows.claim(db)
    db.run_here(polling.save, [rows.ended(one)])
    (delivery,) = claim_deliveries(db)
    db.run_here(outbox.record, [tried(delivery, DeliveryState.PENDING)])

    back = NOW - HOUR
    assert db.run_here(rebase, back) == 3
    assert rows.claim(db, back) == []
    assert {one.task_id for one in rows.claim(db, back + 20_000)} == {"polled", "new"}
    assert len(claim_deliveries(db, back + 5_000)) == 1
    assert sound(db)


def test_what_is_claimed_stays_so_when_the_clock_is_set_back(db: Database) -> None:
    """Each process notices the clock by itself: the last of them must not free what the first has claimed since."""
    app = rows.app(db)
    rows.watch(db, app, "polled", due=NOW)
    (one,) = rows.claim(db)
    db.run_here(polling.save, [polling.Polled(one, one.watch, NOW, NOW + 20_000)])
    back = NOW - HOUR
    db.run_here(rebase, back)
    (again,) = rows.claim(db, back + 20_000)
    db.run_here(rebase, back + 20_001)
    assert rows.claim(db, back + 20_002) == [], "it would be asked about twice at once"
    db.run_here(polling.save, [polling.Polled(again, again.watch, back + 20_000, back + 40_000)])
    assert len(rows.claim(db, back + 40_000)) == 1

    db.run_here(rebase, back - HOUR)
    assert rows.claim(db, back - HOUR + processes.MAX_LEASE - 1) == []
    assert len(rows.claim(db, back - HOUR + processes.MAX_LEASE)) == 1, "and not held for an hour"


def test_where_no_clock_was_set_nothing_is_reckoned_anew(db: Database) -> None:
    app = rows.app(db)
    rows.watch(db, app, "task", due=NOW + HOUR)
    assert db.run_here(rebase, NOW) == 0
    assert db.run_here(rebase, NOW - 3_000) == 0, "clocks of several hosts differ by seconds"
    assert db.run_here(rebase, NOW + HOUR) == 0, "set ahead: what is due is due"
    assert due(db, watch_rows, "next_poll_at") == [NOW + HOUR]


def test_claims_of_a_dead_process_are_found_although_the_clock_was_set(db: Database) -> None:
    app = rows.app(db)
    rows.watch(db, app, "task")
    rows.claim(db, lease="dead.1")
    back = NOW - HOUR
    db.run_here(rebase, back)
    assert db.run_here(processes.bury, "dead", back) == 1


# The invariant: each sentence of it, broken on purpose, is found with its id

BROKEN = {
    "ended without an event": ("DELETE FROM events", "wch"),
    "not ended, with the event of an end": ("UPDATE watches SET state = 'cancelled'", "wch"),
    "ended, with the event of another end": ("UPDATE events SET type = 'task.failed'", "wch"),
    "ended, but still polled": ("UPDATE watches SET next_poll_at = 1", "wch"),
    "target without a delivery of the end": ("DELETE FROM deliveries", "tgt"),
    "pending, but never sent again": ("UPDATE deliveries SET state = 'pending', next_attempt_at = NULL", "dlv"),
    "settled, but still sent": ("UPDATE deliveries SET next_attempt_at = 1", "dlv"),
    "in an unknown state": ("UPDATE deliveries SET state = 'gone'", "dlv"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_breaks_the_invariant_is_found(db: Database, what: str) -> None:
    app = rows.app(db)
    delivered(db, app, "task", NOW)
    assert sound(db)
    statement, prefix = BROKEN[what]
    db.run_here(lambda tx: tx.execute(sa.text(statement)))
    found = {one.what: one.ids for one in db.run_here(invariants.find_violations)}
    assert what in found
    assert all(one.startswith(f"{prefix}_") for one in found[what])


def test_a_watch_that_nobody_would_ever_poll_again_is_found(db: Database) -> None:
    watch_id = rows.watch(db, rows.app(db), "task")
    db.run_here(lambda tx: tx.execute(sa.text("UPDATE watches SET next_poll_at = NULL")))
    (violation,) = db.run_here(invariants.find_violations)
    assert (violation.what, violation.ids) == ("watching, but never polled again", (watch_id,))


@pytest.mark.filterwarnings("ignore:.*expression-based index")
def test_the_migrations_make_what_the_schema_says(db: Database) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from relay.store.schema import metadata

    # Each database writes the expression of this index in its own way. What reads it is in `test_plans`.
    opts = {"include_object": lambda _, name, *_more: name != "uq_watches_app_task"}
    assert db.run_here(lambda tx: compare_metadata(MigrationContext.configure(tx, opts=opts), metadata)) == []
    db.run_here(migrate.upgrade)
    assert db.run_here(migrate.behind) is None


def test_the_files_of_the_migrations_are_named_by_their_revisions() -> None:
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(migrate.MIGRATIONS)).walk_revisions()
    assert sorted(script.revision for script in scripts) == list(migrate._revisions())


def test_an_answer_of_the_release_before_came_with_200(db: Database) -> None:
    app = rows.app(db)
    watch_id = rows.watch(db, app, "task")
    old = sa.text("INSERT INTO answers (watch_id, body, at) VALUES (:id, :body, 1)")
    db.run_here(lambda tx: tx.execute(old, {"id": watch_id, "body": b"{}"}))
    known = db.run_here(last_answers.last_answer, app, "task", "p")
    assert known is not None
    assert (known.body, known.status) == (b"{}", 200)
