"""Bringing a database to the schema of this version, and refusing one that is not there.

Migrations add and never take away what the version before still reads: during a deployment both run at once, and after
a rollback the older one goes on with the newer schema.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from relay.errors import SchemaBehind
from relay.store.database import Database

_LOCK = 0x72656C6179
"""PostgreSQL's advisory lock for migrations: two releases at once must not both migrate."""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def upgrade(tx: sa.Connection) -> bool:
    """Brings the database to the newest schema, in this transaction; idempotent.

    Returns:
        Whether it is there now. One that a newer release has migrated is left alone.
    """
    if tx.dialect.name == "postgresql":
        tx.exec_driver_sql("SET LOCAL statement_timeout = 0")  # a large table may take its time
        tx.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    config = _config()
    if _newer(tx, ScriptDirectory.from_config(config)):
        return False
    config.attributes["connection"] = tx
    command.upgrade(config, "head")
    return True


def behind(tx: sa.Connection) -> str | None:
    """How the schema differs from what this version needs, in words; None when it does not."""
    present, scripts = _present(tx), ScriptDirectory.from_config(_config())
    newest = scripts.get_current_head()
    if present == newest or _newer(tx, scripts):
        return None
    return f"the database schema is at '{present or 'nothing'}' and this version needs '{newest}': run 'relay migrate'"


def _present(tx: sa.Connection) -> str | None:
    return MigrationContext.configure(tx).get_current_revision()


def _newer(tx: sa.Connection, scripts: ScriptDirectory) -> bool:
    """Whether a newer release has migrated already, and this older one still runs: its tables are all there."""
    present = _present(tx)
    return present is not None and present not in {script.revision for script in scripts.walk_revisions()}


def ensure(database: Database) -> None:
    """Migrates SQLite; checks PostgreSQL, where a release does it once for all processes. A newer schema will do.

    Raises:
        SchemaBehind: with the command to run.
    """
    if database.embedded:
        database.run_here(upgrade)
    elif why := database.run_here(behind):
        raise SchemaBehind(why)
