"""The structure of a model, stored and restored exactly."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import chain
from typing import Any

import sqlalchemy as sa

from qgraph.errors import StoreError, UsageError
from qgraph.ir.elements import Op, Structure, Tensor
from qgraph.ir.slots import graph_constant, graph_input, graph_output, input_slot, output_slot
from qgraph.objects import many_objects
from qgraph.store.bulk import insert_row, insert_rows, next_id
from qgraph.store.encoding import Encodable, decode, decode_optional, encode, encode_optional, moment
from qgraph.store.records import ModelRecord
from qgraph.store.references import model_row
from qgraph.store.tables import models, ops, slots, tensors

MOST_PLACES = 1 << 20
"""More inputs or outputs than an op has."""

_OP_COLUMNS = (
    "id",
    "model_id",
    "name",
    "type",
    "domain",
    "input_count",
    "output_count",
    "attributes",
    "excluded",
    "origins",
)
_TENSOR_COLUMNS = ("id", "model_id", "name", "dtype", "shape", "constant", "values")
_SLOT_COLUMNS = ("id", "model_id", "name", "tensor_id", "op_id", "side", "position")


@many_objects()
def save_model(connection: sa.Connection, structure: Structure, path: str | None) -> str:
    """Store a model's structure; of one that is stored already (equal fingerprint) only the path is brought up to date.

    Args:
        path: where the model file is; None for a model that came from memory.

    Returns:
        The model's id, ``m1``.

    Raises:
        StoreError: an op or output reads a tensor that the structure does not have.
    """
    known = find_model(connection, structure.fingerprint)
    if known is not None:
        if path is not None:
            connection.execute(models.update().where(models.c.id == model_row(connection, known)).values(path=path))
        return known
    model = insert_row(
        connection,
        models,
        fingerprint=structure.fingerprint,
        name=structure.name,
        path=path,
        opset=structure.opset,
        inputs=encode(structure.inputs),
        outputs=encode(structure.outputs),
    )
    tensor_ids = {t.name: number for number, t in enumerate(structure.tensors, next_id(connection, tensors))}
    op_ids = {op.name: number for number, op in enumerate(structure.ops, next_id(connection, ops))}
    insert_rows(connection, tensors, _TENSOR_COLUMNS, _tensor_rows(structure, model, tensor_ids))
    insert_rows(connection, ops, _OP_COLUMNS, _op_rows(structure, model, op_ids))
    try:
        insert_rows(connection, slots, _SLOT_COLUMNS, _slot_rows(connection, structure, model, tensor_ids, op_ids))
    except KeyError as error:
        raise StoreError("a structure that contradicts itself", f"tensor {error.args[0]}", "import it again") from error
    return f"m{model}"


def derive(connection: sa.Connection, model: str, parent: str, derivation: Mapping[str, Encodable]) -> None:
    """Note that a model was made by changing the weights of another one.

    Args:
        derivation: how, by name: methods, settings, the digest of the data.

    Raises:
        NotFoundError: one of them is not stored.
        UsageError: the parent is the model itself, or was made from it.
    """
    child, origin = model_row(connection, model), model_row(connection, parent)
    ancestor: int | None = origin
    while ancestor is not None:
        if ancestor == child:
            raise UsageError("a model cannot be made from itself", f"{model} from {parent}", "name another parent")
        ancestor = connection.scalar(sa.select(models.c.parent_id).where(models.c.id == ancestor))
    values = {"parent_id": origin, "derivation": encode(derivation)}
    connection.execute(models.update().where(models.c.id == child).values(**values))


def find_model(connection: sa.Connection, fingerprint: str) -> str | None:
    """The id of the stored model with that fingerprint, if there is one."""
    found = connection.scalar(sa.select(models.c.id).where(models.c.fingerprint == fingerprint))
    return None if found is None else f"m{found}"


def list_models(connection: sa.Connection) -> list[ModelRecord]:
    """All stored models, oldest first."""
    return [_record(row) for row in connection.execute(sa.select(models).order_by(models.c.id))]


def load_model(connection: sa.Connection, model: str) -> ModelRecord:
    """What is known of one model besides its structure; raises `NotFoundError`."""
    number = model_row(connection, model)
    return _record(connection.execute(sa.select(models).where(models.c.id == number)).one())


@many_objects()
def load_structure(connection: sa.Connection, model: str) -> Structure:
    """Restore what `save_model` stored, exactly.

    Raises:
        NotFoundError: no such model.
    """
    number = model_row(connection, model)
    row = connection.execute(sa.select(models).where(models.c.id == number)).one()
    tensor_rows = connection.execute(_of_model(tensors, number)).all()
    shape = cache(decode_optional)  # many tensors have one
    names = {tensor.id: tensor.name for tensor in tensor_rows}
    return Structure(
        name=row.name,
        fingerprint=row.fingerprint,
        opset=row.opset,
        ops=_load_ops(connection, number, names),
        tensors=tuple(
            Tensor(t.name, t.dtype, shape(t.shape), t.constant, decode_optional(t.values)) for t in tensor_rows
        ),
        inputs=decode(row.inputs),
        outputs=decode(row.outputs),
    )


def _of_model(table: sa.Table, model: int) -> sa.Select[Any]:
    return sa.select(table).where(table.c.model_id == model).order_by(table.c.id)


def _record(row: sa.Row[Any]) -> ModelRecord:
    return ModelRecord(
        id=f"m{row.id}",
        fingerprint=row.fingerprint,
        name=row.name,
        path=row.path,
        opset=row.opset,
        created=moment(row.created),
        parent=None if row.parent_id is None else f"m{row.parent_id}",
        derivation=decode_optional(row.derivation),
    )


def _tensor_rows(structure: Structure, model: int, ids: Mapping[str, int]) -> Iterator[tuple[object, ...]]:
    text = cache(encode_optional)  # many tensors have one shape
    for tensor in structure.tensors:
        values = encode_optional(tensor.values)
        yield ids[tensor.name], model, tensor.name, tensor.dtype, text(tensor.shape), tensor.constant, values


def _op_rows(structure: Structure, model: int, ids: Mapping[str, int]) -> Iterator[tuple[object, ...]]:
    no_attributes, no_origins = encode({}), encode(())  # most ops have none
    for op in structure.ops:
        yield (
            ids[op.name],
            model,
            op.name,
            op.type,
            op.domain,
            len(op.inputs),
            len(op.outputs),
            encode(op.attributes) if op.attributes else no_attributes,
            op.excluded,
            encode(op.origins) if op.origins else no_origins,
        )


def _slot_rows(
    connection: sa.Connection,
    structure: Structure,
    model: int,
    tensor_ids: Mapping[str, int],
    op_ids: Mapping[str, int],
) -> Iterator[tuple[object, ...]]:
    first = next_id(connection, slots)
    named = chain(_op_slots(structure, op_ids), _graph_slots(structure))
    for number, (name, tensor, op, side, position) in enumerate(named, first):
        yield number, model, name, tensor_ids[tensor], op, side, position


_Slot = tuple[str, str, int | None, str, int]


def _op_slots(structure: Structure, op_ids: Mapping[str, int]) -> Iterator[_Slot]:
    for op in structure.ops:
        number = op_ids[op.name]
        for index, tensor in enumerate(op.inputs):
            if tensor is not None:
                yield input_slot(op.name, index), tensor, number, "in", index
        for index, tensor in enumerate(op.outputs):
            if tensor is not None:
                yield output_slot(op.name, index), tensor, number, "out", index


def _graph_slots(structure: Structure) -> Iterator[_Slot]:
    # A tensor may be returned twice; it is one slot all the same.
    for index, tensor in enumerate(dict.fromkeys(structure.inputs)):
        yield graph_input(tensor), tensor, None, "in", index
    for index, tensor in enumerate(dict.fromkeys(structure.outputs)):
        yield graph_output(tensor), tensor, None, "out", index
    constants = (tensor.name for tensor in structure.tensors if tensor.constant)
    for index, tensor in enumerate(constants):
        yield graph_constant(tensor), tensor, None, "const", index


def _load_ops(connection: sa.Connection, model: int, tensor_names: Mapping[int, str]) -> tuple[Op, ...]:
    uses = _uses(connection, model, tensor_names)
    read = cache(decode)  # many ops have the same attributes
    return tuple(
        Op(
            name=row.name,
            type=row.type,
            domain=row.domain,
            inputs=_placed(uses["in"].get(row.id, ()), row.input_count),
            outputs=_placed(uses["out"].get(row.id, ()), row.output_count),
            attributes=read(row.attributes),
            excluded=row.excluded,
            origins=read(row.origins),
        )
        for row in connection.execute(_of_model(ops, model)).all()
    )


_Uses = dict[int, list[tuple[int, str]]]


def _uses(connection: sa.Connection, model: int, tensor_names: Mapping[int, str]) -> dict[str, _Uses]:
    """Per side and op, the positions and names of the tensors there."""
    query = sa.select(slots.c.op_id, slots.c.side, slots.c.position, slots.c.tensor_id).where(
        slots.c.model_id == model, slots.c.op_id.is_not(None)
    )
    uses: dict[str, _Uses] = {"in": defaultdict(list), "out": defaultdict(list)}
    for op, side, position, tensor in connection.execute(query).all():
        uses[side][op].append((position, tensor_names[tensor]))
    return uses


def _placed(used: list[tuple[int, str]] | tuple[()], count: int) -> tuple[str | None, ...]:
    """Tensors at their positions; None where an optional one is left out."""
    if count > MOST_PLACES:
        raise ValueError(f"{count} inputs or outputs")
    places: list[str | None] = [None] * count
    for position, tensor in used:
        places[position] = tensor
    return tuple(places)
