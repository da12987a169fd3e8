"""the status of HTTP that an upstream's answer came with"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("answers", sa.Column("status", sa.Integer, nullable=False, server_default="200"))


def downgrade() -> None:
    with op.batch_alter_table("answers") as answers:
        answers.drop_column("status")
