"""What relay needs of a PostgreSQL: an encoding that holds every text, and permissions.

These are asked for at `relay migrate` and at the start, because there is someone then who can mend them, and a refusal
can name the statement that does. Later the server would only say "permission denied", once per query.
"""

from __future__ import annotations

import sqlalchemy as sa

from relay.errors import ConfigError
from relay.store import shared_schema  # noqa: F401  its tables belong to the metadata
from relay.store.schema import metadata

ENCODINGS = ("UTF8", "SQL_ASCII")
"""SQL_ASCII stores the bytes as they come, and a client that speaks UTF8 gets back what it wrote."""


def check_encoding(tx: sa.Connection) -> None:
    """Refuse a database that cannot hold every text that a caller or an upstream may send.

    Raises:
        ConfigError: with the statement that makes a better database.
    """
    name, encoding = tx.execute(sa.text("SELECT current_database(), current_setting('server_encoding')")).one()
    if encoding not in ENCODINGS:
        raise ConfigError(
            f"DATABASE_URL: the database '{name}' has the encoding {encoding}, which cannot hold every text: create "
            "another one with CREATE DATABASE relay ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        )


def check_may_create(tx: sa.Connection) -> None:
    """Refuse a role that may not create the tables.

    Raises:
        ConfigError: with the grant to make.
    """
    role, schema = _role_and_schema(tx)
    may = sa.text("SELECT has_schema_privilege(:schema, 'CREATE')")
    if not tx.execute(may, {"schema": schema}).scalar():
        raise ConfigError(
            f"DATABASE_URL: the role '{role}' may not create tables in the schema '{schema}': "
            f"GRANT CREATE ON SCHEMA {_quoted(tx, schema)} TO {_quoted(tx, role)}"
        )


def check_may_use(tx: sa.Connection) -> None:
    """Refuse a role that may not read and write the tables, where another role has made them.

    Raises:
        ConfigError: with the grant to make.
    """
    role, _ = _role_and_schema(tx)
    query = sa.text(
        """
        SELECT c.relname, n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relname = ANY(:tables) AND c.relkind IN ('r', 'p') AND pg_table_is_visible(c.oid)
        AND NOT (has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
            AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE'))
        ORDER BY c.relname LIMIT 1
        """
    )
    if denied := tx.execute(query, {"tables": [*metadata.tables, "alembic_version"]}).first():
        raise ConfigError(
            f"DATABASE_URL: the role '{role}' may not read and write the table '{denied.relname}': GRANT SELECT, "
            f"INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {_quoted(tx, denied.nspname)} TO {_quoted(tx, role)}"
        )


def _role_and_schema(tx: sa.Connection) -> tuple[str, str]:
    """Return the role, and the schema where its tables are made.

    Raises:
        ConfigError: no schema of the search path is there and may be used.
    """
    role, schema, path = tx.execute(
        sa.text("SELECT current_user, current_schema(), current_setting('search_path')")
    ).one()
    if schema is not None:
        return role, schema
    named = [name.strip().strip('"') for name in path.split(",")]
    wanted = [name for name in named if name and name != "$user"] or ["public"]
    known = tx.execute(sa.text("SELECT nspname FROM pg_namespace WHERE nspname = ANY(:names)"), {"names": wanted})
    present = known.scalars().first()
    if present is None:
        mend = f"CREATE SCHEMA {_quoted(tx, wanted[0])} AUTHORIZATION {_quoted(tx, role)}"
        raise ConfigError(f"DATABASE_URL: the schema '{wanted[0]}' of its search_path is not there: {mend}")
    mend = f"GRANT USAGE, CREATE ON SCHEMA {_quoted(tx, present)} TO {_quoted(tx, role)}"
    raise ConfigError(f"DATABASE_URL: the role '{role}' may not use the schema '{present}': {mend}")


def _quoted(tx: sa.Connection, name: str) -> str:
    return tx.dialect.identifier_preparer.quote(name)
