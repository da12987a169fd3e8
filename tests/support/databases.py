"""Migrated databases for tests. Migrating one takes longer than most tests, so one of each kind is, and then copied."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from functools import cache
from pathlib import Path

import sqlalchemy as sa

from relay.store import Database, migrate


def migrated(url: str) -> str:
    """Migrate the database of a URL, and return the URL."""
    db = Database(url)
    db.run_here(migrate.upgrade)
    db.close()
    return url


@cache
def _original_file() -> Path:
    file = Path(tempfile.mkdtemp(prefix="relay-original-")) / "relay.db"
    migrated(f"sqlite:///{file}")
    return file


def migrated_file(file: Path) -> str:
    """Make a migrated SQLite database in that file, and return its URL."""
    shutil.copy(_original_file(), file)
    return f"sqlite:///{file}"


def execute(server: str, statement: str) -> None:
    """Run a statement for all databases, as administrator of a PostgreSQL.

    Args:
        server: a URL with `{}` for the name of a database.
        statement: is run outside of a transaction.
    """
    url = server.format("postgres").replace("postgresql://", "postgresql+psycopg://")
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


@cache
def _original_database(server: str) -> str:
    execute(server, "CREATE DATABASE original")
    migrated(server.format("original"))
    return "original"


def migrated_database(server: str) -> str:
    """Make a migrated database on a PostgreSQL, and return its URL.

    Args:
        server: a URL with `{}` for the name of a database.
    """
    name = f"test_{uuid.uuid4().hex}"
    execute(server, f"CREATE DATABASE {name} TEMPLATE {_original_database(server)}")
    return server.format(name)
