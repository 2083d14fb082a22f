"""What a target makes of each float slot of a model: its role, and a scheme or the reason why it has none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from qgraph.constraints.model import SlotPlan
from qgraph.constraints.participation import dtype_reason
from qgraph.constraints.rule_pack import RulePack, WeightedRule
from qgraph.constraints.target import Target
from qgraph.ir.elements import Op, Tensor
from qgraph.ir.slots import graph_output
from qgraph.tqc import Scheme

ACTIVATION, CONSTANT, WEIGHT, BIAS = "activation", "constant", "weight", "bias"

READ_BY_FLOAT_ONLY = "read by float ops only"

RETURNED_IN_FLOAT = "made by a quantized op in float, since no quantized op reads it"


def plan_slots(target: Target) -> dict[str, SlotPlan]:
    """A plan for every slot on a float tensor, by slot, in no particular order.

    A value that leaves a float op, or enters the graph, is quantized exactly if a quantized input reads it.
    """
    plans = {plan.slot: plan for op in target.wiring.by_slot for plan in _plan_inputs(op, target)}
    for op in target.wiring.by_slot:
        for plan in _plan_outputs(op, target, plans):
            plans[plan.slot] = plan
    for name in target.wiring.tensors:
        for plan in _plan_origin(name, target, plans):
            plans[plan.slot] = plan
    for name in sorted(target.wiring.outputs):
        if name in target.wiring.floats:
            slot = graph_output(name)
            plans[slot] = _plan_graph_output(name, slot, target, plans)
    return plans


def _plan_inputs(op: Op, target: Target) -> Iterator[SlotPlan]:
    tensors, floats, slots = target.wiring.tensors, target.wiring.floats, target.wiring.input_slots[op.name]
    float_reason, rule = target.float_reason(op), target.index.weighted_rule(op, tensors)
    for position, name in enumerate(op.inputs):
        if name is None or name not in floats:
            continue
        role = _role(position, tensors[name], rule)
        reason = float_reason or _unquantized_input(op, position, role, target)
        scheme = None if reason else _input_scheme(position, role, rule, op, target)
        if reason is None and scheme is None:
            reason = "the bias does not have one element per output channel"
        yield SlotPlan(slots[position], name, role, scheme, reason)


def _role(position: int, tensor: Tensor, rule: WeightedRule | None) -> str:
    if rule is not None and position == rule.bias:
        return BIAS
    if not tensor.constant:
        return ACTIVATION
    return WEIGHT if rule is not None and position == rule.weight else CONSTANT


def _unquantized_input(op: Op, position: int, role: str, target: Target) -> str | None:
    """Why an input of a quantized op is not quantized, or None if it is. A bias is where the op's first input is."""
    if role != BIAS:
        return _unquantized_value(op, position, target)
    name = op.inputs[position]
    assert name is not None
    reason = _left_out(name, target)
    if reason is None and not target.wiring.tensors[name].constant:
        reason = "a bias that is computed, not a constant"
    return reason or _unquantized_value(op, 0, target)


def _unquantized_value(op: Op, position: int, target: Target) -> str | None:
    name = op.inputs[position]
    assert name is not None
    return (
        _left_out(name, target)
        or target.index.no_value_reason(op, position, target.wiring.tensors)
        or target.unquantized_reason(name)
    )


def _left_out(name: str, target: Target) -> str | None:
    """Why a tensor is quantized nowhere."""
    if name not in target.wiring.producers:
        return "nothing in the model makes this tensor"
    return target.left_float.tensors.get(name)


def _input_scheme(position: int, role: str, rule: WeightedRule | None, op: Op, target: Target) -> Scheme | None:
    name = op.inputs[position]
    assert name is not None
    tensor = target.wiring.tensors[name]
    if rule is not None and role == WEIGHT:
        return _weight_scheme(tensor, rule, target.pack)
    if rule is not None and role == BIAS:
        return _bias_scheme(tensor, rule, op, target)
    if rule is not None and position == 0 and rule.input_axis is not None:
        return replace(target.pack.activation, axis=rule.input_axis)
    return target.pack.activation


def _weight_scheme(weight: Tensor, rule: WeightedRule, pack: RulePack) -> Scheme:
    """A vector has no output channels, so it is quantized per tensor."""
    rank = 0 if weight.shape is None else len(weight.shape)
    if rule.axis is None or rank < 2 or not -rank <= rule.axis < rank:
        return pack.weight.with_axis(None)
    return pack.weight.with_axis(rule.axis % rank)


def _bias_scheme(bias: Tensor, rule: WeightedRule, op: Op, target: Target) -> Scheme | None:
    """As granular as the weight; None where the bias has not one element for each output channel and no more.

    A Gemm may add a whole matrix, which no kernel takes as its bias. Where the weight has no scale per channel, the
    number of channels is unknown here, so any vector or scalar is taken.
    """
    if any(size != 1 for size in (bias.shape or ())[:-1]):
        return None
    name = op.inputs[rule.weight]
    weight = None if name is None else target.wiring.tensors[name]
    if weight is None or not weight.constant or weight.shape is None:
        return target.pack.bias
    axis = _weight_scheme(weight, rule, target.pack).axis
    if axis is None:
        return target.pack.bias
    if not bias.shape or bias.shape[-1] != weight.shape[axis]:
        return None
    return replace(target.pack.bias, axis=len(bias.shape) - 1)


def _plan_outputs(op: Op, target: Target, plans: dict[str, SlotPlan]) -> Iterator[SlotPlan]:
    float_reason = target.float_reason(op)
    for name, slot in zip(op.outputs, target.wiring.output_slots[op.name], strict=True):
        if name is None or name not in target.wiring.floats:
            continue
        reason = target.unquantized_reason(name)
        unread = RETURNED_IN_FLOAT if target.pack.unread_float else None
        if reason is None and (float_reason or unread) is not None:
            reason = None if _first_quantized_reader(name, target, plans) else float_reason or unread
        yield SlotPlan(slot, name, ACTIVATION, None if reason else _made_scheme(name, target, plans), reason)


def _plan_origin(name: str, target: Target, plans: dict[str, SlotPlan]) -> Iterator[SlotPlan]:
    """The slot of a graph input, or of a constant unless it is nothing but a bias."""
    tensor = target.wiring.tensors[name]
    slot = target.wiring.producers.get(name)
    if slot is None or name in target.wiring.makers or not tensor.is_float:
        return
    if not tensor.constant:
        first = _first_quantized_reader(name, target, plans)
        reason = None if first else target.left_float.tensors.get(name) or dtype_reason(tensor) or READ_BY_FLOAT_ONLY
        yield SlotPlan(slot, name, ACTIVATION, _made_scheme(name, target, plans) if first else None, reason)
        return
    uses = [plans[reader] for reader in target.wiring.reader_slots[name]]
    if uses and all(use.role == BIAS for use in uses):
        return
    first = _first_quantized_reader(name, target, plans)
    if first is not None:
        yield SlotPlan(slot, name, first.role, first.scheme, None)
    else:
        reasons = [use.reason for use in uses if use.role != BIAS and use.reason is not None]
        yield SlotPlan(slot, name, CONSTANT, None, reasons[0] if reasons else "no op reads it")


def _made_scheme(name: str, target: Target, plans: dict[str, SlotPlan]) -> Scheme:
    """How a value is quantized where it is made: as all its readers want it, if they agree on scales per channel.

    Else it would be rounded twice on its way to a reader with a scale per channel. A rule that ties the value to
    something else needs one scale for all of it.
    """
    activation = target.pack.activation
    if name in target.wiring.outputs:
        return activation
    chosen: Scheme | None = None
    for reader in target.wiring.reader_slots[name]:
        scheme = plans[reader].scheme
        if scheme is None:
            continue
        if scheme.axis is None or (chosen is not None and chosen != scheme):
            return activation
        chosen = scheme
    if chosen is None or replace(chosen, axis=None) != activation or _is_tied(name, target):
        return activation
    return chosen


def _is_tied(name: str, target: Target) -> bool:
    """Whether a rule speaks of the parameters of a tensor, at its op or at one that is fused with that."""
    tensors = target.wiring.tensors
    current: str | None = name
    while current is not None:
        maker = target.wiring.makers.get(current)
        if maker is None or target.float_reason(maker) is not None:
            return False
        prescribed = (rule.bits for rule in target.index.fixed_rules(maker, tensors))
        if target.same_rules(maker) or any(bits in (None, target.pack.activation.bits) for bits in prescribed):
            return True
        current = next((name for name in maker.inputs if name in target.fused), None)
    return False


def _first_quantized_reader(name: str, target: Target, plans: dict[str, SlotPlan]) -> SlotPlan | None:
    """The first quantized use of a tensor as a value. A bias is none: its scale follows from other slots."""
    for reader in target.wiring.reader_slots[name]:
        plan = plans[reader]
        if plan.scheme is not None and plan.role != BIAS:
            return plan
    return None


def _plan_graph_output(name: str, slot: str, target: Target, plans: dict[str, SlotPlan]) -> SlotPlan:
    maker = target.wiring.makers.get(name)
    role = CONSTANT if target.wiring.tensors[name].constant else ACTIVATION
    reason = "no op makes it" if maker is None else target.float_reason(maker)
    if maker is not None and reason is None and target.pack.unread_float:
        reason = plans[target.wiring.producers[name]].reason
    reason = target.left_float.tensors.get(name) or reason
    return SlotPlan(slot, name, role, None if reason else target.pack.activation, reason)
