"""Runs: stored once per settings, found by id, by name or as the latest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import version
from typing import Any

import sqlalchemy as sa

from qgraph.errors import NotFoundError, UsageError
from qgraph.hints import suggest
from qgraph.objects import many_objects
from qgraph.solve.run import RunData, RunSettings
from qgraph.store.bulk import insert_row
from qgraph.store.encoding import decode, encode, moment
from qgraph.store.records import RunRecord
from qgraph.store.references import calibration_row, model_row, number_of
from qgraph.store.run_reading import read_choices, read_configs, read_events, read_findings, read_grouping, slot_names
from qgraph.store.run_writing import write_run
from qgraph.store.schema import name_of
from qgraph.store.tables import calibrations, runs

LATEST = "latest"

LONGEST_NAME = 200
"""Characters; a name is typed by hand and stands in tables."""


@many_objects()
def save_run(
    connection: sa.Connection,
    model: str,
    calibration: str | None,
    run: RunData,
    *,
    name: str | None = None,
    given: str | None = None,
) -> str:
    """Store a solved run, unless the same one is stored already.

    The same run means: same model, same calibration with as many samples counted, same settings, same `given`.
    Without a name, or with the name that it has, the stored one is used; if it has no name, it gets the new one. Under
    another name the run is stored a second time, so that each name that was given stays good.

    Args:
        model: ``m1``.
        calibration: ``c1``; None for a run without scales.
        given: a digest of the parameters that the run did not solve but was given; None where there are none.

    Returns:
        The run's id, ``r1``.

    Raises:
        NotFoundError: no such model or calibration.
        UsageError: the name is another run's, or none that a run can have (`check_name_is_usable`).
        StoreError: the run contradicts itself or its model.
    """
    model_id = model_row(connection, model)
    calibration_id = None if calibration is None else calibration_row(connection, calibration)
    samples = _samples(connection, calibration_id)
    identity = _identity(model_id, calibration_id, samples, run.settings, given)
    if name is not None:
        check_name_is_usable(name)
        _check_clash(connection, name, identity)
    same = connection.execute(sa.select(runs.c.id, runs.c.name).where(runs.c.identity == identity)).all()
    for row in sorted(same, key=lambda row: (row.name != name, row.name is not None, row.id)):
        if name is None or row.name == name:
            return f"r{row.id}"
        if row.name is None:
            connection.execute(runs.update().where(runs.c.id == row.id).values(name=name))
            return f"r{row.id}"
    number = insert_row(
        connection,
        runs,
        name=name,
        model_id=model_id,
        calibration_id=calibration_id,
        samples=samples,
        target=run.settings.target,
        target_version=run.settings.target_version,
        observer=run.settings.observer,
        settings=_encode_settings(run.settings),
        identity=identity,
        version=version("qgraph"),
    )
    write_run(connection, number, model_id, run)
    return f"r{number}"


def check_name_is_usable(name: str) -> None:
    """Refuse what would be taken for an id or an option, or cannot be typed and printed on one line.

    Whether another run has the name is not looked at.

    Raises:
        UsageError: a run cannot have this name.
    """
    cure = None
    if not name or name != name.strip() or not name.isprintable():
        cure = "use printing characters, and no space at either end"
    elif len(name) > LONGEST_NAME:
        cure = f"use at most {LONGEST_NAME} characters"
    elif name == LATEST or (name[0] in "rcm" and name[1:].isdigit()):
        cure = "choose one that is neither an id nor 'latest'"
    elif name.startswith("-"):
        cure = "let it begin with something else than -"
    if cure is not None:
        shown = ascii(name)
        raise UsageError("a run cannot have this name", shown if len(shown) <= 60 else f"{shown[:60]}…", cure)


def find_run(connection: sa.Connection, model: str, calibration: str | None, settings: RunSettings) -> RunRecord | None:
    """The newest stored run of these settings on the calibration as it is now, if there is one."""
    model_id = model_row(connection, model)
    calibration_id = None if calibration is None else calibration_row(connection, calibration)
    identity = _identity(model_id, calibration_id, _samples(connection, calibration_id), settings)
    query = sa.select(runs).where(runs.c.identity == identity).order_by(runs.c.id.desc())
    row = connection.execute(query).first()
    return None if row is None else _record(row)


def list_runs(connection: sa.Connection) -> list[RunRecord]:
    """All runs, oldest first."""
    return [_record(row) for row in connection.execute(sa.select(runs).order_by(runs.c.id))]


def resolve_run(connection: sa.Connection, reference: str) -> RunRecord:
    """Find a run by its id (``r1``), its name, or as ``latest``, the newest.

    Raises:
        NotFoundError: there is none; the cure suggests near ids and names.
    """
    number = number_of("r", reference)
    condition = runs.c.name == reference if number is None else runs.c.id == number
    if reference == LATEST:
        condition = runs.c.id == sa.select(sa.func.max(runs.c.id)).scalar_subquery()
    row = connection.execute(sa.select(runs).where(condition)).one_or_none()
    if row is not None:
        return _record(row)
    found = connection.execute(sa.select(runs.c.id, runs.c.name)).all()
    known = [f"r{row.id}" for row in found] + [row.name for row in found if row.name is not None]
    listed = suggest("runs", db=name_of(connection))
    otherwise = f"see {listed}" if found else "run qgraph analyze or qgraph calibrate --target first"
    raise NotFoundError.among("run", reference, known, otherwise)


@many_objects()
def load_run(connection: sa.Connection, reference: str) -> RunData:
    """Restore what `save_run` stored, exactly.

    Raises:
        NotFoundError: no such run.
    """
    record = resolve_run(connection, reference)
    number = row_of(record)
    names = slot_names(connection, number)
    configs = read_configs(connection, number, names)
    grouping, prices = read_grouping(connection, number, names, configs)
    return RunData(
        settings=record.settings,
        tqcs=configs.tqcs,
        grouping=grouping,
        requantize_price_db=prices,
        events=read_events(connection, number),
        findings=read_findings(connection, number),
        choices=read_choices(connection, number),
    )


def row_of(record: RunRecord) -> int:
    """The number in a run's id."""
    return int(record.id[1:])


def _samples(connection: sa.Connection, calibration: int | None) -> int:
    if calibration is None:
        return 0
    return int(connection.scalar(sa.select(calibrations.c.samples).where(calibrations.c.id == calibration)) or 0)


def _identity(
    model: int, calibration: int | None, samples: int, settings: RunSettings, given: str | None = None
) -> str:
    known = (model, calibration, samples, _encode_settings(settings))
    key = encode(known if given is None else (*known, given))
    return hashlib.sha256(key.encode()).hexdigest()


def _check_clash(connection: sa.Connection, name: str, identity: str) -> None:
    taken = connection.execute(sa.select(runs.c.id, runs.c.identity).where(runs.c.name == name)).one_or_none()
    if taken is not None and taken.identity != identity:
        raise UsageError("the name is already another run's", f"{name} (r{taken.id})", "choose another --name")


def _encode_settings(settings: RunSettings) -> str:
    values = {field.name: getattr(settings, field.name) for field in fields(RunSettings)}
    return encode({name: _sorted(value) for name, value in sorted(values.items())})


def _sorted(value: Any) -> Any:
    """Mappings in one order, so that equal settings have equal texts."""
    return dict(sorted(value.items())) if isinstance(value, Mapping) else value


def _record(row: sa.Row[Any]) -> RunRecord:
    return RunRecord(
        id=f"r{row.id}",
        name=row.name,
        model=f"m{row.model_id}",
        calibration=None if row.calibration_id is None else f"c{row.calibration_id}",
        samples=row.samples,
        settings=RunSettings(**decode(row.settings)),
        created=moment(row.created),
        version=row.version,
    )
