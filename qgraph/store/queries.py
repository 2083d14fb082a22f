"""Answers about stored runs, in the shape in which the command line prints them as JSON.

Every function takes a run by id, name or ``latest``. A tensor means its producer's slot; its other scales are
requantizes. Scale and offset are a number each, lists where per channel, None where there is none. Floats may be
infinite or NaN: noise is −inf dB where nothing is lost.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import Any, NamedTuple

import sqlalchemy as sa

from qgraph.constraints.model import Edge
from qgraph.errors import NotFoundError, UsageError
from qgraph.hints import suggest
from qgraph.solve.run import FINDING_FIELDS
from qgraph.store import views
from qgraph.store.blobs import digest
from qgraph.store.encoding import decode_optional, encode
from qgraph.store.models import list_models, load_model
from qgraph.store.module_names import module_output
from qgraph.store.records import ModelRecord, RunRecord
from qgraph.store.references import calibration_row, model_row, number_of
from qgraph.store.run_reading import read_choices, read_edges, read_events, read_findings
from qgraph.store.runs import list_runs, resolve_run, row_of
from qgraph.store.schema import name_of
from qgraph.store.tables import ops, slots, statistics, tensors

Answer = dict[str, Any]


class Member(NamedTuple):
    """A slot of a group: its tensor, whether the tensor's name means it, and what sharing costs it in dB."""

    slot: str
    tensor: str
    represents: bool
    price_db: float | None


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
    name = _tensor_row(connection, record, name).tensor
    query = sa.select(view).where(*_on_tensor(view, record, name))
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

    ``{"run", "groups": [{"id", "tensors", "slots", "scale", "offset", "price_db", "observer", "observer_reason"}]}``;
    the last two say which observer ``auto`` took and why, and are None in a run of another observer.

    Args:
        by_cost: the dearest first instead of by id; `price_db` is the largest price that a member pays.
    """
    record = resolve_run(connection, run)
    number = row_of(record)
    on_tensors, members = _members(connection, number)
    view = views.shared_groups
    found = [
        {
            "id": row.group_id,
            "tensors": on_tensors.get(row.group_id, []),
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
    row = _tensor_row(connection, record, name)
    grouped = row.group_id is not None
    on_tensors, members = _members(connection, row_of(record), row.group_id) if grouped else ({}, {})
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


def slot_of(connection: sa.Connection, run: str, name: str) -> str:
    """The slot that is meant by a tensor's name, by that of another slot, or by a module that hands out one tensor.

    Raises:
        NotFoundError: it is neither.
    """
    record = resolve_run(connection, run)
    for view, condition in ((views.tensor_scales, _on_tensor), (views.slot_scales, _at_slot)):
        found = connection.scalar(sa.select(view.c.slot).where(*condition(view, record, name)))
        if found is not None:
            return str(found)
    made = module_output(connection, model_row(connection, record.model), name)
    if made is not None:
        return slot_of(connection, record.id, made)
    raise _unknown_tensor(connection, record, name)


def _listing(connection: sa.Connection, run: str) -> str:
    return f"see {suggest('groups', run, db=name_of(connection))}"


def group_of(connection: sa.Connection, run: str, slot: str) -> str | None:
    """The id of the group that a slot is in; None if it is in none."""
    view = views.slot_scales
    record = resolve_run(connection, run)
    found = connection.scalar(sa.select(view.c.group_id).where(*_at_slot(view, record, slot)))
    return None if found is None else str(found)


def edges_of_group(connection: sa.Connection, run: str, group: str) -> tuple[Edge, ...]:
    """The edges that made a group, for ``why``, sorted as the solver gave them.

    Raises:
        NotFoundError: the run has no such group.
    """
    number = row_of(resolve_run(connection, run))
    view = views.shared_groups
    mine = sa.select(view.c.group_id).where(view.c.run_id == number)
    if connection.scalar(mine.where(view.c.group_id == group)) is None:
        raise NotFoundError.among("group", group, connection.scalars(mine), _listing(connection, run))
    return read_edges(connection, number, group_id=group)


def group_named(connection: sa.Connection, run: str, name: str) -> str:
    """The id of the group that is meant by its id, or by the name of a tensor or slot in it.

    Raises:
        NotFoundError: it is none of these.
        UsageError: a tensor that is not quantized.
    """
    number = row_of(resolve_run(connection, run))
    view = views.shared_groups
    known = sa.select(view.c.group_id).where(view.c.run_id == number)
    if connection.scalar(known.where(view.c.group_id == name)) is not None:
        return name
    try:
        slot = slot_of(connection, run, name)
    except NotFoundError:
        raise NotFoundError.among(
            "group", name, connection.scalars(known), _listing(connection, f"r{number}")
        ) from None
    found = group_of(connection, run, slot)
    if found is None:
        raise UsageError("the tensor is not quantized, so it is in no group", name, f"see qgraph coverage r{number}")
    return found


def members_of_group(connection: sa.Connection, run: str, group: str) -> tuple[Member, ...]:
    """The slots of a group, sorted."""
    view = views.group_members
    mine = (view.c.run_id == row_of(resolve_run(connection, run)), view.c.group_id == group)
    query = sa.select(view.c.slot, view.c.tensor, view.c.represents, view.c.price_db).where(*mine)
    return tuple(Member(*row) for row in sorted(connection.execute(query), key=lambda row: row.slot))


def ties_of_op(connection: sa.Connection, run: str, op: str) -> list[Answer]:
    """The constraints that one op made, by rule and ends: ``{"rule", "a", "b", "strength", "source", "group"}``.

    Raises:
        NotFoundError: the run's model has no such op.
    """
    record = resolve_run(connection, run)
    known = op_types(connection, run)
    if op not in known:
        raise NotFoundError.among("op", op, known, "check the name in the model")
    view = views.reasons
    columns = (view.c.rule, view.c.a, view.c.b, view.c.strength, view.c.source, view.c.group_id.label("group"))
    rows = connection.execute(sa.select(*columns).where(view.c.run_id == row_of(record), view.c.op == op))
    return sorted((dict(row._mapping) for row in rows), key=lambda tie: (tie["rule"], tie["a"], tie["b"]))


def op_types(connection: sa.Connection, run: str) -> dict[str, str]:
    """The type of every op of a run's model, by name."""
    model = number_of("m", resolve_run(connection, run).model)
    rows = connection.execute(sa.select(ops.c.name, ops.c.type).where(ops.c.model_id == model))
    return {name: op_type for name, op_type in rows}  # noqa: C416 - a Row is no pair for the type checker


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


def _tensor_row(connection: sa.Connection, record: RunRecord, name: str) -> sa.Row[Any]:
    view = views.tensor_scales
    row = connection.execute(sa.select(view).where(*_on_tensor(view, record, name))).one_or_none()
    if row is None:
        made = module_output(connection, model_row(connection, record.model), name)
        if made is not None:
            return _tensor_row(connection, record, made)
        raise _unknown_tensor(connection, record, name)
    return row


def _unknown_tensor(connection: sa.Connection, record: RunRecord, name: str) -> NotFoundError:
    view = views.tensor_scales
    known = connection.scalars(sa.select(view.c.tensor).where(view.c.run_id == row_of(record)))
    return NotFoundError.among("tensor", name, known, f"see {suggest('scales', record.id, db=name_of(connection))}")


Conditions = tuple[sa.ColumnElement[bool], ...]


def _on_tensor(view: sa.TableClause, record: RunRecord, tensor_name: str) -> Conditions:
    """The rows of a run on one tensor. By their slot's id: by name, SQLite would read the whole run."""
    found = sa.select(slots.c.id).join(tensors).where(tensors.c.name == tensor_name)
    return _of_slots(view, record, found.where(tensors.c.model_id == number_of("m", record.model)))


def _at_slot(view: sa.TableClause, record: RunRecord, slot: str) -> Conditions:
    """The row of a run at one slot."""
    found = sa.select(slots.c.id).where(slots.c.name == slot, slots.c.model_id == number_of("m", record.model))
    return _of_slots(view, record, found)


def _of_slots(view: sa.TableClause, record: RunRecord, found: sa.Select[int]) -> Conditions:
    return (view.c.run_id == row_of(record), view.c.slot_id.in_(found))


def _members(
    connection: sa.Connection, run: int, group: str | None = None
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Tensors and slots by group, each sorted."""
    view = views.group_members
    query = sa.select(view.c.group_id, view.c.slot, view.c.tensor, view.c.represents).where(view.c.run_id == run)
    if group is not None:
        query = query.where(view.c.group_id == group)
    on_tensors: dict[str, list[str]] = defaultdict(list)
    members: dict[str, list[str]] = defaultdict(list)
    for group_id, slot, on_tensor, represents in connection.execute(query):
        members[group_id].append(slot)
        if represents:
            on_tensors[group_id].append(on_tensor)
    return _sorted(on_tensors), _sorted(members)


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
