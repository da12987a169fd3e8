"""what the lanes of all processes together may take, and who has a lease of it"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "lanes",
        sa.Column("lane", sa.Text, primary_key=True),
        sa.Column("paused_until", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "lane_leases",
        sa.Column("lane", sa.Text, primary_key=True),
        sa.Column("process", sa.Text, primary_key=True),
        sa.Column("places", sa.Integer, nullable=False),
        sa.Column("starts", sa.Integer, nullable=False),
        sa.Column("wants_places", sa.Integer, nullable=False),
        sa.Column("wants_starts", sa.Integer, nullable=False),
        sa.Column("starts_before", sa.Integer, nullable=False),
        sa.Column("until_before", sa.BigInteger, nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("lane_leases")
    op.drop_table("lanes")
