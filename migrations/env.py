"""Runs the migrations on the connection that `qgraph.store.migrate` passes, inside its transaction."""

from __future__ import annotations

from alembic import context

from qgraph.store.tables import metadata

connection = context.config.attributes["connection"]

# SQLite cannot alter a column: a batch copies the table instead.
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
# The copy takes the place of the table, whose name is in views: SQLite shall not look at them in between.
ON_SQLITE = connection.dialect.name == "sqlite"
if ON_SQLITE:
    connection.exec_driver_sql("PRAGMA legacy_alter_table = ON")
with context.begin_transaction():
    context.run_migrations()
if ON_SQLITE:
    connection.exec_driver_sql("PRAGMA legacy_alter_table = OFF")
