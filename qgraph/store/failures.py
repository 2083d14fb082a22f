"""What a database driver complains about, as one clear line for the user."""

from __future__ import annotations

import re

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from qgraph.errors import DamagedError, StoreError
from qgraph.hints import suggest
from qgraph.store.locations import shown, without_secrets

# What is found in the driver's message, what that means, what to do. The first that fits counts.
_MEANINGS = (
    ("database is locked", "the database is locked by another process", "wait until it is done and try again"),
    ("lock timeout", "the database is locked by another process", "wait until it is done and try again"),
    ("readonly database", "the database cannot be written", "make the file and its folder writable, or copy it"),
    ("attempt to write a readonly", "the database cannot be written", "make the file and its folder writable"),
    ("read-only transaction", "the database cannot be written", "ask its owner, or name another with --db"),
    ("permission denied", "the database does not allow it", "ask its owner for the right, or name another with --db"),
    ("file is not a database", "not a database", "name a file that qgraph made with --db"),
    ("disk I/O error", "the database cannot be read or written", "check the disk, and that the file is whole"),
    ("is full", "no space is left for the database", "free some space and run the same command again"),
    ("No space left", "no space is left for the database", "free some space and run the same command again"),
    ("unable to open", "the database cannot be opened", "check that the file and its folder may be read and written"),
    ("locking protocol", "the file system cannot lock the database", "keep it on a local disk, not on a network share"),
    ("too big", "a value in the database is larger than any that qgraph writes", "use a copy from a source you trust"),
    ("cannot contain NUL", "PostgreSQL stores no name with a zero byte", "rename it in the model, or use SQLite"),
    ("FOREIGN KEY constraint", "something else in the database needs this", "remove what was made from it first"),
    (r'database ".*" does not exist', "no such database", "create it (createdb NAME), or name another with --db"),
    ("authentication failed", "the database server refuses the user", "check user and password in the URL"),
    ("no password supplied", "the database server wants a password", "put it into the URL or into ~/.pgpass"),
    (r'role ".*" does not exist', "the database server refuses the user", "check user and password in the URL"),
    (
        "connection (failed|is bad|timeout)",
        "the database server cannot be reached",
        "check host and port, and that it runs",
    ),
    ("server closed the connection", "the database server went away", "run the same command again: it continues"),
    ("terminating connection", "the database server went away", "run the same command again: it continues"),
)


UNREADABLE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What reading stored values raises where they are not of the type that qgraph writes."""

_RESTORE = "restore it from a backup, or calibrate into a new file"


def store_error(error: SQLAlchemyError, url: sa.URL) -> StoreError:
    """Build the one line for a driver's error.

    Args:
        url: of the database; its password stays out of the line.
    """
    database = shown(url)
    message = without_secrets(str(error.orig) if isinstance(error, DBAPIError) else str(error), url)
    if "malformed" in message or "Could not decode" in message:
        return DamagedError("the database is damaged", database, _RESTORE)
    for pattern, what, cure in _MEANINGS:
        if re.search(pattern, message, re.IGNORECASE):
            return StoreError(what, database, cure)
    return StoreError("the database refused", f"{database} ({message})", f"run: {suggest('db check', db=database)}")


def unreadable(error: Exception, url: sa.URL) -> DamagedError:
    """Build the one line for stored values that cannot be what qgraph wrote, as they are not of their type."""
    told = f"{shown(url)} ({type(error).__name__}: {without_secrets(str(error), url)})"
    return DamagedError("the database holds what qgraph never writes", told, _RESTORE)
