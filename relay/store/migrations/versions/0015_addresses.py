"""where a watch is asked about, if its provider's file alone does not say"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None
concurrent = True  # on PostgreSQL it runs outside of a transaction, so each step can be made again


def upgrade() -> None:
    on_postgresql = op.get_bind().dialect.name == "postgresql"
    op.add_column("watches", sa.Column("upstream_base", sa.Text(), nullable=True), if_not_exists=on_postgresql)
    op.add_column("watches", sa.Column("inline", sa.LargeBinary(), nullable=True), if_not_exists=on_postgresql)
    if on_postgresql:  # an attempt that was broken off has left an index behind that is not valid
        op.drop_index("ix_watches_inline", "watches", if_exists=True, postgresql_concurrently=True)
    where = sa.text("inline IS NOT NULL")
    op.create_index(
        "ix_watches_inline",
        "watches",
        ["task_id"],
        sqlite_where=where,
        postgresql_where=where,
        postgresql_concurrently=on_postgresql,
    )


def downgrade() -> None:
    # Not as a batch, which makes the table anew on SQLite, without the triggers that count what an app has.
    op.drop_index("ix_watches_inline", "watches")
    op.drop_column("watches", "inline")
    op.drop_column("watches", "upstream_base")
