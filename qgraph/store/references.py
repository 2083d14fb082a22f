"""How stored things are called by the user, ``m1``, ``c1``, ``r1``, and how those names are found again."""

from __future__ import annotations

import re
from typing import NewType

import sqlalchemy as sa

from qgraph.errors import NotFoundError
from qgraph.store.tables import calibrations, models

Row = NewType("Row", int)


def model_row(connection: sa.Connection, model: str) -> Row:
    """The row of a model written as ``m1``; raises `NotFoundError`."""
    return _row(connection, models, "model", "m", model, "run qgraph analyze or qgraph calibrate on it first")


def calibration_row(connection: sa.Connection, calibration: str) -> Row:
    """The row of a calibration written as ``c1``; raises `NotFoundError`."""
    return _row(connection, calibrations, "calibration", "c", calibration, "run qgraph calibrate first")


def number_of(letter: str, reference: str) -> int | None:
    """The number in a reference such as ``r12``; None if it is not one.

    >>> number_of("r", "r12"), number_of("r", "c12"), number_of("r", "resnet")
    (12, None, None)
    """
    match = re.fullmatch(rf"{letter}([1-9][0-9]{{0,17}})", reference)
    return int(match[1]) if match else None


def _row(connection: sa.Connection, table: sa.Table, kind: str, letter: str, reference: str, otherwise: str) -> Row:
    number = number_of(letter, reference)
    if number is not None and connection.scalar(sa.select(table.c.id).where(table.c.id == number)) is not None:
        return Row(number)
    known = [f"{letter}{found}" for found in connection.scalars(sa.select(table.c.id))]
    raise NotFoundError.among(kind, reference, known, otherwise)
