"""Which ops of a model run quantized on a target, and which of them only pass a value on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from qgraph.constraints.composites.finders import FINDERS
from qgraph.constraints.conditions import Condition
from qgraph.constraints.rule_index import RuleIndex
from qgraph.constraints.rule_pack import QuantizableRule, RulePack
from qgraph.constraints.wiring import Wiring
from qgraph.ir.elements import Op, Tensor

STANDARD_DOMAINS = ("", "ai.onnx")

QUANTIZED_DTYPE = "float32"
"""The only type whose tensors are quantized: ops in other float types are a decision of the model's author."""


@dataclass(frozen=True, slots=True)
class LeftFloat:
    """What the user leaves in float, each with the reason that its slots will carry.

    Attributes:
        ops: by name.
        tensors: by name; nothing is quantized on them, whatever the ops around them do.
    """

    ops: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    tensors: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


NOTHING = LeftFloat()


@dataclass(frozen=True, slots=True)
class Participation:
    """What becomes of each op.

    Attributes:
        float_reasons: by op name, why it stays float; ops that are not in it run quantized.
        pass_through: names of the quantized ops with one data input and a `same` rule to their outputs.
        values: by op name, the indices of the inputs that are values.
    """

    float_reasons: Mapping[str, str]
    pass_through: frozenset[str]
    values: Mapping[str, list[int]]


def participation(
    wiring: Wiring,
    pack: RulePack,
    index: RuleIndex,
    kept: frozenset[str] = frozenset(),
    left_float: LeftFloat = NOTHING,
) -> Participation:
    """Decide for every op.

    A pass-through op is quantized if what enters it comes from a quantized op (unless the target leaves in float what
    no quantized op reads), or if a quantized op reads what it makes; else it would add noise for nothing.

    Args:
        kept: names of pass-through ops that are quantized in any case.
        left_float: what the user leaves in float.
    """
    values = {op.name: index.value_inputs(op, wiring) for op in wiring.ops}
    others = {name: reason for name, tensor in wiring.tensors.items() if (reason := dtype_reason(tensor)) is not None}
    whole = {**_composite_reasons(wiring, pack), **left_float.ops}
    reasons = {
        op.name: reason
        for op in wiring.ops
        for reason in [whole.get(op.name) or _refusal(op, values[op.name], others, wiring, pack, index)]
        if reason is not None
    }
    carriers = {
        op.name: value
        for op in wiring.ops
        if op.name not in reasons
        for value in _carried(op, values[op.name], wiring, index)
    }
    after_quantized = _forward(wiring, index, reasons, carriers)
    needless = set(_needless(wiring, values, reasons, carriers, set() if pack.unread_float else after_quantized))
    for name in sorted(needless - kept):
        between = "that no quantized op reads" if pack.unread_float else "between float ops only"
        reasons[name] = f"it passes a value on {between}"
    return Participation(reasons, frozenset(name for name in carriers if name not in reasons), values)


def _composite_reasons(wiring: Wiring, pack: RulePack) -> dict[str, str]:
    """By op name, of what a part is that the target runs as one float op."""
    return {
        name: f"it is a part of the {rule.name} of {tensor}, which is left whole ({rule.source})"
        for rule in pack.composites
        for name, tensor in FINDERS[rule.name](wiring).items()
    }


def _refusal(
    op: Op, values: list[int], others: Mapping[str, str], wiring: Wiring, pack: RulePack, index: RuleIndex
) -> str | None:
    """Why the op can be quantized by no means, or None; `others` has the reasons of tensors of other float types."""
    if op.excluded is not None:
        return op.excluded
    if op.domain not in STANDARD_DOMAINS:
        return f"the rule pack knows no ops of domain {op.domain}"
    if others:  # mostly there are none, and a model has millions of inputs
        for name in (*(op.inputs[position] for position in values), *op.outputs):
            if name is not None and name in others:
                return others[name]
    rules = index.quantizable.get(op.type)
    if rules is None:
        return None if pack.quantize_unlisted else pack.unlisted_reason
    if any(_applies(rule, op, wiring) for rule in rules):
        return None
    return " or ".join(_unmet(rule, op, wiring) for rule in rules)


def dtype_reason(tensor: Tensor) -> str | None:
    """Why a float tensor's type forbids to quantize it, or None."""
    if tensor.dtype == QUANTIZED_DTYPE or not tensor.is_float:
        return None
    return f"{tensor.name} is {tensor.dtype}, and only {QUANTIZED_DTYPE} tensors are quantized"


def _applies(rule: QuantizableRule, op: Op, wiring: Wiring) -> bool:
    return wiring.opset >= rule.minimum_opset and all(condition.holds(op, wiring.tensors) for condition in rule.when)


def _unmet(rule: QuantizableRule, op: Op, wiring: Wiring) -> str:
    if wiring.opset < rule.minimum_opset:
        return f"quantized from opset {rule.minimum_opset} on, the model has {wiring.opset} ({rule.source})"
    failed = ", ".join(_name(condition) for condition in rule.when if not condition.holds(op, wiring.tensors))
    return f"not quantized with this {failed} ({rule.source})"


def _name(condition: Condition) -> str:
    kind = "constant " if condition.constant is False else ""
    return condition.attribute if condition.attribute is not None else f"{kind}input {condition.input}"


def _carried(op: Op, values: list[int], wiring: Wiring, index: RuleIndex) -> Iterator[str]:
    """The one tensor that the op passes on, if it is a pass-through op."""
    if len(values) != 1:
        return
    ties = [rule for rule in index.same_rules(op, wiring.tensors) if rule.outputs != ()]
    position = values[0]
    name = op.inputs[position]
    if name is not None and any(rule.inputs is None or position in rule.inputs for rule in ties):
        yield name


def _forward(wiring: Wiring, index: RuleIndex, reasons: dict[str, str], carriers: Mapping[str, str]) -> set[str]:
    """The tensors that quantized ops make, pass-through ops behind them included.

    Adds to `reasons` the ops that are quantized only behind such tensors and are not.
    """
    quantized: set[str] = set()
    for op in wiring.ops:
        if op.name in reasons:
            continue
        rules = [rule for rule in index.quantizable.get(op.type, ()) if _applies(rule, op, wiring)]
        source = op.inputs[0] if op.inputs else None
        if rules and all(rule.only_after_quantized for rule in rules) and source not in quantized:
            reasons[op.name] = f"what it reads is not quantized ({rules[0].source})"
        elif carriers.get(op.name) is None or carriers[op.name] in quantized:
            quantized.update(name for name in op.outputs if name is not None)
    return quantized


def _needless(
    wiring: Wiring,
    values: Mapping[str, list[int]],
    reasons: Mapping[str, str],
    carriers: Mapping[str, str],
    after_quantized: set[str],
) -> Iterator[str]:
    """Pass-through ops that no quantized op reads, however far behind, but those behind quantized values."""
    needed: set[str] = set()
    for op in reversed(wiring.ops):
        if op.name in reasons:
            continue
        carried = carriers.get(op.name)
        if carried is None:
            needed.update(name for i in values[op.name] if (name := op.inputs[i]) is not None)
        elif any(name in needed for name in op.outputs):
            needed.add(carried)
        elif carried not in after_quantized:
            yield op.name
