"""Check how tensors are quantized at all: integer type, symmetry, granularity, range.

A wrong scheme comes from one setting of the tool that made the file, so that it is one violation with all its tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from qgraph.analysis.parameters import Parameters, limits, width
from qgraph.analysis.violation import Violation
from qgraph.constraints.model import Constraints, SlotPlan
from qgraph.constraints.rule_index import index_rules
from qgraph.constraints.rule_pack import RulePack, WeightedRule
from qgraph.formats.quantized_model import Quantization, QuantizedModel
from qgraph.ir.elements import Op
from qgraph.ir.slots import parts
from qgraph.tqc import Scheme

BIAS = "bias"
"""Its scheme is checked with its scale."""

STORED = ("weight", "constant")
"""Roles of tensors whose integers are in the file."""


@dataclass(frozen=True, slots=True)
class _Problem:
    """What is wrong with a scheme; tensors with equal problems are told together."""

    rule: str
    found: str
    wanted: str
    cure: str


def scheme_violations(
    constraints: Constraints,
    model: QuantizedModel,
    pack: RulePack,
    ops: Mapping[str, Op],
) -> Iterator[Violation]:
    """One violation for each kind of wrong scheme, its tensors in the order of the model.

    Args:
        ops: by name, in topological order.
    """
    readers = {edge.producer: edge.consumer for edge in reversed(constraints.tensors)}
    place = {name: index for index, name in enumerate(ops)}
    uses = []
    for slot, plan in constraints.slots.items():
        if plan.scheme is not None and plan.role != BIAS and slot in model.quantizations:
            op = parts(slot).op or parts(readers.get(slot, slot)).op or ""
            uses.append((place.get(op, len(place)), slot, op, plan))
    found: dict[_Problem, dict[Parameters, str]] = {}
    for _, slot, op, plan in sorted(uses, key=lambda use: use[:2]):
        for entry in model.quantizations[slot]:
            taken = _taken(entry, plan, ops.get(op), pack, model)
            for problem in _problems(entry, taken, pack):
                parameters = Parameters(plan.tensor, entry.dtype, entry.scale, entry.offset)
                found.setdefault(problem, {}).setdefault(parameters, op)
    for problem, tensors in found.items():
        yield _violation(problem, tensors, pack, ops, model)


def _violation(
    problem: _Problem, tensors: Mapping[Parameters, str], pack: RulePack, ops: Mapping[str, Op], model: QuantizedModel
) -> Violation:
    first, op = next(iter(tensors.items()))
    others = len({entry.name for entry in tensors}) - 1
    more = "" if not others else f" and {others} other tensor{'s' if others > 1 else ''}"
    return Violation(
        rule=problem.rule,
        kind="scheme",
        op=op,
        op_type=ops[op].type if op in ops else "",
        source=_source(problem, ops.get(op), pack, model),
        tensors=tuple(tensors),
        message=f"{first.name}{more}: {problem.found}, {pack.name} has {problem.wanted}",
        repair=problem.cure,
    )


def _source(problem: _Problem, op: Op | None, pack: RulePack, model: QuantizedModel) -> str:
    """Where a scheme is written: what is special to a weight's op says its rule, the rest the head of the pack."""
    rule = _weighted_rule(op, pack, model) if problem.rule == "weight_granularity" else None
    return pack.source if rule is None else rule.source


def _weighted_rule(op: Op | None, pack: RulePack, model: QuantizedModel) -> WeightedRule | None:
    if op is None:
        return None
    return index_rules(pack).weighted_rule(op, {tensor.name: tensor for tensor in model.structure.tensors})


def _taken(entry: Quantization, plan: SlotPlan, op: Op | None, pack: RulePack, model: QuantizedModel) -> SlotPlan:
    """What a slot is checked against: a weight per channel of an axis that its op takes besides is as it should be."""
    if plan.role != "weight" or plan.scheme is None or entry.axis in (None, plan.scheme.axis):
        return plan
    rule = _weighted_rule(op, pack, model)
    shape = next((tensor.shape for tensor in model.structure.tensors if tensor.name == plan.tensor), None)
    if rule is None or rule.also_axis is None or not shape or rule.also_axis % len(shape) != entry.axis:
        return plan
    return replace(plan, scheme=replace(plan.scheme, axis=entry.axis))


def _problems(entry: Quantization, plan: SlotPlan, pack: RulePack) -> Iterator[_Problem]:
    scheme, role = plan.scheme, "weight" if plan.role == "weight" else "activation"
    assert scheme is not None
    other = pack.width(entry.dtype) if role == "activation" else None
    if other is not None:
        scheme = replace(other.scheme, axis=scheme.axis)
    if entry.dtype != scheme.dtype:
        yield _Problem(f"{role}_type", entry.dtype, scheme.dtype, _type_cure(entry.dtype, scheme, role))
    if entry.axis is not None and entry.axis != scheme.axis:
        yield _granularity(entry, scheme, role)
    if width(entry.dtype) != scheme.bits:
        return
    by = limits(entry.dtype)[0] - limits(scheme.dtype)[0]
    centre = scheme.symmetric_offset + by
    if scheme.symmetric and any(offset != centre for offset in entry.offset):
        cure = f"quantize symmetrically: zero point {centre} in {entry.dtype}"
        yield _Problem(f"{role}_symmetry", "zero points that are not that of zero", f"zero point {centre}", cure)
    low, high = scheme.quant_min + by, scheme.quant_max + by
    # A file cannot say that the lowest integer never occurs, except in a constant, where every integer is known.
    spare = 0 if plan.role in STORED else 1
    if entry.low < low - spare or entry.high > high:
        cure = f"keep the integers inside [{low}, {high}]" + (": quantize from the float values" if not spare else "")
        yield _Problem(f"{role}_range", f"integers in [{entry.low}, {entry.high}]", f"[{low}, {high}]", cure)
    if scheme.power_of_two and any(math.frexp(scale)[0] != 0.5 for scale in entry.scale):
        cure = "round each scale up to a power of two"
        yield _Problem(f"{role}_power_of_two", "scales that are no powers of two", "powers of two only", cure)


def _type_cure(found: str, scheme: Scheme, role: str) -> str:
    if width(found) != scheme.bits:
        return f"quantize with {scheme.bits} bits" if width(found) else f"quantize to {scheme.dtype}"
    by = limits(scheme.dtype)[0] - limits(found)[0]
    return (
        f"set the {role} type to {scheme.dtype}; the same values are {scheme.dtype} integers and zero points "
        f"{'+' if by > 0 else '−'} {abs(by)}"
    )


def _granularity(entry: Quantization, scheme: Scheme, role: str) -> _Problem:
    found = f"one scale per channel (axis {entry.axis})"
    if scheme.axis is None:
        return _Problem(f"{role}_granularity", found, "one scale per tensor", "quantize per tensor")
    cure = f"quantize per channel of axis {scheme.axis}, or per tensor"
    return _Problem(f"{role}_granularity", found, f"one per channel of axis {scheme.axis}", cure)
