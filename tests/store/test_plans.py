"""The plans of the statements that run all the time: with 300,000 rows, each reads little, through an index."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from relay.model.delivery import Attempt, DeliveryState, Outcome, Verdict
from relay.model.watch import State
from relay.store import (
    Database,
    clock_reset,
    deliveries,
    finding,
    hot,
    last_answers,
    migrate,
    next_polls,
    outbox,
    polling,
    processes,
    registrations,
    reports,
    slack_messages,
    troubles,
    watches,
)
from relay.store.schema import apps
from relay.store.watches import WatchFilter
from tests.support import rows
from tests.support.rows import NOW
from tests.support.statements import statements_seen

pytestmark = pytest.mark.timeout(600)  # a slow machine needs minutes to make the rows

ROWS = 300_000
BIG = ("watches", "targets", "deliveries", "messages")
MOST = 2_000
"""Rows that PostgreSQL may expect to sort: what a limit or a batch allows."""

FEW = 3_000
"""Rows that a transaction may read: no more than it may claim, save or list, and what belongs to them."""

BATCH = 45_000
"""Rows that 1,000 registrations may read, and what is counted up to a limit."""

MANY = (
    "watches are registered",
    "messages are claimed",
    "watches wait for an upstream",
    "the figures of the front page",
    "what is in flight where that is little",
)
STEPS = 100
"""Instructions of SQLite's machine for a row."""

STATES = "CASE WHEN n % 3 = 0 THEN 'watching' WHEN n % 3 = 1 THEN 'completed' ELSE 'cancelled' END"


def filled(db: Database) -> None:
    """Fills the tables: two apps, a third of the watches under way, all due; every delivery of an end pending."""
    series = (
        f"WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {ROWS})"
        if db.embedded
        else f"WITH s(n) AS (SELECT generate_series(1, {ROWS}))"
    )
    number = f"substr('{'0' * 26}' || n, -26)" if db.embedded else "lpad(n::text, 26, '0')"  # a ULID
    shop, lab = (rows.app(db, name) for name in ("shop", "lab"))
    app = f"CASE WHEN n % 10 = 0 THEN '{lab}' ELSE '{shop}' END"
    which = f"(1 + n % {ROWS // 3})"  # each target has some deliveries
    target = f"substr('{'0' * 26}' || {which}, -26)" if db.embedded else f"lpad({which}::text, 26, '0')"
    none, all_ = ("x''", "x'00'") if db.embedded else ("''::bytea", "'x'::bytea")
    statements = (
        f"""INSERT INTO watches (id, app_id, provider, task_id, state, metadata, wants_progress, polls, misses,
        unknowns, bares, next_poll_at, changes, expires_at, created_at, ended_at)
        {series} SELECT 'wch_' || {number}, {app}, 'p' || n % 2, 'task-' || CASE WHEN n % 3 = 2 THEN 0 ELSE n END,
        {STATES}, '{{}}', false, 1, 0, 0, 0, CASE WHEN n % 3 = 0 THEN {NOW} - n % 1000 END, 1, {NOW}, {NOW},
        CASE WHEN n % 3 > 0 THEN {NOW} - n END FROM s""",
        f"""INSERT INTO targets (id, watch_id, type, address, host, events, place, fingerprint)
        {series} SELECT 'tgt_' || {number}, 'wch_' || {number}, 'webhook', {all_}, 'h', 'task.completed', 'place',
        {none} FROM s WHERE n <= {ROWS // 3}""",
        f"""INSERT INTO deliveries (id, webhook_id, app_id, watch_id, target_id, event_key, event_type, place, host,
        state, attempts, counted, next_attempt_at, created_at, settled_at)
        {series} SELECT 'dlv_' || {number}, 'evt_' || {number}, {app}, 'wch_' || {number},
        'tgt_' || {target}, 'end',
        'task.completed', 'place', 'h',
        CASE WHEN n % 5 = 0 THEN 'dead' WHEN n % 5 = 1 THEN 'held' ELSE 'pending' END, n % 2, 0,
        CASE WHEN n % 5 > 1 THEN {NOW} - n % 1000 END, {NOW}, CASE WHEN n % 5 = 0 THEN {NOW} - n END FROM s""",
        f"""INSERT INTO messages (target_id, watch_id, place, ended, bare, failures, changed_at, quiet_until, invited,
        edit_at, ts) {series} SELECT 'tgt_' || {number}, 'wch_' || {number}, 'place', false, false, 0, {NOW}, {NOW},
        false, {NOW} - n % 1000, 'ts' FROM s WHERE n <= {ROWS // 10}""",
    )

    def fill(tx: sa.Connection) -> None:
        if not db.embedded:  # foreign keys are checked row by row
            tx.exec_driver_sql("SET LOCAL session_replication_role = replica; SET LOCAL statement_timeout = 0")
        for statement in statements:
            tx.execute(sa.text(statement))
        if not db.embedded:
            tx.exec_driver_sql("ANALYZE")

    db.run_here(fill)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def full(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A database with many rows. Nothing analyzes them on SQLite, and PostgreSQL does so by itself."""
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").format("template1")
        admin = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.exec_driver_sql("CREATE DATABASE plans")
        admin.dispose()
        url = request.getfixturevalue("postgres").format("plans")
    else:
        url = f"sqlite:///{tmp_path_factory.mktemp('plans') / 'relay.db'}"
    db = Database(url)
    db.run_here(migrate.upgrade)
    filled(db)
    yield db
    db.close()


def ulid(kind: str, number: int) -> str:
    return f"{kind}_{number:026}"


Work = Callable[[sa.Connection, str], Any]


def _register(tx: sa.Connection, app_id: str) -> None:
    wanted = [
        registrations.Registration(app_id, "p0", f"task-{n}", (rows.target(),), "{}", None, NOW, NOW)
        for n in range(ROWS - 500, ROWS + 500)
    ]
    registrations.register(tx, wanted, NOW)


def _save(tx: sa.Connection, app_id: str) -> None:
    claims = rows.claim_of(tx, polling, NOW, NOW + 60_000, "me.1", 100)
    polling.save(tx, [rows.ended(claim) for claim in claims])


def _record(tx: sa.Connection, app_id: str) -> None:
    claims = rows.claim_of(tx, outbox, NOW, NOW + 60_000, "me.1", 100)
    attempt = Attempt(1, NOW, 5, Outcome(Verdict.DELIVERED))
    outbox.record(tx, [outbox.Tried(one, attempt, 1, DeliveryState.DELIVERED, None, NOW) for one in claims[:50]])
    held = DeliveryState.HELD
    outbox.record(tx, [outbox.Tried(one, attempt, 1, held, NOW, exhausted=True) for one in claims[50:]])


HOT: dict[str, Work] = {
    "polls are claimed": lambda tx, _: rows.claim_of(tx, polling, NOW, NOW + 60_000, "me.1", 500),
    "polls come due": lambda tx, _: polling.next_due(tx),
    "polls are saved": _save,
    "deliveries are claimed": lambda tx, _: rows.claim_of(tx, outbox, NOW, NOW + 60_000, "me.1", 300),
    "deliveries come due": lambda tx, _: outbox.next_due(tx),
    "deliveries are recorded": _record,
    "messages are claimed": lambda tx, _: rows.claim_of(tx, slack_messages, NOW, NOW + 60_000, "me.1", 20),
    "messages come due": lambda tx, _: slack_messages.next_due(tx),
    "watches are registered": _register,
    "a watch is read": lambda tx, app: watches.newest(tx, app, 1),
    "watches are listed": lambda tx, app: watches.newest(tx, app, 51, ulid("wch", 200_000)),
    "watches of a state": lambda tx, app: watches.newest(tx, app, 51, None, WatchFilter(State.LOST)),
    "watches of a provider": lambda tx, app: watches.newest(tx, app, 51, None, WatchFilter(provider="p0")),
    "watches of a state and a provider": lambda tx, app: watches.newest(
        tx, app, 51, ulid("wch", 200_000), WatchFilter(State.COMPLETED, "p0")
    ),
    "watches of a task": lambda tx, app: watches.newest(tx, app, 51, None, WatchFilter(task_id="task-0")),
    "watches of a task and a state": lambda tx, app: watches.newest(
        tx, app, 51, ulid("wch", 200_000), WatchFilter(State.CANCELLED, task_id="task-0")
    ),
    "an answer is asked for": lambda tx, app: last_answers.last_answer(tx, app, "task-0", "p1"),
    "deliveries are listed": lambda tx, app: deliveries.newest(tx, app, 51),
    "deliveries of a state": lambda tx, app: deliveries.newest(tx, app, 51, None, DeliveryState.DEAD),
    "deliveries of a watch": lambda tx, app: deliveries.newest(tx, app, 51, None, None, ulid("wch", 3)),
    "a watch is stopped": lambda tx, app: watches.cancel(tx, app, ulid("wch", 3), NOW),
    "a process is buried": lambda tx, _: processes.bury(tx, "dead", NOW - 100_000),
    "the clock was set back": lambda tx, _: clock_reset.rebase(tx, NOW + 1),
    "watches wait for an upstream": lambda tx, _: troubles.waiting(tx, "p0"),
    "what is overdue": lambda tx, _: reports.overdue(tx, NOW),
    "the operator lists an app": lambda tx, app: finding.find_watches(
        tx, finding.Filter(app_id=app), ulid("wch", 200_000), 50
    ),
    "the operator lists a provider": lambda tx, _: finding.find_watches(tx, finding.Filter(provider="p0"), None, 50),
    "a task is searched": lambda tx, _: reports.search(tx, "task-0", 20),
    "the figures of the front page": lambda tx, _: reports.counts(tx),
    "what is in flight where that is little": lambda tx, _: next_polls.by_provider(tx, {}),
    "the front page": lambda tx, _: (
        reports.in_flight(tx, 20),
        reports.ended(tx, 20),
        reports.needing_attention(tx, NOW, 20),
    ),
}


@pytest.mark.parametrize("name", HOT)
def test_a_hot_statement_reads_little(full: Database, name: str) -> None:
    with full.engine.connect() as tx:
        app_id = tx.execute(sa.select(apps.c.id).where(apps.c.name == "shop")).scalar_one()
        tx.rollback()
        with tx.begin() as transaction:
            statements, work = (_steps if full.embedded else _fetched)(tx, lambda: HOT[name](tx, app_id))
            transaction.rollback()
        with tx.begin() as transaction:
            explain = _of_sqlite if full.embedded else _of_postgresql
            faults = [f"{fault}\n  in {sql}" for sql, values in statements for fault in explain(tx, sql, values)]
            transaction.rollback()
    assert not faults, "\n".join(faults)
    few = BATCH if name in MANY else FEW
    assert work <= few * (STEPS if full.embedded else 1), "it read more than it needs"


def _run(tx: sa.Connection, run: Callable[[], object]) -> list[tuple[str, Any]]:
    """Returns each kind of statement that `run` executes, with the first values that it has."""
    seen: dict[str, Any] = {}

    def note(sql: str, values: Any, many: bool) -> None:
        if re.match(r"\s*(SELECT|UPDATE|INSERT|DELETE|WITH)", sql) and "pg_notify" not in sql:
            seen.setdefault(sql, values[0] if many and isinstance(values, list) else values)

    with statements_seen(tx, note):
        run()
    return list(seen.items())


def _steps(tx: sa.Connection, run: Callable[[], object]) -> tuple[list[tuple[str, Any]], int]:
    """Returns the statements, and how many instructions SQLite's machine executed for them."""
    ticks = itertools.count()
    tx.connection.set_progress_handler(lambda: next(ticks) and None, 100)
    statements = _run(tx, run)
    tx.connection.set_progress_handler(None, 0)
    return statements, next(ticks) * 100


def _fetched(tx: sa.Connection, run: Callable[[], object]) -> tuple[list[tuple[str, Any]], int]:
    """Returns the statements, and how many rows PostgreSQL read for them."""
    query = (
        "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) FROM pg_stat_xact_user_tables WHERE relname <> 'apps'"
    )
    before = int(tx.exec_driver_sql(query).scalar_one())  # the server adds up several transactions
    statements = _run(tx, run)
    return statements, int(tx.exec_driver_sql(query).scalar_one()) - before


def _of_sqlite(tx: sa.Connection, sql: str, values: Any) -> list[str]:
    """Returns the scans of big tables; in the order of an index up to a limit is none. A long sort is many steps."""
    plan = hot.execute(tx, f"EXPLAIN QUERY PLAN {sql}", values, fetch=True)
    details = [str(row[3]) for row in plan]
    limited = "LIMIT" in sql
    return [d for d in details if re.match(rf"SCAN ({'|'.join(BIG)})\b", d) and not (limited and "USING" in d)]


def _of_postgresql(tx: sa.Connection, sql: str, values: Any) -> list[str]:
    (((plan,),),) = hot.execute(tx, f"EXPLAIN (FORMAT JSON) {sql}", values, fetch=True)
    return list(_faults(plan["Plan"]))


def _faults(node: dict[str, Any]) -> Iterator[str]:
    below = node.get("Plans", [])
    if node["Node Type"] == "Seq Scan" and node["Relation Name"] in BIG and node["Plan Rows"]:
        yield f"scan of {node['Relation Name']}"
    few = "||" in str(node.get("Sort Key"))  # queries say so: they are sorted by what no index has
    if "Sort" in node["Node Type"] and max(each["Plan Rows"] for each in below) > MOST and not few:
        yield f"sort of {below[0]['Plan Rows']} rows by {node['Sort Key']}"
    for each in below:
        yield from _faults(each)
