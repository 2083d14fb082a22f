"""A rule pack and a model, looked at together: who is quantized, and which ops run as one.

Ops that run as one (a fused pair) have one quantized place for what they make: the output of the last of them, the
*outer* slot. It stands for the producer's output in every rule::

    x ─▶ MaxPool ──▶ Relu ─▶ y        MaxPool:in:0 ═ Relu:out:0, nothing at MaxPool:out:0 and Relu:in:0
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from qgraph.constraints.model import Fused, Origin
from qgraph.constraints.participation import NOTHING, LeftFloat, Participation, participation
from qgraph.constraints.rule_index import RuleIndex, index_rules
from qgraph.constraints.rule_pack import RulePack, SameRule
from qgraph.constraints.wiring import Wiring, wire
from qgraph.ir.elements import Op, Structure
from qgraph.ir.slots import input_slot


@dataclass(frozen=True, slots=True)
class Target:
    """What the rules are applied to.

    Attributes:
        fused: by the tensor inside it, each fused pair.
        outer: by output slot of a fused op, the output slot at the end of its chain.
        left_float: what the user leaves in float.
        feeding: by the `read_by` of a rule, the names of the ops that have such readers.
    """

    pack: RulePack
    index: RuleIndex
    wiring: Wiring
    part: Participation
    fused: Mapping[str, Fused]
    outer: Mapping[str, str]
    left_float: LeftFloat = NOTHING
    feeding: Mapping[tuple[str, ...], frozenset[str]] = field(default_factory=lambda: MappingProxyType({}))

    def same_rules(self, op: Op) -> list[SameRule]:
        """The `same` rules that hold among the op's own slots where it stands in the model."""
        rules = self.index.same_rules(op, self.wiring.tensors)
        return [rule for rule in rules if not rule.read_by or op.name in self.feeding[rule.read_by]]

    def float_reason(self, op: Op) -> str | None:
        """Why an op stays float, as the sentence that its slots carry; None if it is quantized."""
        reason = self.part.float_reasons.get(op.name)
        return None if reason is None else f"float op {op.name} ({op.type}): {reason}"

    def unquantized_reason(self, tensor: str) -> str | None:
        """Why nothing is quantized on a tensor whatever its ops do: the user's word, or a fused pair around it."""
        if tensor in self.left_float.tensors:
            return self.left_float.tensors[tensor]
        pair = self.fused.get(tensor)
        if pair is None:
            return None
        maker, reader = self.wiring.makers[tensor], pair.origin
        return f"{maker.name} ({maker.type}) and {reader.op} ({reader.op_type}) run as one ({reader.source})"


def aim(
    structure: Structure, pack: RulePack, kept: frozenset[str] = frozenset(), left_float: LeftFloat = NOTHING
) -> Target:
    """Look at a model with the eyes of a target; `kept` are pass-through ops that are quantized in any case."""
    wiring, index = wire(structure), index_rules(pack)
    part = participation(wiring, pack, index, kept, left_float)
    fused = _fused_pairs(wiring, index, part)
    feeding = {rule.read_by: _feeding(rule.read_by, wiring, index, part) for rule in pack.same if rule.read_by}
    return Target(pack, index, wiring, part, fused, _outer_slots(wiring, fused), left_float, feeding)


def _feeding(read_by: tuple[str, ...], wiring: Wiring, index: RuleIndex, part: Participation) -> frozenset[str]:
    """The ops that are read by ops of these types, directly or behind ops that tie what they read to what they make.

    A reader that takes a scale for each channel does not count: what it reads is not one grid.
    """
    found: set[str] = set()
    read: set[str] = set()
    for op in reversed(wiring.ops):
        if op.name in part.float_reasons:
            continue
        passes_on = not read.isdisjoint(name for name in op.outputs if name is not None)
        if passes_on:
            found.add(op.name)
        if op.type in read_by:
            weights = index.weighted_rule(op, wiring.tensors)
            reads = weights is None or weights.input_axis is None
        else:
            reads = passes_on and bool(index.same_rules(op, wiring.tensors))
        if reads:
            read.update(name for position in part.values[op.name] if (name := op.inputs[position]) is not None)
    return frozenset(found)


def _fused_pairs(wiring: Wiring, index: RuleIndex, part: Participation) -> dict[str, Fused]:
    """The pairs whose tensor has that one reader and is no graph output, and those of activations x · f(x)."""
    pairs = {}
    for tensor, maker in wiring.makers.items():
        readers = wiring.readers[tensor]
        if tensor in wiring.outputs or tensor not in wiring.floats or maker.name in part.float_reasons:
            continue
        if len(readers) == 2:
            pairs.update(_gate(tensor, maker, wiring, index, part))
        if len(readers) != 1 or tensor in pairs:
            continue
        reader, position = readers[0]
        if (position != 0 and part.values[reader.name] != [position]) or reader.name in part.float_reasons:
            continue
        rule = index.fusion_rule(maker, reader, wiring.tensors)
        if rule is not None:
            origin = Origin(rule.name, reader.name, reader.type, rule.source)
            pairs[tensor] = Fused(wiring.producers[tensor], wiring.reader_slots[tensor][0], origin)
    return pairs


def _gate(tensor: str, maker: Op, wiring: Wiring, index: RuleIndex, part: Participation) -> dict[str, Fused]:
    """The pairs of an activation x · f(x) where a tensor is its x, along f to the product.

    ::

        Conv ─ x ─▶ Add ──▶ Clip ──▶ Mul        inside: x and what Add and Clip make
               └─────────────────────▲
    """
    (first, _), (second, _) = wiring.readers[tensor]
    for begin, product in ((first, second), (second, first)):
        rule = index.fusion_rule(maker, product, wiring.tensors, gated=True)
        if rule is None or product.name in part.float_reasons:
            continue
        origin = Origin(rule.name, product.name, product.type, rule.source)
        pairs: dict[str, Fused] = {}
        current, op = tensor, begin
        while op.type in rule.beside and part.values[op.name] == [op.inputs.index(current)]:
            pairs[current] = Fused(wiring.producers[current], input_slot(op.name, op.inputs.index(current)), origin)
            current = op.outputs[0] or ""
            readers = wiring.readers.get(current, [])
            if len(readers) != 1 or current in wiring.outputs:
                break
            op, position = readers[0]
            if op == product:
                pairs[current] = Fused(wiring.producers[current], input_slot(op.name, position), origin)
                return pairs
    return {}


def _outer_slots(wiring: Wiring, fused: Mapping[str, Fused]) -> dict[str, str]:
    outer: dict[str, str] = {}
    for op in reversed(wiring.ops):
        for name, slot in zip(op.outputs, wiring.output_slots[op.name], strict=True):
            if name is not None and name in fused:
                last = wiring.output_slots[fused[name].origin.op][0]
                outer[slot] = outer.get(last, last)
    return outer
