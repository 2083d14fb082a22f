"""A later release of qgraph, as far as its schema goes: FOLDER LOCATION [die] upgrades a database to it.

It has one more migration, which rebuilds a table that others refer to.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from qgraph.store import migrate, schema
from qgraph.store.upgrade import Upgraded, upgrade

MIGRATION = """
import os, signal
import sqlalchemy as sa
from alembic import op

revision, down_revision = "later", {head!r}


def upgrade():
    connection = op.get_bind()
    for view in sa.inspect(connection).get_view_names():
        op.execute(f"DROP VIEW IF EXISTS {{view}}" + (" CASCADE" if connection.dialect.name == "postgresql" else ""))
    with op.batch_alter_table("models", recreate="auto") as batch:
        batch.add_column(sa.Column("extra", sa.Text))
        batch.alter_column("name", nullable=True)
    {end}
"""
ENDS = {
    "well": "pass",
    "die": "os.kill(os.getpid(), signal.SIGKILL)",
    "fail": "op.execute('INSERT INTO nowhere VALUES (1)')",
    "break": "op.execute('DELETE FROM models')",
}


def upgrade_to_it(folder: Path, location: str, end: str = "well") -> Upgraded:
    """Upgrade as that release would; `end` says how its migration ends."""
    source, head, revisions = migrate.migrations_folder(), schema.HEAD, schema.REVISIONS
    later = folder / f"migrations-{end}"
    shutil.copytree(source, later, ignore=shutil.ignore_patterns("__pycache__"))
    (later / "versions" / "later.py").write_text(MIGRATION.format(head=head, end=ENDS[end]))
    found = migrate.migrations_folder
    try:
        schema.HEAD, schema.REVISIONS = "later", (*revisions, "later")
        migrate.migrations_folder = lambda: later  # type: ignore[assignment, misc]
        return upgrade(location)
    finally:
        schema.HEAD, schema.REVISIONS, migrate.migrations_folder = head, revisions, found


if __name__ == "__main__":
    upgrade_to_it(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
