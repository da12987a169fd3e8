"""create calls that passed through relay, and the keys that keep them from being sent twice"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

INDEXES = (
    ("uq_submissions_key", ("app_id", "key_digest"), "key_digest IS NOT NULL"),
    ("ix_submissions_app", ("app_id", "id"), None),
    ("ix_submissions_app_state", ("app_id", "state", "id"), None),
    ("ix_submissions_process", ("process",), "process IS NOT NULL"),
    ("ix_submissions_watch", ("watch_id",), "watch_id IS NOT NULL"),
    ("ix_submissions_key_until", ("key_until",), "key_until IS NOT NULL"),
    ("ix_submissions_answered", ("answered_at",), "answered_at IS NOT NULL"),
    ("ix_submissions_unknown", ("id",), "state = 'unknown'"),
)


def upgrade() -> None:
    op.create_table(
        "submissions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("app_id", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("task_id", sa.Text(), nullable=True),
        sa.Column("watch_id", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("answered_at", sa.BigInteger(), nullable=True),
        sa.Column("process", sa.Text(), nullable=True),
        sa.Column("key_digest", sa.LargeBinary(), nullable=True),
        sa.Column("request_digest", sa.LargeBinary(), nullable=True),
        sa.Column("answer", sa.LargeBinary(), nullable=True),
        sa.Column("key_until", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["app_id"], ["apps.id"], name=op.f("fk_submissions_app_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_submissions")),
    )
    for name, columns, where in INDEXES:
        partial = None if where is None else sa.text(where)
        op.create_index(
            name,
            "submissions",
            list(columns),
            unique=name.startswith("uq_"),
            sqlite_where=partial,
            postgresql_where=partial,
        )


def downgrade() -> None:
    op.drop_table("submissions")
