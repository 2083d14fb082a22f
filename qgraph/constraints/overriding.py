"""Lay a user's overrides over what a target says of a model: a function of constraints and overrides to constraints.

What is left in float is known before the constraints are (`left_float`), so that pools, fused pairs and biases around
it come out as for any other float op. Everything else is laid over them (`override`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from qgraph.constraints.merge_methods import UNCHANGED, MergeMethods
from qgraph.constraints.model import Constraints, Fixed, Origin, Same, SlotPlan, Strength
from qgraph.constraints.overrides import Action, Override, Overrides
from qgraph.constraints.participation import LeftFloat
from qgraph.constraints.rule_pack import RulePack
from qgraph.constraints.rules import constrain
from qgraph.constraints.selectors import Selection, Selector
from qgraph.constraints.slot_plans import BIAS, WEIGHT
from qgraph.errors import UsageError
from qgraph.ir.elements import Structure
from qgraph.ir.graph import Graph
from qgraph.ir.slots import graph_constant, graph_input, output_slot, parts
from qgraph.tqc import Scheme


def left_float(structure: Structure, overrides: Overrides) -> LeftFloat:
    """What stays float: the selected ops, and the selected tensors that no selected op has the name of.

    Raises:
        NotFoundError, UsageError: a selector that means nothing, or is not well formed.
    """
    selector = Selector(structure)
    ops: dict[str, str] = {}
    tensors: dict[str, str] = {}
    for entry in overrides:
        if entry.action == Action.FLOAT:
            found = selector.select(entry.selector)
            ops |= dict.fromkeys(found.ops, f"left in float ({entry})")
            tensors |= dict.fromkeys(() if found.ops else found.tensors, f"left in float ({entry})")
    return LeftFloat(MappingProxyType(ops), MappingProxyType(tensors))


def constrain_overridden(
    graph: Graph, pack: RulePack, methods: MergeMethods = UNCHANGED, overrides: Overrides = ()
) -> Constraints:
    """Everything that a target, the alignment options and the user's overrides say about a model.

    Raises:
        UsageError: a method None would untie what the target requires, or an override cannot work.
        NotFoundError: a selector means nothing.
    """
    if not overrides:
        return constrain(graph, pack, methods)
    structure = graph.structure
    found = constrain(graph, pack, methods, left_float=left_float(structure, overrides))
    return override(found, structure, overrides)


def override(constraints: Constraints, structure: Structure, overrides: Overrides) -> Constraints:
    """The constraints with other bits, pinned parameters, and the sharing that the user forces and forbids.

    Raises:
        NotFoundError: a selector means nothing.
        UsageError: an override cannot work on this model and target.
    """
    found = constraints
    makers = {
        name: output_slot(op.name, index) for op in structure.ops for index, name in enumerate(op.outputs) if name
    }
    model = _Model(structure, Selector(structure), makers)
    for action, apply in (
        (Action.UNSHARE, _unshare),
        (Action.FORCE_UNSHARE, _unshare),
        (Action.SHARE, _share),
    ):
        for entry in overrides:
            if entry.action == action:
                found = apply(found, model, entry)
    found = _with_bits(found, model, [entry for entry in overrides if entry.action == Action.BITS])
    return _pinned(found, model, [entry for entry in overrides if entry.action == Action.PIN])


@dataclass(frozen=True)
class _Model:
    """A model's names; `makers` has the output slot of each tensor that an op makes."""

    structure: Structure
    selector: Selector
    makers: Mapping[str, str]

    def made_at(self, tensor: str) -> str:
        """The slot where a tensor is made."""
        if tensor in self.makers:
            return self.makers[tensor]
        return graph_input(tensor) if tensor in self.structure.inputs else graph_constant(tensor)


# --- Sharing ------------------------------------------------------------------------------------------------------


def _share(constraints: Constraints, model: _Model, entry: Override) -> Constraints:
    slots = []
    for text in (entry.selector, entry.other or ""):
        tensor = _one_tensor(model.selector.select(text), text, model, entry)
        slots.append(_quantized(constraints, model, tensor, entry).slot)
    a, b = slots
    schemes = [constraints.slots[slot].scheme for slot in slots]
    if schemes[0] != schemes[1]:
        raise UsageError(
            "tensors that cannot share", f"{entry}: {schemes[0]} and {schemes[1]}", "give both the same bits"
        )
    tie = Same(a, b, Origin("share", "", "", f"override: {entry}"), Strength.REQUIRED, pass_through=False)
    ties = sorted((*constraints.same, tie), key=lambda tie: (tie.a, tie.b, tie.origin.rule))
    return replace(constraints, same=tuple(ties))


def _unshare(constraints: Constraints, model: _Model, entry: Override) -> Constraints:
    """Without the ties that are meant: of the selected ops, at the selected tensors, or between two tensors."""
    meant = _meant(constraints, model, entry)
    insists = entry.action == Action.FORCE_UNSHARE
    dropped = {tie for tie in meant if tie.strength != Strength.EXACT}
    required = next((tie for tie in meant if tie.strength == Strength.REQUIRED), None)
    if required is not None and not insists:
        origin = required.origin
        raise UsageError(
            f"{constraints.target} requires the sharing {origin.rule}",
            f"{entry}: {origin.op} ({origin.op_type}), {origin.source}",
            "leave it, or insist with --force-unshare",
        )
    if not dropped:
        what = "this sharing costs nothing and stays" if meant else "no rule makes it share"
        raise UsageError("nothing to unshare", f"{entry}: {what}", "see qgraph groups, and qgraph why A B")
    left = tuple(tie for tie in constraints.same if tie not in dropped)
    tied = {tie.origin.op for tie in left}
    untied = {tie.origin.op for tie in dropped} - tied
    alignments = tuple(one for one in constraints.alignments if one.op not in untied)
    return replace(constraints, same=left, alignments=alignments)


def _meant(constraints: Constraints, model: _Model, entry: Override) -> list[Same]:
    tensor_of = {slot: plan.tensor for slot, plan in constraints.slots.items()}
    chosen = model.selector.select(entry.selector)
    if entry.other is None:
        ops, tensors = set(chosen.ops), set() if chosen.ops else set(chosen.tensors)
        return [
            tie
            for tie in constraints.same
            if tie.origin.op in ops or tensor_of[tie.a] in tensors or tensor_of[tie.b] in tensors
        ]
    pair = {
        _one_tensor(chosen, entry.selector, model, entry),
        _one_tensor(model.selector.select(entry.other), entry.other, model, entry),
    }
    return [tie for tie in constraints.same if {tensor_of[tie.a], tensor_of[tie.b]} == pair]


# --- Bits ---------------------------------------------------------------------------------------------------------


def _with_bits(constraints: Constraints, model: _Model, entries: list[Override]) -> Constraints:
    """The selected tensors, and all that rules tie to them, in other bits.

    An op stands for the tensors that it reads and makes, apart from weight and bias.
    """
    asked: dict[str, Override] = {}
    with_scheme = {plan.tensor for plan in constraints.slots.values() if plan.scheme is not None}
    for entry in entries:
        found = model.selector.select(entry.selector)
        tensors = tuple(dict.fromkeys([*_around(found.ops, constraints, model), *([] if found.ops else found.tensors)]))
        quantized = [name for name in tensors if name in with_scheme]
        if not quantized:
            raise UsageError("nothing there is quantized", str(entry), "see qgraph coverage for the reasons")
        asked |= dict.fromkeys(quantized, entry)
    if not asked:
        return constraints
    wanted = _spread(asked, constraints)
    slots = {
        slot: replace(plan, scheme=_in_bits(plan.scheme, wanted[plan.tensor].bits or plan.scheme.bits))
        if plan.scheme is not None and plan.tensor in wanted and plan.role != BIAS
        else plan
        for slot, plan in constraints.slots.items()
    }
    fixed = tuple(_rescaled(entry, constraints.slots[entry.slot], slots[entry.slot]) for entry in constraints.fixed)
    return replace(constraints, slots=MappingProxyType(slots), fixed=fixed)


def _around(names: Iterable[str], constraints: Constraints, model: _Model) -> Iterator[str]:
    """The values that ops read and make; where an op is fused with the next one, what that one makes."""
    inside = {pair.producer: pair.consumer for pair in constraints.fused}
    ops = model.selector.ops
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


def _in_bits(scheme: Scheme, bits: int) -> Scheme:
    """The scheme in another width; a range that leaves out the lowest integer keeps doing so."""
    low = -(1 << (bits - 1)) if scheme.signed else 0
    high = low + (1 << bits) - 1
    lowest = -(1 << (scheme.bits - 1)) if scheme.signed else 0
    return replace(scheme, bits=bits, quant_min=low + (scheme.quant_min > lowest), quant_max=high)


def _rescaled(fixed: Fixed, before: SlotPlan, after: SlotPlan) -> Fixed:
    """What the target prescribes, in another width: the same real range, in finer or coarser steps."""
    assert before.scheme is not None
    assert after.scheme is not None
    more = after.scheme.bits - before.scheme.bits
    if more == 0:
        return fixed
    offset = round(fixed.offset * 2.0**more)
    offset = max(after.scheme.quant_min, min(after.scheme.quant_max, offset))
    return replace(fixed, scale=math.ldexp(fixed.scale, -more), offset=offset)


# --- Pinned parameters --------------------------------------------------------------------------------------------


def _pinned(constraints: Constraints, model: _Model, entries: list[Override]) -> Constraints:
    pins: dict[str, Fixed] = {}
    for entry in entries:
        found = model.selector.select(entry.selector)
        tensors = found.tensors or tuple(_made(found, model))
        for tensor in tensors:
            plan = _quantized(constraints, model, tensor, entry)
            pins[plan.slot] = _pin(plan, entry)
    if not pins:
        return constraints
    fixed = sorted((*constraints.fixed, *pins.values()), key=lambda one: (one.slot, one.origin.op, one.origin.rule))
    return replace(constraints, fixed=tuple(fixed))


def _pin(plan: SlotPlan, entry: Override) -> Fixed:
    scheme = plan.scheme
    assert scheme is not None
    assert entry.scale is not None
    if plan.role in (WEIGHT, BIAS) or scheme.axis is not None:
        which = f"{entry}: {plan.tensor} is a {plan.role}, {scheme}"
        raise UsageError("only values with one scale can be pinned", which, "pin an activation")
    offset = entry.offset
    if offset is None:
        if not scheme.symmetric:
            raise UsageError("a pin without an offset", f"{entry}: {scheme}", "write SCALE,OFFSET")
        offset = scheme.symmetric_offset
    if not scheme.quant_min <= offset <= scheme.quant_max or (scheme.symmetric and offset != scheme.symmetric_offset):
        span = str(scheme.symmetric_offset) if scheme.symmetric else f"one in [{scheme.quant_min}, {scheme.quant_max}]"
        raise UsageError("an offset that the target cannot have", f"{entry}: {scheme}", f"give {span}")
    if scheme.power_of_two and math.frexp(entry.scale)[0] != 0.5:
        raise UsageError("a scale that the target cannot have", f"{entry}: {scheme}", "give a power of two")
    op = parts(plan.slot).op or ""
    return Fixed(plan.slot, entry.scale, offset, Origin("pin", op, "", f"override: {entry}"))


# --- What a selector means where one tensor is needed ----------------------------------------------------------------


def _made(found: Selection, model: _Model) -> Iterator[str]:
    """What selected ops make."""
    for name in found.ops:
        yield from (tensor for tensor in model.selector.ops[name].outputs if tensor in model.selector.tensors)


def _one_tensor(found: Selection, text: str, model: _Model, entry: Override) -> str:
    tensors = found.tensors or tuple(_made(found, model))
    if len(tensors) != 1:
        shown = f"{', '.join(sorted(tensors)[:3])}{', …' if len(tensors) > 3 else ''}"
        raise UsageError("this needs one tensor", f"{entry}: {text} means {shown or 'none'}", "name one")
    return tensors[0]


def _quantized(constraints: Constraints, model: _Model, tensor: str, entry: Override) -> SlotPlan:
    """The plan where a tensor is made; it must be quantized."""
    plan = constraints.slots.get(model.made_at(tensor))
    if plan is None or plan.scheme is None:
        reason = "a bias only" if plan is None else plan.reason
        raise UsageError("the tensor is not quantized", f"{entry}: {tensor}: {reason}", "name one that is")
    return plan
