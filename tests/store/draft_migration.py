"""Draft the migration that brings the newest schema to what `qgraph.store.tables` declares: "what changes".

Read what it wrote: types come out as they are on SQLite, views have to be dropped and made again around a table that
is rebuilt, and rows may need new values.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from alembic import command
from alembic.config import Config

from qgraph.store.database import connect
from qgraph.store.migrate import migrations_folder, to_newest_schema


def draft(message: str, folder: Path | None = None) -> Path:
    """Write a migration among the others, or into another folder; return its file."""
    with tempfile.TemporaryDirectory() as place:
        database = connect(Path(place) / "q.db", create=True)
        with database.transaction() as connection:
            to_newest_schema(connection)
            config = Config()
            config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
            config.attributes["connection"] = connection
            number = f"{len(list((migrations_folder() / 'versions').glob('[0-9]*.py'))) + 1:04}"
            written = command.revision(config, message, autogenerate=True, rev_id=number)
        database.close()
    assert written is not None
    assert not isinstance(written, list)
    file = Path(written.path)
    return file if folder is None else file.rename(folder / file.name)


if __name__ == "__main__":
    sys.stdout.write(f"{draft(sys.argv[1])}\n")
