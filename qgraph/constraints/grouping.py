"""Solve a target's constraints: groups of slots that share one scale and offset, and where requantizes remain."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from qgraph.constraints.conflicts import find_conflicts, same_edge
from qgraph.constraints.families import Problem, find_families, number
from qgraph.constraints.model import (
    Constraints,
    Edge,
    Group,
    Grouping,
    Kind,
    Requantize,
    SlotPlan,
    TensorEdge,
)
from qgraph.constraints.solver import solve_sets
from qgraph.errors import ConflictError


def solve_groups(constraints: Constraints, *, force_overlap: bool, joins: Iterable[tuple[str, str]] = ()) -> Grouping:
    """Decide which slots share.

    The result depends on nothing but the constraints: not on their order, nor on that of ops and tensors. Near-linear
    in slots and constraints; iterative.

    Args:
        force_overlap: False keeps the readers of a tensor apart where sharing would bring foreign values to it, and
            requantizes there; True joins whatever can be joined.
        joins: slots on one tensor that are joined besides, as ``auto`` found them.

    Raises:
        ConflictError: constraints contradict each other; `conflicts` has a line for each contradiction.
    """
    problem = number(constraints)
    sets = solve_sets(problem, find_families(problem), force_overlap=force_overlap)
    place = {slot: number for number, slot in enumerate(problem.slots)}
    for producer, consumer in joins:
        sets.union(place[producer], place[consumer])
    roots = sets.roots()
    root_of = dict(zip(problem.slots, roots, strict=True))
    joined = _joined_edges(constraints, root_of)
    groups = _groups(constraints, problem, roots)
    group_of = {slot: group for group in groups for slot in group.slots}
    cut = [edge for edge in constraints.tensors if root_of[edge.producer] != root_of[edge.consumer]]
    _raise_conflicts(constraints, group_of, joined, cut)
    return Grouping(
        groups=tuple(sorted(groups, key=lambda group: group.id)),
        requantizes=tuple(
            sorted(
                (Requantize(edge.tensor, edge.consumer, edge.producer) for edge in cut),
                key=lambda requantize: requantize.slot,
            )
        ),
        joined=joined,
    )


def group_id(slots: Iterable[str]) -> str:
    """The id of a group: a digest of its sorted members, the same in every run and model."""
    digest = hashlib.sha256("\0".join(sorted(slots)).encode())
    return f"g{digest.hexdigest()[:12]}"


def _joined_edges(constraints: Constraints, root_of: Mapping[str, int]) -> tuple[Edge, ...]:
    """All `same` constraints, and the tensor edges whose ends are in one group."""
    edges = [same_edge(tie) for tie in constraints.same if root_of[tie.a] == root_of[tie.b]]
    edges += [
        Edge(Kind.TENSOR, edge.producer, edge.consumer)
        for edge in constraints.tensors
        if root_of[edge.producer] == root_of[edge.consumer]
    ]
    return tuple(sorted(edges, key=lambda edge: (edge.a, edge.b, edge.kind, edge.rule or "")))


def _groups(constraints: Constraints, problem: Problem, roots: list[int]) -> list[Group]:
    place = {slot: number for number, slot in enumerate(problem.slots)}
    members: dict[int, list[str]] = {}
    masters: dict[int, str] = {}
    for slot, root, made in zip(problem.slots, roots, problem.is_made, strict=True):
        members.setdefault(root, []).append(slot)
        if made:
            masters.setdefault(root, slot)
    fixed = {entry.slot: entry for entry in reversed(constraints.fixed)}
    prescribed = {roots[place[slot]] for slot in fixed}
    derived = {entry.slot: entry for entry in constraints.derived}
    tensors = _tensors_by_slot(constraints.slots, problem)
    groups = []
    for root, slots in members.items():
        master = masters.get(root, slots[0])
        groups.append(
            Group(
                id=group_id(slots),
                slots=tuple(slots),
                tensors=tuple(sorted(tensors[slot] for slot in slots if slot in tensors)),
                master=master,
                scheme=problem.schemes[problem.scheme[place[master]]],
                fixed=next(fixed[slot] for slot in slots if slot in fixed) if root in prescribed else None,
                derived=derived.get(slots[0]),
            )
        )
    return groups


def _tensors_by_slot(plans: Mapping[str, SlotPlan], problem: Problem) -> dict[str, str]:
    """For each quantized tensor the slot where it is made or, if it is not quantized there, read first."""
    speakers: dict[str, str] = {}
    for slot, made in zip(problem.slots, problem.is_made, strict=True):
        tensor = plans[slot].tensor
        if made or tensor not in speakers:
            speakers[tensor] = slot
    return {slot: tensor for tensor, slot in speakers.items()}


def _raise_conflicts(
    constraints: Constraints, group_of: Mapping[str, Group], joined: tuple[Edge, ...], cut: list[TensorEdge]
) -> None:
    found = tuple(map(str, find_conflicts(constraints, group_of, joined, cut)))
    if found:
        raise ConflictError(
            f"{len(found)} contradictions" if len(found) > 1 else "a contradiction",
            f"in the constraints of {constraints.target}: {' | '.join(found)}",
            "correct the rule pack, exclude an op, or force the overlap",
            found,
        )
