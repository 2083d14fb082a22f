"""Opening the database, and its two kinds of short transactions: one that writes, one that reads a snapshot."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from qgraph.errors import StoreError, UsageError
from qgraph.store import schema
from qgraph.store.definitions import check_definitions
from qgraph.store.engines import Mode, postgresql_engine, sqlite_engine
from qgraph.store.failures import UNREADABLE, store_error, unreadable
from qgraph.store.file_systems import network_file_system
from qgraph.store.locations import shown, url_of

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
            DamagedError: it holds what qgraph never writes, such as a text in place of a number.
        """
        with self._begun("write") as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Read one consistent snapshot, whatever is written meanwhile.

        Raises:
            StoreError: the database cannot be read.
            DamagedError: it holds what qgraph never writes, such as a text in place of a number.
        """
        with self._begun("read") as connection:
            yield connection

    @contextmanager
    def outside_transaction(self) -> Iterator[sa.Connection]:
        """For the few commands that no transaction allows, as ``VACUUM``.

        Raises:
            StoreError: the database refuses.
        """
        with self._begun("none") as connection:
            yield connection

    @contextmanager
    def _begun(self, mode: Mode) -> Iterator[sa.Connection]:
        options: dict[str, str] = {"begin_mode": mode}
        if mode == "none" and self.engine.dialect.name != "sqlite":  # SQLite's driver begins nothing by itself
            options["isolation_level"] = "AUTOCOMMIT"
        try:
            with self.engine.connect().execution_options(**options) as connection:
                try:
                    with connection.begin():
                        yield connection
                except BaseException:
                    # A traceback may hold rows that are half read. To SQLite, this connection then still reads its
                    # old snapshot, and cannot write once another one has written: "database is locked".
                    if self.engine.dialect.name == "sqlite":
                        connection.invalidate()
                    raise
        except SQLAlchemyError as error:
            raise store_error(error, self.engine.url) from error
        except UNREADABLE as error:
            raise unreadable(error, self.engine.url) from error

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
            if connection.dialect.name == "sqlite":
                check_definitions(connection)
    except BaseException:
        database.close()
        raise
    return database


def is_there(location: str | Path) -> bool:
    """Whether a location names a database that can be opened without creating anything.

    Raises:
        StoreError: a server cannot be asked.
        UsageError: the URL cannot be read.
    """
    url = url_of(location)
    if url.get_backend_name() == "sqlite":
        return bool(url.database) and Path(str(url.database)).exists()
    database = connect(location, create=False)
    try:
        with database.reading() as connection:
            return schema.revision(connection) is not None
    finally:
        database.close()


def connect(location: str | Path, *, create: bool, foreign_keys: bool = True) -> Database:
    """Connect to a database whatever its schema. Nothing is read yet.

    Args:
        foreign_keys: whether SQLite holds references; off only while tables are rebuilt.
    """
    url = url_of(location)
    if url.get_backend_name() != "sqlite":
        try:
            return Database(postgresql_engine(url), shown(url))
        except ImportError as error:
            cure = "install it: pip install 'qgraph[postgres]'"
            raise UsageError("PostgreSQL's driver is not installed", shown(url), cure) from error
        except (SQLAlchemyError, TypeError, ValueError) as error:
            raise UsageError("not a database URL", shown(url), "write it as postgresql://USER@HOST/NAME") from error
    if not url.database or url.database == ":memory:":
        raise UsageError("a database in memory cannot be shared", str(location), "name a file with --db")
    path = Path(url.database)
    _look_at_file(path, create=create)
    return Database(sqlite_engine(path, create=create, foreign_keys=foreign_keys), str(path))


def sqlite_file(database: Database) -> Path | None:
    """The file of an SQLite database; None for a database server."""
    return Path(database.name) if database.engine.dialect.name == "sqlite" else None


def watched_file(database: Database) -> Callable[[], bool]:
    """A function that tells whether the file is still where it is now; always true for a database server.

    An open file that somebody removes lives on without a name: what is written to it is lost with the process.
    """
    file = sqlite_file(database)
    if file is None:
        return lambda: True
    path = file.absolute()
    opened = path.stat()

    def is_the_same() -> bool:
        try:
            return os.path.samestat(path.stat(), opened)
        except OSError:
            return False

    return is_the_same


def _look_at_file(path: Path, *, create: bool) -> None:
    if path.is_dir():
        raise StoreError("a folder, not a database", str(path), "name a file inside it with --db")
    if not path.exists():
        if not create:
            raise StoreError("no database", str(path), "run qgraph analyze or qgraph calibrate first, or name it: --db")
        if not path.parent.is_dir():
            raise StoreError("no such folder for the database", str(path.parent), "create it, or name another: --db")
        network = network_file_system(path)
        if network is not None:
            cure = "keep it on a local disk, or in PostgreSQL: --db postgresql://USER@HOST/NAME"
            raise StoreError("SQLite cannot share a file over a network", f"{path} ({network})", cure)
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


def _create_schema(database: Database) -> None:
    from qgraph.store.migrate import to_newest_schema

    if database.engine.dialect.name == "sqlite":
        with database.outside_transaction() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
    else:
        with database.reading() as connection:
            encoding = connection.exec_driver_sql("SHOW server_encoding").scalar()
        if encoding != "UTF8":
            what = f"the database stores text in {encoding}, which cannot hold every name"
            raise StoreError(what, database.name, "make one with: createdb --encoding UTF8 NAME")
    with database.transaction() as connection:
        if schema.revision(connection) is None:  # another process may have been faster
            to_newest_schema(connection)
