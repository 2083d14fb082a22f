"""Check a quantized model against a target's rules: which scales differ that must be equal, and how to repair it.

Needs no data and does not run anything: the rules are applied to the float model that the file stands for
(`qgraph.constraints.rules.constrain`), and every constraint is held against the parameters at its slots.

- Two parameters are equal if their scales are at most one unit in the last place of a float32 apart and their zero
  points mean the same integer: int8 with zero point z is uint8 with z + 128.
- Only rules that the target demands can be violated; where what it merely prefers is not so, that is a note.
- Only what is quantized can violate a rule. What the file left float although the target would quantize it is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from qgraph.analysis import repair
from qgraph.analysis.case import Case, case_of
from qgraph.analysis.parameters import Parameters, product, same_parameters, same_scales, shifted, width
from qgraph.analysis.pricing import NO_PRICES, Prices
from qgraph.analysis.ratios import ratio_violations
from qgraph.analysis.repair_plan import plan_repairs
from qgraph.analysis.schemes import scheme_violations
from qgraph.analysis.violation import Change, Repair, Report, Rule, Summary, Violation
from qgraph.constraints.model import Derived, Fixed, Fused, Same, Strength
from qgraph.constraints.override_bits import rescaled
from qgraph.constraints.rule_pack import RulePack
from qgraph.constraints.rules import constrain
from qgraph.formats.quantized_model import Quantization, QuantizedModel
from qgraph.formats.tflite_ops import CONVERSIONS
from qgraph.ir.graph import Graph
from qgraph.ir.slots import parts


def check(model: QuantizedModel, pack: RulePack, prices: Prices = NO_PRICES) -> Report:
    """Hold a quantized model against a target's rules.

    Args:
        prices: what changes cost, where statistics exist; they decide between equally small repairs.

    Returns:
        All violations, in the order of the model's ops, the smallest repairs, and counts of what is quantized and
        what is not.
    """
    pack = _for_stored(pack) if model.is_stored else pack
    constraints = constrain(Graph(model.structure), pack, kept=_quantized_ops(model))
    case = case_of(model, pack, constraints)
    repairable = dict[Violation, str](
        [
            *(entry for tie in case.binding for entry in _same(tie, case)),
            *(entry for fixed in constraints.fixed for entry in _fixed(fixed, case)),
            *(entry for bits, fixed in constraints.fixed_in_bits for entry in _fixed(fixed, case, bits)),
            *(entry for bias in constraints.derived for entry in _derived(bias, case)),
        ]
    )
    others = dict.fromkeys(
        [
            *(violation for pair in constraints.fused for violation in _fused(pair, case)),
            *(violation for ratio in constraints.ratios for violation in ratio_violations(ratio, case)),
            *_requantized(case),
            *_reinterpreted(case),
            *scheme_violations(constraints, model, pack, case.ops),
        ]
    )
    preferred = [tie for tie in constraints.same if tie.strength == Strength.PREFERRED]
    repairs = plan_repairs(repairable, case, prices)
    repaired = (_with_alternatives(violation, case, prices) for violation in _repaired(repairable, repairs))
    found = _ordered([*repaired, *others], case)
    return Report(
        pack.name,
        pack.version,
        _rules(pack, found),
        found,
        _summary(case),
        repairs,
        _ordered((note for tie in preferred for note, _ in _same(tie, case)), case),
    )


def _ordered(found: Iterable[Violation], case: Case) -> tuple[Violation, ...]:
    """In the order of the model's ops."""
    place = {name: index for index, name in enumerate(case.ops)}
    key = {v: (place.get(v.op, len(place)), v.op, v.rule, [t.name for t in v.tensors]) for v in found}
    return tuple(sorted(key, key=lambda violation: key[violation]))


def _repaired(found: Iterable[Violation], repairs: Iterable[Repair]) -> Iterator[Violation]:
    """The violations with what the smallest repair of theirs asks for, where that is not what they say alone."""
    smallest = {violation: repair for repair in repairs for violation in repair.violations}
    for violation in found:
        repair = smallest.get(violation)
        yield violation if repair is None or _agrees(violation, repair) else replace(violation, repair=repair.text)


def _with_alternatives(violation: Violation, case: Case, prices: Prices) -> Violation:
    """A violation with every single change that repairs it alone, each with its price, cheapest first."""
    if prices is NO_PRICES or violation.kind != "same":
        return violation
    a, b = violation.tensors
    ways: list[tuple[str, str | None, Parameters, Parameters]]
    ways = [("parameters", None, a, b), ("parameters", None, b, a)]
    if case.pack.can_requantize and a.name in case.ops[violation.op].inputs:
        ways.append(("requantize", violation.op, a, b))
    found = []
    for kind, op, was, other in ways:
        wanted = replace(shifted(other, was.dtype), name=was.name)
        single = kind == "parameters"
        price = prices.parameters([(was, wanted)])[0] if single else prices.requantize(was, wanted)
        found.append(Change(kind, was.name, op, was, wanted, price))
    found.sort(key=lambda change: (change.price_db is None, change.price_db or 0.0))
    return replace(violation, alternatives=tuple(found))


def _agrees(violation: Violation, repair: Repair) -> bool:
    """Whether each violation of a set has its own change, and this one's is the one that its text names."""
    if len(repair.changes) != len(repair.violations) or any(c.price_db is not None for c in repair.changes):
        return False
    return any(violation.repair.startswith(_head(change)) for change in repair.changes)


def _head(change: Change) -> str:
    """How the text of a repair by one change begins."""
    verb = {"bias": "store", "requantize": "requantize", "parameters": "quantize"}[change.kind]
    return f"{verb} {change.tensor} "


def _for_stored(pack: RulePack) -> RulePack:
    """A pack for a model in the target's own format, whose ops are kernels and whose constants have parameters.

    What runs as one op is one there, so that two that could run as one do not; and rules about how a constant
    operand of a float model would be converted say nothing.
    """
    return replace(
        pack,
        fusions=(),
        no_values=tuple(rule for rule in pack.no_values if not rule.constants_only),
        quantizable=tuple(
            replace(rule, when=tuple(condition for condition in rule.when if condition.constant is None))
            for rule in pack.quantizable
        ),
    )


def _quantized_ops(model: QuantizedModel) -> frozenset[str]:
    """Ops that read and make quantized tensors in the file: a target runs them on integers."""
    sides = {(op, side) for op, side, _ in map(parts, model.quantizations)}
    return frozenset(op.name for op in model.structure.ops if {(op.name, "in"), (op.name, "out")} <= sides)


def _rules(pack: RulePack, violations: Iterable[Violation]) -> tuple[Rule, ...]:
    rules = {violation.rule: Rule(violation.rule, violation.kind, violation.source) for violation in violations}
    rules |= {
        rule.name: Rule(rule.name, "same", rule.source, preferred=rule.strength == Strength.PREFERRED)
        for rule in pack.same
    }
    rules |= {rule.name: Rule(rule.name, "fixed", rule.source) for rule in pack.fixed}
    rules |= {rule.name: Rule(rule.name, "derived", rule.source) for rule in pack.weighted if rule.bias is not None}
    rules |= {rule.name: Rule(rule.name, "fused", rule.source) for rule in pack.fusions}
    rules |= {rule.name: Rule(rule.name, "ratio", rule.source) for rule in pack.ratios}
    return tuple(rules[name] for name in sorted(rules))


Located = tuple[Violation, str]
"""A violation and a slot that it is about."""


def _same(tie: Same, case: Case) -> Iterator[Located]:
    origin = tie.origin
    first, second = case.at(tie.a), case.at(case.inside(tie.b, origin.op))
    if not first or not second or any(same_parameters(a, b) for a in first for b in second):
        return
    a, b = first[0], second[0]
    scales_agree = same_scales(a.scale, b.scale)
    what = "zero point" if scales_agree else "scale"
    shift = f" ({a.dtype} and {b.dtype} compared with zero points shifted)" if a.dtype != b.dtype else ""
    prefers = tie.strength == Strength.PREFERRED
    verb, only = ("would", f"; {case.pack.name} only prefers it") if prefers else ("must", "")
    violation = Violation(
        rule=origin.rule,
        kind="same",
        op=origin.op,
        op_type=origin.op_type,
        source=origin.source,
        tensors=(a, b),
        message=f"{a.name} and {b.name} {verb} have equal parameters, but differ in {what}{shift}{only}",
        repair=_repair_of(tie, a, b, case),
    )
    yield violation, tie.a


def _repair_of(tie: Same, a: Parameters, b: Parameters, case: Case) -> str:
    if parts(tie.b).side == "in":
        return repair.inputs_only(a, b, tie.origin.op)
    if tie.pass_through:
        return repair.pass_through(a, b, tie.origin.op, can_requantize=case.pack.can_requantize)
    slots = dict.fromkeys(entry.a for entry in case.ties[tie.origin])
    inputs = [entry for slot in slots for entry in case.at(slot)[:1]]
    reason = _bound_elsewhere(tie.a, a, case) if case.pack.can_requantize else None
    return repair.merging(a, b, inputs, case.pack.activation, tie.origin.op, reason)


def _bound_elsewhere(slot: str, read: Parameters, case: Case) -> str | None:
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


def _fixed(fixed: Fixed, case: Case, bits: int | None = None) -> Iterator[Located]:
    """A tensor without its prescribed parameters.

    Args:
        bits: the width that they are prescribed for; None where they are for all, scaled to their width.
    """
    found = case.at(case.inside(fixed.slot, fixed.origin.op))
    if not found or bits not in (None, width(found[0].dtype)):
        return
    scheme = case.pack.activation
    other = case.pack.width(found[0].dtype)
    if bits and other is None:
        return
    if other is not None:
        fixed, scheme = fixed if bits else rescaled(fixed, scheme, other.scheme), other.scheme
    wanted = Parameters(found[0].name, scheme.dtype, (fixed.scale,), (fixed.offset,))
    if any(same_parameters(entry, wanted) for entry in found):
        return
    violation = Violation(
        rule=fixed.origin.rule,
        kind="fixed",
        op=fixed.origin.op,
        op_type=fixed.origin.op_type,
        source=fixed.origin.source,
        tensors=(found[0],),
        message=f"{found[0].name} must have {shifted(wanted, found[0].dtype).values}, but has {found[0].values}",
        repair=repair.fixed(found[0], wanted, fixed.origin.op, can_requantize=case.pack.can_requantize),
    )
    yield violation, case.inside(fixed.slot, fixed.origin.op)


def _derived(bias: Derived, case: Case) -> Iterator[Located]:
    found, inputs, weights = case.at(bias.slot), case.at(bias.activation), case.at(bias.weight)
    if not found:
        return
    entry = found[0]
    wrong = []
    dtype = case.bias_type(entry, inputs[0] if inputs else None)
    if entry.dtype != dtype:
        wrong.append(f"is {entry.dtype}, not {dtype}")
    if any(entry.offset):
        wrong.append("has a zero point other than 0")
    wanted = product(inputs[0], weights[0], len(entry.scale)) if inputs and weights else None
    if wanted is not None and not same_scales(entry.scale, wanted):
        wrong.append("has another scale than input times weight")
    if not wrong:
        return
    violation = Violation(
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
    yield violation, bias.activation


def _fused(pair: Fused, case: Case) -> Iterator[Violation]:
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


def _requantized(case: Case) -> Iterator[Violation]:
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


def _parameters(tensor: str, entry: Quantization) -> Parameters:
    return Parameters(tensor, entry.dtype, entry.scale, entry.offset)


def _reinterpreted(case: Case) -> Iterator[Violation]:
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


def _summary(case: Case) -> Summary:
    planned: dict[str, bool] = {}
    quantized: dict[str, bool] = {}
    for slot, plan in case.constraints.slots.items():
        planned[plan.tensor] = planned.get(plan.tensor, False) or plan.scheme is not None
        quantized[plan.tensor] = quantized.get(plan.tensor, False) or slot in case.model.quantizations
    # What is converted at the model's border, as an int8 result to uint8, is no matter of the target's.
    converted = {name for op in case.ops.values() if op.type in CONVERSIONS for name in (*op.inputs, *op.outputs)}
    return Summary(
        ops=len(case.ops),
        quantized=sum(quantized.values()),
        left_float=_names(name for name, wanted in planned.items() if wanted and not quantized[name]),
        not_wanted=_names(
            name for name, wanted in planned.items() if quantized[name] and not wanted and name not in converted
        ),
        unread=case.model.unread,
    )


def _names(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names))
