"""Registering: what is answered is what is stored, although it is not read back."""

from __future__ import annotations

from dataclasses import replace

import psycopg
import pytest
import sqlalchemy as sa

from relay.model.watch import State
from relay.store import Database, registrations, watches
from relay.store.notifications import CHANGED, CHANNEL
from relay.store.registrations import NewTarget, Registered, Registration
from relay.store.schema import watches as table
from relay.store.watches import WatchFilter
from tests.support import rows
from tests.support.rows import NOW


def wanted(app_id: str, task_id: str, *targets: NewTarget, key: bytes | None = None) -> Registration:
    return Registration(app_id, "p", task_id, targets, '{"a":1}', key, NOW + 5, NOW + 1000, "00-trace")


def register(db: Database, *wanted: Registration) -> list[Registered]:
    answers = db.run_here(registrations.register, wanted, NOW)
    assert all(isinstance(answer, Registered) for answer in answers)
    return [answer for answer in answers if isinstance(answer, Registered)]


def assert_as_stored(db: Database, answers: list[Registered]) -> None:
    """Each column and each target of what is answered is what a later reader finds."""
    ids = [answer.watch.row.id for answer in answers]
    for answer, stored in zip(answers, db.run_here(watches.load, ids), strict=True):
        row = {name: getattr(answer.watch.row, name) for name in table.c.keys()}  # noqa: SIM118
        assert row == dict(stored.row._mapping)  # type: ignore[union-attr]
        assert answer.watch.targets == stored.targets


def test_a_new_watch_is_answered_as_it_is_stored(db: Database) -> None:
    app = rows.app(db)
    answers = register(
        db,
        wanted(app, "plain", rows.target()),
        wanted(app, "keyed", rows.target("b"), rows.target("a"), key=b"sealed"),
        wanted(app, "progress", rows.target(), rows.target("c", events=("task.completed", "task.progress"))),
        wanted(app, "mirrored"),
    )
    assert [answer.created for answer in answers] == [True] * 4
    assert_as_stored(db, answers)
    assert [answer.watch.row.wants_progress for answer in answers] == [False, False, True, False]


def test_a_task_that_stands_twice_in_one_transaction_is_one_watch_with_all_its_targets(db: Database) -> None:
    app = rows.app(db)
    late = rows.target("c", events=("task.progress",))
    answers = register(
        db, wanted(app, "t", rows.target("a")), wanted(app, "t", rows.target("b")), wanted(app, "t", late)
    )
    assert [answer.created for answer in answers] == [True, False, False]
    assert {answer.watch.row.id for answer in answers} == {answers[0].watch.row.id}
    assert [len(answer.watch.targets) for answer in answers] == [3] * 3
    assert answers[0].watch.row.wants_progress
    assert_as_stored(db, answers)


@pytest.mark.parametrize("progress", [False, True])
def test_a_watch_that_was_there_is_answered_as_it_is_stored(db: Database, progress: bool) -> None:
    app = rows.app(db)
    register(db, wanted(app, "old", rows.target("a")))
    events = ("task.completed", "task.progress") if progress else ("task.completed",)
    answers = register(db, wanted(app, "new", rows.target("a")), wanted(app, "old", rows.target("b", events=events)))
    assert [answer.created for answer in answers] == [True, False]
    assert answers[1].watch.row.wants_progress == progress
    assert_as_stored(db, answers)


def test_the_watches_of_a_task_come_newest_first_the_cancelled_ones_too(db: Database) -> None:
    app = rows.app(db)
    register(db, wanted(rows.app(db, "other"), "task"))
    ids: list[str] = []
    for provider in ("p", "q", "q", "p"):
        (answer,) = register(db, replace(wanted(app, "task"), provider=provider))
        assert answer.created
        ids.insert(0, answer.watch.row.id)
        if provider == "q" or len(ids) == 1:
            db.run_here(watches.cancel, app, ids[0], NOW)

    def found(most: int = 9, before: str | None = None, state: State | None = None, of: str | None = None) -> list[str]:
        return db.run_here(watches.newest_ids, app, most, before, WatchFilter(state, of, "task"))

    assert found() == ids
    assert found(2) == ids[:2]
    assert [found(before=watch_id) for watch_id in ids] == [ids[1:], ids[2:], ids[3:], []]
    assert found(state=State.CANCELLED) == ids[1:]
    assert [found(state=state) for state in (State.WATCHING, State.LOST)] == [ids[:1], []]
    assert found(of="q") == ids[1:3]
    assert found(before=ids[0], state=State.CANCELLED, of="p") == ids[3:]
    # Behind all of that, the index: no second watch that is not cancelled.
    revived = sa.update(table).where(table.c.id == ids[3]).values(state=State.WATCHING)
    with pytest.raises(sa.exc.IntegrityError):
        db.run_here(lambda tx: tx.execute(revived))


def test_a_batch_is_announced_in_few_words(migrated_postgres_url: str) -> None:
    """PostgreSQL lets one transaction after the other notify: nobody follows a new watch by its id yet."""
    db = Database(migrated_postgres_url)
    app = rows.app(db)
    (old,) = register(db, wanted(app, "old", rows.target("a")))
    with psycopg.connect(migrated_postgres_url, autocommit=True) as listener:
        listener.execute(f"LISTEN {CHANNEL}")
        new = register(db, *(wanted(app, f"new-{number}", rows.target()) for number in range(300)))
        register(db, wanted(app, "old", rows.target("b")))
        notices = [notice.payload.split() for notice in listener.notifies(timeout=60, stop_after=3)]
    db.close()
    announced = [ids for word, *ids in notices if word == CHANGED]
    assert [len(ids) for ids in announced] == [1, 1]
    assert announced[0][0] in {answer.watch.row.id for answer in new}
    assert announced[1] == [old.watch.row.id]
