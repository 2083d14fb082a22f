import math
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from qgraph.store.bulk import insert_rows
from qgraph.store.columns import Real
from qgraph.store.database import open_database

table = sa.Table(
    "many",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("flag", sa.Boolean, nullable=False),
    sa.Column("noise", Real, nullable=True),
)


@pytest.mark.parametrize("rows", [0, 1, 33, 34, 4_001])
def test_rows_are_written_whole_however_many_fit_into_one_command(tmp_path: Path, rows: int) -> None:
    written = [(number, number % 3 == 0, (None, 0.5, math.nan)[number % 3]) for number in range(rows)]
    database = open_database(tmp_path / "q.db", create=True)
    with database.transaction() as connection:
        driver: Any = connection.connection.dbapi_connection
        driver.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 100)  # 33 rows
        table.create(connection)
        insert_rows(connection, table, ("id", "flag", "noise"), iter(written))
        read = connection.execute(sa.select(table).order_by(table.c.id)).all()
    database.close()
    assert [tuple(map(repr, row)) for row in read] == [tuple(map(repr, row)) for row in written]
