"""Statements as text: what they write is what was given, on both databases, and their errors are handled as others."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from relay.errors import StoreUnavailable
from relay.store import Database, hot, polling
from relay.store.schema import apps, watches
from tests.support import rows
from tests.support.rows import NOW
from tests.support.statements import statements_seen

GIVEN = (
    "id",
    "app_id",
    "provider",
    "task_id",
    "state",
    "progress",
    "metadata",
    "upstream_key",
    "wants_progress",
    "polls",
    "misses",
    "unknowns",
    "bares",
    "lease",
    "changes",
    "expires_at",
    "created_at",
)
insert = hot.Insert(watches, GIVEN)
update = hot.Update(
    watches, ("id", "lease"), ("progress", "error", "upstream_key", "wants_progress", "polls"), ("lease",)
)
insert_apps = hot.Insert(apps, ("id", "name", "key_hash", "secrets", "created_at"))
backend = hot.Statement(sa.select(sa.func.pg_backend_pid()))


def given(app: str, number: int) -> dict[str, Any]:
    """A row with values of every type, null where that may be."""
    odd = number % 2 == 1
    values = (f"w{number}", app, "p", f'it\'s {{{number}}}, "100 %"', "watching", 0.25 if odd else None, "{}")
    key = bytes(range(256)) if odd else None
    return dict(zip(GIVEN, (*values, key, odd, number, 0, 0, 0, f"me.{number}", 0, NOW + number, NOW), strict=True))


def stored(db: Database) -> list[dict[str, Any]]:
    columns = [watches.c[name] for name in (*GIVEN, "error")]
    found = db.run_here(lambda tx: tx.execute(sa.select(*columns).order_by(watches.c.id)).all())
    return [dict(row._mapping) for row in found]


def app_row(number: int) -> dict[str, Any]:
    return {"id": f"a{number}", "name": "one name", "key_hash": b"%d" % number, "secrets": b"", "created_at": NOW}


@pytest.fixture
def server(migrated_postgres_url: str) -> Any:
    """A PostgreSQL with the tables."""
    db = Database(migrated_postgres_url)
    yield db
    db.close()


def test_what_is_written_is_what_was_given(db: Database) -> None:
    app = rows.app(db)
    new = [given(app, number) for number in range(5)]
    db.run_here(insert.run, new)
    assert stored(db) == [row | {"error": None} for row in new]
    changed = [
        row | {"progress": None if row["wants_progress"] else 1.0, "error": "{'%s'}", "upstream_key": b"\0"}
        for row in new
    ]
    changed[0] |= {"lease": "someone else's"}
    db.run_here(update.run, changed)
    assert stored(db) == [new[0] | {"error": None}] + [row | {"lease": None} for row in changed[1:]]
    db.run_here(insert.run, [])
    db.run_here(update.run, [])


def test_a_list_of_values_is_one_value(db: Database) -> None:
    app = rows.app(db)
    db.run_here(insert.run, [given(app, number) for number in range(5)])
    few = hot.Statement(sa.select(watches.c.id).where(hot.among(watches.c.id, "ids")).order_by(watches.c.id))
    numbers = hot.Statement(sa.select(watches.c.id).where(hot.among(watches.c.polls, "polls"), watches.c.bares == 0))
    assert db.run_here(few.rows, {"ids": ["w3", "w1", "w9"]}) == [("w1",), ("w3",)]
    assert db.run_here(few.rows, {"ids": []}) == []
    assert db.run_here(numbers.rows, {"polls": [2]}) == [("w2",)]


def test_a_value_that_is_missing_is_a_mistake_and_not_null(db: Database) -> None:
    one = hot.Statement(sa.select(watches.c.id).where(watches.c.polls == sa.bindparam("polls"), watches.c.bares == 0))
    assert db.run_here(one.rows, {"polls": 1}) == []
    with pytest.raises(sa.exc.DBAPIError):
        db.run_here(one.rows)


def test_many_rows_are_few_statements(db: Database) -> None:
    app = rows.app(db)
    seen: list[tuple[str, bool]] = []

    def write(tx: sa.Connection) -> None:
        with statements_seen(tx, lambda sql, _values, many: seen.append((sql.split()[0], many))):
            insert.run(tx, [given(app, number) for number in range(62)])
            update.run(tx, [given(app, number) | {"error": None} for number in range(62)])
            assert len(tx.execute(sa.select(watches.c.id)).all()) == 62

    db.run_here(write)
    inserts = 4 if db.embedded else 1  # of 50, 10, 1 and 1 rows
    assert seen[:-1] == [("INSERT", False)] * inserts + [("UPDATE", db.embedded)]


def test_a_poll_that_ends_nothing_changes_indexes_of_the_due_time_only() -> None:
    """SQLite rewrites each index that an UPDATE names a column of."""
    for index in watches.indexes:
        assert {column.name for column in index.columns} & {*polling._OF_POLL} <= {"next_poll_at"}, index.name


# Errors


@pytest.mark.parametrize("last", [True, False])
def test_what_goes_wrong_without_being_waited_for_is_raised_at_the_end(last: bool, db: Database) -> None:
    app = rows.app(db)

    def write(tx: sa.Connection) -> None:
        with hot.together(tx):
            insert.run(tx, [given(app, 1)])
            insert.run(tx, [given(app, 1)])
            if not last:
                insert.run(tx, [given(app, 2)])

    with pytest.raises(sa.exc.IntegrityError):
        db.run_here(write)
    assert stored(db) == []


@pytest.mark.parametrize("number", [1, 2])
def test_a_row_that_is_there_already_is_an_integrity_error(number: int, db: Database) -> None:
    with pytest.raises(sa.exc.IntegrityError):
        db.run_here(insert_apps.run, [app_row(each) for each in range(3 - number, 3 - number + 2)])


def test_a_mistake_in_a_statement_is_no_outage(server: Database) -> None:
    wrong = hot.Statement(sa.select(sa.column("colour")).select_from(watches))
    with pytest.raises(sa.exc.ProgrammingError):
        server.run_here(wrong.rows)


def test_connections_that_broke_are_replaced(server: Database) -> None:
    """The statement that finds out drops the connection, and the transaction runs again on another one."""
    before = {pid for (pid,) in server.run_here(backend.rows)}
    dropped: list[bool] = []

    def break_off(tx: sa.Connection) -> int:
        ((pid,),) = backend.rows(tx)
        if pid in before:
            with server.engine.connect() as other:
                other.exec_driver_sql(f"SELECT pg_terminate_backend({pid}, 5000)")
            try:
                backend.rows(tx)
            finally:
                dropped.append(tx.invalidated)
        return int(pid)

    assert server.run_here(break_off) not in before
    assert dropped == [True]


def test_connections_to_a_server_that_takes_no_writes_are_dropped(server: Database) -> None:
    before = server.run_here(backend.rows)

    def write(tx: sa.Connection) -> None:
        if backend.rows(tx) == before:
            tx.exec_driver_sql("SET TRANSACTION READ ONLY")
        insert_apps.run(tx, [app_row(1)])

    server.run_here(write)


def test_a_lock_that_cannot_be_had_is_an_outage(server: Database) -> None:
    app = rows.app(server)
    server.run_here(insert.run, [given(app, 1)])

    def impatient(tx: sa.Connection) -> None:
        tx.exec_driver_sql("SET LOCAL lock_timeout = '100ms'")
        update.run(tx, [given(app, 1) | {"error": None}])

    with server.engine.begin() as other:
        other.execute(sa.update(watches).values(polls=7))
        with pytest.raises(StoreUnavailable, match="refuses: canceling statement due to lock timeout"):
            server.run_here(impatient)


def test_a_transaction_that_lost_a_race_runs_again(server: Database) -> None:
    tries: list[int] = []

    def lose_once(tx: sa.Connection) -> None:
        tries.append(len(tries))
        code = "40001" if len(tries) == 1 else "00000"
        hot.execute(tx, f"DO $$ BEGIN IF '{code}' <> '00000' THEN RAISE SQLSTATE '{code}'; END IF; END $$", None)

    server.run_here(lose_once)
    assert tries == [0, 1]
