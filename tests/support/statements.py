"""The statements of a connection as they are executed, by SQLAlchemy or as text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import sqlalchemy as sa

from relay.store import hot

Note = Callable[[str, Any, bool], object]


@contextmanager
def statements_seen(tx: sa.Connection, note: Note) -> Iterator[None]:
    """Calls `note` with the text and the values of each statement, and whether it is executed for many values."""

    def by_sqlalchemy(_c: Any, _k: Any, sql: str, values: Any, _context: Any, many: bool) -> None:
        note(sql, values, many)

    def by_driver(on: sa.Connection, sql: str, values: Any, *, many: bool = False, fetch: bool = False) -> Any:
        if on is tx:
            note(sql, values, many)
        return execute(on, sql, values, many=many, fetch=fetch)

    execute = hot.execute
    sa.event.listen(tx, "before_cursor_execute", by_sqlalchemy)
    try:
        with patch.object(hot, "execute", by_driver):
            yield
    finally:
        sa.event.remove(tx, "before_cursor_execute", by_sqlalchemy)
