"""Answers about stored runs, in the shape in which the command line prints them as JSON.

Every function takes a run by id, name or ``latest``. A tensor means its producer's slot; its other scales are
requantizes. Scale and offset are a number each, lists where per channel, None where there is none. Floats may be
infinite or NaN: noise is −inf dB where nothing is lost.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import Any

import sqlalchemy as sa

from qgraph.solve.run import FINDING_FIELDS
from qgraph.store import views
from qgraph.store.blobs import digest
from qgraph.store.encoding import decode_optional, encode
from qgraph.store.lookup import on_tensor, tensor_row
from qgraph.store.models import list_models, load_model
from qgraph.store.records import ModelRecord, RunRecord
from qgraph.store.references import calibration_row
from qgraph.store.run_reading import read_choices, read_events, read_findings
from qgraph.store.runs import list_runs, resolve_run, row_of
from qgraph.store.tables import statistics

Answer = dict[str, Any]


def runs(connection: sa.Connection) -> Answer:
    """All runs, oldest first.

    ``{"runs": [{"run", "name", "model", "model_name", "model_path", "calibration", "samples", "settings",
    "created"}]}``; ``"model_path"`` is None for a model that came from memory.
    """
    models = {model.id: model for model in list_models(connection)}
    return {"runs": [_describe(record, models[record.model]) for record in list_runs(connection)]}


def show(connection: sa.Connection, run: str) -> Answer:
    """One run at a glance: what it is, how many groups, requantizes and configs per state, what the solver told.

    ``"observers"`` counts the groups by the observer that ``auto`` took; it is empty in a run of another observer.

    ``"statistics"`` is a digest of the calibration's: ``{"tensors", "bytes", "digest"}``; None without a calibration.
    """
    record = resolve_run(connection, run)
    return {
        **_describe(record, load_model(connection, record.model)),
        "statistics": None if record.calibration is None else _statistics(connection, record.calibration),
        "groups": _count(connection, views.shared_groups, record),
        "requantizes": _count(connection, views.requantizes, record),
        "states": _states(connection, views.slot_scales, record),
        "observers": dict(
            sorted(Counter(c.observer for c in read_choices(connection, row_of(record)).values()).items())
        ),
        "events": list(read_events(connection, row_of(record))),
        "findings": _findings(connection, record),
    }


def tensor(connection: sa.Connection, run: str, name: str) -> Answer:
    """All that a run says of one tensor, with the config of every slot on it.

    Raises:
        NotFoundError: the run has no such float tensor.
    """
    record = resolve_run(connection, run)
    view = views.slot_scales
    name = tensor_row(connection, record, name).tensor
    query = sa.select(view).where(*on_tensor(view, record, name))
    configs = [
        {
            "slot": row.slot,
            "role": row.role,
            "state": row.state,
            **_parameters(row),
            "bits": row.bits,
            "symmetric": row.symmetric,
            "group": row.group_id,
            "master": row.master,
            "reason": row.reason,
            "observer": row.observer,
            "observer_reason": row.observer_reason,
            "noise_db": row.noise_db,
            "price_db": row.price_db,
        }
        for row in connection.execute(query.order_by(sa.desc(view.c.represents), view.c.slot))
    ]
    return {"run": record.id, "tensor": name, "slots": configs}


def groups(connection: sa.Connection, run: str, *, by_cost: bool = False) -> Answer:
    """All groups, singletons too.

    ``{"run", "groups": [{"id", "tensors", "as_read", "slots", "scale", "offset", "price_db", "observer",
    "observer_reason"}]}``; `as_read` are tensors that are made with another scale, or none, and read with this one; the
    last two say which observer ``auto`` took and why, and are None in a run of another observer.

    Args:
        by_cost: the dearest first instead of by id; `price_db` is the largest price that a member pays.
    """
    record = resolve_run(connection, run)
    number = row_of(record)
    on_tensors, as_read, members = _members(connection, number)
    view = views.shared_groups
    found = [
        {
            "id": row.group_id,
            "tensors": on_tensors.get(row.group_id, []),
            "as_read": as_read.get(row.group_id, []),
            "slots": members.get(row.group_id, []),
            **_parameters(row),
            "price_db": row.price_db,
            "observer": row.observer,
            "observer_reason": row.observer_reason,
        }
        for row in connection.execute(sa.select(view).where(view.c.run_id == number))
    ]
    found.sort(key=lambda group: (_dearest_first(group["price_db"]) if by_cost else 0.0, group["id"]))
    return {"run": record.id, "groups": found}


def scales(connection: sa.Connection, run: str) -> Answer:
    """The scale of every float tensor, and the requantizes.

    ``{"run", "tensors": {name: {"state", "scale", "offset", "group", "bits", "symmetric", "reason", "observer"}},
    "requantize": [{"tensor", "slot", "scale", "offset"}]}``
    """
    record = resolve_run(connection, run)
    number = row_of(record)
    view = views.tensor_scales
    found = {
        row.tensor: {
            "state": row.state,
            **_parameters(row),
            "group": row.group_id,
            "bits": row.bits,
            "symmetric": row.symmetric,
            "reason": row.reason,
            "observer": row.observer,
        }
        for row in connection.execute(sa.select(view).where(view.c.run_id == number))
    }
    again = views.requantizes
    requantize = [
        {"tensor": row.tensor, "slot": row.slot, **_parameters(row)}
        for row in connection.execute(sa.select(again).where(again.c.run_id == number))
    ]
    requantize.sort(key=lambda item: item["slot"])
    return {"run": record.id, "tensors": dict(sorted(found.items())), "requantize": requantize}


def share(connection: sa.Connection, run: str, name: str) -> Answer:
    """Who shares scale and offset with a tensor.

    ``{"tensor", "run", "group", "state", "reason", "scale", "offset", "tensors", "slots"}``; both lists are empty
    where the tensor is not quantized.

    Raises:
        NotFoundError: the run has no such float tensor.
    """
    record = resolve_run(connection, run)
    row = tensor_row(connection, record, name)
    grouped = row.group_id is not None
    on_tensors, _, members = _members(connection, row_of(record), row.group_id) if grouped else ({}, {}, {})
    return {
        "tensor": row.tensor,
        "run": record.id,
        "group": row.group_id,
        "state": row.state,
        "reason": row.reason,
        **_parameters(row),
        "tensors": on_tensors.get(row.group_id, []),
        "slots": members.get(row.group_id, []),
    }


def coverage(connection: sa.Connection, run: str) -> Answer:
    """Whether every float tensor is accounted for: quantized, or left float with a reason.

    ``{"run", "tensors": {state: count}, "slots": {state: count}, "not_quantized": [{"slot", "tensor", "reason"}],
    "missing": [{"slot", "tensor", "state", "reason"}],
    "findings": [{"kind", "rule", "op", "op_type", "source", "slots", "message"}]}``. A slot is missing if it shall be
    quantized and has no scale, or is left float without a reason: a target would have to make up what to do there.
    Findings are broken bounds on ratios, types of ops that the target's pack does not name, and outputs of custom ops
    whose type is not known.
    """
    record = resolve_run(connection, run)
    view = views.slot_scales
    query = sa.select(view.c.slot, view.c.tensor, view.c.state, view.c.reason)
    mine = view.c.run_id == row_of(record)
    left_out = connection.execute(query.where(mine, view.c.state == "FP32")).all()
    unknown = query.where(mine, view.c.state != "FP32", view.c.scale.is_(None), view.c.scales.is_(None))
    missing = [*(row for row in left_out if not row.reason), *connection.execute(unknown)]
    return {
        "run": record.id,
        "tensors": _states(connection, views.tensor_scales, record),
        "slots": _states(connection, views.slot_scales, record),
        "not_quantized": [{"slot": row.slot, "tensor": row.tensor, "reason": row.reason} for row in sorted(left_out)],
        "missing": [dict(row._mapping) for row in sorted(missing)],
        "findings": _findings(connection, record),
    }


def _findings(connection: sa.Connection, record: RunRecord) -> list[Answer]:
    found = read_findings(connection, row_of(record))
    return [{**{name: getattr(one, name) for name in FINDING_FIELDS}, "slots": list(one.slots)} for one in found]


def _describe(record: RunRecord, model: ModelRecord) -> Answer:
    names = record.settings.__slots__
    values = {name: getattr(record.settings, name) for name in names}
    values["observer_parameters"] = dict(record.settings.observer_parameters)
    return {
        "run": record.id,
        "name": record.name,
        "model": record.model,
        "model_name": model.name,
        "model_path": model.path,
        "calibration": record.calibration,
        "samples": record.samples,
        "settings": values,
        "created": record.created,
    }


def _statistics(connection: sa.Connection, calibration: str) -> Answer:
    number = calibration_row(connection, calibration)
    query = sa.select(statistics.c.tensor, statistics.c.digest, sa.func.length(statistics.c.blob).label("size"))
    rows = connection.execute(query.where(statistics.c.calibration_id == number).order_by(statistics.c.tensor)).all()
    listed = encode(tuple((row.tensor, row.digest) for row in rows))
    return {"tensors": len(rows), "bytes": sum(row.size for row in rows), "digest": digest(listed.encode())}


def _count(connection: sa.Connection, view: sa.TableClause, record: RunRecord) -> int:
    query = sa.select(sa.func.count()).select_from(view).where(view.c.run_id == row_of(record))
    return int(connection.scalar(query) or 0)


def _states(connection: sa.Connection, view: sa.TableClause, record: RunRecord) -> dict[str, int]:
    query = sa.select(view.c.state, sa.func.count().label("number")).where(view.c.run_id == row_of(record))
    rows = connection.execute(query.group_by(view.c.state).order_by(view.c.state))
    return {row.state: row.number for row in rows}


def _members(
    connection: sa.Connection, run: int, group: str | None = None
) -> tuple[dict[str, list[str]], dict[str, list[str]], dict[str, list[str]]]:
    """By group the tensors whose names mean it, those that are only read in it, and the slots, each sorted."""
    view = views.group_members
    query = sa.select(view.c.group_id, view.c.slot, view.c.tensor, view.c.represents).where(view.c.run_id == run)
    if group is not None:
        query = query.where(view.c.group_id == group)
    on_tensors: dict[str, list[str]] = defaultdict(list)
    all_tensors: dict[str, set[str]] = defaultdict(set)
    members: dict[str, list[str]] = defaultdict(list)
    for group_id, slot, name, represents in connection.execute(query):
        members[group_id].append(slot)
        all_tensors[group_id].add(name)
        if represents:
            on_tensors[group_id].append(name)
    as_read = {key: sorted(found.difference(on_tensors.get(key, ()))) for key, found in all_tensors.items()}
    return _sorted(on_tensors), as_read, _sorted(members)


def _sorted(lists: dict[str, list[str]]) -> dict[str, list[str]]:
    return {key: sorted(found) for key, found in lists.items()}


def _parameters(row: sa.Row[Any]) -> Answer:
    if row.scale is not None:
        return {"scale": row.scale, "offset": row.offset}
    found, offsets = decode_optional(row.scales), decode_optional(row.offsets)
    return {
        "scale": None if found is None else list(found),
        "offset": None if offsets is None else list(offsets),
    }


def _dearest_first(price: float | None) -> float:
    """A sort key: groups without a price come last."""
    return float("inf") if price is None or math.isnan(price) else -price
