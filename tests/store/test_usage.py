"""Quotas: exact, whoever changes the rows, and counted right from the first day on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import sqlalchemy as sa
from alembic import command

from relay.errors import RelayError
from relay.store import Database, cleanup, invariants, migrate, polling, registrations, schema, watches
from relay.store.schema import targets
from relay.store.usage import Quota
from tests.support import databases, rows
from tests.support.rows import NOW


def used(db: Database) -> dict[str, tuple[int, int]]:
    query = sa.select(schema.usage)
    return {row.app_id: (row.watching, row.targets) for row in db.run_here(lambda tx: tx.execute(query).all())}


def wanted(app_id: str, task_id: str, count: int = 1) -> registrations.Registration:
    made = tuple(rows.target(f"place-{number}") for number in range(count))
    return registrations.Registration(app_id, "p", task_id, made, "{}", None, NOW, NOW + 1000)


@pytest.mark.parametrize(("quota", "stored"), [(Quota(watches=61), (61, 122)), (Quota(targets=61), (30, 60))])
def test_a_quota_is_exact_although_many_register_at_once(
    db: Database, database_url: str, quota: Quota, stored: tuple[int, int]
) -> None:
    app, other = rows.app(db), rows.app(db, "other")
    start = Barrier(4)

    def fill(worker: int) -> list[object]:
        own = Database(database_url)
        start.wait()
        answers: list[object] = []
        for number in range(10):
            batch = [wanted(app, f"task-{worker}-{number}-{place}", 2) for place in range(3)]
            batch.append(wanted(other, f"task-{worker}-{number}"))
            answers += own.run_here(registrations.register, batch, NOW, Quota(quota.watches, quota.targets))
        own.close()
        return answers

    with ThreadPoolExecutor(4) as threads:
        answers = [answer for batch in threads.map(fill, range(4)) for answer in batch]
    refused = {answer.code for answer in answers if isinstance(answer, RelayError)}
    assert used(db) == {app: stored, other: (40, 40)}
    assert refused == {"too_many_watches" if quota.watches == 61 else "too_many_targets"}
    assert db.run_here(invariants.find_violations) == []


def test_whatever_happens_to_a_watch_its_app_has_what_is_stored(db: Database) -> None:
    app = rows.app(db)
    ids = [rows.watch(db, app, f"task-{n}", rows.target(), rows.target("other"), due=NOW + n) for n in range(4)]
    assert used(db)[app] == (4, 8)
    rows.watch(db, app, "task-0", rows.target("another"))
    assert used(db)[app] == (4, 9)
    db.run_here(watches.cancel, app, ids[0], NOW)
    db.run_here(watches.cancel, app, ids[0], NOW)
    db.run_here(polling.save, [rows.ended(claim) for claim in rows.claim(db, NOW + 1)])
    assert used(db)[app] == (2, 9)
    db.run_here(watches.erase, app, ids[0], NOW)
    db.run_here(watches.erase, app, ids[2], NOW)
    assert used(db)[app] == (1, 4)
    db.run_here(lambda tx: tx.execute(sa.delete(targets).where(targets.c.watch_id == ids[3])).rowcount)
    assert used(db)[app] == (1, 2)
    db.run_here(lambda tx: tx.execute(sa.delete(schema.deliveries)).rowcount)
    assert db.run_here(cleanup.prune, NOW + 1000, 10) == 1
    assert used(db)[app] == (1, 0)
    assert db.run_here(invariants.find_violations) == []
    db.run_here(lambda tx: tx.execute(sa.update(schema.usage).values(watching=7)).rowcount)
    (violation,) = db.run_here(invariants.find_violations)
    assert violation.ids == (app,)


def test_ends_and_registrations_of_many_apps_do_not_lock_each_other_out(db: Database, database_url: str) -> None:
    names = [rows.app(db, f"app-{number}") for number in range(6)]
    for number in range(120):
        rows.watch(db, names[number % 6], f"old-{number}")
    lost: list[str] = []

    def note(context: sa.ExceptionContext) -> None:
        if "deadlock" in str(context.original_exception):
            lost.append(str(context.original_exception))

    def end(worker: int) -> None:
        own = Database(database_url)
        sa.event.listen(own.engine, "handle_error", note)
        for number in range(10):
            claims = rows.claim(own, lease=f"w{worker}.{number}", most=12)
            own.run_here(polling.save, [rows.ended(claim) for claim in claims[::-1]])
        own.close()

    def register(worker: int) -> None:
        own = Database(database_url)
        sa.event.listen(own.engine, "handle_error", note)
        for number in range(20):
            again = [wanted(app, f"old-{(number + place) % 120}") for place, app in enumerate(names[::-1])]
            own.run_here(registrations.register, again, NOW)
        own.close()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda worker: (end if worker % 2 else register)(worker), range(4)))
    assert lost == []
    assert db.run_here(invariants.find_violations) == []


def test_ends_lock_what_apps_have_in_the_order_of_the_apps(postgres: str, migrated_postgres_url: str) -> None:
    """PostgreSQL ends the watches of a save in whatever order it has joined them."""
    for join in ("nestloop", "hashjoin"):  # what is left joins them in the order of their own ids
        name = sa.make_url(migrated_postgres_url).database
        databases.execute(postgres, f"ALTER DATABASE {name} SET enable_{join} = off")
    db = Database(migrated_postgres_url)
    first, second = (rows.app(db, name) for name in ("first", "second"))
    for app in (second, first):
        rows.watch(db, app, "task")
    ends = [rows.ended(claim) for claim in rows.claim(db)]
    assert [end.claim.app_id for end in sorted(ends, key=lambda end: end.claim.id)] == [second, first]
    waiting = sa.text("SELECT 1 FROM pg_locks WHERE NOT granted")
    row = sa.select(schema.usage).with_for_update(nowait=True)
    with ThreadPoolExecutor(1) as thread:
        with db.engine.begin() as tx:
            tx.execute(row.where(schema.usage.c.app_id == first))
            saved = thread.submit(db.run_here, polling.save, ends)
            while not tx.execute(waiting).first():
                assert not saved.done(), "it waits for the first app"
            with db.engine.begin() as other:
                assert other.execute(row.where(schema.usage.c.app_id == second)).one()
        saved.result()
    assert used(db) == {first: (0, 1), second: (0, 1)}
    db.close()


def test_what_was_there_before_is_counted_by_the_migration(database_url: str) -> None:
    db = Database(database_url)
    app = rows.app(db)
    for number in range(3):
        rows.watch(db, app, f"task-{number}", rows.target(), rows.target("other"))
    db.run_here(polling.save, [rows.ended(claim) for claim in rows.claim(db, most=1)])

    def to(tx: sa.Connection, revision: str) -> None:
        config = migrate._config()
        config.attributes["connection"] = tx
        command.downgrade(config, revision)

    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as tx:
        to(tx, "0006")
    assert db.run_here(migrate.upgrade)
    assert used(db) == {app: (2, 6)}
    rows.watch(db, app, "task-4")
    assert used(db) == {app: (3, 7)}
    assert db.run_here(migrate.behind) is None
    db.close()
