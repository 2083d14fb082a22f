"""How much a database holds, in rows and in bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from qgraph.store import schema
from qgraph.store.database import Database, sqlite_file
from qgraph.store.tables import calibrations, metadata, statistics


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a database holds.

    Attributes:
        schema: its revision.
        size: bytes on disk; of a file with the log beside it.
        free: bytes in the file that hold nothing; ``qgraph db gc`` gives them back. None where that is not known.
        rows: by table.
        statistics: bytes of the statistics, by calibration.
    """

    schema: str
    size: int
    free: int | None
    rows: dict[str, int]
    statistics: dict[str, int]


def measure(database: Database) -> Sizes:
    """Count and measure.

    Raises:
        StoreError: the database cannot be read.
    """
    with database.reading() as connection:
        revision = schema.revision(connection)
        rows = {
            name: int(connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0)
            for name, table in sorted(metadata.tables.items())
        }
        held = sa.func.coalesce(sa.func.sum(sa.func.length(statistics.c.blob)), 0)
        query = sa.select(calibrations.c.id, held).outerjoin(statistics).group_by(calibrations.c.id)
        blobs = {f"c{number}": int(size) for number, size in connection.execute(query.order_by(calibrations.c.id))}
        free = size = None
        if connection.dialect.name == "sqlite":
            pages, page = (connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in _PRAGMAS)
            free = int(pages or 0) * int(page or 0)
        else:
            size = connection.scalar(sa.select(sa.func.pg_database_size(sa.func.current_database())))
    file = sqlite_file(database)
    if file is not None:
        size = sum(path.stat().st_size for path in (file, Path(f"{file}-wal")) if path.exists())
    return Sizes(str(revision), int(size or 0), free, rows, blobs)


_PRAGMAS = ("freelist_count", "page_size")
