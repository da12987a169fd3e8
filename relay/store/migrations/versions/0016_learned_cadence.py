"""how long tasks took, by app, provider and model; when a watch is late; what a callback woke"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

NEW: dict[str, sa.types.TypeEngine[Any]] = {
    "model": sa.Text(),
    "progress_at": sa.BigInteger(),
    "woken_from": sa.BigInteger(),
    "late_at": sa.BigInteger(),
    "late_told_at": sa.BigInteger(),
}


def upgrade() -> None:
    for name, kind in NEW.items():
        op.add_column("watches", sa.Column(name, kind, nullable=True))
    op.create_table(
        "experiences",
        sa.Column("app_id", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("learned", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["app_id"], ["apps.id"], name=op.f("fk_experiences_app_id_apps"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("app_id", "provider", "model", name=op.f("pk_experiences")),
    )
    op.create_index(op.f("ix_experiences_updated_at"), "experiences", ["updated_at"])


def downgrade() -> None:
    op.drop_table("experiences")
    # Not as a batch, which makes the table anew on SQLite, without the triggers that count what an app has.
    for name in reversed(NEW):
        op.drop_column("watches", name)
