"""Many rows written in one transaction, without holding all of them in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import sqlalchemy as sa

_ROWS_AT_ONCE = 2_000


def insert_rows(
    connection: sa.Connection, table: sa.Table, columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Insert rows given as sequences in the order of `columns`; columns that are not named get their defaults."""
    dialect = connection.dialect
    if dialect.name == "postgresql":
        for batch in _batches(rows):
            _copy(connection, table, columns, batch)
        return
    # The rows are passed as they are: half the time of going through dicts.
    names = ", ".join(dialect.identifier_preparer.quote(name) for name in columns)
    places = ", ".join("?" for _ in columns)
    named = dialect.identifier_preparer.format_table(table)
    command = f"INSERT INTO {named} ({names}) VALUES ({places})"  # noqa: S608 - quoted names of our own tables
    processors = [table.c[name].type.dialect_impl(dialect).bind_processor(dialect) for name in columns]
    converted = [(place, processor) for place, processor in enumerate(processors) if processor is not None]
    for batch in _batches(rows):
        if converted:
            by_column = list(zip(*batch, strict=True))
            for place, processor in converted:
                by_column[place] = tuple([None if value is None else processor(value) for value in by_column[place]])
            batch = list(zip(*by_column, strict=True))
        connection.exec_driver_sql(command, batch)


def insert_row(connection: sa.Connection, table: sa.Table, **values: object) -> int:
    """Insert one row and return the id that the database gave it."""
    key = connection.execute(table.insert().values(**values)).inserted_primary_key
    assert key is not None
    return int(key[0])


def next_id(connection: sa.Connection, table: sa.Table) -> int:
    """The smallest id above all others, for rows that are numbered before they are written."""
    return int(connection.scalar(sa.select(sa.func.coalesce(sa.func.max(table.c.id), 0))) or 0) + 1


def _copy(connection: sa.Connection, table: sa.Table, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """PostgreSQL's own way for many rows: a quarter of the time of INSERTs."""
    dialect = connection.dialect
    quoted = ", ".join(dialect.identifier_preparer.quote(name) for name in columns)
    command = f"COPY {dialect.identifier_preparer.format_table(table)} ({quoted}) FROM STDIN"
    driver: Any = connection.connection.dbapi_connection
    try:
        with driver.cursor() as cursor, cursor.copy(command) as copy:
            for row in rows:
                copy.write_row(row)
    except dialect.loaded_dbapi.Error as error:
        raise sa.exc.DBAPIError(command, None, error) from error


def _batches(rows: Iterable[Sequence[Any]]) -> Iterator[list[Sequence[Any]]]:
    iterator = iter(rows)
    while batch := list(islice(iterator, _ROWS_AT_ONCE)):
        yield batch
