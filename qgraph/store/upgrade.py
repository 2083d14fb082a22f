"""Upgrading an existing database: a copy first, then all migrations or none."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from qgraph.errors import SchemaError
from qgraph.store import schema
from qgraph.store.database import Database, connect, sqlite_file
from qgraph.store.migrate import to_newest_schema


def upgrade(location: str | Path) -> Path | None:
    """Bring an existing database to the newest schema. A current one is left alone.

    Returns:
        The copy of the SQLite file as it was before; None if nothing was done, or for a database server.

    Raises:
        SchemaError: the database was written by a newer qgraph.
        StoreError: there is none, or it cannot be upgraded; it then is as it was.
    """
    # Rebuilding a table that others refer to would cascade; what refers to what is checked at the end.
    database = connect(location, create=False, foreign_keys=False)
    try:
        with database.reading() as connection:
            found = schema.revision(connection)
            if found is None or found not in schema.REVISIONS:
                schema.require_current(connection)
        if found == schema.HEAD:
            return None
        backup = _back_up(database, str(found))
        with database.transaction() as connection:
            to_newest_schema(connection)
            if backup and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                raise SchemaError("the upgrade would break references", database.name, "report this; nothing was done")
    finally:
        database.close()
    return backup


def _back_up(database: Database, revision: str) -> Path | None:
    file = sqlite_file(database)
    if file is None:
        return None
    number = 1
    while (copy := file.with_name(f"{file.name}.schema-{revision}.{number}.bak")).exists():
        number += 1
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    return copy
