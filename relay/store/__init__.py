"""Everything that lasts: the tables, their migrations, and every query, named by its intent."""

from relay.store.database import Database

__all__ = ["Database"]
