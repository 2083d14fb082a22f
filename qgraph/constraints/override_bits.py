"""Give the tensors that a user selects other bits, and all that rules tie to them, too."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

from qgraph.constraints.model import Constraints, Fixed, SlotPlan
from qgraph.constraints.overrides import Override
from qgraph.constraints.rule_pack import RulePack
from qgraph.constraints.selectors import Selector
from qgraph.constraints.slot_plans import BIAS, WEIGHT
from qgraph.errors import UsageError
from qgraph.ir.slots import output_slot, parts
from qgraph.tqc import Scheme


def with_bits(constraints: Constraints, selector: Selector, pack: RulePack, entries: list[Override]) -> Constraints:
    """The selected tensors, and all that rules tie to them, in other bits.

    An op stands for the tensors that it reads and makes, apart from weight and bias.
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
    slots = {
        slot: replace(plan, scheme=_in_bits(plan.scheme, wanted[plan.tensor].bits or plan.scheme.bits, plan.role, pack))
        if plan.scheme is not None and plan.tensor in wanted and plan.role != BIAS
        else plan
        for slot, plan in constraints.slots.items()
    }
    fixed = tuple(_rescaled(entry, constraints.slots[entry.slot], slots[entry.slot]) for entry in constraints.fixed)
    return replace(constraints, slots=MappingProxyType(slots), fixed=fixed)


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


def _rescaled(fixed: Fixed, before: SlotPlan, after: SlotPlan) -> Fixed:
    """What the target prescribes, in another width: the same real range, in finer or coarser steps.

    Where the other width is symmetric, the range is widened to be so, too: [0, 1) becomes [-1, 1).
    """
    old, new = before.scheme, after.scheme
    assert old is not None
    assert new is not None
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
