"""by how much the clock of a process is ahead; the Slack messages of erased watches"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("processes", sa.Column("ahead", sa.BigInteger(), nullable=False, server_default="0"))
    op.create_table(
        "erased_messages",
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("ts", sa.Text(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("invited", sa.Boolean(), nullable=False),
        sa.Column("edit_at", sa.BigInteger(), nullable=False),
        sa.Column("lease", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("channel", "ts", name=op.f("pk_erased_messages")),
    )
    op.create_index(op.f("ix_erased_messages_edit_at"), "erased_messages", ["edit_at"])


def downgrade() -> None:
    op.drop_table("erased_messages")
    with op.batch_alter_table("processes") as processes:
        processes.drop_column("ahead")
