"""Alembic runs this: it applies the migrations on the connection that `relay.store.migrate` hands over."""

from alembic import context

from relay.store import shared_schema  # noqa: F401  its tables belong to the metadata
from relay.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
