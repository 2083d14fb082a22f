"""A quantized model and what a target says about it, with the lookups that the checks share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from qgraph.analysis.parameters import Parameters
from qgraph.constraints.model import Constraints, Fused, Origin, Same, Strength, TensorEdge
from qgraph.constraints.rule_pack import RulePack
from qgraph.formats.quantized_model import QuantizedModel
from qgraph.ir.elements import Op
from qgraph.ir.slots import parts

Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Case:
    """What is checked.

    Attributes:
        ops: by name, in topological order.
        fused: by the name of the second op of the pair.
        binding: the ties that the target demands; it merely prefers the others.
        ties: all, by the rule and op that they come from.
        edges: by tensor.
        passed_on: by output slot of a pass-through op, what ties it to that op's input.
    """

    model: QuantizedModel
    pack: RulePack
    constraints: Constraints
    ops: Mapping[str, Op]
    fused: Mapping[str, Fused]
    binding: tuple[Same, ...]
    ties: Mapping[Origin, tuple[Same, ...]]
    edges: Mapping[str, tuple[TensorEdge, ...]]
    passed_on: Mapping[str, Same]

    def at(self, slot: str) -> tuple[Parameters, ...]:
        """The parameters of the tensor at a slot; none where it is float, or no number at all."""
        plan = self.constraints.slots.get(slot)
        if plan is None:
            return ()
        found = self.model.quantizations.get(slot, ())
        return tuple(Parameters(plan.tensor, entry.dtype, entry.scale, entry.offset) for entry in found)

    def bias_type(self, bias: Parameters, activation: Parameters | None) -> str:
        """The integer type of a bias beside an activation: its own where the target takes that.

        An ONNX file can have no bias of more than 32 bits, so the widest is meant in the target's own format only.
        """
        width = None if activation is None else self.pack.width(activation.dtype)
        if width is None or not width.bias_bits:
            return self.pack.bias.dtype
        types = [f"int{bits}" for bits in sorted(width.bias_bits)]
        return bias.dtype if bias.dtype in types else types[-1 if self.model.is_stored else 0]

    def inside(self, slot: str, op: str) -> str:
        """The slot that a constraint on `op` is about: where the file quantizes within a fused chain, that place."""
        found, current = slot, slot
        while (name := parts(current).op) is not None and name != op and name in self.fused:
            current = self.fused[name].producer
            if current in self.model.quantizations:
                found = current
        return found


def case_of(model: QuantizedModel, pack: RulePack, constraints: Constraints) -> Case:
    """Build the lookups."""
    return Case(
        model,
        pack,
        constraints,
        {op.name: op for op in model.structure.ops},
        {name: pair for pair in constraints.fused if (name := parts(pair.consumer).op) is not None},
        tuple(tie for tie in constraints.same if tie.strength != Strength.PREFERRED),
        _grouped((tie.origin, tie) for tie in constraints.same),
        _grouped((edge.tensor, edge) for edge in constraints.tensors),
        {tie.b: tie for tie in constraints.same if tie.pass_through},
    )


def _grouped(entries: Iterable[tuple[Key, Value]]) -> dict[Key, tuple[Value, ...]]:
    result: dict[Key, list[Value]] = {}
    for key, value in entries:
        result.setdefault(key, []).append(value)
    return {key: tuple(values) for key, values in result.items()}
