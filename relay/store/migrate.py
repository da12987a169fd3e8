"""Bring a database to the schema of this version, and refuse one that does not have it.

Migrations add, and never remove what the version before still reads: during a deployment both run at once, and after a
rollback the older one goes on with the newer schema.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from relay.errors import SchemaBehind
from relay.store import postgresql
from relay.store.database import Database, beside
from relay.store.outage import full_disk
from relay.store.shared_schema import processes

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import Script, ScriptDirectory

MIGRATIONS = Path(__file__).parent / "migrations"

_VERSION = sa.table("alembic_version", sa.column("version_num", sa.Text))

_LOCK = 0x72656C6179
"""PostgreSQL's advisory lock for migrations: two releases must not migrate at the same time."""


@cache
def _revisions() -> tuple[str, ...]:
    """Return the revisions of this version, in order: the numbers that the files of the migrations begin with.

    Nearly every start finds the newest one in the database. So Alembic, which is slow to import, is not asked for them.
    """
    return tuple(sorted(file.name.partition("_")[0] for file in MIGRATIONS.glob("versions/[0-9]*.py")))


def _scripts() -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_config())


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


def upgrade(tx: sa.Connection) -> bool:
    """Bring the database to the newest schema. It is idempotent, and goes on where a run before was broken off.

    SQLite migrates in this transaction. On PostgreSQL this transaction only keeps other releases from migrating at the
    same time: each migration has a transaction of its own, or none if it makes indexes while others write.

    Returns:
        Whether the database has the schema of this version now. One that a newer release has migrated is left alone.

    Raises:
        ConfigError: the database or the role cannot do; with the statement that mends it.
    """
    server = tx.dialect.name == "postgresql"
    if server:
        postgresql.check_encoding(tx)
        tx.exec_driver_sql("SET LOCAL statement_timeout = 0")  # a large table may take its time
        tx.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    if _newer(tx):
        return False
    if behind(tx) is None:
        return True
    if server:
        postgresql.check_may_create(tx)
        missing = reversed(list(_scripts().iterate_revisions("head", _present(tx) or "base")))
        # The last query keeps its snapshot until the next one, and those that create an index concurrently wait for it.
        tx.exec_driver_sql("SELECT 1")
        for script in missing:
            _migrate_beside(tx.engine, script)
    else:
        _run(tx, "head")
    return True


def _migrate_beside(engine: sa.Engine, script: Script) -> None:
    """Make one migration on a connection of its own."""
    with beside(engine).connect() as connection:
        if getattr(script.module, "concurrent", False):
            _run(connection.execution_options(isolation_level="AUTOCOMMIT"), script.revision)
            return
        with connection.begin():
            connection.exec_driver_sql("SET LOCAL lock_timeout = '5s'")
            _run(connection, script.revision)


def _run(connection: sa.Connection, revision: str) -> None:
    from alembic import command

    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def behind(tx: sa.Connection) -> str | None:
    """Return in words how the schema differs from what this version needs, or None where it does not."""
    present = _present(tx)
    newest = _revisions()[-1]
    if present == newest or _newer(tx):
        return None
    return f"the database schema is at '{present or 'nothing'}' and this version needs '{newest}': run 'relay migrate'"


def unready(tx: sa.Connection) -> str | None:
    """Return in words why the database cannot be worked with, or None where it can.

    A server that takes no writes refuses the update below, which changes no row and so costs nothing. A full disk does
    not refuse it, so a SQLite file's disk is asked.
    """
    if why := behind(tx):
        return why
    tx.execute(sa.update(processes).where(processes.c.name == "").values(pid=0))
    return full_disk(str(tx.engine.url.database)) if tx.dialect.name == "sqlite" else None


def _present(tx: sa.Connection) -> str | None:
    """Return the revision in Alembic's table, or None for a database that was never migrated."""
    if not sa.inspect(tx).has_table(_VERSION.name):
        return None
    return tx.execute(sa.select(_VERSION.c.version_num)).scalar()


def _newer(tx: sa.Connection) -> bool:
    """Return whether a newer release has migrated already. This older one still runs: all its tables are there."""
    present = _present(tx)
    return present is not None and present not in _revisions()


def ensure(database: Database) -> None:
    """Migrate SQLite; check PostgreSQL, which a release migrates once for all processes. A newer schema will do.

    Raises:
        SchemaBehind: with the command to run.
        ConfigError: the database or the role cannot do; with the statement that mends it.
    """
    if database.embedded:
        database.run_here(upgrade)
    elif why := database.run_here(_check):
        raise SchemaBehind(why)


def _check(tx: sa.Connection) -> str | None:
    postgresql.check_encoding(tx)
    postgresql.check_may_use(tx)
    return behind(tx)
