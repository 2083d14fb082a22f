"""Removing what was stored: a run, a calibration, a model; and what nothing needs any more."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC

import sqlalchemy as sa

from qgraph.errors import BusyError, UsageError
from qgraph.store.database import Database
from qgraph.store.leases import database_now, holder
from qgraph.store.records import CalibrationStatus
from qgraph.store.references import calibration_row, model_row, number_of
from qgraph.store.runs import resolve_run, row_of
from qgraph.store.tables import calibrations, leases, models, runs

SETTLED_SECONDS = 3600.0
"""A model that is younger may belong to a calibration that is about to begin."""


@dataclass(frozen=True, slots=True)
class Removed:
    """What was removed, each as it was called, oldest first."""

    runs: tuple[str, ...] = ()
    calibrations: tuple[str, ...] = ()
    models: tuple[str, ...] = ()


@dataclass(slots=True)
class _Chosen:
    """Rows to remove."""

    runs: set[int] = field(default_factory=set)
    calibrations: set[int] = field(default_factory=set)
    models: set[int] = field(default_factory=set)

    def named(self) -> Removed:
        return Removed(
            tuple(f"r{number}" for number in sorted(self.runs)),
            tuple(f"c{number}" for number in sorted(self.calibrations)),
            tuple(f"m{number}" for number in sorted(self.models)),
        )


def remove(database: Database, references: Iterable[str], *, with_dependents: bool = False) -> Removed:
    """Remove runs (by id, name or ``latest``), calibrations and models: all of them, or none if one is refused.

    Args:
        with_dependents: remove the runs of a calibration, and the calibrations and runs of a model, along with it.

    Raises:
        NotFoundError: there is no such thing.
        UsageError: something else was made from it, and stays.
        BusyError: a live process is counting.
    """
    with database.transaction() as connection:
        chosen = _Chosen()
        for reference in references:
            _choose(connection, reference, chosen)
        dependents = _dependents(connection, chosen)
        if with_dependents:
            chosen = dependents
        else:
            _check_nothing_is_left_behind(chosen, dependents)
        _remove(connection, chosen)
    return chosen.named()


def collect_garbage(database: Database, *, dry_run: bool = False) -> Removed:
    """Remove what nothing needs: calibrations that counted nothing, and models without calibration or run.

    A model of the last hour stays, and so does one that another was made from. Afterwards the file is as small as what
    it holds.

    Args:
        dry_run: only tell what would be removed.
    """
    with database.reading() if dry_run else database.transaction() as connection:
        chosen = _unneeded(connection)
        if not dry_run:
            _remove(connection, chosen)
    if not dry_run:
        with database.outside_transaction() as connection:
            connection.exec_driver_sql("VACUUM")
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    return chosen.named()


def _choose(connection: sa.Connection, reference: str, chosen: _Chosen) -> None:
    if number_of("c", reference) is not None:
        chosen.calibrations.add(calibration_row(connection, reference))
    elif number_of("m", reference) is not None:
        chosen.models.add(model_row(connection, reference))
    else:
        chosen.runs.add(row_of(resolve_run(connection, reference)))


def _dependents(connection: sa.Connection, chosen: _Chosen) -> _Chosen:
    """The chosen rows with all that was made from them."""
    of_models = sa.select(calibrations.c.id).where(calibrations.c.model_id.in_(chosen.models))
    counted = chosen.calibrations | set(connection.scalars(of_models))
    made = sa.select(runs.c.id).where(runs.c.calibration_id.in_(counted) | runs.c.model_id.in_(chosen.models))
    return _Chosen(chosen.runs | set(connection.scalars(made)), counted, chosen.models)


def _check_nothing_is_left_behind(chosen: _Chosen, dependents: _Chosen) -> None:
    left = dependents.named()
    kept = [
        *(name for name in left.calibrations if int(name[1:]) not in chosen.calibrations),
        *(name for name in left.runs if int(name[1:]) not in chosen.runs),
    ]
    if kept:
        named = ", ".join((*chosen.named().models, *chosen.named().calibrations))
        cure = "remove that first, or add --with-dependents"
        raise UsageError("something else was made from this", f"{named} ({', '.join(kept)})", cure)


def _remove(connection: sa.Connection, chosen: _Chosen) -> None:
    held = sa.select(leases.c.calibration_id).where(leases.c.calibration_id.in_(chosen.calibrations))
    for calibration in sorted(connection.scalars(held)):
        busy = holder(connection, calibration)
        if busy is not None:
            raise BusyError("a live process holds the calibration", busy, "end it first, or wait for it")
    for table, rows in ((runs, chosen.runs), (calibrations, chosen.calibrations), (models, chosen.models)):
        for number in sorted(rows):
            connection.execute(table.delete().where(table.c.id == number))


def _unneeded(connection: sa.Connection) -> _Chosen:
    live = {number for number in connection.scalars(sa.select(leases.c.calibration_id)) if holder(connection, number)}
    used = sa.select(runs.c.calibration_id).where(runs.c.calibration_id.is_not(None))
    empty = sa.select(calibrations.c.id).where(
        calibrations.c.status == CalibrationStatus.PARTIAL.value,
        calibrations.c.samples == 0,
        calibrations.c.passes.is_(None),
        calibrations.c.id.not_in(used),
    )
    unused = set(connection.scalars(empty)) - live
    kept = {row.id: row.model_id for row in connection.execute(sa.select(calibrations.c.id, calibrations.c.model_id))}
    needed = {model for number, model in kept.items() if number not in unused}
    needed |= set(connection.scalars(sa.select(runs.c.model_id)))
    now = connection.scalar(sa.select(database_now())) or 0.0
    stored = connection.execute(sa.select(models.c.id, models.c.parent_id, models.c.created)).all()
    parents = {row.id: row.parent_id for row in stored}
    needed |= {row.id for row in stored if now - row.created.replace(tzinfo=UTC).timestamp() < SETTLED_SECONDS}
    for number in sorted(needed):  # the models that a needed one was made from
        parent = parents.get(number)
        while parent is not None and parent not in needed:
            needed.add(parent)
            parent = parents.get(parent)
    return _Chosen(set(), unused, set(parents) - needed)
