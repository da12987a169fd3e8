"""The way into the database: what is an outage, what a PostgreSQL and its role must be able to do, what is logged."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql
from structlog.testing import capture_logs

from relay.errors import ConfigError, StoreUnavailable
from relay.store import Database, hot, migrate, outage
from relay.store.outage import Outage
from relay.store.schema import apps, watches
from tests.support import rows

ROLE = "guest of the house"


@pytest.fixture
def admin(postgres: str) -> Iterator[psycopg.Connection[Any]]:
    """A superuser, and a role without any permission that is gone afterwards."""
    with psycopg.connect(postgres.format("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(ROLE)))
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(ROLE)))
        yield connection
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(ROLE)))


def created(admin: psycopg.Connection[Any], name: str, encoding: str = "UTF8") -> str:
    admin.execute(f"DROP DATABASE IF EXISTS {name}")
    admin.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    return name


def of_role(url: str) -> str:
    return sa.make_url(url).set(username=ROLE, password="hunter2").render_as_string(hide_password=False)


def statements(url: str, *lines: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for line in lines:
            connection.execute(line.encode())


def refusal(url: str, act: Callable[[Database], object]) -> str:
    """The one line with which the database is refused."""
    db = Database(url)
    try:
        with pytest.raises((ConfigError, StoreUnavailable)) as caught:
            act(db)
    finally:
        db.close()
    line = caught.value.detail
    assert line.isprintable()
    assert "hunter2" not in line
    return line


def upgraded(db: Database) -> object:
    return db.run_here(migrate.upgrade)


# Encodings


@pytest.mark.parametrize("encoding", ["LATIN1", "WIN1252", "EUC_JP"])
def test_a_database_that_cannot_hold_every_text_is_refused(
    encoding: str, postgres: str, admin: psycopg.Connection[Any]
) -> None:
    name = created(admin, f"encoded_{encoding.lower()}", encoding)
    for act in (upgraded, migrate.ensure):
        line = refusal(postgres.format(name), act)
        assert encoding in line
        assert "CREATE DATABASE" in line
    admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("own", ["", "SET client_encoding TO latin1", "SET client_encoding TO sql_ascii"])
def test_every_text_comes_back_from_a_database_without_an_encoding(
    own: str, postgres: str, admin: psycopg.Connection[Any]
) -> None:
    """SQL_ASCII, which initdb makes under LC_ALL=C, whatever the database's own encoding for clients is."""
    name = created(admin, "encoded_ascii", "SQL_ASCII")
    if own:
        admin.execute(f"ALTER DATABASE {name} {own}")
    db = Database(postgres.format(name))
    db.run_here(migrate.upgrade)
    task = "nom-é-任务失败-🎬"
    rows.watch(db, rows.app(db), task)
    assert db.run_here(lambda tx: tx.execute(sa.select(watches.c.task_id)).scalar()) == task
    db.close()
    admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


# Permissions


@pytest.mark.parametrize(
    ("prepared", "words"),
    [
        ("", 'GRANT CREATE ON SCHEMA public TO "guest of the house"'),
        ("REVOKE ALL ON SCHEMA public FROM PUBLIC", 'GRANT USAGE, CREATE ON SCHEMA public TO "guest of the house"'),
        ("DROP SCHEMA public", 'CREATE SCHEMA public AUTHORIZATION "guest of the house"'),
        (
            'CREATE SCHEMA "Shop"; ALTER ROLE "guest of the house" SET search_path TO "Shop"',
            'ON SCHEMA "Shop" TO "guest',
        ),
        ('ALTER ROLE "guest of the house" SET search_path TO nowhere', "CREATE SCHEMA nowhere AUTHORIZATION"),
    ],
)
def test_a_role_that_may_not_create_tables_is_told_which_grant_is_missing(
    prepared: str, words: str, admin: psycopg.Connection[Any], postgres_url: str
) -> None:
    statements(postgres_url, *prepared.split("; ") if prepared else ())
    line = refusal(of_role(postgres_url), upgraded)
    assert words in line
    statements(postgres_url, re.findall(r"(?:GRANT|CREATE SCHEMA) .*", line)[0])
    db = Database(of_role(postgres_url))
    assert db.run_here(migrate.upgrade), "the statement that the line gives mends it"
    migrate.ensure(db)
    db.close()


def test_a_role_that_may_not_use_the_tables_of_another_is_told_which_grant_is_missing(
    admin: psycopg.Connection[Any], postgres_url: str
) -> None:
    db = Database(postgres_url)
    db.run_here(migrate.upgrade)
    db.close()
    statements(postgres_url, f'GRANT SELECT ON ALL TABLES IN SCHEMA public TO "{ROLE}"')
    line = refusal(of_role(postgres_url), migrate.ensure)
    assert "'ailments'" in line, "the first of them"
    statements(postgres_url, line[line.index("GRANT") :])
    db = Database(of_role(postgres_url))
    migrate.ensure(db)
    assert db.run_here(migrate.upgrade), "there is nothing to create"
    rows.watch(db, rows.app(db), "task")
    db.close()


@pytest.mark.parametrize(
    ("prepared", "mended", "words"),
    [
        ("REVOKE CONNECT ON DATABASE {} FROM PUBLIC", "", "permission denied for database"),
        ('ALTER ROLE "guest of the house" NOLOGIN', "", "not permitted to log in"),
        ('ALTER ROLE "guest of the house" CONNECTION LIMIT 0', "", "too many connections"),
        ("ALTER DATABASE {} RENAME TO elsewhere", "ALTER DATABASE elsewhere RENAME TO {}", "does not exist"),
    ],
)
def test_a_role_that_cannot_connect_is_told_so_in_one_line(
    prepared: str, mended: str, words: str, admin: psycopg.Connection[Any], postgres_url: str
) -> None:
    name = sa.make_url(postgres_url).database
    admin.execute(prepared.format(name).encode())
    for act in (upgraded, migrate.ensure):
        assert words in refusal(of_role(postgres_url), act)
    if mended:
        admin.execute(mended.format(name).encode())


def test_a_permission_that_is_taken_away_later_is_an_outage(admin: psycopg.Connection[Any], postgres_url: str) -> None:
    db = Database(postgres_url)
    db.run_here(migrate.upgrade)
    db.close()
    everything = f'ALL ON ALL TABLES IN SCHEMA public {{}} "{ROLE}"'
    statements(postgres_url, f"GRANT {everything.format('TO')}")
    db = Database(of_role(postgres_url))
    app = rows.app(db)
    statements(postgres_url, f"REVOKE {everything.format('FROM')}")
    with pytest.raises(StoreUnavailable, match="refuses: permission denied for table"):
        rows.watch(db, app, "task")
    db.close()


# Outages


def test_connections_to_a_server_that_takes_no_writes_are_dropped(postgres_url: str) -> None:
    """After a failover the address leads to another server, and the old connections to the one that is a standby."""
    db = Database(postgres_url)
    db.run_here(migrate.upgrade)
    backend = sa.text("SELECT pg_backend_pid()")
    before = db.run_here(lambda tx: tx.execute(backend).scalar())

    def write(tx: sa.Connection) -> object:
        if tx.execute(backend).scalar() == before:
            tx.exec_driver_sql("SET TRANSACTION READ ONLY")
        return tx.exec_driver_sql("DELETE FROM watches")

    db.run_here(write)
    db.close()


@pytest.mark.parametrize(
    "read",
    [
        lambda tx: tx.exec_driver_sql("SELECT * FROM watches, apps, targets").all(),
        hot.Statement(sa.select(apps)).rows,
    ],
    ids=["by SQLAlchemy", "as text"],
)
def test_a_corrupt_file_is_an_outage(read: Callable[[sa.Connection], Any], tmp_path: Any) -> None:
    file = tmp_path / "relay.db"
    db = Database(f"sqlite:///{file}")
    db.run_here(migrate.upgrade)
    rows.app(db)
    db.close()
    with file.open("r+b") as raw:
        raw.seek(8192)
        raw.write(b"\xff" * (file.stat().st_size - 8192))
    db = Database(f"sqlite:///{file}")
    with pytest.raises(StoreUnavailable, match="refuses: database disk image is malformed"):
        db.run_here(read)
    db.close()


def test_an_outage_is_logged_when_it_begins_and_when_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(outage, "time", SimpleNamespace(monotonic=lambda: now))
    known = Outage()
    with capture_logs() as lines:
        for _ in range(30):
            known.failed("the database does not answer: gone", no_room=False)
            now += 1.0
            known.wrote()  # another transaction, which found a connection that still works
        now += outage.QUIET
        known.wrote()
        known.wrote()
        known.failed("the database does not answer: gone again", no_room=False)
    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("database away", "warning"),
        ("database back", "info"),
        ("database away", "warning"),
    ]
    assert lines[1]["away"] == 29.0


def test_a_full_disk_counts_for_a_while_although_smaller_writes_succeed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(outage, "time", SimpleNamespace(monotonic=lambda: now))
    known = Outage()
    assert known.no_room is None
    known.failed("the database does not answer: gone", no_room=False)
    assert known.no_room is None
    known.failed("the database refuses: database or disk is full", no_room=True)
    known.wrote()
    now += outage.NO_ROOM - 1
    assert known.no_room == "the database refuses: database or disk is full"
    now += 2
    assert known.no_room is None


def test_readiness_is_about_room_on_the_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No write has failed yet, and small ones still succeed."""
    file = tmp_path / "relay.db"
    db = Database(f"sqlite:///{file}")
    db.run_here(migrate.upgrade)
    assert db.run_here(migrate.unready) is None
    disk = os.statvfs(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(outage, "ROOM", (disk.f_bfree + 1) * disk.f_frsize * 2)
        assert db.run_here(migrate.unready) == f"the disk of '{file}' is full"
    assert db.run_here(migrate.unready) is None
    db.close()
