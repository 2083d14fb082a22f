"""A run as a property graph: nodes and relationships with labels and typed properties, as plain data.

::

    (:Tensor)-[:FEEDS]->(:Op)-[:MAKES]->(:Tensor)          the model
    (:Slot)-[:AT_OP]->(:Op)   (:Slot)-[:ON_TENSOR]->(:Tensor)   (:Slot)-[:IN_GROUP]->(:SharedGroup)
    (:Slot)-[:TIED_TO]->(:Slot)                            a constraint that was used: why two slots share
    (:Slot)-[:REQUANTIZED_TO]->(:Slot)                     a reader whose parameters differ from its producer's

`NODES` and `RELATIONSHIPS` are the documented schema. No third-party import, so that every room may use these types.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from qgraph.constraints.model import Edge, Group
from qgraph.ir import slots
from qgraph.ir.elements import Op, Structure
from qgraph.solve.run import RunData
from qgraph.tqc import TqcRecord

Value = int | float | str | bool | tuple[float, ...] | tuple[int, ...] | None

NODES: dict[str, dict[str, str]] = {
    "Op": {"name": "STRING", "type": "STRING", "domain": "STRING", "excluded": "STRING"},
    "Tensor": {
        "name": "STRING", "dtype": "STRING", "shape": "STRING", "constant": "BOOL", "state": "STRING",
        "scale": "DOUBLE", "offset": "INT64", "noise_db": "DOUBLE", "price_db": "DOUBLE",
    },
    "Slot": {
        "name": "STRING", "tensor": "STRING", "op": "STRING", "op_type": "STRING", "side": "STRING",
        "position": "INT64", "represents": "BOOL", "role": "STRING", "state": "STRING",
        "scale": "DOUBLE", "offset": "INT64", "scales": "DOUBLE[]", "offsets": "INT64[]",
        "bits": "INT64", "signed": "BOOL", "symmetric": "BOOL", "axis": "INT64", "reason": "STRING",
        "noise_db": "DOUBLE", "own_noise_db": "DOUBLE", "price_db": "DOUBLE",
    },
    "SharedGroup": {
        "name": "STRING", "scale": "DOUBLE", "offset": "INT64", "bits": "INT64", "symmetric": "BOOL",
        "slot_count": "INT64", "tensor_count": "INT64", "price_db": "DOUBLE", "observer": "STRING",
    },
}  # fmt: skip
"""Per label the properties of its nodes and their types. `name` of a SharedGroup is its id."""

RELATIONSHIPS: dict[str, tuple[str, str, dict[str, str]]] = {
    "FEEDS": ("Tensor", "Op", {"position": "INT64"}),
    "MAKES": ("Op", "Tensor", {"position": "INT64"}),
    "AT_OP": ("Slot", "Op", {}),
    "ON_TENSOR": ("Slot", "Tensor", {}),
    "IN_GROUP": ("Slot", "SharedGroup", {}),
    "TIED_TO": (
        "Slot",
        "Slot",
        {"kind": "STRING", "rule": "STRING", "op": "STRING", "op_type": "STRING", "strength": "STRING",
         "source": "STRING"},
    ),
    "REQUANTIZED_TO": ("Slot", "Slot", {"price_db": "DOUBLE"}),
}  # fmt: skip
"""Per label where its relationships begin and end, and their properties."""


@dataclass(frozen=True, slots=True)
class Relationship:
    """From one node to another, each given by its place among the nodes of its label."""

    start: int
    end: int
    properties: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class PropertyGraph:
    """All of one run.

    Attributes:
        nodes: per label of `NODES`, the properties of each node in the order of the schema; sorted by name.
        relationships: per label of `RELATIONSHIPS`.
    """

    nodes: Mapping[str, tuple[tuple[Value, ...], ...]]
    relationships: Mapping[str, tuple[Relationship, ...]]


def property_graph(structure: Structure, run: RunData, meant: Mapping[str, str]) -> PropertyGraph:
    """Make the property graph of a run.

    Args:
        structure: of the run's model.
        meant: the slot that each float tensor's name means.
    """
    records = {record.slot: record for record in run.tqcs}
    types = {op.name: op.type for op in structure.ops}
    groups = sorted(run.grouping.groups, key=lambda group: group.id)
    nodes = {
        "Op": tuple((op.name, op.type, op.domain or "ai.onnx", op.excluded) for op in _ops(structure)),
        "Tensor": tuple(
            (
                tensor.name,
                tensor.dtype or None,
                None if tensor.shape is None else json.dumps(tensor.shape, ensure_ascii=False),
                tensor.constant,
                *_of_tensor(records.get(meant.get(tensor.name, ""))),
            )
            for tensor in structure.tensors
        ),
        "Slot": tuple(_slot(record, types, meant) for record in run.tqcs),
        "SharedGroup": tuple(_group(group, run, records) for group in groups),
    }
    places = {label: {row[0]: place for place, row in enumerate(rows)} for label, rows in nodes.items()}
    return PropertyGraph(nodes, _relationships(structure, run, places))


def price(record: TqcRecord) -> float | None:
    """What sharing costs a slot in dB; None where it is not known."""
    if record.noise_db is None or record.own_noise_db is None:
        return None
    return 0.0 if record.noise_db == record.own_noise_db else record.noise_db - record.own_noise_db


def _ops(structure: Structure) -> list[Op]:
    return sorted(structure.ops, key=lambda op: op.name)


def _one(values: tuple[float, ...] | tuple[int, ...] | None) -> float | int | None:
    return values[0] if values is not None and len(values) == 1 else None


def _several(values: tuple[float, ...] | tuple[int, ...] | None) -> tuple[float, ...] | tuple[int, ...] | None:
    return values if values is not None and len(values) != 1 else None


def _of_tensor(record: TqcRecord | None) -> tuple[Value, ...]:
    if record is None:
        return (None,) * 5
    return record.state.value, _one(record.scale), _one(record.offset), record.noise_db, price(record)


def _slot(record: TqcRecord, types: Mapping[str, str], meant: Mapping[str, str]) -> tuple[Value, ...]:
    op, side, key = slots.parts(record.slot)
    scheme = record.scheme
    return (
        record.slot,
        record.tensor,
        op,
        None if op is None else types.get(op),
        side,
        None if op is None else int(key),
        meant.get(record.tensor) == record.slot,
        record.role,
        record.state.value,
        _one(record.scale),
        _one(record.offset),
        _several(record.scale),
        _several(record.offset),
        *((None,) * 4 if scheme is None else (scheme.bits, scheme.signed, scheme.symmetric, scheme.axis)),
        record.reason,
        record.noise_db,
        record.own_noise_db,
        price(record),
    )


def _group(group: Group, run: RunData, records: Mapping[str, TqcRecord]) -> tuple[Value, ...]:
    master = records[group.master]
    prices = [found for slot in group.slots if (found := price(records[slot])) is not None]
    choice = run.choices.get(group.id)
    return (
        group.id,
        _one(master.scale),
        _one(master.offset),
        group.scheme.bits,
        group.scheme.symmetric,
        len(group.slots),
        len(group.tensors),
        max(prices, default=None),
        None if choice is None else choice.observer,
    )


Places = Mapping[str, Mapping[Value, int]]


def _relationships(structure: Structure, run: RunData, places: Places) -> dict[str, tuple[Relationship, ...]]:
    op, tensor, slot, group = (places[label] for label in ("Op", "Tensor", "Slot", "SharedGroup"))
    prices = run.requantize_price_db
    at = [(record.slot, slots.parts(record.slot)[0], record.tensor) for record in run.tqcs]
    return {
        "FEEDS": tuple(Relationship(tensor[t], op[o], (p,)) for o, t, p in _uses(structure, "inputs")),
        "MAKES": tuple(Relationship(op[o], tensor[t], (p,)) for o, t, p in _uses(structure, "outputs")),
        "AT_OP": tuple(Relationship(slot[name], op[o], ()) for name, o, _ in at if o is not None),
        "ON_TENSOR": tuple(Relationship(slot[name], tensor[t], ()) for name, _, t in at),
        "IN_GROUP": tuple(
            Relationship(slot[member], group[one.id], ())
            for one in sorted(run.grouping.groups, key=lambda one: one.id)
            for member in one.slots
        ),
        "TIED_TO": tuple(Relationship(slot[edge.a], slot[edge.b], _reason(edge)) for edge in run.grouping.joined),
        "REQUANTIZED_TO": tuple(
            Relationship(slot[one.producer], slot[one.slot], (prices.get(one.slot),))
            for one in run.grouping.requantizes
        ),
    }


def _uses(structure: Structure, side: str) -> Iterator[tuple[str, str, int]]:
    """Op, tensor and position of every input or output that is not left out."""
    for op in _ops(structure):
        for position, tensor in enumerate(getattr(op, side)):
            if tensor is not None:
                yield op.name, tensor, position


def _reason(edge: Edge) -> tuple[Value, ...]:
    strength = None if edge.strength is None else edge.strength.value
    return edge.kind.value, edge.rule, edge.op, edge.op_type, strength, edge.source
