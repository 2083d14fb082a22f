"""Chains of reasons: why two slots share parameters, and why two others do not.

Works on edges as a run stores them. No third-party import, and nothing of the model is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from qgraph.constraints.model import Edge, Group, Grouping, Kind, SlotPlan
from qgraph.ir.slots import parts


@dataclass(frozen=True, slots=True)
class Barrier:
    """Two slots next to each other that do not share.

    Attributes:
        edge: the tensor edge between them; None where a float op, a fused pair or an unquantized slot is between.
        reason: why they do not share.
    """

    a: str
    b: str
    edge: Edge | None
    reason: str


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a chain from a slot to another.

    Attributes:
        edge: the constraint or tensor that connects `a` and `b`; None where none does.
        barrier: why `a` and `b` do not share; None where they do.
    """

    a: str
    b: str
    edge: Edge | None
    barrier: str | None


def why(joined: Iterable[Edge], a: str, b: str) -> tuple[Edge, ...] | None:
    """The shortest chain of joined edges from `a` to `b`, each edge turned to point along it.

    Breadth-first; among chains of equal length the choice depends on names only, and that from `b` to `a` is the
    same chain backwards.

    Args:
        joined: edges in any order, as `Grouping.joined` has them; those of one group are enough.

    Returns:
        The chain, empty if `a` is `b`; None if no chain connects them.

    >>> edges = [Edge(Kind.TENSOR, "Conv:out:0", "Add:in:0"), Edge(Kind.SAME, "Add:in:0", "Add:in:1", rule="add")]
    >>> [f"{edge.a} {edge.kind} {edge.b}" for edge in why(edges, "Add:in:1", "Conv:out:0")]
    ['Add:in:1 same Add:in:0', 'Add:in:0 tensor Conv:out:0']
    """
    chain = _shortest(_steps(joined, ()), a, b)
    return None if chain is None else tuple(step.edge for step in chain if step.edge is not None)


def why_not(joined: Iterable[Edge], between: Iterable[Barrier], a: str, b: str) -> tuple[Step, ...] | None:
    """The shortest chain from `a` to `b` over joined edges and over barriers, which say what keeps the two apart.

    Args:
        joined: as for `why`, of all groups.
        between: as `barriers` finds them.

    Returns:
        The chain, without any barrier if the two share; None if nothing leads from one to the other.
    """
    return _shortest(_steps(joined, between), a, b)


def barriers(slots: Iterable[SlotPlan], grouping: Grouping) -> tuple[Barrier, ...]:
    """Everything that keeps neighbouring slots apart: requantizes, unquantized slots, float ops. Sorted.

    Args:
        slots: all float slots of the run, quantized or not, in any order.
    """
    plans = tuple(slots)
    found = [*_requantized(grouping), *_unquantized(plans), *_float_ops(plans)]
    return tuple(sorted(found, key=lambda barrier: (barrier.a, barrier.b)))


def _requantized(grouping: Grouping) -> Iterator[Barrier]:
    groups = {slot: group for group in grouping.groups for slot in group.slots}
    for cut in grouping.requantizes:
        edge = Edge(Kind.TENSOR, cut.producer, cut.slot)
        yield Barrier(cut.producer, cut.slot, edge, requantize_reason(groups[cut.producer], groups[cut.slot]))


def requantize_reason(producer: Group, consumer: Group) -> str:
    """Why a tensor made in one group is read in another."""
    if producer.scheme != consumer.scheme:
        return f"schemes differ: {producer.scheme} and {consumer.scheme}"
    for group, side in ((producer, "made"), (consumer, "read")):
        if group.fixed is not None:
            rule = group.fixed.origin
            return f"{side} with the parameters that {rule.rule} prescribes at {group.fixed.slot} ({rule.source})"
    return "the tensor has other readers, and sharing would bring foreign values to them"


def _unquantized(plans: Iterable[SlotPlan]) -> Iterator[Barrier]:
    """Tensors with an unquantized end."""
    made: dict[str, SlotPlan] = {}
    read: list[SlotPlan] = []
    for plan in plans:
        if _is_made(plan.slot):
            made[plan.tensor] = plan
        else:
            read.append(plan)
    for plan in read:
        producer = made.get(plan.tensor)
        if producer is not None and (reason := producer.reason or plan.reason) is not None:
            yield Barrier(producer.slot, plan.slot, Edge(Kind.TENSOR, producer.slot, plan.slot), reason)


def _float_ops(plans: Iterable[SlotPlan]) -> Iterator[Barrier]:
    """From the unquantized inputs of each op to its outputs."""
    inputs: dict[str, list[SlotPlan]] = {}
    outputs: list[tuple[str, SlotPlan]] = []
    for plan in plans:
        op, side, _ = parts(plan.slot)
        if op is not None and side == "in":
            inputs.setdefault(op, []).append(plan)
        elif op is not None:
            outputs.append((op, plan))
    for op, output in outputs:
        for plan in inputs.get(op, ()):
            if plan.reason is not None and plan.role == "activation":
                yield Barrier(plan.slot, output.slot, None, plan.reason)


def _is_made(slot: str) -> bool:
    op, side, _ = parts(slot)
    return (side == "out") if op is not None else (side != "out")


Steps = dict[str, list[Step]]
"""By slot, the steps that begin there. Their edges still point the way they were stored."""


def _steps(joined: Iterable[Edge], between: Iterable[Barrier]) -> Steps:
    """Every edge and barrier in both directions, by the slot where the step begins."""
    steps: Steps = {}
    for edge in joined:
        steps.setdefault(edge.a, []).append(Step(edge.a, edge.b, edge, None))
        steps.setdefault(edge.b, []).append(Step(edge.b, edge.a, edge, None))
    for barrier in between:
        steps.setdefault(barrier.a, []).append(Step(barrier.a, barrier.b, barrier.edge, barrier.reason))
        steps.setdefault(barrier.b, []).append(Step(barrier.b, barrier.a, barrier.edge, barrier.reason))
    return steps


def _along(step: Step, a: str, b: str) -> Step:
    """The step, with its edge pointing from `a` to `b`."""
    edge = None if step.edge is None else replace(step.edge, a=a, b=b)
    return Step(a, b, edge, step.barrier)


def _rank(step: Step) -> tuple[str, bool, str, str]:
    """Which of several steps to take: by name, and a shared one before a barrier."""
    kind, rule = ("", "") if step.edge is None else (step.edge.kind, step.edge.rule or "")
    return step.b, step.barrier is not None, kind, rule


def _shortest(steps: Steps, a: str, b: str) -> tuple[Step, ...] | None:
    start, goal = min(a, b), max(a, b)
    came: dict[str, Step] = {}
    frontier = [start]
    while frontier and goal not in came and goal != start:
        following = []
        for slot in frontier:
            new = [step for step in steps.get(slot, ()) if step.b != start and step.b not in came]
            for step in sorted(new, key=_rank):
                if step.b not in came:
                    came[step.b] = step
                    following.append(step.b)
        frontier = following
    if goal != start and goal not in came:
        return None
    backwards = []
    slot = goal
    while slot != start:
        backwards.append(came[slot])
        slot = came[slot].a
    if a == start:
        return tuple(_along(step, step.a, step.b) for step in reversed(backwards))
    return tuple(_along(step, step.b, step.a) for step in backwards)
