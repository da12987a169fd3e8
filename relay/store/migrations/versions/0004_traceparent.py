"""the trace that a registration is part of"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("watches", sa.Column("traceparent", sa.Text))


def downgrade() -> None:
    with op.batch_alter_table("watches") as watches:
        watches.drop_column("traceparent")
