"""fewer indexes for a poll to write: what reads the watches of all apps reads each app's"""

from relay.store.migrations.indexes import TableIndex, exchange

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None
concurrent = True  # on PostgreSQL it runs outside of a transaction, so each step can be made again

OLD = (TableIndex("ix_watches_due", "watches", ("next_poll_at",), "next_poll_at IS NOT NULL"),)


def upgrade() -> None:
    exchange((), OLD)


def downgrade() -> None:
    exchange(OLD, ())
