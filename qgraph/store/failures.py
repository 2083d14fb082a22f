"""What a database driver complains about, as one clear line for the user."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from qgraph.errors import StoreError

# What the driver's message contains, what that means, what to do. The first that fits counts.
_MEANINGS = (
    ("database is locked", "the database is locked by another process", "wait until it is done and try again"),
    ("readonly database", "the database cannot be written", "make the file and its folder writable, or copy it"),
    ("attempt to write a readonly", "the database cannot be written", "make the file and its folder writable"),
    ("file is not a database", "not a database", "name a file that qgraph made with --db"),
    ("malformed", "the database is damaged", "restore it from a backup, or calibrate into a new file"),
    ("disk I/O error", "the database cannot be read or written", "check the disk, and that the file is whole"),
    ("is full", "no space is left for the database", "free some space and run the same command again"),
    ("unable to open", "the database cannot be opened", "check that the file and its folder may be read and written"),
    ("locking protocol", "the file system cannot lock the database", "keep it on a local disk, not on a network share"),
    ("FOREIGN KEY constraint", "something else in the database needs this", "remove what was made from it first"),
)


def store_error(error: SQLAlchemyError, database: str) -> StoreError:
    """Build the one line for a driver's error.

    Args:
        database: how the database is named to the user, without a password.
    """
    message = str(error.orig) if isinstance(error, DBAPIError) else str(error)
    for fragment, what, cure in _MEANINGS:
        if fragment.lower() in message.lower():
            return StoreError(what, database, cure)
    return StoreError("the database refused", f"{database} ({message})", "run: qgraph db check")
