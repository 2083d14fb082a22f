"""Check a quantized model against a target's rules: which scales differ that must be equal, and how to repair it.

Needs no data and does not run anything: the rules are applied to the float model that the file stands for
(`qgraph.constraints.rules.constrain`), and every constraint is held against the parameters at its slots.

- Two parameters are equal if their scales are at most one unit in the last place of a float32 apart and their zero
  points mean the same integer: int8 with zero point z is uint8 with z + 128.
- Only rules that the target demands can be violated; what it merely prefers cannot.
- Only what is quantized can violate a rule. What the file left float although the target would quantize it is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from qgraph.analysis import repair
from qgraph.analysis.parameters import Parameters, product, same_parameters, same_scales, shifted
from qgraph.analysis.schemes import scheme_violations
from qgraph.analysis.violation import Report, Rule, Summary, Violation
from qgraph.constraints.model import Constraints, Derived, Fixed, Fused, Origin, Same, Strength, TensorEdge
from qgraph.constraints.rule_pack import RulePack
from qgraph.constraints.rules import constrain
from qgraph.formats.quantized_model import Quantization, QuantizedModel
from qgraph.ir.elements import Op
from qgraph.ir.graph import Graph
from qgraph.ir.slots import parts

Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(frozen=True)
class _Case:
    """A model and what a target says about it, with the lookups that the checks share.

    Attributes:
        ops: by name, in topological order.
        fused: by the name of the second op of the pair.
        ties: by the rule and op that they come from.
        edges: by tensor.
        passed_on: by output slot of a pass-through op, what ties it to that op's input.
    """

    model: QuantizedModel
    pack: RulePack
    constraints: Constraints
    ops: Mapping[str, Op]
    fused: Mapping[str, Fused]
    ties: Mapping[Origin, tuple[Same, ...]]
    edges: Mapping[str, tuple[TensorEdge, ...]]
    passed_on: Mapping[str, Same]

    def at(self, slot: str) -> tuple[Parameters, ...]:
        """The parameters of the tensor at a slot; none where it is float."""
        tensor = self.constraints.slots[slot].tensor
        return tuple(_parameters(tensor, entry) for entry in self.model.quantizations.get(slot, ()))

    def inside(self, slot: str, op: str) -> str:
        """The slot that a constraint on `op` is about: where the file quantizes within a fused chain, that place."""
        found, current = slot, slot
        while (name := parts(current).op) is not None and name != op and name in self.fused:
            current = self.fused[name].producer
            if current in self.model.quantizations:
                found = current
        return found


def check(model: QuantizedModel, pack: RulePack) -> Report:
    """Hold a quantized model against a target's rules.

    Returns:
        All violations, in the order of the model's ops, and counts of what is quantized and what is not.
    """
    constraints = constrain(Graph(model.structure), pack, kept=_quantized_ops(model))
    ops = {op.name: op for op in model.structure.ops}
    fused = {name: pair for pair in constraints.fused if (name := parts(pair.consumer).op) is not None}
    binding = [tie for tie in constraints.same if tie.strength != Strength.PREFERRED]
    ties = _grouped((tie.origin, tie) for tie in constraints.same)
    edges = _grouped((edge.tensor, edge) for edge in constraints.tensors)
    passed_on = {tie.b: tie for tie in constraints.same if tie.pass_through}
    case = _Case(model, pack, constraints, ops, fused, ties, edges, passed_on)
    found = dict.fromkeys(
        [
            *(violation for tie in binding for violation in _same(tie, case)),
            *(violation for fixed in constraints.fixed for violation in _fixed(fixed, case)),
            *(violation for bias in constraints.derived for violation in _derived(bias, case)),
            *(violation for pair in constraints.fused for violation in _fused(pair, case)),
            *_requantized(case),
            *_reinterpreted(case),
            *scheme_violations(constraints, model.quantizations, pack, ops),
        ]
    )
    place = {name: index for index, name in enumerate(ops)}
    ordered = sorted(found, key=lambda v: (place.get(v.op, len(place)), v.op, v.rule, [t.name for t in v.tensors]))
    return Report(pack.name, pack.version, _rules(pack, ordered), tuple(ordered), _summary(case))


def _quantized_ops(model: QuantizedModel) -> frozenset[str]:
    """Ops that read and make quantized tensors in the file: a target runs them on integers."""
    sides = {(op, side) for op, side, _ in map(parts, model.quantizations)}
    return frozenset(op.name for op in model.structure.ops if {(op.name, "in"), (op.name, "out")} <= sides)


def _rules(pack: RulePack, violations: Iterable[Violation]) -> tuple[Rule, ...]:
    rules = {violation.rule: Rule(violation.rule, violation.kind, violation.source) for violation in violations}
    rules |= {rule.name: Rule(rule.name, "same", rule.source) for rule in pack.same}
    rules |= {rule.name: Rule(rule.name, "fixed", rule.source) for rule in pack.fixed}
    rules |= {rule.name: Rule(rule.name, "derived", rule.source) for rule in pack.weighted if rule.bias is not None}
    rules |= {rule.name: Rule(rule.name, "fused", rule.source) for rule in pack.fusions}
    return tuple(rules[name] for name in sorted(rules))


def _grouped(entries: Iterable[tuple[Key, Value]]) -> dict[Key, tuple[Value, ...]]:
    result: dict[Key, list[Value]] = {}
    for key, value in entries:
        result.setdefault(key, []).append(value)
    return {key: tuple(values) for key, values in result.items()}


def _parameters(tensor: str, entry: Quantization) -> Parameters:
    return Parameters(tensor, entry.dtype, entry.scale, entry.offset)


def _same(tie: Same, case: _Case) -> Iterator[Violation]:
    origin = tie.origin
    first, second = case.at(tie.a), case.at(case.inside(tie.b, origin.op))
    if not first or not second or any(same_parameters(a, b) for a in first for b in second):
        return
    a, b = first[0], second[0]
    scales_agree = same_scales(a.scale, b.scale)
    what = "zero point" if scales_agree else "scale"
    shift = f" ({a.dtype} and {b.dtype} compared with zero points shifted)" if a.dtype != b.dtype else ""
    yield Violation(
        rule=origin.rule,
        kind="same",
        op=origin.op,
        op_type=origin.op_type,
        source=origin.source,
        tensors=(a, b),
        message=f"{a.name} and {b.name} must have equal parameters, but differ in {what}{shift}",
        repair=_repair_of(tie, a, b, case),
    )


def _repair_of(tie: Same, a: Parameters, b: Parameters, case: _Case) -> str:
    if parts(tie.b).side == "in":
        return repair.inputs_only(a, b, tie.origin.op)
    if tie.pass_through:
        return repair.pass_through(a, b, tie.origin.op, can_requantize=case.pack.can_requantize)
    slots = dict.fromkeys(entry.a for entry in case.ties[tie.origin])
    inputs = [entry for slot in slots for entry in case.at(slot)[:1]]
    reason = _bound_elsewhere(tie.a, a, case) if case.pack.can_requantize else None
    return repair.merging(a, b, inputs, case.pack.activation, tie.origin.op, reason)


def _bound_elsewhere(slot: str, read: Parameters, case: _Case) -> str | None:
    """Why the tensor that a slot reads cannot simply be made with other parameters; None where it can."""
    edges = case.edges.get(read.name, ())
    producer = next((edge.producer for edge in edges if edge.consumer == slot), None)
    fixed = next((fixed.origin for fixed in case.constraints.fixed if fixed.slot == producer), None)
    if fixed is not None:
        return f"{fixed.rule} prescribes its own parameters"
    tie = case.passed_on.get(producer or "")
    if tie is not None:
        return f"{tie.origin.rule} ties it to {case.constraints.slots[tie.a].tensor}"
    if len(edges) > 1:
        return f"it has {len(edges)} readers"
    return None


def _fixed(fixed: Fixed, case: _Case) -> Iterator[Violation]:
    found = case.at(case.inside(fixed.slot, fixed.origin.op))
    if not found:
        return
    scheme = case.pack.activation
    wanted = Parameters(found[0].name, scheme.dtype, (fixed.scale,), (fixed.offset,))
    if any(same_parameters(entry, wanted) for entry in found):
        return
    yield Violation(
        rule=fixed.origin.rule,
        kind="fixed",
        op=fixed.origin.op,
        op_type=fixed.origin.op_type,
        source=fixed.origin.source,
        tensors=(found[0],),
        message=f"{found[0].name} must have {shifted(wanted, found[0].dtype).values}, but has {found[0].values}",
        repair=repair.fixed(found[0], wanted, fixed.origin.op, can_requantize=case.pack.can_requantize),
    )


def _derived(bias: Derived, case: _Case) -> Iterator[Violation]:
    found, inputs, weights = case.at(bias.slot), case.at(bias.activation), case.at(bias.weight)
    if not found:
        return
    entry, dtype = found[0], case.pack.bias.dtype
    wrong = []
    if entry.dtype != dtype:
        wrong.append(f"is {entry.dtype}, not {dtype}")
    if any(entry.offset):
        wrong.append("has a zero point other than 0")
    wanted = product(inputs[0], weights[0], len(entry.scale)) if inputs and weights else None
    if wanted is not None and not same_scales(entry.scale, wanted):
        wrong.append("has another scale than input times weight")
    if not wrong:
        return
    yield Violation(
        rule=bias.origin.rule,
        kind="derived",
        op=bias.origin.op,
        op_type=bias.origin.op_type,
        source=bias.origin.source,
        tensors=(entry, *inputs[:1], *weights[:1]),
        message=f"the bias {entry.name} {', '.join(wrong)}",
        repair=repair.derived(entry, wanted, dtype),
        expected=wanted,
    )


def _fused(pair: Fused, case: _Case) -> Iterator[Violation]:
    found = case.at(pair.producer) or case.at(pair.consumer)
    if not found:
        return
    producer = parts(pair.producer).op
    assert producer is not None
    both = f"{producer} ({case.ops[producer].type}) and {pair.origin.op} ({pair.origin.op_type})"
    yield Violation(
        rule=pair.origin.rule,
        kind="fused",
        op=pair.origin.op,
        op_type=pair.origin.op_type,
        source=pair.origin.source,
        tensors=(found[0],),
        message=f"{found[0].name} is quantized between {both}, which run as one",
        repair=f"take the quantization of {found[0].name} away; that of what {pair.origin.op} makes is enough",
    )


def _requantized(case: _Case) -> Iterator[Violation]:
    """Tensors that are read with other parameters than they were made with, where the target cannot."""
    if case.pack.can_requantize:
        return
    for edge in case.constraints.tensors:
        made, read = case.at(edge.producer), case.at(edge.consumer)
        if not made or not read or any(same_parameters(entry, read[0]) for entry in made):
            continue
        op = parts(edge.consumer).op or parts(edge.producer).op or ""
        yield Violation(
            rule="requantize",
            kind="requantize",
            op=op,
            op_type=case.ops[op].type if op in case.ops else "",
            source=case.pack.source,
            tensors=(made[0], read[0]),
            message=f"{edge.tensor} is made with {made[0].values} and read with {read[0].values}",
            repair=f"make and read {edge.tensor} with one scale: {case.pack.name} cannot requantize",
        )


def _reinterpreted(case: _Case) -> Iterator[Violation]:
    for entry in case.model.reinterpreted:
        made, read = _parameters(entry.tensor, entry.made), _parameters(entry.tensor, entry.read)
        yield Violation(
            rule="pair",
            kind="pair",
            op=entry.op,
            op_type=entry.op_type,
            source="ONNX operators QuantizeLinear, DequantizeLinear: integers mean what they were made to mean",
            tensors=(made, read),
            message=f"the integers of {entry.tensor} are made with {made.values} but read with {read.values}",
            repair=f"give {entry.op} the parameters that {entry.tensor} is made with: {made.values}",
        )


def _summary(case: _Case) -> Summary:
    planned: dict[str, bool] = {}
    quantized: dict[str, bool] = {}
    for slot, plan in case.constraints.slots.items():
        planned[plan.tensor] = planned.get(plan.tensor, False) or plan.scheme is not None
        quantized[plan.tensor] = quantized.get(plan.tensor, False) or slot in case.model.quantizations
    return Summary(
        ops=len(case.ops),
        quantized=sum(quantized.values()),
        left_float=_names(name for name, wanted in planned.items() if wanted and not quantized[name]),
        not_wanted=_names(name for name, wanted in planned.items() if quantized[name] and not wanted),
        unread=case.model.unread,
    )


def _names(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names))
