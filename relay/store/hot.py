"""Statements that run all the time, as text: made of the schema once, and given to the driver's cursor.

For each execution SQLAlchemy looks a statement up, binds its values by their types and describes the result. A claim of
one watch costs five times as much with it. Transactions, connections and everything that runs less often stay with it.

Values go to the drivers as they are, and come back so: SQLite has 0 and 1 for booleans.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from relay.store import driver_errors

HotRow = tuple[Any, ...]

_POSTGRESQL = postgresql.dialect()  # type: ignore[no-untyped-call]
_NAMED = sqlite.dialect(paramstyle="named")  # as psycopg has it: a value is found by its name on both databases


class Statement:
    """A statement whose text is made once for each database.

    Args:
        statement: with `sa.bindparam` for each value, and `among` for lists.
    """

    def __init__(self, statement: sa.Select[Any] | sa.UpdateBase) -> None:
        self._statement = statement
        self._compiled: dict[str, tuple[str, dict[str, Any]]] = {}

    def rows(self, tx: sa.Connection, values: Mapping[str, Any] | None = None) -> list[HotRow]:
        """Return the rows that it reads, or that it returns of those that it writes.

        Raises:
            DBAPIError: as SQLAlchemy raises it.
        """
        return execute(tx, *self._with(tx, values), fetch=True)

    def run(self, tx: sa.Connection, values: Mapping[str, Any] | None = None) -> None:
        """Execute it where it returns nothing. It raises what `rows` does."""
        execute(tx, *self._with(tx, values))

    def _with(self, tx: sa.Connection, values: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
        text, constants = self._compiled.get(tx.dialect.name) or self._compile(tx.dialect)
        given = {**constants, **(values or {})}
        if tx.dialect.name == "sqlite":
            for name, value in given.items():
                if isinstance(value, list):
                    given[name] = orjson.dumps(value).decode()
        return text, given

    def _compile(self, dialect: sa.Dialect) -> tuple[str, dict[str, Any]]:
        compiled = self._statement.compile(dialect=_NAMED if dialect.name == "sqlite" else dialect)
        # What has no value yet must be given.
        made = (str(compiled), {name: value for name, value in compiled.params.items() if value is not None})
        self._compiled[dialect.name] = made
        return made


class _Arrays:
    """A statement of PostgreSQL over many rows, which are given as an array for each column."""

    def __init__(self, before: str, columns: Sequence[sa.Column[Any]], after: str = "") -> None:
        types = [sa.ARRAY(column.type).compile(dialect=_POSTGRESQL) for column in columns]
        given = f"unnest({', '.join(f'%s::{type_}' for type_ in types)})"
        self._text = f"{before}{given} AS given({', '.join(column.name for column in columns)}){after}"
        self._columns = columns

    def run(self, tx: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        execute(tx, self._text, [[row[column.name] for row in rows] for column in self._columns])


ROWS = (50, 10, 1)
"""Rows that one INSERT of SQLite has.

Where the table has triggers, SQLite prepares to undo each statement, which takes longer than to insert a row. More rows
than these win nothing, and a statement may have 999 values.
"""


class Insert:
    """Inserts rows into a table: with one statement on PostgreSQL, whose triggers then fire once; with few on SQLite.

    Args:
        table: the table.
        columns: the columns that each row has; the others get their defaults.
    """

    def __init__(self, table: sa.Table, columns: Sequence[str]) -> None:
        self._columns = [table.c[name] for name in columns]
        start = f"INSERT INTO {table.name} ({', '.join(columns)})"
        row = f"({', '.join('?' for _ in columns)})"
        self._some = {rows: f"{start} VALUES {', '.join([row] * rows)}" for rows in ROWS}
        self._all = _Arrays(f"{start} SELECT * FROM ", self._columns)

    def run(self, tx: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert rows, if there are any. It raises what `Statement.rows` does."""
        if not rows:
            return
        if tx.dialect.name == "postgresql":
            self._all.run(tx, rows)
            return
        done = 0
        for count, text in self._some.items():
            while len(rows) - done >= count:
                some = rows[done : done + count]
                execute(tx, text, [row[column.name] for row in some for column in self._columns])
                done += count


class Update:
    """Updates rows of a table, each with values of its own.

    SQLite rewrites each index that a statement names a column of, even if the value stays.

    Args:
        table: the table.
        where: the columns by whose values a row is found.
        columns: the columns that get a value.
        clears: the columns that become null.
    """

    def __init__(
        self, table: sa.Table, where: Sequence[str], columns: Sequence[str], clears: Sequence[str] = ()
    ) -> None:
        self._columns = [table.c[name] for name in (*columns, *where)]
        nulls = [f"{table.c[name].name} = NULL" for name in clears]
        sets = [f"{name} = :{name}" for name in columns] + nulls
        found = " AND ".join(f"{name} = :{name}" for name in where)
        self._each = f"UPDATE {table.name} SET {', '.join(sets)} WHERE {found}"
        sets = [f"{name} = given.{name}" for name in columns] + nulls
        found = " AND ".join(f"{table.name}.{name} = given.{name}" for name in where)
        self._all = _Arrays(f"UPDATE {table.name} SET {', '.join(sets)} FROM ", self._columns, f" WHERE {found}")

    def run(self, tx: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Update rows by the values of their columns, if there are any. It raises what `Statement.rows` does."""
        if not rows:
            return
        if tx.dialect.name == "postgresql":
            self._all.run(tx, rows)
        else:
            execute(tx, self._each, rows, many=True)


class among(sa.ColumnElement[bool]):
    """The condition that a column has one of the values of the list that is given under `name`.

    `in_` has a parameter for each value, so its text would differ from one length to the next.
    """

    inherit_cache = False

    def __init__(self, column: sa.Column[Any], name: str) -> None:
        self.column = column
        self.given = sa.bindparam(name, type_=sa.ARRAY(column.type))


@compiles(among, "postgresql")
def _among_on_postgresql(element: among, compiler: SQLCompiler, **options: Any) -> str:
    return f"{compiler.process(element.column, **options)} = ANY({compiler.process(element.given, **options)})"


@compiles(among, "sqlite")
def _among_on_sqlite(element: among, compiler: SQLCompiler, **options: Any) -> str:
    values = sa.bindparam(element.given.key, type_=sa.Text())
    return (
        f"{compiler.process(element.column, **options)} IN "
        f"(SELECT value FROM json_each({compiler.process(values, **options)}))"
    )


@contextmanager
def together(tx: sa.Connection) -> Iterator[None]:
    """Have PostgreSQL execute what is inside without an answer for each statement: one round trip for all of them.

    Only texts of this module may be inside, of which none is needed to go on: what they raise comes at the end.
    """
    if tx.dialect.name != "postgresql":
        yield
        return
    connection: Any = tx.connection.driver_connection
    try:
        with connection.pipeline():
            yield
    except tx.dialect.loaded_dbapi.Error as error:
        raise driver_errors.translated(tx, error) from error


def execute(tx: sa.Connection, text: str, values: Any, *, many: bool = False, fetch: bool = False) -> list[HotRow]:
    """Execute a text by the driver: once, or for many values; and return the rows if they are to be fetched.

    Raises:
        DBAPIError: as SQLAlchemy raises it.
    """
    connection: Any = tx.connection.driver_connection
    try:
        cursor = connection.executemany(text, values) if many else connection.execute(text, values)
        return cursor.fetchall() if fetch else []
    except tx.dialect.loaded_dbapi.Error as error:
        raise driver_errors.translated(tx, error) from error
