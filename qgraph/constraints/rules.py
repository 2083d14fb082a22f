"""Apply a target's rule pack to a model: every constraint between its slots."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from qgraph.constraints.alignment import alignments, apply_methods, refuse_broken_rules
from qgraph.constraints.merge_methods import UNCHANGED, MergeMethods
from qgraph.constraints.model import (
    Alignment,
    Constraints,
    Derived,
    Fixed,
    Origin,
    Same,
    SlotPlan,
    Strength,
    TensorEdge,
)
from qgraph.constraints.rule_pack import FixedRule, RulePack, SameRule, Slots, WeightedRule
from qgraph.constraints.slot_plans import BIAS, WEIGHT, plan_slots, readers_of
from qgraph.constraints.target import Target, aim
from qgraph.ir.elements import Op
from qgraph.ir.graph import Graph
from qgraph.ir.slots import graph_output, input_slot, output_slot

Plans = Mapping[str, SlotPlan]


def constrain(
    graph: Graph, pack: RulePack, methods: MergeMethods = UNCHANGED, *, kept: frozenset[str] = frozenset()
) -> Constraints:
    """Everything that a target and the alignment options say about a model.

    Linear in ops, slots and tensors, apart from sorting; the order of ops and tensors in the model does not matter.

    Args:
        kept: names of pass-through ops that are quantized even between float ops, as a quantized file may have them.

    Raises:
        UsageError: a method None would untie what the target requires.
    """
    target = aim(graph.structure, apply_methods(pack, methods), kept)
    plans = plan_slots(target)
    quantized = [op for op in target.wiring.ops if op.name not in target.part.float_reasons]
    refuse_broken_rules(quantized, target)
    ties = [tie for op in quantized for tie in _ties(op, target, plans)]
    return Constraints(
        target=pack.name,
        version=pack.version,
        can_requantize=pack.can_requantize,
        slots=MappingProxyType(dict(sorted(plans.items()))),
        tensors=tuple(sorted(_tensor_edges(target, plans), key=lambda edge: (edge.producer, edge.consumer))),
        same=tuple(sorted(ties, key=lambda tie: (tie.a, tie.b, tie.origin.rule))),
        fixed=tuple(
            sorted(
                (fixed for op in quantized for fixed in _fixed(op, target, plans)),
                key=lambda fixed: (fixed.slot, fixed.origin.op, fixed.origin.rule),
            )
        ),
        derived=tuple(
            sorted((bias for op in quantized for bias in _derived(op, target, plans)), key=lambda bias: bias.slot)
        ),
        fused=tuple(sorted(target.fused.values(), key=lambda pair: (pair.producer, pair.consumer))),
        alignments=tuple(
            sorted((one for op in quantized for one in _alignments(op, target, plans)), key=lambda one: one.op)
        ),
    )


def _tensor_edges(target: Target, plans: Plans) -> Iterator[TensorEdge]:
    for name, producer in target.wiring.producers.items():
        plan = plans.get(producer)
        if plan is None or plan.scheme is None:
            continue
        readers = readers_of(name, target)
        if name in target.wiring.outputs:
            readers.append(graph_output(name))
        for reader in readers:
            if plans[reader].scheme is not None and plans[reader].role != BIAS:
                yield TensorEdge(name, producer, reader)


def _ties(op: Op, target: Target, plans: Plans) -> Iterator[Same]:
    """The op's `same` rules as stars: each input to each output, or to the first input where only inputs agree."""
    pass_through = op.name in target.part.pass_through
    tied: dict[str, set[str]] = {}
    for rule in sorted(target.index.same_rules(op, target.wiring.tensors), key=lambda rule: rule.optional):
        inputs = [slot for slot in _inputs(op, rule.inputs) if _shares(slot, plans)]
        outputs = _quantized_outputs(op, rule.outputs, target, plans)
        if rule.outputs == ():
            pairs = [(inputs[0], other, rule.strength) for other in inputs[1:]]
        else:
            pairs = [(a, b, _strength(rule, inner, b)) for a in inputs for inner, b in outputs]
        if rule.optional:
            pairs = [(a, b, strength) for a, b, strength in pairs if not _agree(a, b, tied)]
        for a, b, strength in pairs:
            tied.setdefault(a, set()).add(b)
            tied.setdefault(b, set()).add(a)
            yield Same(a, b, _origin(rule, op), strength, pass_through)


def _agree(a: str, b: str, tied: Mapping[str, set[str]]) -> bool:
    """Whether two slots of an op are tied already, directly or by the middle of a star."""
    others = tied.get(a, set())
    return b in others or not others.isdisjoint(tied.get(b, set()))


def _strength(rule: SameRule, inner: str, outer: str) -> Strength:
    """A tie that reaches through a fused activation changes values on its way, so that it is not free any more."""
    if rule.strength == Strength.EXACT and inner != outer:
        return Strength.REQUIRED
    return rule.strength


def _inputs(op: Op, indices: Slots) -> list[str]:
    """Slots of the inputs that a rule names, as far as the op has them."""
    return [
        input_slot(op.name, index)
        for index, name in enumerate(op.inputs)
        if name is not None and (indices is None or index in indices)
    ]


def _shares(slot: str, plans: Plans) -> bool:
    """Whether a slot is quantized as a value. Weights and biases have schemes of their own."""
    plan = plans.get(slot)
    return plan is not None and plan.scheme is not None and plan.role not in (WEIGHT, BIAS)


def _quantized_outputs(op: Op, indices: Slots, target: Target, plans: Plans) -> list[tuple[str, str]]:
    """The outputs that a rule names: the op's own slot, and the outer slot that stands for it."""
    found = []
    for index, name in enumerate(op.outputs):
        if name is None or not (indices is None or index in indices):
            continue
        inner = output_slot(op.name, index)
        outer = target.outer.get(inner, inner)
        if _shares(outer, plans):
            found.append((inner, outer))
    return found


def _alignments(op: Op, target: Target, plans: Plans) -> Iterator[Alignment]:
    inputs = [
        slot for i in target.index.value_inputs(op, target.wiring) if _shares(slot := input_slot(op.name, i), plans)
    ]
    return alignments(op, inputs, [outer for _, outer in _quantized_outputs(op, None, target, plans)], target)


def _fixed(op: Op, target: Target, plans: Plans) -> Iterator[Fixed]:
    for rule in target.index.fixed_rules(op, target.wiring.tensors):
        for _, outer in _quantized_outputs(op, rule.outputs, target, plans):
            yield Fixed(outer, rule.scale, rule.offset, _origin(rule, op))


def _derived(op: Op, target: Target, plans: Plans) -> Iterator[Derived]:
    rule = target.index.weighted_rule(op, target.wiring.tensors)
    if rule is None or rule.bias is None:
        return
    plan = plans.get(input_slot(op.name, rule.bias))
    if plan is not None and plan.scheme is not None:
        yield Derived(plan.slot, input_slot(op.name, 0), input_slot(op.name, rule.weight), _origin(rule, op))


def _origin(rule: SameRule | FixedRule | WeightedRule, op: Op) -> Origin:
    return Origin(rule.name, op.name, op.type, rule.source)
