"""Apply a target's rule pack to a model: every constraint between its slots."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from operator import attrgetter
from types import MappingProxyType

from qgraph.constraints.alignment import apply_methods, refuse_broken_rules, silencing_methods
from qgraph.constraints.merge_methods import UNCHANGED, MergeMethod, MergeMethods
from qgraph.constraints.model import (
    Alignment,
    Constraints,
    Derived,
    Fixed,
    Origin,
    Ratio,
    Same,
    SlotPlan,
    Strength,
    TensorEdge,
    Unlisted,
)
from qgraph.constraints.participation import NOTHING, STANDARD_DOMAINS, LeftFloat
from qgraph.constraints.rule_pack import FixedRule, Place, RatioRule, RulePack, SameRule, Slots, WeightedRule
from qgraph.constraints.slot_plans import BIAS, WEIGHT, plan_slots
from qgraph.constraints.target import Target, aim
from qgraph.ir.elements import AttributeValue, Op
from qgraph.ir.graph import Graph
from qgraph.ir.slots import graph_output, input_slot

Plans = Mapping[str, SlotPlan]


def constrain(
    graph: Graph,
    pack: RulePack,
    methods: MergeMethods = UNCHANGED,
    *,
    kept: frozenset[str] = frozenset(),
    left_float: LeftFloat = NOTHING,
) -> Constraints:
    """Everything that a target and the alignment options say about a model.

    Linear in ops, slots and tensors, apart from sorting; the order of ops and tensors in the model does not matter.

    Args:
        kept: names of pass-through ops that are quantized even between float ops, as a quantized file may have them.
        left_float: ops and tensors that the user leaves in float.

    Raises:
        UsageError: a method None would untie what the target requires.
    """
    target = aim(graph.structure, apply_methods(pack, methods), kept, left_float)
    plans = plan_slots(target)
    quantized = [op for op in target.wiring.by_slot if op.name not in target.part.float_reasons]
    refuse_broken_rules(quantized, target)
    ties = [tie for op in quantized for tie in _ties(op, target, plans)]
    ties += _ties_across(quantized, target, plans)
    silencing = silencing_methods(target)
    prescribed = [entry for op in quantized for entry in _fixed(op, target, plans)]
    prescribed.sort(key=lambda entry: (entry[1].slot, entry[1].origin.op, entry[1].origin.rule))
    derived = (bias for op in quantized for bias in _derived(op, target, plans))
    alignments = (one for op in quantized for one in _alignments(op, silencing, target, plans))
    ratios = (ratio for op in quantized for ratio in _ratios(op, target, plans))
    return Constraints(
        target=pack.name,
        version=pack.version,
        can_requantize=pack.can_requantize,
        slots=MappingProxyType({slot: plans[slot] for slot in sorted(plans)}),
        tensors=tuple(_tensor_edges(target, plans)),
        same=tuple(sorted(ties, key=attrgetter("a", "b", "origin.rule"))),
        fixed=tuple(fixed for bits, fixed in prescribed if bits is None),
        derived=tuple(sorted(derived, key=attrgetter("slot"))),
        fused=tuple(sorted(target.fused.values(), key=attrgetter("producer", "consumer"))),
        alignments=tuple(sorted(alignments, key=attrgetter("op"))),
        ratios=tuple(sorted(ratios, key=attrgetter("origin.op", "origin.rule", "numerator", "denominator"))),
        unlisted=_unlisted(target),
        fixed_in_bits=tuple((bits, fixed) for bits, fixed in prescribed if bits is not None),
    )


def _tensor_edges(target: Target, plans: Plans) -> Iterator[TensorEdge]:
    """Sorted: a slot makes one tensor."""
    reader_slots, outputs = target.wiring.reader_slots, target.wiring.outputs
    for producer, name in sorted((slot, name) for name, slot in target.wiring.producers.items()):
        plan = plans.get(producer)
        if plan is None or plan.scheme is None:
            continue
        readers = reader_slots[name]
        if name in outputs:
            readers = [*readers, graph_output(name)]
        for reader in sorted(readers):
            read = plans[reader]
            if read.scheme is not None and read.role != BIAS:
                yield TensorEdge(name, producer, reader)


def _ties(op: Op, target: Target, plans: Plans) -> Iterator[Same]:
    """The op's `same` rules as stars: each input to each output, or to the first input where only inputs agree."""
    rules = target.same_rules(op)
    pass_through = op.name in target.part.pass_through
    tied: dict[str, set[str]] = {}
    for rule in sorted(rules, key=lambda rule: rule.optional):
        origin = _origin(rule, op)
        inputs = [slot for slot in _inputs(op, rule.inputs, target) if _shares(slot, plans)]
        if rule.outputs == ():
            pairs = [(inputs[0], other, rule.strength) for other in inputs[1:]]
        else:
            outputs = _quantized_outputs(op, rule.outputs, target, plans)
            ends = [(b, _strength(rule, inner, b)) for inner, b in outputs]
            pairs = [(a, b, strength) for a in inputs for b, strength in ends]
        if rule.optional:
            pairs = [(a, b, strength) for a, b, strength in pairs if not _agree(a, b, tied)]
        for a, b, strength in pairs:
            if len(rules) > 1:
                tied.setdefault(a, set()).add(b)
                tied.setdefault(b, set()).add(a)
            yield Same(a, b, origin, strength, pass_through, rule.direction)


def _ties_across(ops: Sequence[Op], target: Target, plans: Plans) -> Iterator[Same]:
    """Ties between slots of different ops: those of ops with one value of a rule's attribute, each to the first."""
    first: dict[tuple[str, AttributeValue], str] = {}
    for op in sorted(ops, key=lambda op: op.name):
        for rule in target.index.rules_across(op, target.wiring.tensors):
            assert rule.across is not None
            slots = [slot for slot in _inputs(op, rule.inputs, target) if _shares(slot, plans)]
            slots += [outer for _, outer in _quantized_outputs(op, rule.outputs, target, plans)]
            for slot in slots:
                hub = first.setdefault((rule.name, op.attributes[rule.across]), slot)
                if slot != hub:
                    yield Same(hub, slot, _origin(rule, op), rule.strength, pass_through=False)


def _agree(a: str, b: str, tied: Mapping[str, set[str]]) -> bool:
    """Whether two slots of an op are tied already, directly or by the middle of a star."""
    others = tied.get(a, set())
    return b in others or not others.isdisjoint(tied.get(b, set()))


def _strength(rule: SameRule, inner: str, outer: str) -> Strength:
    """A tie that reaches through a fused activation changes values on its way, so that it is not free any more."""
    if rule.strength == Strength.EXACT and inner != outer:
        return Strength.REQUIRED
    return rule.strength


def _inputs(op: Op, indices: Slots, target: Target) -> list[str]:
    """Slots of the inputs that a rule names, as far as the op has them."""
    return [
        slot
        for index, (name, slot) in enumerate(zip(op.inputs, target.wiring.input_slots[op.name], strict=True))
        if name is not None and (indices is None or index in indices)
    ]


def _shares(slot: str, plans: Plans) -> bool:
    """Whether a slot is quantized as a value. Weights and biases have schemes of their own."""
    plan = plans.get(slot)
    return plan is not None and plan.scheme is not None and plan.role not in (WEIGHT, BIAS)


def _quantized_outputs(op: Op, indices: Slots, target: Target, plans: Plans) -> list[tuple[str, str]]:
    """The outputs that a rule names: the op's own slot, and the outer slot that stands for it."""
    found = []
    for index, (name, inner) in enumerate(zip(op.outputs, target.wiring.output_slots[op.name], strict=True)):
        if name is None or not (indices is None or index in indices):
            continue
        outer = target.outer.get(inner, inner)
        if _shares(outer, plans):
            found.append((inner, outer))
    return found


def _alignments(
    op: Op, methods: Mapping[str, Sequence[MergeMethod]], target: Target, plans: Plans
) -> Iterator[Alignment]:
    for method in methods.get(op.type, ()):
        slots = target.wiring.input_slots[op.name]
        inputs = sorted(slot for i in target.part.values[op.name] if _shares(slot := slots[i], plans))
        outputs = sorted(outer for _, outer in _quantized_outputs(op, None, target, plans))
        yield Alignment(op.name, op.type, method, tuple(inputs), tuple(outputs))


def _fixed(op: Op, target: Target, plans: Plans) -> Iterator[tuple[int | None, Fixed]]:
    """What is prescribed, each with the bits that its slot must get first; None where it has them."""
    for rule in target.index.fixed_rules(op, target.wiring.tensors):
        for _, outer in _quantized_outputs(op, rule.outputs, target, plans):
            scheme = plans[outer].scheme
            here = rule.bits is None or (scheme is not None and scheme.bits == rule.bits)
            yield None if here else rule.bits, Fixed(outer, rule.scale, rule.offset, _origin(rule, op))


def _derived(op: Op, target: Target, plans: Plans) -> Iterator[Derived]:
    rule = target.index.weighted_rule(op, target.wiring.tensors)
    if rule is None or rule.bias is None:
        return
    plan = plans.get(input_slot(op.name, rule.bias))
    if plan is not None and plan.scheme is not None:
        yield Derived(plan.slot, input_slot(op.name, 0), input_slot(op.name, rule.weight), _origin(rule, op))


def _ratios(op: Op, target: Target, plans: Plans) -> Iterator[Ratio]:
    """The op's bounds, one for each choice of slots where a rule speaks of several; none with a float slot in it."""
    for rule in target.index.ratio_rules(op, target.wiring.tensors):
        above = [_scaled(op, place, target, plans) for place in rule.numerator]
        below = [_scaled(op, place, target, plans) for place in rule.denominator]
        for chosen in product(*above, *below):
            numerator, denominator = chosen[: len(above)], chosen[len(above) :]
            bounds = (rule.above, rule.below, rule.at_least, rule.at_most)
            yield Ratio(numerator, denominator, _origin(rule, op), *bounds)


def _scaled(op: Op, place: Place, target: Target, plans: Plans) -> list[str]:
    """The slots with a scale that a ratio rule means by ``in:0`` or ``out:all``."""
    side, index = place
    indices = None if index is None else (index,)
    if side == "out":
        return [outer for _, outer in _quantized_outputs(op, indices, target, plans)]
    slots = _inputs(op, indices, target)
    return [slot for slot in slots if (plan := plans.get(slot)) is not None and plan.scheme and plan.role != BIAS]


def _unlisted(target: Target) -> tuple[Unlisted, ...]:
    """The types of ops with float tensors that the pack does not name, sorted."""
    counts = dict[str, int]()
    for op in target.wiring.ops:
        if op.excluded is not None or op.domain not in STANDARD_DOMAINS or op.type in target.index.quantizable:
            continue
        if any(name in target.wiring.floats for name in (*op.inputs, *op.outputs)):
            counts[op.type] = counts.get(op.type, 0) + 1
    reason = None if target.pack.quantize_unlisted else target.pack.unlisted_reason
    return tuple(Unlisted(op_type, count, reason) for op_type, count in sorted(counts.items()))


def _origin(rule: SameRule | FixedRule | WeightedRule | RatioRule, op: Op) -> Origin:
    return Origin(rule.name, op.name, op.type, rule.source)
