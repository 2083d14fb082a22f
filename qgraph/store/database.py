"""Opening the database, and its two kinds of short transactions: one that writes, one that reads a snapshot."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from qgraph.errors import StoreError, UsageError
from qgraph.store import schema
from qgraph.store.failures import store_error

BUSY_TIMEOUT_SECONDS = 30.0
"""How long a transaction waits for another process's to end."""

_SQLITE_HEADER = b"SQLite format 3\0"


@dataclass(frozen=True, slots=True)
class Database:
    """An open database. `name` is the file, or the URL without its password."""

    engine: sa.Engine
    name: str

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """Write: all of it or, when the block raises, nothing. Only one process at a time is inside.

        Raises:
            StoreError: the database refuses, or another process holds it for too long.
        """
        with self._begun("IMMEDIATE") as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Read one consistent snapshot, whatever is written meanwhile.

        Raises:
            StoreError: the database cannot be read.
        """
        with self._begun("DEFERRED") as connection:
            yield connection

    @contextmanager
    def outside_transaction(self) -> Iterator[sa.Connection]:
        """For the few commands of SQLite that no transaction allows, as a change of the journal.

        Raises:
            StoreError: the database refuses.
        """
        with self._begun(None) as connection:
            yield connection

    @contextmanager
    def _begun(self, mode: str | None) -> Iterator[sa.Connection]:
        try:
            with self.engine.connect().execution_options(begin_mode=mode) as connection, connection.begin():
                yield connection
        except SQLAlchemyError as error:
            raise store_error(error, self.name) from error

    def close(self) -> None:
        """Close every connection. The database can be used again; it then opens new ones."""
        self.engine.dispose()


def open_database(location: str | Path, *, create: bool) -> Database:
    """Open the database at a path or URL.

    Args:
        location: the path of an SQLite file, or any SQLAlchemy URL.
        create: make the database if there is none; otherwise nothing is ever created.

    Raises:
        StoreError: there is none, it cannot be opened, or it is not one of qgraph's.
        SchemaError: its schema is older or newer than this qgraph's.
        UsageError: the URL cannot be read, or its driver is not installed.
    """
    database = connect(location, create=create)
    try:
        if create:
            with database.reading() as connection:
                fresh = schema.revision(connection) is None
            if fresh:
                _create_schema(database)
        with database.reading() as connection:
            schema.require_current(connection)
    except BaseException:
        database.close()
        raise
    return database


def connect(location: str | Path, *, create: bool, foreign_keys: bool = True) -> Database:
    """Connect to a database whatever its schema. Nothing is read yet.

    Args:
        foreign_keys: whether SQLite holds references; off only while tables are rebuilt.
    """
    url = _url(location)
    if url.get_backend_name() != "sqlite":
        try:
            return Database(sa.create_engine(url), url.render_as_string(hide_password=True))
        except (SQLAlchemyError, ImportError) as error:
            name = url.render_as_string(hide_password=True)
            raise UsageError("no driver for this database", name, "install its Python driver") from error
    if not url.database or url.database == ":memory:":
        raise UsageError("a database in memory cannot be shared", str(location), "name a file with --db")
    path = Path(url.database)
    _look_at_file(path, create=create)
    uri = f"file:{quote(str(path))}?{_open_mode(path, create=create)}"
    return Database(_sqlite_engine(path, uri, foreign_keys=foreign_keys), str(path))


def sqlite_file(database: Database) -> Path | None:
    """The file of an SQLite database; None for a database server."""
    return Path(database.name) if database.engine.dialect.name == "sqlite" else None


def _url(location: str | Path) -> sa.URL:
    if not str(location).strip():
        raise UsageError("a database needs a name", repr(str(location)), "name a file or a URL with --db")
    if isinstance(location, Path) or "://" not in location:
        return sa.URL.create("sqlite", database=str(location))
    try:
        return sa.make_url(location)
    except ArgumentError as error:
        scheme = location.split("://", 1)[0]  # the rest may hold a password
        raise UsageError("not a database URL", f"{scheme}://…", "write it as DIALECT://USER@HOST/NAME") from error


def _look_at_file(path: Path, *, create: bool) -> None:
    if path.is_dir():
        raise StoreError("a folder, not a database", str(path), "name a file inside it with --db")
    if not path.exists():
        if not create:
            raise StoreError("no database", str(path), "run qgraph analyze or qgraph calibrate first, or name it: --db")
        if not path.parent.is_dir():
            raise StoreError("no such folder for the database", str(path.parent), "create it, or name another: --db")
        return
    try:
        with path.open("rb") as file:
            header = file.read(len(_SQLITE_HEADER))
    except OSError as error:
        raise StoreError(
            "the database cannot be read", f"{path} ({error.strerror})", "check its permissions"
        ) from error
    if header and header != _SQLITE_HEADER:
        raise StoreError("not a database", str(path), "name a file that qgraph made with --db")


def _sqlite_engine(path: Path, uri: str, *, foreign_keys: bool) -> sa.Engine:
    def connection() -> sqlite3.Connection:
        opened = sqlite3.connect(
            uri, uri=True, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
        )
        opened.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")
        # A power cut may lose the last checkpoint, never the database; a killed process loses nothing.
        opened.execute("PRAGMA synchronous = NORMAL")
        return opened

    url = sa.URL.create("sqlite", database=str(path))
    engine = sa.create_engine(url, creator=connection, poolclass=QueuePool)

    # The driver would begin transactions late and always deferred; a writer has to queue up at once.
    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        mode = connection.get_execution_options().get("begin_mode", "DEFERRED")
        if mode is not None:
            connection.exec_driver_sql(f"BEGIN {mode}")

    return engine


def _open_mode(path: Path, *, create: bool) -> str:
    """How SQLite opens the file: a write-ahead log needs a writable folder, without one the file is read as it is."""
    if create:
        return "mode=rwc"
    if os.access(path.parent, os.W_OK) or Path(f"{path}-wal").exists():
        return "mode=rw"
    return "mode=ro&immutable=1"


def _create_schema(database: Database) -> None:
    from qgraph.store.migrate import to_newest_schema

    if database.engine.dialect.name == "sqlite":
        with database.outside_transaction() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
    with database.transaction() as connection:
        if schema.revision(connection) is None:  # another process may have been faster
            to_newest_schema(connection)
