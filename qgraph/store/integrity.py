"""Whether a database is whole: for ``qgraph db check``."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from qgraph.store.blobs import digest
from qgraph.store.database import Database
from qgraph.store.schema import require_current
from qgraph.store.tables import (
    constant_statistics,
    edges,
    metadata,
    requantized,
    run_groups,
    runs,
    slots,
    statistics,
    tqcs,
)
from qgraph.tqc import QuantizationState


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that should not be in a database: the check that found it, and what it found."""

    check: str
    what: str


def check(database: Database) -> list[Finding]:
    """Look for damage, in the file and in what it says. Nothing is changed.

    Raises:
        SchemaError: the schema is not the current one; upgrade first.
        StoreError: the database cannot be read at all.
    """
    with database.reading() as connection:
        require_current(connection)
        findings = []
        if connection.dialect.name == "sqlite":
            findings += _file(connection)
        findings += _states(connection)
        findings += _slots(connection)
        findings += _blobs(connection)
    return findings


def row_counts(database: Database) -> dict[str, int]:
    """How many rows each table has, by the table's name."""
    with database.reading() as connection:
        return {
            name: int(connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0)
            for name, table in sorted(metadata.tables.items())
        }


def _file(connection: sa.Connection) -> list[Finding]:
    damaged = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
    dangling = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    return [Finding("file", str(line)) for line in damaged if line != "ok"] + [
        Finding("references", f"row {row[1]} of {row[0]} refers to a row of {row[2]} that is not there")
        for row in dangling
    ]


def _states(connection: sa.Connection) -> list[Finding]:
    """Configs whose state does not go with their group, their master or their scale."""
    slave = tqcs.c.state == QuantizationState.SLAVE.value
    unquantized = tqcs.c.state == QuantizationState.FP32.value
    known_group = sa.exists().where(run_groups.c.run_id == tqcs.c.run_id, run_groups.c.id == tqcs.c.group_row)
    contradictions = {
        "is SLAVE without a master": slave & tqcs.c.master.is_(None),
        "has a master but is not SLAVE": ~slave & tqcs.c.master.is_not(None),
        "is FP32 but in a group": unquantized & tqcs.c.group_row.is_not(None),
        "is in a group that the run does not have": tqcs.c.group_row.is_not(None) & ~known_group,
        "has a scale without an offset": tqcs.c.scale.is_not(None) & tqcs.c.offset.is_(None),
    }
    named = sa.select(tqcs.c.run_id, slots.c.name).join(slots)
    return [
        Finding("states", f"r{row.run_id}: {row.name} {what}")
        for what, condition in contradictions.items()
        for row in connection.execute(named.where(condition).order_by(tqcs.c.run_id, slots.c.name))
    ]


def _slots(connection: sa.Connection) -> list[Finding]:
    """Masters and ends of edges that have no config in their run."""
    findings = []
    columns = (
        tqcs.c.master,
        run_groups.c.master,
        edges.c.a,
        edges.c.b,
        requantized.c.slot_id,
        requantized.c.producer_id,
    )
    for column in columns:
        owner = tqcs.alias("owner")
        there = sa.exists().where(owner.c.run_id == column.table.c.run_id, owner.c.slot_id == column)
        query = sa.select(runs.c.id, sa.func.count().label("number")).join(
            column.table, column.table.c.run_id == runs.c.id
        )
        rows = connection.execute(query.where(column.is_not(None), ~there).group_by(runs.c.id).order_by(runs.c.id))
        findings += [
            Finding("slots", f"r{row.id}: {row.number} of {column.table.name}.{column.name} have no config")
            for row in rows
        ]
    return findings


def _blobs(connection: sa.Connection) -> list[Finding]:
    findings: list[Finding] = []
    for table, owner, letter in (
        (statistics, statistics.c.calibration_id, "c"),
        (constant_statistics, constant_statistics.c.model_id, "m"),
    ):
        query = sa.select(owner.label("owner"), table.c.tensor, table.c.digest, table.c.blob)
        findings += [
            Finding("statistics", f"{letter}{row.owner}: those of {row.tensor} are damaged")
            for row in connection.execute(query.order_by(owner, table.c.tensor))
            if digest(row.blob) != row.digest
        ]
    return findings
