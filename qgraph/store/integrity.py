"""Whether a database is whole, for ``qgraph db check``: in its file, and in what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa

from qgraph.errors import DamagedError, QgraphError
from qgraph.store.blobs import digest
from qgraph.store.calibrations import list_calibrations
from qgraph.store.database import Database, open_database
from qgraph.store.evidence import load_evidence
from qgraph.store.failures import UNREADABLE
from qgraph.store.models import list_models, load_structure
from qgraph.store.records import CalibrationStatus
from qgraph.store.runs import load_run, resolve_run
from qgraph.store.schema import require_current
from qgraph.store.tables import (
    calibration_samples,
    calibrations,
    constant_statistics,
    edges,
    models,
    requantized,
    run_groups,
    run_rules,
    runs,
    slots,
    statistics,
    tqcs,
)
from qgraph.tqc import QuantizationState

Decoder = Callable[[bytes], object]
"""Reads a blob; raises a `QgraphError` for one that it cannot."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that should not be in a database: the check that found it, and what it found."""

    check: str
    what: str


def examine(location: str, decode: Decoder | None = None) -> list[Finding]:
    """Open a database and `check` it; damage that keeps it from being opened is a finding too.

    Raises:
        StoreError: there is no database, or the file never was one.
        SchemaError: the schema is not the current one; upgrade first.
    """
    try:
        database = open_database(location, create=False)
    except DamagedError as error:
        return [_damage(error)]
    try:
        return check(database, decode)
    finally:
        database.close()


def check(database: Database, decode: Decoder | None = None) -> list[Finding]:
    """Look for damage. Nothing is changed, and what one check cannot read does not keep the others from looking.

    Args:
        decode: reads a blob of statistics; without one only their checksums are looked at.

    Raises:
        SchemaError: the schema is not the current one; upgrade first.
        StoreError: the database cannot be read at all, for another reason than damage.
    """
    with database.reading() as connection:
        require_current(connection)
        sqlite = connection.dialect.name == "sqlite"
    checks = (*((_file,) if sqlite else ()), _states, _groups, _slots, _rules, partial(_blobs, decode=decode), _counted)
    found: list[Finding] = []
    for look in (*checks, _models, _calibrations, _runs):
        try:
            with database.reading() as connection:
                found += look(connection)
        except DamagedError as error:
            found.append(_damage(error))
    return list(dict.fromkeys(found))


def _damage(error: DamagedError) -> Finding:
    return Finding("file", f"{error.what}: {error.which}; {error.cure}")


def _file(connection: sa.Connection) -> Iterator[Finding]:
    for line in connection.exec_driver_sql("PRAGMA integrity_check").scalars():
        if line != "ok":
            yield Finding("file", str(line))
    for table, row, parent, _ in connection.exec_driver_sql("PRAGMA foreign_key_check"):
        yield Finding("references", f"row {row} of {table} refers to a row of {parent} that is not there")


def _states(connection: sa.Connection) -> Iterator[Finding]:
    """Configs whose state does not go with their group, their master or their scale."""
    slave = tqcs.c.state == QuantizationState.SLAVE.value
    unquantized = tqcs.c.state == QuantizationState.FP32.value
    known_group = sa.exists().where(run_groups.c.run_id == tqcs.c.run_id, run_groups.c.id == tqcs.c.group_row)
    owner = tqcs.alias("owner")
    mine = (owner.c.run_id == tqcs.c.run_id) & (owner.c.slot_id == tqcs.c.master)
    yield from _contradictions(
        connection,
        {
            "is SLAVE without a master": slave & tqcs.c.master.is_(None),
            "has a master but is not SLAVE": ~slave & tqcs.c.master.is_not(None),
            "is FP32 but in a group": unquantized & tqcs.c.group_row.is_not(None),
            "is in a group that the run does not have": tqcs.c.group_row.is_not(None) & ~known_group,
            "is its own master": tqcs.c.master == tqcs.c.slot_id,
            "is in another group than its master": sa.exists().where(
                mine, owner.c.group_row.is_distinct_from(tqcs.c.group_row)
            ),
            "has another scale than its master": sa.exists().where(
                mine,
                owner.c.scale.is_distinct_from(tqcs.c.scale) | owner.c.scales.is_distinct_from(tqcs.c.scales),
            ),
            "has another offset than its master": sa.exists().where(
                mine,
                owner.c.offset.is_distinct_from(tqcs.c.offset) | owner.c.offsets.is_distinct_from(tqcs.c.offsets),
            ),
        },
    )


def _groups(connection: sa.Connection) -> Iterator[Finding]:
    """Groups that do not go with their members."""
    member = tqcs.c.group_row == run_groups.c.id
    empty = ~sa.exists().where(member)
    strange = ~sa.exists().where(member, tqcs.c.slot_id == run_groups.c.master)
    named = sa.select(run_groups.c.run_id, run_groups.c.group_id).order_by(run_groups.c.run_id, run_groups.c.group_id)
    for what, condition in {"has no member": empty, "has a master that is no member": ~empty & strange}.items():
        for row in connection.execute(named.where(condition)):
            yield Finding("groups", f"r{row.run_id}: group {row.group_id} {what}")
    other = tqcs.c.scheme.is_distinct_from(run_groups.c.scheme)
    condition = sa.exists().where(run_groups.c.id == tqcs.c.group_row, other)
    yield from _contradictions(connection, {"has another scheme than its group": condition})


def _contradictions(connection: sa.Connection, conditions: dict[str, sa.ColumnElement[bool]]) -> Iterator[Finding]:
    named = sa.select(tqcs.c.run_id, slots.c.name).join(slots, slots.c.id == tqcs.c.slot_id)
    for what, condition in conditions.items():
        for row in connection.execute(named.where(condition).order_by(tqcs.c.run_id, slots.c.name)):
            yield Finding("states", f"r{row.run_id}: {row.name} {what}")


def _slots(connection: sa.Connection) -> Iterator[Finding]:
    """Masters and ends of edges that have no config in their run."""
    for column in (
        tqcs.c.master,
        run_groups.c.master,
        edges.c.a,
        edges.c.b,
        requantized.c.slot_id,
        requantized.c.producer_id,
    ):
        owner = tqcs.alias("owner")
        there = sa.exists().where(owner.c.run_id == column.table.c.run_id, owner.c.slot_id == column)
        query = sa.select(runs.c.id, sa.func.count().label("number")).join(
            column.table, column.table.c.run_id == runs.c.id
        )
        for row in connection.execute(query.where(column.is_not(None), ~there).group_by(runs.c.id).order_by(runs.c.id)):
            what = f"{row.number} of {column.table.name}.{column.name} have no config"
            yield Finding("slots", f"r{row.id}: {what}")


def _rules(connection: sa.Connection) -> Iterator[Finding]:
    """Edges made by rules that their run does not have."""
    there = sa.exists().where(run_rules.c.run_id == edges.c.run_id, run_rules.c.number == edges.c.rule)
    unknown = sa.select(edges.c.run_id, sa.func.count().label("number")).where(edges.c.rule.is_not(None), ~there)
    for row in connection.execute(unknown.group_by(edges.c.run_id).order_by(edges.c.run_id)):
        yield Finding("rules", f"r{row.run_id}: {row.number} edges have a rule that the run does not have")


def _blobs(connection: sa.Connection, *, decode: Decoder | None) -> Iterator[Finding]:
    for table, owner, letter in (
        (statistics, statistics.c.calibration_id, "c"),
        (constant_statistics, constant_statistics.c.model_id, "m"),
    ):
        one = sa.select(table.c.blob).where(table.c.id == sa.bindparam("row"))
        query = sa.select(table.c.id, owner.label("owner"), table.c.tensor, table.c.digest)
        for row in connection.execute(query.order_by(owner, table.c.tensor)).all():
            blob = connection.scalar(one, {"row": row.id})  # one by one, as together they may not fit the memory
            where = f"{letter}{row.owner}: those of {row.tensor}"
            if not isinstance(blob, bytes) or digest(blob) != row.digest:
                yield Finding("statistics", f"{where} are damaged")
                continue
            try:
                if decode is not None:
                    decode(blob)
            except QgraphError as error:
                yield Finding("statistics", f"{where} cannot be read: {error.what} ({error.which})")


def _counted(connection: sa.Connection) -> Iterator[Finding]:
    """Finished calibrations that name other samples than they counted."""
    named = sa.select(sa.func.coalesce(sa.func.sum(calibration_samples.c.multiplicity), 0))
    total = named.where(calibration_samples.c.calibration_id == calibrations.c.id).scalar_subquery()
    query = sa.select(calibrations.c.id, calibrations.c.samples, total.label("named"))
    finished = calibrations.c.status == CalibrationStatus.COMPLETE.value
    for row in connection.execute(query.where(finished, total != calibrations.c.samples).order_by(calibrations.c.id)):
        yield Finding("samples", f"c{row.id}: {row.samples} were counted, {row.named} are named")


def _models(connection: sa.Connection) -> Iterator[Finding]:
    """Models that cannot be read back, or that were made from themselves."""
    for record in list_models(connection):
        try:
            load_structure(connection, record.id)
            load_evidence(connection, record.id)
        except (QgraphError, *UNREADABLE) as error:
            yield Finding("models", f"{record.id}: cannot be read ({error})")
    rows = connection.execute(sa.select(models.c.id, models.c.parent_id))
    parents = {row.id: row.parent_id for row in rows}
    for model in sorted(parents):
        seen = {model}
        parent = parents[model]
        while parent is not None and parent not in seen:
            seen.add(parent)
            parent = parents.get(parent)
        if parent == model:
            yield Finding("models", f"m{model}: was made from itself")


def _calibrations(connection: sa.Connection) -> Iterator[Finding]:
    list_calibrations(connection)
    yield from ()


def _runs(connection: sa.Connection) -> Iterator[Finding]:
    """Runs that cannot be read back."""
    for number in connection.scalars(sa.select(runs.c.id).order_by(runs.c.id)).all():
        try:
            load_run(connection, resolve_run(connection, f"r{number}").id)
        except (QgraphError, *UNREADABLE) as error:
            yield Finding("runs", f"r{number}: cannot be read ({error})")
