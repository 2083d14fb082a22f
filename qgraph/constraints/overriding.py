"""Lay a user's overrides over what a target says of a model: a function of constraints and overrides to constraints.

What is left in float is known before the constraints are (`left_float`), so that pools, fused pairs and biases around
it come out as for any other float op. Everything else is laid over them (`override`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from types import MappingProxyType

from qgraph.constraints.alignment import removing_methods
from qgraph.constraints.conflicts import same_edge
from qgraph.constraints.explain import why
from qgraph.constraints.merge_methods import UNCHANGED, MergeMethods
from qgraph.constraints.model import Constraints, Fixed, Origin, Same, SlotPlan, Strength
from qgraph.constraints.override_bits import around, float_remarks, with_bits
from qgraph.constraints.overrides import Action, Override, Overrides
from qgraph.constraints.participation import LeftFloat
from qgraph.constraints.rule_pack import RulePack
from qgraph.constraints.rules import constrain
from qgraph.constraints.selectors import Selection, Selector
from qgraph.constraints.slot_plans import BIAS, WEIGHT
from qgraph.errors import UsageError
from qgraph.ir.elements import Structure
from qgraph.ir.graph import Graph
from qgraph.ir.slots import parts

UNSHARING = (Action.UNSHARE, Action.FORCE_UNSHARE)
"""What drops sharing, in the order in which it is applied."""


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
    floats = left_float(structure, overrides)
    _refuse_bits_of_floats(Selector(structure), floats, overrides)
    found = override(constrain(graph, pack, methods, left_float=floats), pack, structure, overrides)
    idle = _without_effect(constrain(graph, pack, methods), found, Selector(structure), overrides)
    told = (f"the override {entry} changes nothing" for entry in idle)
    return replace(found, remarks=(*told, *float_remarks(found, pack, structure.ops)))


def override(constraints: Constraints, pack: RulePack, structure: Structure, overrides: Overrides) -> Constraints:
    """The constraints with other bits, pinned parameters, and the sharing that the user forces and forbids.

    Raises:
        NotFoundError: a selector means nothing.
        UsageError: an override cannot work on this model and target.
    """
    found, selector = constraints, Selector(structure)
    for entry in _unsharing(overrides):
        found = _unshare(found, selector, entry)
    for entry in overrides:
        if entry.action == Action.SHARE:
            found = _share(found, selector, entry)
    found = with_bits(found, selector, pack, [entry for entry in overrides if entry.action == Action.BITS])
    return _pinned(found, selector, [entry for entry in overrides if entry.action == Action.PIN])


def dropped_ties(
    graph: Graph, pack: RulePack, methods: MergeMethods, overrides: Overrides
) -> tuple[tuple[Same, str], ...]:
    """The `same` constraints that the target has and the user dropped, each with the option or override that did it.

    Raises:
        NotFoundError, UsageError: as `constrain_overridden`.
    """
    floats = left_float(graph.structure, overrides)
    found = constrain(graph, pack, methods, left_float=floats)
    tied = {(tie.a, tie.b) for tie in found.same}
    removing = removing_methods(methods)
    dropped = [
        (tie, removing[tie.origin.op_type])
        for tie in constrain(graph, pack, left_float=floats).same
        if (tie.a, tie.b) not in tied and tie.origin.op_type in removing
    ]
    selector = Selector(graph.structure)
    for entry in _unsharing(overrides):
        left = _unshare(found, selector, entry)
        kept = set(left.same)
        dropped += [(tie, f"the override {entry}") for tie in found.same if tie not in kept]
        found = left
    return tuple(dropped)


def _unsharing(overrides: Overrides) -> Iterator[Override]:
    """The overrides that drop sharing, in the order in which they are applied."""
    for action in UNSHARING:
        yield from (entry for entry in overrides if entry.action == action)


def _refuse_bits_of_floats(selector: Selector, floats: LeftFloat, overrides: Overrides) -> None:
    """Raises UsageError where everything that is given bits is left in float."""
    for entry in overrides:
        if entry.action == Action.BITS:
            found = selector.select(entry.selector)
            reasons = [floats.ops.get(name) for name in found.ops] or [floats.tensors.get(n) for n in found.tensors]
            if None not in reasons:
                raise UsageError("left in float, and given bits", f"{entry}: {reasons[0]}", "keep one of the two")


def _without_effect(
    plain: Constraints, found: Constraints, selector: Selector, overrides: Overrides
) -> Iterator[Override]:
    """The overrides that could as well be left out: the target does it so, or a later one holds instead.

    Args:
        plain: without any override.
        found: with all of them.
    """
    for number, entry in enumerate(overrides):
        if entry in overrides[:number] or not _changes(entry, plain, found, selector):
            yield entry


def _changes(entry: Override, plain: Constraints, found: Constraints, selector: Selector) -> bool:
    selected = selector.select(entry.selector)
    source = f"override: {entry}"
    if entry.action == Action.FLOAT:
        ops, tensors = set(selected.ops), set(() if selected.ops else selected.tensors)
        concerned = (plan for plan in plain.slots.values() if plan.tensor in tensors or parts(plan.slot).op in ops)
        return any(plan.scheme is not None for plan in concerned)
    if entry.action == Action.BITS:
        tensors = set(around(selected.ops, found, selector)) or set(selected.tensors)
        after = {slot: plan.scheme for slot, plan in found.slots.items() if plan.tensor in tensors}
        return any(new and new.bits == entry.bits and new != plain.slots[slot].scheme for slot, new in after.items())
    if entry.action == Action.PIN:
        prescribed = {(one.slot, one.scale, one.offset) for one in plain.fixed}
        mine = [one for one in found.fixed if one.origin.source == source]
        return any((one.slot, one.scale, one.offset) not in prescribed for one in mine)
    if entry.action == Action.SHARE:
        ties = [(tie.a, tie.b) for tie in found.same if tie.origin.source == source]
        others = [same_edge(tie) for tie in found.same if tie.origin.source != source]
        return any(why(others, a, b) is None for a, b in ties)
    return True  # an --unshare that drops nothing is refused


# --- Sharing ------------------------------------------------------------------------------------------------------


def _share(constraints: Constraints, selector: Selector, entry: Override) -> Constraints:
    slots = []
    for text in (entry.selector, entry.other or ""):
        tensor = _one_tensor(selector.select(text), text, selector, entry)
        slots.append(_quantized(constraints, selector, tensor, entry).slot)
    a, b = slots
    if a == b:
        raise UsageError("a tensor shares with itself anyway", str(entry), "name two tensors")
    schemes = [constraints.slots[slot].scheme for slot in slots]
    if schemes[0] != schemes[1]:
        raise UsageError(
            "tensors that cannot share", f"{entry}: {schemes[0]} and {schemes[1]}", "give both the same bits"
        )
    tie = Same(a, b, Origin("share", "", "", f"override: {entry}"), Strength.REQUIRED, pass_through=False)
    ties = sorted((*constraints.same, tie), key=lambda tie: (tie.a, tie.b, tie.origin.rule))
    return replace(constraints, same=tuple(ties))


def _unshare(constraints: Constraints, selector: Selector, entry: Override) -> Constraints:
    """Without the ties that are meant: of the selected ops, at the selected tensors, or between two tensors."""
    meant = _meant(constraints, selector, entry)
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


def _meant(constraints: Constraints, selector: Selector, entry: Override) -> list[Same]:
    tensor_of = {slot: plan.tensor for slot, plan in constraints.slots.items()}
    chosen = selector.select(entry.selector)
    if entry.other is None:
        ops, tensors = set(chosen.ops), set() if chosen.ops else set(chosen.tensors)
        return [
            tie
            for tie in constraints.same
            if tie.origin.op in ops or tensor_of[tie.a] in tensors or tensor_of[tie.b] in tensors
        ]
    pair = {
        _one_tensor(chosen, entry.selector, selector, entry),
        _one_tensor(selector.select(entry.other), entry.other, selector, entry),
    }
    if len(pair) == 1:
        raise UsageError("a tensor shares with itself anyway", str(entry), "name two tensors")
    return [tie for tie in constraints.same if {tensor_of[tie.a], tensor_of[tie.b]} == pair]


# --- Pinned parameters --------------------------------------------------------------------------------------------


def _pinned(constraints: Constraints, selector: Selector, entries: list[Override]) -> Constraints:
    pins: dict[str, Fixed] = {}
    for entry in entries:
        found = selector.select(entry.selector)
        tensors = found.tensors or tuple(_made(found, selector))
        for tensor in tensors:
            plan = _quantized(constraints, selector, tensor, entry)
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


def _made(found: Selection, selector: Selector) -> Iterator[str]:
    """What selected ops make."""
    for name in found.ops:
        yield from (tensor for tensor in selector.ops[name].outputs if tensor in selector.tensors)


def _one_tensor(found: Selection, text: str, selector: Selector, entry: Override) -> str:
    tensors = found.tensors or tuple(_made(found, selector))
    if len(tensors) != 1:
        shown = f"{', '.join(sorted(tensors)[:3])}{', …' if len(tensors) > 3 else ''}"
        raise UsageError("this needs one tensor", f"{entry}: {text} means {shown or 'none'}", "name one")
    return tensors[0]


def _quantized(constraints: Constraints, selector: Selector, tensor: str, entry: Override) -> SlotPlan:
    """The plan where a tensor is made; it must be quantized."""
    plan = constraints.slots.get(selector.made_at(tensor))
    if plan is None or plan.scheme is None:
        reason = "a bias only" if plan is None else plan.reason
        raise UsageError("the tensor is not quantized", f"{entry}: {tensor}: {reason}", "name one that is")
    return plan
