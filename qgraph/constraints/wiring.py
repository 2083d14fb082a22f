"""A model's connections as plain dictionaries: who makes and who reads each tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qgraph.ir.elements import Op, Structure, Tensor
from qgraph.ir.slots import graph_constant, graph_input, output_slot


@dataclass(frozen=True, slots=True)
class Wiring:
    """Direct lookups for passes over whole models, where the graph's own would be too slow.

    Attributes:
        ops: in topological order.
        makers: tensor to the op that makes it; graph inputs and constants are not in it.
        producers: tensor to the slot that makes it.
        readers: tensor to the ops and input indices that read it, sorted by op name and index.
    """

    opset: int
    ops: tuple[Op, ...]
    tensors: Mapping[str, Tensor]
    outputs: frozenset[str]
    makers: Mapping[str, Op]
    producers: Mapping[str, str]
    readers: Mapping[str, list[tuple[Op, int]]]


def wire(structure: Structure) -> Wiring:
    """Build the lookups of a model."""
    producers = {tensor.name: graph_constant(tensor.name) for tensor in structure.tensors if tensor.constant}
    producers.update((name, graph_input(name)) for name in structure.inputs)
    makers: dict[str, Op] = {}
    readers: dict[str, list[tuple[Op, int]]] = {tensor.name: [] for tensor in structure.tensors}
    for op in sorted(structure.ops, key=lambda op: op.name):
        for index, name in enumerate(op.outputs):
            if name is not None:
                producers[name] = output_slot(op.name, index)
                makers[name] = op
        for index, name in enumerate(op.inputs):
            if name is not None:
                readers[name].append((op, index))
    tensors = {tensor.name: tensor for tensor in structure.tensors}
    return Wiring(structure.opset, structure.ops, tensors, frozenset(structure.outputs), makers, producers, readers)
