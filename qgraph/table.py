"""A small frozen table: what a question with rows and columns is answered with.

>>> table = Table(("tensor", "scale"), (("x", 0.5), ("y", None)))
>>> len(table), table.column("scale"), next(iter(table))
(2, (0.5, None), {'tensor': 'x', 'scale': 0.5})
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qgraph.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows; iterating gives each row as a dict.

    Attributes:
        columns: their names, in order.
        rows: a value for each column; None where there is none, a tuple where there are several.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The rows, each by column."""
        return (dict(zip(self.columns, row, strict=True)) for row in self.rows)

    def column(self, name: str) -> tuple[Any, ...]:
        """All values of a column; raises `NotFoundError`."""
        if name not in self.columns:
            raise NotFoundError.among("column", name, self.columns, f"it has {', '.join(self.columns)}")
        place = self.columns.index(name)
        return tuple(row[place] for row in self.rows)

    def to_pandas(self) -> pd.DataFrame:
        """The same as a pandas DataFrame.

        Raises:
            UsageError: pandas is not installed.
        """
        try:
            import pandas as pd  # not a dependency
        except ImportError:
            raise UsageError("pandas is not installed", "Table.to_pandas", "pip install pandas") from None
        return pd.DataFrame.from_records(list(self.rows), columns=list(self.columns))

    def to_polars(self) -> pl.DataFrame:
        """The same as a polars DataFrame.

        Raises:
            UsageError: polars is not installed.
        """
        try:
            import polars as pl  # not a dependency
        except ImportError:
            raise UsageError("polars is not installed", "Table.to_polars", "pip install polars") from None
        # Every row counts for a column's type: numbers and lists may come after many rows without any.
        return pl.DataFrame(list(self.rows), schema=list(self.columns), orient="row", infer_schema_length=None)
