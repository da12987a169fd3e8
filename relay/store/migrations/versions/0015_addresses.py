"""where a watch is asked about, if its provider's file alone does not say"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("watches", sa.Column("upstream_base", sa.Text(), nullable=True))
    op.add_column("watches", sa.Column("inline", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    # Not as a batch, which makes the table anew on SQLite, without the triggers that count what an app has.
    op.drop_column("watches", "inline")
    op.drop_column("watches", "upstream_base")
