"""Creating and upgrading the schema with Alembic. The only module that loads it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from qgraph.errors import SchemaError, StoreError
from qgraph.store import schema
from qgraph.store.database import Database, connect, sqlite_file

_PACKAGE = Path(__file__).resolve().parent.parent


def migrations_folder(package: Path = _PACKAGE) -> Path:
    """Find the migrations: inside the package as the wheel ships them, else beside it in a checkout.

    Raises:
        StoreError: they are in neither place.
    """
    for folder in (package / "migrations", package.parent / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise StoreError("the migrations are missing", str(package / "migrations"), "install qgraph again")


def create_schema(connection: sa.Connection) -> None:
    """Bring an empty database to the newest schema, inside the connection's transaction."""
    _upgrade(connection)


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
            _upgrade(connection)
            if backup and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                raise SchemaError("the upgrade would break references", database.name, "report this; nothing was done")
    finally:
        database.close()
    return backup


def _upgrade(connection: sa.Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


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
