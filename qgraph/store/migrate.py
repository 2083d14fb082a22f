"""Running the migrations with Alembic, on a connection and inside its transaction. The only module that loads it."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from qgraph.errors import StoreError

_PACKAGE = Path(__file__).resolve().parent.parent


def migrations_folder(package: Path = _PACKAGE) -> Path:
    """Find the migrations: inside the package as the wheel ships them, else beside it in a checkout.

    Raises:
        StoreError: they are in neither place.
    """
    for folder in (package / "migrations", package.parent / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise StoreError("the migrations are missing", str(package / "migrations"), "install qgraph again")


def to_newest_schema(connection: sa.Connection, revision: str = "head") -> None:
    """Bring a database, empty or of an older schema, to the newest one, or to that of an earlier release."""
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
