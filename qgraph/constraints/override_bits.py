"""Give the tensors that a user selects other bits, and all that rules tie to them, too."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

from qgraph.constraints.model import Constraints, Fixed, SlotPlan
from qgraph.constraints.overrides import Override
from qgraph.constraints.rule_pack import RulePack
from qgraph.constraints.selectors import Selector
from qgraph.constraints.slot_plans import BIAS, WEIGHT
from qgraph.errors import UsageError
from qgraph.ir.elements import Op
from qgraph.ir.slots import input_slot, output_slot, parts
from qgraph.tqc import Scheme


def with_bits(constraints: Constraints, selector: Selector, pack: RulePack, entries: list[Override]) -> Constraints:
    """The selected tensors, and all that rules tie to them, in other bits.

    An op stands for the tensors that it reads and makes, apart from weight and bias. Of a tensor that is a value here
    and a weight there, as an embedding's table that is the last layer's weight, the value gets the bits.
    """
    asked: dict[str, Override] = {}
    with_scheme = {plan.tensor for plan in constraints.slots.values() if plan.scheme is not None}
    for entry in entries:
        found = selector.select(entry.selector)
        tensors = tuple(
            dict.fromkeys([*around(found.ops, constraints, selector), *([] if found.ops else found.tensors)])
        )
        quantized = [name for name in tensors if name in with_scheme]
        if not quantized:
            raise UsageError("nothing there is quantized", str(entry), "see qgraph coverage for the reasons")
        asked |= dict.fromkeys(quantized, entry)
    if not asked:
        return constraints
    wanted = _spread(asked, constraints)
    values = {plan.tensor for plan in constraints.slots.values() if plan.role not in (WEIGHT, BIAS)}
    slots = {
        slot: replace(plan, scheme=_in_bits(plan.scheme, wanted[plan.tensor].bits or plan.scheme.bits, plan.role, pack))
        if plan.scheme is not None
        and plan.tensor in wanted
        and (plan.role not in (WEIGHT, BIAS) or (plan.role == WEIGHT and plan.tensor not in values))
        else plan
        for slot, plan in constraints.slots.items()
    }
    own = {one.slot: one for bits, one in constraints.fixed_in_bits if _scheme(slots[one.slot]).bits == bits}
    fixed = [
        rescaled(entry, _scheme(constraints.slots[entry.slot]), _scheme(slots[entry.slot]))
        for entry in constraints.fixed
        if entry.slot not in own
    ]
    fixed = sorted((*fixed, *own.values()), key=lambda one: (one.slot, one.origin.op, one.origin.rule))
    return replace(constraints, slots=MappingProxyType(slots), fixed=tuple(fixed))


def float_remarks(constraints: Constraints, pack: RulePack, ops: Iterable[Op]) -> tuple[str, ...]:
    """One sentence on the ops that the target has no integer kernel for in the bits that their values have."""
    widths = {op: rule.bits for rule in pack.quantizable if rule.bits for op in rule.ops}
    found: dict[int, Counter[str]] = {}
    for op in ops:
        slots = (constraints.slots.get(slot) for slot in _slots(op)) if op.type in widths else ()
        schemes = (plan.scheme for plan in slots if plan is not None and plan.role not in (WEIGHT, BIAS))
        other = max((scheme.bits for scheme in schemes if scheme and scheme.bits not in widths[op.type]), default=None)
        if other is not None:
            found.setdefault(other, Counter())[op.type] += 1
    return tuple(
        f"{pack.name} has no integer kernels with {bits} bits for "
        f"{', '.join(f'{count} {kind}' for kind, count in sorted(counts.items()))}: they run in float"
        for bits, counts in sorted(found.items())
    )


def _slots(op: Op) -> Iterator[str]:
    yield from (input_slot(op.name, index) for index in range(len(op.inputs)))
    yield from (output_slot(op.name, index) for index in range(len(op.outputs)))


def around(names: Iterable[str], constraints: Constraints, selector: Selector) -> Iterator[str]:
    """The values that ops read and make; where an op is fused with the next one, what that one makes."""
    inside = {pair.producer: pair.consumer for pair in constraints.fused}
    ops = selector.ops
    for name in names:
        op = ops[name]
        for index, tensor in enumerate(op.inputs):
            plan = constraints.slots.get(f"{name}:in:{index}")
            if tensor is not None and plan is not None and plan.role not in (WEIGHT, BIAS):
                yield tensor
        for index, tensor in enumerate(op.outputs):
            slot, made = output_slot(name, index), tensor
            while slot in inside:
                reader = parts(inside[slot]).op
                assert reader is not None
                slot, made = output_slot(reader, 0), ops[reader].outputs[0]
            if made is not None:
                yield made


def _spread(asked: Mapping[str, Override], constraints: Constraints) -> dict[str, Override]:
    """What is asked of each tensor, and of all that `same` rules tie to it.

    Raises:
        UsageError: two tensors that are tied are asked to have different bits.
    """
    neighbours: dict[str, set[str]] = {}
    for tie in constraints.same:
        a, b = constraints.slots[tie.a].tensor, constraints.slots[tie.b].tensor
        neighbours.setdefault(a, set()).add(b)
        neighbours.setdefault(b, set()).add(a)
    wanted = dict(asked)
    waiting = deque(sorted(asked))
    while waiting:
        tensor = waiting.popleft()
        for other in sorted(neighbours.get(tensor, ())):
            if other not in wanted:
                wanted[other] = wanted[tensor]
                waiting.append(other)
            elif wanted[other].bits != wanted[tensor].bits:
                both = f"{tensor} ({wanted[tensor]}) and {other} ({wanted[other]})"
                raise UsageError("tensors that share need the same bits", both, "ask the same of both, or unshare them")
    return wanted


def _in_bits(scheme: Scheme, bits: int, role: str, pack: RulePack) -> Scheme:
    """The scheme in another width: as the target has it, or else alike; without the lowest integer where it was so."""
    own = next((width.scheme for width in pack.widths if width.scheme.bits == bits), None)
    if own is not None and bits != scheme.bits and role != WEIGHT:
        return replace(own, axis=scheme.axis)
    low = -(1 << (bits - 1)) if scheme.signed else 0
    high = low + (1 << bits) - 1
    lowest = -(1 << (scheme.bits - 1)) if scheme.signed else 0
    return replace(scheme, bits=bits, quant_min=low + (scheme.quant_min > lowest), quant_max=high)


def _scheme(plan: SlotPlan) -> Scheme:
    assert plan.scheme is not None
    return plan.scheme


def rescaled(fixed: Fixed, old: Scheme, new: Scheme) -> Fixed:
    """What the target prescribes, in another width: the same real range, in finer or coarser steps.

    Where the other width is symmetric, the range is widened to be so, too: [0, 1) becomes [-1, 1).
    """
    more = new.bits - old.bits
    if more == 0:
        return fixed
    if new.symmetric and not old.symmetric:
        reach = max(fixed.offset - old.quant_min, old.quant_max + 1 - fixed.offset)
        scale = math.ldexp(fixed.scale * reach, 1 - new.bits)
        return replace(fixed, scale=scale, offset=new.symmetric_offset)
    offset = round(fixed.offset * 2.0**more)
    offset = max(new.quant_min, min(new.quant_max, offset))
    return replace(fixed, scale=math.ldexp(fixed.scale, -more), offset=offset)
