"""fewer indexes for a poll to write: of due times, of an app's watches and of tasks, one each"""

from relay.store.migrations.indexes import TableIndex, exchange

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None
concurrent = True  # on PostgreSQL it runs outside of a transaction, so each step can be made again

CANCELLED_ID = "(CASE WHEN state = 'cancelled' THEN id ELSE '' END)"
NEW = (TableIndex("uq_watches_app_task", "watches", ("app_id", "task_id", CANCELLED_ID, "provider"), unique=True),)
OLD = (
    TableIndex("ix_watches_due", "watches", ("next_poll_at",), "next_poll_at IS NOT NULL"),
    TableIndex("ix_watches_app", "watches", ("app_id", "id")),
    TableIndex("ix_watches_app_task", "watches", ("app_id", "task_id", "id")),
    TableIndex("uq_watches_task", "watches", ("app_id", "provider", "task_id"), "state <> 'cancelled'", unique=True),
    TableIndex("ix_watches_inline", "watches", ("task_id",), "inline IS NOT NULL"),
)


def upgrade() -> None:
    exchange(NEW, OLD)


def downgrade() -> None:
    exchange(OLD, NEW)
