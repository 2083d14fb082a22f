"""A run with all that it rests on, in another database: model, evidence, calibration and its statistics.

What is there already, by fingerprint and identity, is used as it is; ids are those of the other database.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from qgraph.errors import StoreError
from qgraph.store.bulk import insert_row, insert_rows
from qgraph.store.database import Database
from qgraph.store.leases import holder
from qgraph.store.models import find_model, load_model, load_structure, save_model
from qgraph.store.records import CalibrationStatus, RunRecord
from qgraph.store.references import Row, calibration_row, model_row
from qgraph.store.runs import load_run, resolve_run, row_of, save_run
from qgraph.store.tables import (
    bias_magnitudes,
    calibration_samples,
    calibrations,
    constant_statistics,
    models,
    runs,
    sensitivities,
    statistics,
    weight_solutions,
)


@dataclass(frozen=True, slots=True)
class Copied:
    """How a run and what it rests on are called in the database that they were copied to."""

    run: str
    model: str
    calibration: str | None


@dataclass(frozen=True, slots=True)
class _Between:
    """The connections that a copy is made between."""

    here: sa.Connection
    there: sa.Connection

    def rows(self, owner: sa.Column[int], old: int, new: int) -> None:
        """Copy the rows of a table that belong to `old`, for `new`."""
        kept = [column for column in owner.table.columns if column.name != "id"]
        found = self.here.execute(sa.select(*kept).where(owner == old))
        place = kept.index(owner)
        changed = ((*row[:place], new, *row[place + 1 :]) for row in found)
        table = owner.table
        assert isinstance(table, sa.Table)
        insert_rows(self.there, table, [column.name for column in kept], changed)


def copy_run(source: Database, run: str, target: Database, *, name: str | None = None) -> Copied:
    """Copy a run to another database, in one transaction there. What is there already is not copied again.

    Args:
        run: by id, name or ``latest``.
        name: of the run there; None keeps its name.

    Raises:
        NotFoundError: no such run.
        UsageError: another run there has the name.
        StoreError: the same calibration is there in another state, or the run's has counted more since.
    """
    with source.reading() as here, target.transaction() as there:
        between = _Between(here, there)
        record = resolve_run(here, run)
        model = _copy_model(between, record.model)
        calibration = None
        if record.calibration is not None:
            calibration = _copy_calibration(between, record, record.calibration, model)
        known = set(there.scalars(sa.select(runs.c.id)))
        copied = save_run(there, model, calibration, load_run(here, record.id), name=name or record.name)
        number = int(copied[1:])
        if number not in known:
            old = row_of(record)
            kept = here.execute(sa.select(runs.c.created, runs.c.version).where(runs.c.id == old)).one()
            there.execute(runs.update().where(runs.c.id == number).values(**kept._mapping))
            between.rows(sensitivities.c.run_id, old, number)
    return Copied(copied, model, calibration)


def _copy_model(between: _Between, model: str) -> str:
    here, there = between.here, between.there
    record = load_model(here, model)
    old = model_row(here, model)
    row = here.execute(sa.select(models).where(models.c.id == old)).one()
    found = find_model(there, record.fingerprint)
    if found is None:
        found = save_model(there, load_structure(here, model), record.path)
        values = {"created": row.created, "derivation": row.derivation}
        if record.parent is not None:
            parent = find_model(there, load_model(here, record.parent).fingerprint)
            values["parent_id"] = None if parent is None else model_row(there, parent)
        there.execute(models.update().where(models.c.id == model_row(there, found)).values(**values))
    new = model_row(there, found)
    served = there.scalar(sa.select(models.c.served).where(models.c.id == new))
    if served is None:
        for owner in (weight_solutions.c.model_id, bias_magnitudes.c.model_id, constant_statistics.c.model_id):
            there.execute(sa.delete(owner.table).where(owner == new))
            between.rows(owner, old, new)
        there.execute(models.update().where(models.c.id == new).values(served=row.served))
    return found


def _copy_calibration(between: _Between, run: RunRecord, calibration: str, model: str) -> str:
    here, there = between.here, between.there
    old = calibration_row(here, calibration)
    row = here.execute(sa.select(calibrations).where(calibrations.c.id == old)).one()
    if row.samples != run.samples:
        what = f"{run.id} ({run.samples} samples, now {row.samples})"
        raise StoreError("the calibration has counted more since the run was solved", what, "solve it again, then copy")
    found = there.scalar(sa.select(calibrations.c.id).where(calibrations.c.identity == row.identity))
    values = {name: value for name, value in row._mapping.items() if name not in ("id", "model_id")}
    if found is None:
        new = insert_row(there, calibrations, model_id=model_row(there, model), **values)
    else:
        new = int(found)
        if _digests(here, old) == _digests(there, Row(new)):
            return f"c{new}"
        _check_replaceable(there, new, row.status)
        for owner in (statistics.c.calibration_id, calibration_samples.c.calibration_id):
            there.execute(sa.delete(owner.table).where(owner == new))
        there.execute(calibrations.update().where(calibrations.c.id == new).values(**values))
    between.rows(statistics.c.calibration_id, old, new)
    between.rows(calibration_samples.c.calibration_id, old, new)
    return f"c{new}"


def _digests(connection: sa.Connection, calibration: Row) -> list[tuple[str, str]]:
    query = sa.select(statistics.c.tensor, statistics.c.digest).where(statistics.c.calibration_id == calibration)
    return sorted((row.tensor, row.digest) for row in connection.execute(query))


def _check_replaceable(there: sa.Connection, number: int, status: str) -> None:
    """An unfinished calibration that nothing rests on gives way to the same one, finished."""
    unfinished = there.scalar(sa.select(calibrations.c.status).where(calibrations.c.id == number))
    used = there.scalar(sa.select(sa.func.count()).select_from(runs).where(runs.c.calibration_id == number))
    finishes = unfinished == CalibrationStatus.PARTIAL.value and status == CalibrationStatus.COMPLETE.value
    if not finishes or used or holder(there, number) is not None:
        cure = "finish it on one side, or remove it there (qgraph rm), then copy"
        raise StoreError("the same calibration is there in another state", f"c{number}", cure)
