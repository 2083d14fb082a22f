"""A model's connections as plain dictionaries: who makes and who reads each tensor, and the names of their slots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qgraph.ir.elements import Op, Structure, Tensor
from qgraph.ir.slots import graph_constant, graph_input, input_slot, output_slot


@dataclass(frozen=True, slots=True)
class Wiring:
    """Direct lookups for passes over whole models, where the graph's own would be too slow.

    The names of slots are made here, once: every plan and every edge between slots then shares them.

    Attributes:
        ops: in topological order.
        by_slot: the ops in the order of their slots' names: to sort what is nearly sorted takes next to no time.
        floats: the float tensors.
        makers: tensor to the op that makes it; graph inputs and constants are not in it.
        producers: tensor to the slot that makes it.
        readers: tensor to the ops and input indices that read it, sorted by op name and index.
        reader_slots: tensor to the slots of its readers, in their order.
        input_slots: op name to the slots of its inputs; an input that is left out has a name, too.
        output_slots: op name to the slots of its outputs, in the same way.
    """

    opset: int
    ops: tuple[Op, ...]
    by_slot: tuple[Op, ...]
    tensors: Mapping[str, Tensor]
    floats: frozenset[str]
    outputs: frozenset[str]
    makers: Mapping[str, Op]
    producers: Mapping[str, str]
    readers: Mapping[str, list[tuple[Op, int]]]
    reader_slots: Mapping[str, list[str]]
    input_slots: Mapping[str, list[str]]
    output_slots: Mapping[str, list[str]]


def wire(structure: Structure) -> Wiring:
    """Build the lookups of a model."""
    producers = {tensor.name: graph_constant(tensor.name) for tensor in structure.tensors if tensor.constant}
    producers.update((name, graph_input(name)) for name in structure.inputs)
    makers: dict[str, Op] = {}
    readers: dict[str, list[tuple[Op, int]]] = {tensor.name: [] for tensor in structure.tensors}
    reader_slots: dict[str, list[str]] = {tensor.name: [] for tensor in structure.tensors}
    by_slot = tuple(sorted(structure.ops, key=lambda op: f"{op.name}:"))
    input_slots = {op.name: [input_slot(op.name, index) for index in range(len(op.inputs))] for op in by_slot}
    output_slots = {op.name: [output_slot(op.name, index) for index in range(len(op.outputs))] for op in by_slot}
    for op in sorted(structure.ops, key=lambda op: op.name):
        for name, slot in zip(op.outputs, output_slots[op.name], strict=True):
            if name is not None:
                producers[name] = slot
                makers[name] = op
        for index, (name, slot) in enumerate(zip(op.inputs, input_slots[op.name], strict=True)):
            if name is not None:
                readers[name].append((op, index))
                reader_slots[name].append(slot)
    return Wiring(
        opset=structure.opset,
        ops=structure.ops,
        by_slot=by_slot,
        tensors={tensor.name: tensor for tensor in structure.tensors},
        floats=frozenset(tensor.name for tensor in structure.tensors if tensor.is_float),
        outputs=frozenset(structure.outputs),
        makers=makers,
        producers=producers,
        readers=readers,
        reader_slots=reader_slots,
        input_slots=input_slots,
        output_slots=output_slots,
    )
