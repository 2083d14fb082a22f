"""Upgrading an existing database: a copy first, then all migrations or none."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from qgraph.errors import SchemaError, StoreError
from qgraph.store import schema
from qgraph.store.database import connect, sqlite_file
from qgraph.store.migrate import to_newest_schema


@dataclass(frozen=True, slots=True)
class Upgraded:
    """What an upgrade did.

    Attributes:
        upgraded: False if the schema was current already.
        backup: the copy of the SQLite file as it was before; None for a database server, or if nothing was done.
    """

    upgraded: bool
    backup: Path | None


def upgrade(location: str | Path) -> Upgraded:
    """Bring an existing database to the newest schema. A current one is left alone.

    Raises:
        SchemaError: the database was written by a newer qgraph.
        StoreError: there is none, or it cannot be upgraded; it then is as it was.
    """
    # Rebuilding a table that others refer to would cascade; what refers to what is checked at the end.
    database = connect(location, create=False, foreign_keys=False)
    file = sqlite_file(database)
    backup: Path | None = None
    try:
        with database.reading() as connection:
            if not _is_old(connection):
                return Upgraded(upgraded=False, backup=None)
        with database.transaction() as connection:  # from here on nobody else writes
            if not _is_old(connection):  # another process was faster
                return Upgraded(upgraded=False, backup=None)
            backup = None if file is None else _back_up(file, str(schema.revision(connection)))
            to_newest_schema(connection)
            if file is not None:
                _check_references(connection)
    except Exception:
        if backup is not None:
            backup.unlink()  # the database is as it was, so the copy tells nothing
        raise
    finally:
        database.close()
    return Upgraded(upgraded=True, backup=backup)


def _is_old(connection: sa.Connection) -> bool:
    """Whether there is something to do; raises `SchemaError` or `StoreError` where nothing can be done."""
    found = schema.revision(connection)
    if found is None or found not in schema.REVISIONS:
        schema.require_current(connection)
    return found != schema.HEAD


def _check_references(connection: sa.Connection) -> None:
    if connection.exec_driver_sql("PRAGMA foreign_key_check").first():
        what = schema.name_of(connection)
        raise SchemaError("the upgrade would break references", what, "report this; nothing was done")


def _back_up(file: Path, revision: str) -> Path:
    """Copy what the file holds, whole and under its name only once it is whole; raises `StoreError`."""
    number = 1
    while (copy := file.with_name(f"{file.name}.schema-{revision}.{number}.bak")).exists():
        number += 1
    part = copy.with_name(f"{copy.name}.part")
    try:
        part.unlink(missing_ok=True)
        with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(part)) as target:
            source.backup(target)
        part.rename(copy)
    except (sqlite3.Error, OSError) as error:
        with suppress(OSError):
            part.unlink()
        cure = "free some space, or make the folder writable; nothing was done"
        raise StoreError("the database cannot be backed up", f"{copy} ({error})", cure) from error
    return copy
