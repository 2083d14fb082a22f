"""The kinds of columns that the tables are made of, what is checked of them, and how special floats are written."""

from __future__ import annotations

import math
from typing import Any

import sqlalchemy as sa

from qgraph.constraints.model import Kind, Strength
from qgraph.tqc import QuantizationState

NOT_A_NUMBER = "NaN"


Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
"""Sorts by code points whatever the server's language."""


class _UnprocessedReal(sa.types.UserDefinedType[object]):
    """A column of SQLite's REAL affinity whose values pass as they are: SQLAlchemy's own type would undo the text."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """How the column is declared."""
        return "DOUBLE"


class Real(sa.types.TypeDecorator[float]):
    """A float64, special ones included. SQLite turns NaN into NULL, so there NaN is the text ``NaN``."""

    impl = sa.Double
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        """SQLite's column for SQLite, a double elsewhere."""
        return dialect.type_descriptor(_UnprocessedReal() if dialect.name == "sqlite" else sa.Double())

    def process_bind_param(self, value: float | None, dialect: sa.Dialect) -> object:
        """Write NaN as a text where the database has no NaN."""
        if value is not None and dialect.name == "sqlite" and math.isnan(value):
            return NOT_A_NUMBER
        return value

    def process_result_value(self, value: object, dialect: sa.Dialect) -> float | None:  # noqa: ARG002 - a protocol
        """Read a float, or the text that stands for NaN."""
        return None if value is None else float(value)  # type: ignore[arg-type]


def one_of(column: str, values: type[QuantizationState | Kind | Strength] | tuple[str, ...]) -> sa.CheckConstraint:
    """A check that a text is one of these values."""
    # SQLite builds a table for each IN (...) of each row: with OR, writing a run takes a quarter less.
    return sa.CheckConstraint(" OR ".join(f"{column} = {str(value)!r}" for value in values), name=column)


def at_least(least: int, *columns: str) -> list[sa.CheckConstraint]:
    """Checks that none of these columns is below a number."""
    return [sa.CheckConstraint(f"{column} >= {least}", name=column) for column in columns]


MOST_BITS = 64


_SCHEME_CHECKS = (f"bits BETWEEN 1 AND {MOST_BITS}", "quant_min < quant_max")


def scheme_checks() -> list[sa.CheckConstraint]:
    """The checks of a table whose rows hold a scheme."""
    return [sa.CheckConstraint(rule, name=name) for name, rule in zip(("bits", "range"), _SCHEME_CHECKS, strict=True)]


def reference(name: str, target: str, *, nullable: bool = False, delete: str = "CASCADE") -> sa.Column[int]:
    """The id of a row of another table, by default gone with it."""
    return sa.Column(name, sa.Integer, sa.ForeignKey(target, ondelete=delete), nullable=nullable)


def key(name: str, target: str) -> sa.Column[int]:
    """As `reference`, as a part of the primary key."""
    return sa.Column(name, sa.Integer, sa.ForeignKey(target, ondelete="CASCADE"), primary_key=True, autoincrement=False)


def number(name: str) -> sa.Column[int]:
    """An integer as a part of the primary key."""
    return sa.Column(name, sa.Integer, primary_key=True, autoincrement=False)


def text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    """A text."""
    return sa.Column(name, Text, nullable=nullable)


def integer(name: str, *, nullable: bool = False) -> sa.Column[int]:
    """An integer of 32 bits."""
    return sa.Column(name, sa.Integer, nullable=nullable)


def large(name: str, *, nullable: bool = False, default: str | None = None) -> sa.Column[int]:
    """An integer of 64 bits."""
    return sa.Column(name, sa.BigInteger, nullable=nullable, server_default=default)


def boolean(name: str) -> sa.Column[bool]:
    """True or false."""
    return sa.Column(name, sa.Boolean, nullable=False)


def moment(name: str) -> sa.Column[object]:
    """A time, by default that at which the row is written."""
    return sa.Column(name, sa.DateTime, nullable=False, server_default=sa.text("CURRENT_TIMESTAMP"))
