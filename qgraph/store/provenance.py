"""Where a run comes from: its lineage back to the files, and which field of it differs from another run's.

A model has one fingerprint, of all that its file says. `graph` and ``weights`` tell which half of it changed: digests
of the structure as it is stored, and of what is known of the constants' values (None before the first calibration).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from qgraph.store.blobs import digest
from qgraph.store.calibrations import load_calibration
from qgraph.store.encoding import Encodable, encode
from qgraph.store.models import load_model
from qgraph.store.records import CalibrationRecord, ModelRecord, RunRecord
from qgraph.store.references import calibration_row, model_row
from qgraph.store.runs import resolve_run
from qgraph.store.tables import (
    bias_magnitudes,
    calibration_samples,
    constant_statistics,
    models,
    ops,
    slots,
    tensors,
    weight_solutions,
)

Answer = dict[str, Any]

LONGEST_LINE_OF_PARENTS = 1000
"""A crafted database may hold a loop."""


def provenance(connection: sa.Connection, run: str) -> Answer:
    """The lineage of a run: run, calibration, model, and the models that it was made from.

    ``{"run", "lineage": {"run": {…}, "calibration": {…} or None, "model": {…}, "parents": [{…}]}}``, see
    `_run`, `_calibration` and `_model` for what is in each.

    Raises:
        NotFoundError: no such run.
    """
    record = resolve_run(connection, run)
    calibrated = None if record.calibration is None else _calibration(connection, record.calibration)
    return {
        "run": record.id,
        "lineage": {
            "run": _run(record),
            "calibration": calibrated,
            "model": _model(connection, load_model(connection, record.model)),
            "parents": [_model(connection, parent) for parent in _parents(connection, record.model)],
        },
    }


def differing(a: Answer, b: Answer) -> dict[str, tuple[Any, Any]]:
    """The fields of two lineages that differ, with both values: where files lie and when rows were made do not count.

    Settings are not repeated here: a diff lists them by themselves.
    """
    flat_a, flat_b = (_flat(one["lineage"]) for one in (a, b))
    names = sorted(flat_a.keys() | flat_b.keys())
    return {name: (flat_a.get(name), flat_b.get(name)) for name in names if flat_a.get(name) != flat_b.get(name)}


_IDENTIFYING = {
    "run": ("samples", "version"),
    "calibration": (
        "data", "preprocessing", "steps", "batch_size", "runner", "capability", "shard", "status", "sample_set",
        "version",
    ),
    "model": ("fingerprint", "graph", "weights", "opset"),
}  # fmt: skip


def _flat(lineage: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for part, names in _IDENTIFYING.items():
        known = lineage[part]
        flat |= {f"{part}.{name}": None if known is None else known[name] for name in names}
    return flat


def _run(record: RunRecord) -> Answer:
    settings = {name: getattr(record.settings, name) for name in record.settings.__slots__}
    settings["observer_parameters"] = dict(record.settings.observer_parameters)
    return {
        "id": record.id,
        "name": record.name,
        "samples": record.samples,
        "settings": settings,
        "created": record.created,
        "version": record.version,
    }


def _calibration(connection: sa.Connection, reference: str) -> Answer:
    """Identity field by field, and the digest of the multiset of samples that were counted."""
    record: CalibrationRecord = load_calibration(connection, reference)
    identity = {
        field.name: getattr(record.identity, field.name)
        for field in dataclasses.fields(record.identity)
        if field.name != "model"
    }
    counted = calibration_samples
    mine = counted.c.calibration_id == calibration_row(connection, reference)
    query = sa.select(counted.c.sample, counted.c.multiplicity).where(mine).order_by(counted.c.sample)
    rows = connection.execute(query).all()
    return {
        "id": record.id,
        **identity,
        "identity": record.identity.digest,
        "status": str(record.status),
        "samples": record.samples,
        "distinct_samples": len(rows),
        "sample_set": _digest(tuple((row.sample, row.multiplicity) for row in rows)) if rows else None,
        "inferences": record.inferences,
        "created": record.created,
        "updated": record.updated,
        "version": record.version,
    }


def _model(connection: sa.Connection, record: ModelRecord) -> Answer:
    return {
        "id": record.id,
        "name": record.name,
        "path": record.path,
        "fingerprint": record.fingerprint,
        "graph": _graph_digest(connection, record),
        "weights": _weights_digest(connection, record),
        "opset": record.opset,
        "created": record.created,
        "parent": record.parent,
        "derivation": None if record.derivation is None else dict(record.derivation),
    }


def _parents(connection: sa.Connection, model: str) -> list[ModelRecord]:
    found: list[ModelRecord] = []
    current = load_model(connection, model)
    while current.parent is not None and len(found) < LONGEST_LINE_OF_PARENTS:
        current = load_model(connection, current.parent)
        found.append(current)
    return found


def _graph_digest(connection: sa.Connection, model: ModelRecord) -> str:
    """Of ops, tensors and slots, without the constants' values; the same whatever the order of rows."""
    number = model_row(connection, model.id)
    head = connection.execute(sa.select(models.c.inputs, models.c.outputs).where(models.c.id == number)).one()
    op = sa.select(ops.c.name, ops.c.type, ops.c.domain, ops.c.attributes).where(ops.c.model_id == number)
    tensor = sa.select(tensors.c.name, tensors.c.dtype, tensors.c.shape).where(tensors.c.model_id == number)
    slot = sa.select(slots.c.name, tensors.c.name.label("tensor")).join(tensors).where(slots.c.model_id == number)
    parts = [sorted(tuple(map(str, row)) for row in connection.execute(query)) for query in (op, tensor, slot)]
    return _digest((head.inputs, head.outputs, *(tuple(part) for part in parts)))


def _weights_digest(connection: sa.Connection, model: ModelRecord) -> str | None:
    number = model_row(connection, model.id)
    values = tensors.c["values"]
    small = sa.select(tensors.c.name, values).where(tensors.c.model_id == number, values.is_not(None))
    solved = sa.select(*weight_solutions.c).where(weight_solutions.c.model_id == number)
    bias = sa.select(bias_magnitudes.c.tensor, bias_magnitudes.c.magnitudes).where(bias_magnitudes.c.model_id == number)
    counted = constant_statistics
    other = sa.select(counted.c.tensor, counted.c.digest).where(counted.c.model_id == number)
    known = [_rows(connection, query) for query in (solved, bias, other)]
    return _digest((_rows(connection, small), *known)) if any(known) else None


def _rows(connection: sa.Connection, query: sa.Select[Any]) -> tuple[tuple[str, ...], ...]:
    """All rows as texts, sorted; the model's own number is no part of what it is."""
    rows = (row._mapping for row in connection.execute(query))
    return tuple(sorted(tuple(str(value) for name, value in row.items() if name != "model_id") for row in rows))


def _digest(value: Encodable) -> str:
    return digest(encode(value).encode())
