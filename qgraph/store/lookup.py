"""Slots and groups of a run, found by the names that users give them, and what made a group.

Every function takes a run by id, name or ``latest``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import sqlalchemy as sa

from qgraph.constraints.model import Edge
from qgraph.errors import NotFoundError, UsageError
from qgraph.hints import suggest
from qgraph.store import views
from qgraph.store.module_names import module_output
from qgraph.store.records import RunRecord
from qgraph.store.references import model_row, number_of
from qgraph.store.run_reading import read_edges
from qgraph.store.runs import resolve_run, row_of
from qgraph.store.schema import name_of
from qgraph.store.tables import ops, slots, tensors

Answer = dict[str, Any]


class Member(NamedTuple):
    """A slot of a group: its tensor, whether the tensor's name means it, and what sharing costs it in dB."""

    slot: str
    tensor: str
    represents: bool
    price_db: float | None


def slot_of(connection: sa.Connection, run: str, name: str) -> str:
    """The slot that is meant by a tensor's name, by that of another slot, or by a module that hands out one tensor.

    Raises:
        NotFoundError: it is neither.
    """
    record = resolve_run(connection, run)
    for view, condition in ((views.tensor_scales, on_tensor), (views.slot_scales, _at_slot)):
        found = connection.scalar(sa.select(view.c.slot).where(*condition(view, record, name)))
        if found is not None:
            return str(found)
    made = module_output(connection, model_row(connection, record.model), name)
    if made is not None:
        return slot_of(connection, record.id, made)
    raise _unknown_tensor(connection, record, name)


def group_of(connection: sa.Connection, run: str, slot: str) -> str | None:
    """The id of the group that a slot is in; None if it is in none."""
    view = views.slot_scales
    record = resolve_run(connection, run)
    found = connection.scalar(sa.select(view.c.group_id).where(*_at_slot(view, record, slot)))
    return None if found is None else str(found)


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


def tensor_row(connection: sa.Connection, record: RunRecord, name: str) -> sa.Row[Any]:
    """The row of `views.tensor_scales` on a tensor, or on the one that a module of this name hands out.

    Raises:
        NotFoundError: the run has neither.
    """
    view = views.tensor_scales
    row = connection.execute(sa.select(view).where(*on_tensor(view, record, name))).one_or_none()
    if row is None:
        made = module_output(connection, model_row(connection, record.model), name)
        if made is not None:
            return tensor_row(connection, record, made)
        raise _unknown_tensor(connection, record, name)
    return row


def _unknown_tensor(connection: sa.Connection, record: RunRecord, name: str) -> NotFoundError:
    view = views.tensor_scales
    known = connection.scalars(sa.select(view.c.tensor).where(view.c.run_id == row_of(record)))
    return NotFoundError.among("tensor", name, known, f"see {suggest('scales', record.id, db=name_of(connection))}")


def _listing(connection: sa.Connection, run: str) -> str:
    return f"see {suggest('groups', run, db=name_of(connection))}"


Conditions = tuple[sa.ColumnElement[bool], ...]


def on_tensor(view: sa.TableClause, record: RunRecord, tensor_name: str) -> Conditions:
    """The rows of a run on one tensor. By their slot's id: by name, SQLite would read the whole run."""
    found = sa.select(slots.c.id).join(tensors).where(tensors.c.name == tensor_name)
    return _of_slots(view, record, found.where(tensors.c.model_id == number_of("m", record.model)))


def _at_slot(view: sa.TableClause, record: RunRecord, slot: str) -> Conditions:
    """The row of a run at one slot."""
    found = sa.select(slots.c.id).where(slots.c.name == slot, slots.c.model_id == number_of("m", record.model))
    return _of_slots(view, record, found)


def _of_slots(view: sa.TableClause, record: RunRecord, found: sa.Select[int]) -> Conditions:
    return (view.c.run_id == row_of(record), view.c.slot_id.in_(found))
