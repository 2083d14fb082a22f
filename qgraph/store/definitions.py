"""Whether the tables and views of a file are those that the migrations make.

A file that somebody sends could define a view that never ends, or a trigger that does something when qgraph writes.
What users add beside, such as views of their own, is theirs.
"""

from __future__ import annotations

import hashlib

import sqlalchemy as sa

from qgraph.errors import StoreError
from qgraph.store.schema import name_of
from qgraph.store.tables import metadata

VIEWS = {
    "compared_scales": "2ceb8d6897647ed4",
    "group_members": "063bf47436ed02d0",
    "prices": "86e7e1f98bae8a10",
    "reasons": "858c15800d638c4d",
    "requantizes": "3e47373e5f654983",
    "run_summaries": "2b481b8e5b8ccf65",
    "shared_groups": "6803373b3ea0cdc2",
    "slot_scales": "e70b9a27de736c2c",
    "tensor_scales": "7bd641808608278b",
}
"""Digests of the views as the newest schema has them; `test_store_migrate` tells how they are found."""


def digest_of(definition: str) -> str:
    """The digest of a view's SQL."""
    return hashlib.blake2b(definition.encode(), digest_size=8).hexdigest()


def check_definitions(connection: sa.Connection) -> None:
    """Look at what an SQLite file of the newest schema defines.

    Raises:
        StoreError: there is a trigger, or a table or view is another one than qgraph makes.
    """
    query = "SELECT type, name, CAST(sql AS TEXT) AS sql FROM sqlite_master WHERE type IN ('table', 'view', 'trigger')"
    found = {str(row.name): (row.type, row.sql or "") for row in connection.exec_driver_sql(query)}
    odd = [f"trigger {name}" for name, (kind, _) in sorted(found.items()) if kind == "trigger"]
    for name in sorted(metadata.tables):
        kind, definition = found.get(name, ("", ""))
        if kind != "table" or not definition.startswith("CREATE TABLE"):
            odd.append(f"table {name}")
    for name, digest in VIEWS.items():
        kind, definition = found.get(name, ("", ""))
        if kind != "view" or digest_of(definition) != digest:
            odd.append(f"view {name}")
    if odd:
        what = f"{name_of(connection)} ({odd[0]})"
        raise StoreError("the database defines what qgraph did not make", what, "use a copy from a source you trust")
