"""How each kind of database is connected to, and how its transactions begin.

A writing transaction is alone in the database: SQLite has it so, and PostgreSQL gets an advisory lock for it. Rows may
therefore be numbered before they are written, and reading before writing is no race. A reading one sees one snapshot.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.pool import QueuePool

BUSY_TIMEOUT_SECONDS = 30.0
"""How long a transaction waits for another process's to end."""

LARGEST_VALUE = 1 << 28
"""Bytes of the largest value that is read from an SQLite file, so that a crafted one cannot fill the memory."""

CACHE = 1 << 26
"""Bytes of an SQLite file that a connection keeps in memory at most. With SQLite's own 2 MB, the indexes of a large
model are written and read again all the time.
"""

Mode = Literal["write", "read", "none"]
"""How a transaction begins; ``none``: not at all, for commands that no transaction allows."""

_CONNECT_SECONDS = 10
_WRITERS_LOCK = 0x7167_7261_7068  # "qgraph"


def sqlite_engine(path: Path, *, create: bool, foreign_keys: bool) -> sa.Engine:
    """Connect to an SQLite file.

    Args:
        foreign_keys: whether references are held; off only while tables are rebuilt.
    """
    uri = f"file:{quote(str(path))}?{open_mode(path, create=create)}"

    def connection() -> sqlite3.Connection:
        opened = sqlite3.connect(
            uri, uri=True, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
        )
        opened.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST_VALUE)
        opened.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")
        opened.execute("PRAGMA trusted_schema = OFF")  # nothing that a crafted file defines may have effects
        # A power cut may lose the last checkpoint, never the database; a killed process loses nothing.
        opened.execute("PRAGMA synchronous = NORMAL")
        opened.execute(f"PRAGMA cache_size = -{CACHE >> 10}")
        return opened

    url = sa.URL.create("sqlite", database=str(path))
    engine = sa.create_engine(url, creator=connection, poolclass=QueuePool)
    # The driver would begin transactions late and always deferred; a writer has to queue up at once.
    return _beginning(engine, write=("BEGIN IMMEDIATE",), read=("BEGIN DEFERRED",))


def postgresql_engine(url: sa.URL) -> sa.Engine:
    """Connect to a database of a PostgreSQL server."""
    given: dict[str, Any] = {} if "connect_timeout" in url.query else {"connect_timeout": _CONNECT_SECONDS}
    engine = sa.create_engine(url, connect_args=given, pool_pre_ping=True)

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, _: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET TIME ZONE 'UTC'")
            cursor.execute(f"SET lock_timeout = '{BUSY_TIMEOUT_SECONDS}s'")
        connection.commit()

    return _beginning(
        engine,
        write=(f"SELECT pg_advisory_xact_lock({_WRITERS_LOCK})",),
        read=("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",),
    )


def _beginning(engine: sa.Engine, **commands: tuple[str, ...]) -> sa.Engine:
    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        for command in commands.get(connection.get_execution_options().get("begin_mode", "read"), ()):
            connection.exec_driver_sql(command)

    return engine


def open_mode(path: Path, *, create: bool) -> str:
    """How SQLite opens the file: a write-ahead log needs a writable folder, without one the file is read as it is."""
    if create:
        return "mode=rwc"
    if os.access(path.parent, os.W_OK) or Path(f"{path}-wal").exists():
        return "mode=rw"
    return "mode=ro&immutable=1"
