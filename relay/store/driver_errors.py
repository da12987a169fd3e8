"""What the errors of the two drivers mean: an outage, a lost race, no room, a connection that is of no use any more."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

READ_ONLY = "25006"
"""PostgreSQL's SQLSTATE for a write in a transaction that may only read."""


def translated(tx: sa.Connection, error: Exception) -> DBAPIError:
    """Return an error of the driver as SQLAlchemy raises it, and drop the connection if it is of no use any more.

    For statements that SQLAlchemy does not execute: its own are translated by itself.
    """
    lost = tx.dialect.is_disconnect(error, tx.connection, None) or code(error) == READ_ONLY  # type: ignore[arg-type]
    if lost:
        tx.invalidate(error)
    base = tx.dialect.loaded_dbapi.Error
    return DBAPIError.instance(  # type: ignore[return-value]
        None, None, error, base, hide_parameters=True, connection_invalidated=lost, dialect=tx.dialect
    )


def leave_standby(context: sa.ExceptionContext) -> None:
    """Drop the connections to a server that takes no writes: after a failover the address leads to another server."""
    if code(context) == READ_ONLY:
        context.is_disconnect = True


def code(error: object) -> str:
    """Return PostgreSQL's SQLSTATE or SQLite's name for what went wrong; empty where there was no answer."""
    of_driver = getattr(error, "orig", None) or getattr(error, "original_exception", None) or error
    return getattr(of_driver, "sqlstate", None) or getattr(of_driver, "sqlite_errorname", None) or ""


def is_outage(error: Exception) -> bool:
    """Return whether the database is at fault, and may be well again later, and not the statement.

    InternalError: PostgreSQL reports so a server that takes no writes, and trouble of its own. 42501: a permission that
    was there at the start.
    """
    trouble = (OperationalError, InterfaceError, InternalError, PoolTimeout)
    return isinstance(error, trouble) or code(error) in ("42501", "SQLITE_CORRUPT")


def lost_a_race(error: Exception) -> bool:
    """Return whether PostgreSQL chose this transaction to be undone: a deadlock or a serialization failure."""
    return code(error) in ("40001", "40P01")


def found_no_room(error: object) -> bool:
    """Return whether the disk, or another resource of the database's machine, was at its limit."""
    return code(error).startswith(("SQLITE_FULL", "SQLITE_IOERR", "53", "58"))


def reason(error: Exception) -> str:
    """Return in one line why the database cannot be worked with."""
    lines = str(getattr(error, "orig", None) or error).strip().splitlines() or [type(error).__name__]
    if code(error):
        return f"the database refuses: {lines[0]}"  # the lines behind it may repeat values
    return f"the database does not answer: {' '.join(line.strip() for line in lines)[:500]}"
