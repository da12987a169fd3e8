"""The database: tables, migrations and every query. Each module has the queries for one purpose."""

from relay.store.database import Database

__all__ = ["Database"]
