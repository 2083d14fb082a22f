"""What a run's outputs lose by the quantization of one op, tensor or group alone, as it was measured.

Measuring takes inferences, so each result is stored as soon as it is known: what is measured once on some samples is
not measured again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa

from qgraph.store.bulk import insert_rows
from qgraph.store.runs import resolve_run, row_of
from qgraph.store.tables import sensitivities

Kind = Literal["op", "tensor", "group"]
Part = Literal["all", "rounding", "clipping", "sharing"]

_COLUMNS = ("kind", "subject", "part", "output", "noise_db")


@dataclass(frozen=True, order=True, slots=True)
class Sensitivity:
    """Noise at an output of a model while one thing in it is quantized, or one part of that.

    Attributes:
        subject: the name of an op or tensor, the id of a group.
        output: of the model; empty for all of them together.
        noise_db: against the float output; −inf where nothing is lost.
    """

    kind: Kind
    subject: str
    part: Part
    output: str
    noise_db: float


def save_sensitivities(connection: sa.Connection, run: str, data: str, found: Iterable[Sensitivity]) -> None:
    """Store what was measured, in place of what is stored of the same.

    Args:
        data: digest of the samples that it was measured on, and of how.

    Raises:
        NotFoundError: no such run.
    """
    number = row_of(resolve_run(connection, run))
    rows = sorted(set(found))
    same = (
        (sensitivities.c.run_id == number)
        & (sensitivities.c.data == data)
        & (sensitivities.c.kind == sa.bindparam("a"))
        & (sensitivities.c.subject == sa.bindparam("b"))
        & (sensitivities.c.part == sa.bindparam("c"))
        & (sensitivities.c.output == sa.bindparam("d"))
    )
    if rows:
        keys = [{"a": one.kind, "b": one.subject, "c": one.part, "d": one.output} for one in rows]
        connection.execute(sensitivities.delete().where(same), keys)
    values = ((number, data, *(getattr(one, name) for name in _COLUMNS)) for one in rows)
    insert_rows(connection, sensitivities, ("run_id", "data", *_COLUMNS), values)


def load_sensitivities(connection: sa.Connection, run: str, data: str) -> tuple[Sensitivity, ...]:
    """What was measured of a run on some samples, sorted; raises `NotFoundError`."""
    number = row_of(resolve_run(connection, run))
    query = sa.select(*(sensitivities.c[name] for name in _COLUMNS))
    rows = connection.execute(query.where(sensitivities.c.run_id == number, sensitivities.c.data == data))
    return tuple(sorted(Sensitivity(*row) for row in rows))
