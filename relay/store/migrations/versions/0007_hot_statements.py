"""indexes for what runs all the time: claims by app, lists by state, the watches of a task; and what each app has"""

import sqlalchemy as sa
from alembic import op

from relay.store.migrations import usage_triggers
from relay.store.migrations.indexes import TableIndex, exchange

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None
concurrent = True  # on PostgreSQL it runs outside of a transaction, so each step can be made again

IS_DUE = "next_attempt_at IS NOT NULL"
NEW = (
    TableIndex("ix_watches_app_due", "watches", ("app_id", "next_poll_at"), "next_poll_at IS NOT NULL"),
    TableIndex("ix_watches_app_state", "watches", ("app_id", "state", "id")),
    TableIndex("ix_watches_app_provider", "watches", ("app_id", "provider", "state", "id")),
    TableIndex("ix_watches_app_task", "watches", ("app_id", "task_id", "id")),
    TableIndex("ix_watches_cancelled", "watches", ("task_id", "id"), "state = 'cancelled'"),
    TableIndex("ix_deliveries_app_first", "deliveries", ("app_id", "next_attempt_at"), f"{IS_DUE} AND attempts = 0"),
    TableIndex("ix_deliveries_app_again", "deliveries", ("app_id", "next_attempt_at"), f"{IS_DUE} AND attempts > 0"),
    TableIndex("ix_deliveries_app_state", "deliveries", ("app_id", "state", "id")),
    TableIndex("ix_deliveries_of_watch", "deliveries", ("watch_id", "id")),
    TableIndex("ix_deliveries_held_at", "deliveries", ("place", "id"), "state = 'held'"),
)
OLD = (  # the new ones begin with the same columns
    TableIndex("ix_watches_task_id", "watches", ("task_id",)),
    TableIndex("ix_watches_stopped", "watches", ("task_id",), "state = 'cancelled'"),
    TableIndex("ix_deliveries_watch", "deliveries", ("watch_id",)),
    TableIndex("ix_deliveries_held", "deliveries", ("place",), "state = 'held'"),
)


def upgrade() -> None:
    exchange(NEW, OLD)
    op.create_table(
        "usage",
        sa.Column("app_id", sa.Text(), nullable=False),
        sa.Column("watching", sa.BigInteger(), nullable=False),
        sa.Column("targets", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["app_id"], ["apps.id"], name=op.f("fk_usage_app_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("app_id", name=op.f("pk_usage")),
        if_not_exists=True,
    )
    (_count_on_postgresql if _on_postgresql() else _count_on_sqlite)()


def downgrade() -> None:
    for name, table in usage_triggers.TRIGGERS.items():
        if _on_postgresql():
            op.execute(f"DROP TRIGGER {name} ON {table}")
            op.execute(f"DROP FUNCTION {name}()")
        else:
            op.execute(f"DROP TRIGGER {name}")
    op.drop_table("usage")
    exchange(OLD, NEW)


def _on_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"


def _count_on_sqlite() -> None:
    for name in usage_triggers.TRIGGERS:
        op.execute(f"CREATE TRIGGER {name} {usage_triggers.SQLITE[name]}")
    op.execute("INSERT INTO usage (app_id, watching, targets) SELECT id, 0, 0 FROM apps")
    op.execute(usage_triggers.COUNT)


def _count_on_postgresql() -> None:
    """Count from now on, and then what was there before: a trigger waits for transactions that it did not see begin."""
    for name, table in usage_triggers.TRIGGERS.items():
        when, what = usage_triggers.POSTGRESQL[name]
        # With the rights of the role that migrates: that of the version before may have none on this table.
        rights = "SECURITY DEFINER SET search_path FROM CURRENT"
        body = f"$$ BEGIN {what} END $$"
        op.execute(f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql {rights} AS {body}")
        op.execute(f"DROP TRIGGER IF EXISTS {name} ON {table}")
        op.execute(f"CREATE TRIGGER {name} {when} EXECUTE FUNCTION {name}()")
        if table == "apps":
            op.execute("INSERT INTO usage (app_id, watching, targets) SELECT id, 0, 0 FROM apps ON CONFLICT DO NOTHING")
    op.execute(usage_triggers.COUNT_EACH)
