"""what the dashboard looks for: settled and dead deliveries, stopped watches by task id, detection lags"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

INDEXES = (
    ("ix_deliveries_settled", "deliveries", "settled_at", "settled_at IS NOT NULL"),
    ("ix_deliveries_dead", "deliveries", "settled_at", "state = 'dead'"),
    ("ix_watches_stopped", "watches", "task_id", "state = 'cancelled'"),
)


def upgrade() -> None:
    op.create_table(
        "lags",
        sa.Column("watch_id", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("unseen_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["watch_id"], ["watches.id"], name=op.f("fk_lags_watch_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("watch_id", name=op.f("pk_lags")),
    )
    op.create_index("ix_lags_at", "lags", ["at"])
    for name, table, column, where in INDEXES:
        op.create_index(name, table, [column], sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def downgrade() -> None:
    op.drop_table("lags")
    for name, table, *_ in INDEXES:
        op.drop_index(name, table)
