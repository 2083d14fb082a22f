"""Chains of reasons: why two slots share parameters, and why two others do not.

Works on edges as a run stores them. No third-party import, and nothing of the model is needed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import chain

from qgraph.constraints.model import Edge, Group, Grouping, Kind, Requantize, Same, SlotPlan
from qgraph.ir.slots import makes_its_tensor, parts
from qgraph.objects import many_objects


@dataclass(frozen=True, slots=True)
class Barrier:
    """Two slots next to each other that do not share.

    Attributes:
        edge: the tensor edge between them; None where an op is between that does not tie them.
        reason: why they do not share.
        need: what would have to be added or dropped so that they do.
    """

    a: str
    b: str
    edge: Edge | None
    reason: str
    need: str


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a chain from a slot to another.

    Attributes:
        edge: the constraint or tensor that connects `a` and `b`; None where none does.
        barrier: why `a` and `b` do not share; None where they do.
        need: what would have to be added or dropped so that they do; None where they do.
    """

    a: str
    b: str
    edge: Edge | None
    barrier: str | None
    need: str | None = None


@many_objects()
def why(joined: Iterable[Edge], a: str, b: str) -> tuple[Edge, ...] | None:
    """The shortest chain of joined edges from `a` to `b`, each edge turned to point along it.

    Among chains of equal length the choice depends on names only, and that from `b` to `a` is the
    same chain backwards.

    Args:
        joined: edges in any order, as `Grouping.joined` has them; those of one group are enough.

    Returns:
        The chain, empty if `a` is `b`; None if no chain connects them.

    >>> edges = [Edge(Kind.TENSOR, "Conv:out:0", "Add:in:0"), Edge(Kind.SAME, "Add:in:0", "Add:in:1", rule="add")]
    >>> [f"{edge.a} {edge.kind} {edge.b}" for edge in why(edges, "Add:in:1", "Conv:out:0")]
    ['Add:in:1 same Add:in:0', 'Add:in:0 tensor Conv:out:0']
    """
    steps = _shortest(_links(joined, ()), a, b)
    return None if steps is None else tuple(step.edge for step in steps if step.edge is not None)


@many_objects()
def why_not(joined: Iterable[Edge], between: Iterable[Barrier], a: str, b: str) -> tuple[Step, ...] | None:
    """The chain from `a` to `b` with the fewest barriers, which say what keeps the two apart; of those the shortest.

    Args:
        joined: as for `why`, of all groups.
        between: as `barriers` finds them.

    Returns:
        The chain, without any barrier if the two share; None if nothing leads from one to the other.
    """
    return _shortest(_links(joined, between), a, b)


def barriers(
    slots: Iterable[SlotPlan],
    grouping: Grouping,
    op_types: Mapping[str, str],
    dropped: Iterable[tuple[Same, str]] = (),
) -> tuple[Barrier, ...]:
    """Everything that keeps neighbouring slots apart: requantizes, unquantized slots, ops that tie nothing. Sorted.

    Args:
        slots: all float slots of the run, quantized or not, in any order.
        op_types: by name of the op.
        dropped: what the target would tie, each with the option or override of the user that unties it.
    """
    plans = tuple(slots)
    untied = {(tie.a, tie.b): _untied(tie, wish) for tie, wish in dropped}
    across = (one for one in _across_ops(plans, op_types) if (one.a, one.b) not in untied)
    found = [*_requantized(grouping), *_unquantized(plans), *across, *untied.values()]
    return tuple(sorted(found, key=lambda barrier: (barrier.a, barrier.b)))


def _untied(tie: Same, wish: str) -> Barrier:
    origin = tie.origin
    reason = f"{wish} drops the rule {origin.rule} at {origin.op} ({origin.op_type}), {origin.source}"
    return Barrier(tie.a, tie.b, None, reason, f"a run without {wish}")


def _requantized(grouping: Grouping) -> Iterator[Barrier]:
    groups = {slot: group for group in grouping.groups for slot in group.slots}
    for cut in grouping.requantizes:
        edge = Edge(Kind.TENSOR, cut.producer, cut.slot)
        sides = groups[cut.producer], groups[cut.slot]
        yield Barrier(cut.producer, cut.slot, edge, requantize_reason(*sides), _requantize_need(cut, *sides))


def requantize_reason(producer: Group, consumer: Group) -> str:
    """Why a tensor made in one group is read in another."""
    if producer.scheme != consumer.scheme:
        return f"schemes differ: {producer.scheme} and {consumer.scheme}"
    for group, side in ((producer, "made"), (consumer, "read")):
        if group.fixed is not None:
            rule = group.fixed.origin
            return f"{side} with the parameters that {rule.rule} prescribes at {group.fixed.slot} ({rule.source})"
    return "the tensor has other readers, and sharing would bring foreign values to them"


def _requantize_need(cut: Requantize, producer: Group, consumer: Group) -> str:
    if producer.scheme != consumer.scheme:
        return f"one scheme for {cut.producer} and {cut.slot}"
    fixed = [group.fixed for group in (producer, consumer) if group.fixed is not None]
    if fixed:
        return " and ".join(f"no rule {one.origin.rule} at {one.slot}" for one in fixed)
    return f"force_overlap, which joins {cut.slot} with {cut.producer}"


def _unquantized(plans: Iterable[SlotPlan]) -> Iterator[Barrier]:
    """Tensors with an unquantized end."""
    made: dict[str, SlotPlan] = {}
    read: list[SlotPlan] = []
    for plan in plans:
        if makes_its_tensor(plan.slot):
            made[plan.tensor] = plan
        else:
            read.append(plan)
    for plan in read:
        producer = made.get(plan.tensor)
        if producer is not None and (reason := producer.reason or plan.reason) is not None:
            ends = [one.slot for one in (producer, plan) if one.reason is not None]
            edge = Edge(Kind.TENSOR, producer.slot, plan.slot)
            yield Barrier(producer.slot, plan.slot, edge, reason, f"{' and '.join(ends)} quantized")


def _across_ops(plans: Iterable[SlotPlan], op_types: Mapping[str, str]) -> Iterator[Barrier]:
    """From each input of an op to its outputs, and from its first input to the others.

    Where a rule ties the two, the tie is the shorter way and the barrier is not taken.
    """
    inputs: dict[str, list[SlotPlan]] = {}
    outputs: dict[str, list[SlotPlan]] = {}
    for plan in sorted(plans, key=lambda plan: plan.slot):
        op, side, _ = parts(plan.slot)
        if op is not None and (side == "out" or plan.role in ("activation", "constant")):
            (inputs if side == "in" else outputs).setdefault(op, []).append(plan)
    for op, read in inputs.items():
        made = outputs.get(op, [])
        for a, b in [*((a, b) for a in read for b in made), *((read[0], b) for b in read[1:])]:
            yield _across(a, b, op, op_types.get(op, "op"))


def _across(a: SlotPlan, b: SlotPlan, op: str, op_type: str) -> Barrier:
    """Two slots of one op without a tie: of an op that stays float, or because no rule speaks about them."""
    tie = f"a rule `same` for {op_type} that ties {a.slot} and {b.slot}"
    reason = a.reason or b.reason
    if reason is None:
        return Barrier(a.slot, b.slot, None, f"no rule ties them at {op} ({op_type})", tie)
    ends = " and ".join(plan.slot for plan in (a, b) if plan.reason is not None)
    return Barrier(a.slot, b.slot, None, reason, f"{ends} quantized, and {tie}")


Link = Edge | Barrier
Links = Mapping[str, list[Link]]
"""By slot, the edges and barriers that begin or end there."""


def _links(joined: Iterable[Edge], between: Iterable[Barrier]) -> Links:
    links: dict[str, list[Link]] = defaultdict(list)
    every: Iterable[Link] = chain(joined, between)
    for link in every:
        links[link.a].append(link)
        links[link.b].append(link)
    return links


def _beyond(links: Links, slot: str) -> list[tuple[str, Link]]:
    """What a slot is linked to, in the order in which to go there: by name, and a shared one before a barrier."""
    found = [(link.b if link.a == slot else link.a, link) for link in links.get(slot, ())]
    if len(found) > 1:
        found.sort(key=_rank)
    return found


def _rank(entry: tuple[str, Link]) -> tuple[str, bool, str, str]:
    other, link = entry
    edge = link.edge if isinstance(link, Barrier) else link
    return other, isinstance(link, Barrier), "" if edge is None else edge.kind, "" if edge is None else edge.rule or ""


def _step(a: str, b: str, link: Link) -> Step:
    """The step from `a` to `b` along a link, with its edge pointing that way."""
    if isinstance(link, Barrier):
        edge = None if link.edge is None else replace(link.edge, a=a, b=b)
        return Step(a, b, edge, link.reason, link.need)
    return Step(a, b, replace(link, a=a, b=b), None)


def _shortest(links: Links, a: str, b: str) -> tuple[Step, ...] | None:
    """The chain with the fewest barriers and then the fewest steps (E. W. Dijkstra, 1959)."""
    start, goal = min(a, b), max(a, b)
    came: dict[str, tuple[str, Link]] = {}
    best = {start: (0, 0)}
    waiting = [(0, 0, 0, start)]
    pushed = 0
    while waiting and waiting[0][3] != goal:
        barriers_before, length, _, slot = heappop(waiting)
        if (barriers_before, length) > best[slot]:
            continue
        for other, link in _beyond(links, slot):
            reached = (barriers_before + isinstance(link, Barrier), length + 1)
            if other not in best or reached < best[other]:
                best[other], came[other] = reached, (slot, link)
                pushed += 1  # among equals, first come, first served: what comes first depends on names only
                heappush(waiting, (*reached, pushed, other))
    if goal not in best:
        return None
    backwards = []
    slot = goal
    while slot != start:
        before, link = came[slot]
        backwards.append((before, slot, link))
        slot = before
    if a == start:
        return tuple(_step(before, after, link) for before, after, link in reversed(backwards))
    return tuple(_step(after, before, link) for before, after, link in backwards)
