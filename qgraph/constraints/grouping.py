"""Solve a target's constraints: groups of slots that share one scale and offset, and where requantizes remain."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import compress
from operator import attrgetter

from qgraph.constraints.conflicts import Noise, find_conflicts, same_edge
from qgraph.constraints.families import Problem, find_families, number
from qgraph.constraints.model import (
    Constraints,
    Edge,
    Group,
    Grouping,
    Kind,
    Requantize,
    TensorEdge,
)
from qgraph.constraints.solver import solve_sets
from qgraph.constraints.union_find import UnionFind
from qgraph.errors import ConflictError


def solve_groups(
    constraints: Constraints,
    *,
    force_overlap: bool,
    joins: Iterable[tuple[str, str]] = (),
    noise: Noise | None = None,
) -> Grouping:
    """Decide which slots share.

    The result depends on nothing but the constraints: not on their order, nor on that of ops and tensors. Near-linear
    in slots and constraints; iterative.

    Args:
        force_overlap: False keeps the readers of a tensor apart where sharing would bring foreign values to it, and
            requantizes there; True joins whatever can be joined.
        joins: slots on one tensor that are joined besides, as ``auto`` found them.
        noise: where there is data, by which the ways out of a contradiction are priced.

    Raises:
        ConflictError: constraints contradict each other; `conflicts` has a line for each contradiction.
    """
    problem = number(constraints)
    sets = solve_sets(problem, find_families(problem), force_overlap=force_overlap)
    for producer, consumer in joins:
        sets.union(problem.place[producer], problem.place[consumer])
    grouping, cut = _grouping(constraints, problem, sets.roots())
    group_of = {slot: group for group in grouping.groups for slot in group.slots}
    _raise_conflicts(constraints, group_of, grouping.joined, cut, noise)
    return grouping


def group_equals(constraints: Constraints, parameters: Mapping[str, object]) -> Grouping:
    """The groups that a model quantized elsewhere has: slots that a rule or a tensor ties, with equal parameters.

    Args:
        constraints: with the schemes that the slots have there, and only such prescriptions as are kept there.
        parameters: by slot, of all that are quantizable, the scheme included; what is equal shares.
    """
    kept = tuple(tie for tie in constraints.same if parameters[tie.a] == parameters[tie.b])
    problem = number(replace(constraints, same=kept))
    sets = UnionFind(len(problem.slots))
    place = problem.place
    for tie in kept:
        sets.union(place[tie.a], place[tie.b])
    for edge in constraints.tensors:
        if parameters[edge.producer] == parameters[edge.consumer]:
            sets.union(place[edge.producer], place[edge.consumer])
    return _grouping(replace(constraints, same=kept), problem, sets.roots())[0]


def _grouping(constraints: Constraints, problem: Problem, roots: list[int]) -> tuple[Grouping, list[TensorEdge]]:
    """The groups of sets that are known, and the tensor edges between them."""
    ends = zip(problem.producers, problem.consumers, strict=True)
    is_cut = [roots[producer] != roots[consumer] for producer, consumer in ends]
    cut = list(compress(constraints.tensors, is_cut))
    grouping = Grouping(
        groups=tuple(sorted(_groups(constraints, problem, roots), key=lambda group: group.id)),
        requantizes=tuple(
            sorted(
                (Requantize(edge.tensor, edge.consumer, edge.producer) for edge in cut),
                key=attrgetter("slot"),
            )
        ),
        joined=_joined_edges(constraints, problem, roots, is_cut),
    )
    return grouping, cut


def group_id(slots: Iterable[str]) -> str:
    """The id of a group: a digest of its sorted members, the same in every run and model."""
    digest = hashlib.sha256("\0".join(sorted(slots)).encode())
    return f"g{digest.hexdigest()[:12]}"


def _joined_edges(constraints: Constraints, problem: Problem, roots: list[int], is_cut: list[bool]) -> tuple[Edge, ...]:
    """All `same` constraints, and the tensor edges whose ends are in one group."""
    place = problem.place
    edges = [same_edge(tie) for tie in constraints.same if roots[place[tie.a]] == roots[place[tie.b]]]
    edges += [
        Edge(Kind.TENSOR, edge.producer, edge.consumer)
        for edge, cut in zip(constraints.tensors, is_cut, strict=True)
        if not cut
    ]
    return tuple(sorted(edges, key=attrgetter("a", "b", "kind", "rule")))


def _groups(constraints: Constraints, problem: Problem, roots: list[int]) -> list[Group]:
    members: dict[int, list[int]] = {}
    masters: dict[int, int] = {}
    for i, (root, made) in enumerate(zip(roots, problem.is_made, strict=True)):
        members.setdefault(root, []).append(i)
        if made:
            masters.setdefault(root, i)
    fixed = {entry.slot: entry for entry in reversed(constraints.fixed)}
    prescribed = {roots[problem.place[slot]] for slot in fixed}
    derived = {entry.slot: entry for entry in constraints.derived}
    tensors = _tensors_by_slot(problem)
    groups = []
    for root, numbers in members.items():
        master = masters.get(root, numbers[0])
        slots = tuple(problem.slots[i] for i in numbers)
        groups.append(
            Group(
                id=group_id(slots),
                slots=slots,
                tensors=tuple(sorted(tensors[i] for i in numbers if i in tensors)),
                master=problem.slots[master],
                scheme=problem.schemes[problem.scheme[master]],
                fixed=next(fixed[slot] for slot in slots if slot in fixed) if root in prescribed else None,
                derived=derived.get(slots[0]),
            )
        )
    return groups


def _tensors_by_slot(problem: Problem) -> dict[int, str]:
    """For each quantized tensor the slot where it is made or, if it is not quantized there, read first."""
    speakers = {tensor: i for i, tensor in reversed(list(enumerate(problem.tensors)))}
    speakers.update((tensor, i) for i, tensor in enumerate(problem.tensors) if problem.is_made[i])
    return {i: tensor for tensor, i in speakers.items()}


def _raise_conflicts(
    constraints: Constraints,
    group_of: Mapping[str, Group],
    joined: tuple[Edge, ...],
    cut: list[TensorEdge],
    noise: Noise | None,
) -> None:
    found = tuple(map(str, find_conflicts(constraints, group_of, joined, cut, noise)))
    if found:
        more = f" | and {len(found) - 1} more" if len(found) > 1 else ""
        wished = any("override: " in conflict for conflict in found)
        raise ConflictError(
            f"{len(found)} contradictions" if len(found) > 1 else "a contradiction",
            f"in the constraints of {constraints.target}: {found[0]}{more}",
            "change these overrides" if wished else "correct the rule pack, exclude an op, or force the overlap",
            found,
        )
