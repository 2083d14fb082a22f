"""Runs the migrations on the connection that `qgraph.store.migrate` passes, inside its transaction."""

from __future__ import annotations

from alembic import context

from qgraph.store.tables import metadata

connection = context.config.attributes["connection"]

# SQLite cannot alter a column: a batch copies the table instead.
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
