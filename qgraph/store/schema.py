"""Which schema a database has, and whether this qgraph can work with it. Needs no Alembic."""

from __future__ import annotations

import sqlalchemy as sa

from qgraph.errors import SchemaError, StoreError
from qgraph.hints import suggest
from qgraph.store.locations import shown

REVISIONS: tuple[str, ...] = ("0001",)
"""Every revision in ``migrations/``, oldest first; the last is the one that this qgraph works with."""

HEAD = REVISIONS[-1]

_VERSION = sa.table("alembic_version", sa.column("version_num", sa.Text))


def revision(connection: sa.Connection) -> str | None:
    """The revision that a database is at; None if it has no tables at all.

    Raises:
        StoreError: it has tables, but they are not qgraph's.
    """
    tables = sa.inspect(connection).get_table_names()
    if not tables:
        return None
    found = None
    if "alembic_version" in tables and "tqcs" in tables:
        found = connection.scalar(sa.select(_VERSION.c.version_num))
    if found is None:
        raise StoreError("a database, but not one of qgraph's", name_of(connection), "name another file with --db")
    return str(found)


def require_current(connection: sa.Connection) -> None:
    """Make sure that a database has the schema that this qgraph works with.

    Raises:
        SchemaError: the schema is older (with the command that upgrades it) or newer.
        StoreError: the database holds nothing, or nothing of qgraph's.
    """
    found = revision(connection)
    name = name_of(connection)
    if found is None:
        raise StoreError("an empty database", name, "run qgraph analyze or qgraph calibrate first")
    if found == HEAD:
        return
    if found in REVISIONS:
        cure = f"run: {suggest('db upgrade', db=name)}"
        raise SchemaError("the database has an older schema", f"{name} (schema {found}, needed {HEAD})", cure)
    raise SchemaError(
        "the database was written by a newer qgraph", f"{name} (schema {found}, known up to {HEAD})", "upgrade qgraph"
    )


def name_of(connection: sa.Connection) -> str:
    """How the database behind a connection is named to the user: the file, or the URL without its password."""
    return shown(connection.engine.url)
