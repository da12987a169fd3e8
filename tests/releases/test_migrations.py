"""Migrating a large database while the release before goes on: nobody waits longer than a second."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.releases.release import Release
from tests.support.deployment import environment

pytestmark = [pytest.mark.anyio, pytest.mark.long, pytest.mark.timeout(600)]

ROWS = 300_000

MOST = 1.0
"""Seconds that a statement of the release before may wait, on PostgreSQL, where many processes work meanwhile."""

MOST_EMBEDDED = 5.0
"""Seconds on SQLite, which has one writer: half of what relay waits for it before a request fails."""

IDS = {
    "postgresql": ("generate_series(1, {rows}) AS n", "lpad(n::text, 26, '0')", "convert_to('n' || n, 'UTF8')"),
    "sqlite": (
        "(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {rows}) SELECT n FROM s)",
        "printf('%026d', n)",
        "CAST('n' || n AS BLOB)",
    ),
}
"""In each dialect: numbers, the text of an id, and bytes."""

TABLES = {
    "watches": {
        "id": "'wch_' || {id}",
        "app_id": "'app_a'",
        "provider": "'unified-video'",
        "task_id": "'t' || n",
        "state": "CASE WHEN n % 2 = 0 THEN 'watching' ELSE 'completed' END",
        "metadata": "'{{}}'",
        "wants_progress": "FALSE",
        "polls": "3",
        "misses": "0",
        "unknowns": "0",
        "bares": "0",
        "changes": "1",
        "next_poll_at": "CASE WHEN n % 2 = 0 THEN 4000000000000 + n END",
        "expires_at": "4000000000000",
        "created_at": "1800000000000",
        "ended_at": "CASE WHEN n % 2 = 1 THEN 1800000000000 + n END",
    },
    "targets": {
        "id": "'tgt_' || {id}",
        "watch_id": "'wch_' || {id}",
        "type": "'webhook'",
        "address": "{bytes}",
        "host": "'app.example'",
        "events": "'task.completed,task.failed'",
        "place": "'place-' || (n % 1000)",
        "fingerprint": "{bytes}",
    },
    "events": {
        "watch_id": "'wch_' || {id}",
        "key": "'end'",
        "type": "'task.completed'",
        "at": "1800000000000",
        "body": "{bytes}",
    },
    "deliveries": {
        "id": "'dlv_' || {id}",
        "webhook_id": "'evt_' || {id}",
        "app_id": "'app_a'",
        "watch_id": "'wch_' || {id}",
        "target_id": "'tgt_' || {id}",
        "event_key": "'end'",
        "event_type": "'task.completed'",
        "place": "'place-' || (n % 1000)",
        "host": "'app.example'",
        "state": "CASE WHEN n % 2 = 0 THEN 'pending' ELSE 'dead' END",
        "attempts": "1",
        "counted": "1",
        "next_attempt_at": "CASE WHEN n % 2 = 0 THEN 4000000000000 + n END",
        "created_at": "1800000000000",
        "settled_at": "CASE WHEN n % 2 = 1 THEN 1800000000000 + n END",
    },
    "attempts": {
        "delivery_id": "'dlv_' || {id}",
        "number": "1",
        "at": "1800000000000",
        "latency_ms": "5",
        "verdict": "'retry'",
        "answer": "{bytes}",
        "truncated": "FALSE",
    },
    "answers": {"watch_id": "'wch_' || {id}", "body": "{bytes}", "at": "1800000000000"},
    "changes": {
        "watch_id": "'wch_' || {id}",
        "number": "1",
        "at": "1800000000000",
        "state": "'watching'",
    },
}
"""What each column of a table that grows holds, as the release before writes it."""

APP = (
    "INSERT INTO apps (id, name, key_hash, secrets, created_at) "
    "SELECT 'app_a', 'a', {bytes}, {bytes}, 0 FROM (SELECT 0 AS n) AS one"
)


def fill(dialect: str, rows: int = ROWS) -> list[str]:
    """Return the statements that make so many rows of each."""
    numbers, text, data = IDS[dialect]
    statements = [APP.format(bytes=data)]
    for table, columns in TABLES.items():
        values = ", ".join(value.format(id=text, bytes=data) for value in columns.values())
        statements.append(
            f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} FROM {numbers.format(rows=rows)}"
        )
    return statements


def probes(dialect: str, number: int) -> dict[str, str]:
    """Return what the release before writes all the time: to each table that grows."""
    _, text, data = IDS[dialect]
    one = f"(SELECT {ROWS + number} AS n) AS one"
    inserts = {
        f"insert into {table}": (
            f"INSERT INTO {table} ({', '.join(columns)}) "
            f"SELECT {', '.join(value.format(id=text, bytes=data) for value in columns.values())} FROM {one}"
        )
        for table, columns in TABLES.items()
    }
    return inserts | {
        "claim a watch": f"UPDATE watches SET next_poll_at = next_poll_at + 1, lease = 'x' WHERE task_id = 't{number}'",
        "claim a delivery": (
            f"UPDATE deliveries SET next_attempt_at = next_attempt_at + 1 WHERE webhook_id = 'evt_{number:026}'"
        ),
        "read a watch": f"SELECT state FROM watches WHERE task_id = 't{number}'",
        "beat": "UPDATE processes SET seen_at = seen_at + 1",
        "use a key": "UPDATE apps SET last_used_at = 1",
    }


class Waits(Counter[str]):
    """The longest that each statement has waited, in milliseconds."""

    def __init__(self, dialect: str, execute: Callable[[str], object]) -> None:
        super().__init__()
        self._dialect = dialect
        self._execute = execute
        self.rounds = 0

    def go_on(self, ended: Callable[[], bool]) -> None:
        """Execute all statements, round after round."""
        while not ended():
            self.rounds += 1
            for name, statement in probes(self._dialect, self.rounds).items():
                started = time.monotonic()
                self._execute(statement)
                self[name] = max(self[name], round(1000 * (time.monotonic() - started)))


async def migrate(this: Release, url: str, folder: Path, waits: Waits) -> None:
    """Migrate while the statements of the release before go on."""
    done = False
    probing = asyncio.create_task(asyncio.to_thread(waits.go_on, lambda: done))
    await asyncio.sleep(0.5)
    started = time.monotonic()
    try:
        code, said = await this.run(environment(url), folder, "migrate")
        took = time.monotonic() - started
        await asyncio.sleep(0.5)
    finally:
        done = True
        await probing
    assert code == 0, said
    print(f"{took:.1f} s; longest waits in ms: {waits.most_common(5)}; {waits.rounds} rounds")


async def test_on_postgresql_nobody_waits_longer_than_a_second(
    postgres_url: str, before: Release, this: Release, tmp_path: Path
) -> None:
    code, said = await before.run(environment(postgres_url), tmp_path, "migrate")
    assert code == 0, said
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")  # to look up each foreign key takes a minute
        for statement in fill("postgresql"):
            connection.execute(statement)
        connection.execute("SET session_replication_role = origin")
        connection.execute("ANALYZE")
        waits = Waits("postgresql", connection.execute)
        await migrate(this, postgres_url, tmp_path, waits)
    assert waits.rounds > 10
    assert max(waits.values()) < 1000 * MOST, waits.most_common()


async def test_on_sqlite_nothing_fails_for_want_of_the_writer(before: Release, this: Release, tmp_path: Path) -> None:
    file = tmp_path / "relay.db"
    code, said = await before.run(environment(f"sqlite:///{file}"), tmp_path, "migrate")
    assert code == 0, said
    # As relay opens it; the rows are there before anybody looks, so they need not survive a crash.
    with contextlib.closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        for statement in fill("sqlite"):
            connection.execute(statement)
        connection.execute("COMMIT")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA busy_timeout = 10000")
        waits = Waits("sqlite", connection.execute)
        await migrate(this, f"sqlite:///{file}", tmp_path, waits)
    assert max(waits.values()) < 1000 * MOST_EMBEDDED, waits.most_common()
