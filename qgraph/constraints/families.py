"""Constraints as dense integers, and the families of values that step 1 of the solver starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter

from qgraph.constraints.conflicts import bearable_schemes
from qgraph.constraints.model import Constraints
from qgraph.constraints.union_find import UnionFind
from qgraph.ir.slots import makes_its_tensor
from qgraph.tqc import Scheme

Parameters = tuple[float, int, int]
"""Prescribed scale and offset, and the number of the scheme that they are meant in."""


@dataclass(frozen=True, slots=True)
class Problem:
    """The quantizable slots and the constraints between them, by number.

    Attributes:
        slots: names, sorted; a slot's number is its place here.
        tensors: per slot, what flows through it.
        place: the number of each slot.
        scheme: per slot, a number that equal schemes share; `schemes` has them by that number. Slots that are tied
            have the scheme that all of them can bear, if there is one.
        producers: per tensor edge, the slot that makes the tensor.
        consumers: per tensor edge, the slot that reads it.
        ties: the two slots of each `same` constraint whose schemes are equal.
        passes: per tie, whether a pass-through op made it.
        is_made: per slot, whether it makes a tensor: an op's output, a graph input or a constant.
        is_value: per slot, whether a value begins there: it makes a tensor, and is not tied to an input of its own op.
        fixed: by slot, the parameters that the target prescribes (all of them, if it contradicts itself).
    """

    slots: tuple[str, ...]
    tensors: tuple[str, ...]
    place: Mapping[str, int]
    scheme: list[int]
    producers: list[int]
    consumers: list[int]
    ties: list[tuple[int, int]]
    passes: list[bool]
    is_made: list[bool]
    is_value: list[bool]
    fixed: dict[int, set[Parameters]]
    schemes: tuple[Scheme, ...] = ()

    def joinable(self, edge: int) -> bool:
        """Whether both ends of a tensor edge have one scheme; if not, nothing can join them."""
        return self.scheme[self.producers[edge]] == self.scheme[self.consumers[edge]]


@dataclass(frozen=True, slots=True)
class Families:
    """Each value with all that pass-through ops make of it.

    Attributes:
        sets: the slots of each family.
        uses: the tensor edges that leave the families, for slots of other ops and graph outputs.
        of: per entry of `uses`, the root of its family in `sets`.
        count: by root, how many uses a family has.
        fixed: roots of the families that hold a slot with prescribed parameters.
    """

    sets: UnionFind
    uses: list[int]
    of: list[int]
    count: dict[int, int]
    fixed: set[int]


def number(constraints: Constraints) -> Problem:
    """Number the quantizable slots and rewrite the constraints in those numbers."""
    planned = sorted((plan for plan in constraints.slots.values() if plan.scheme is not None), key=attrgetter("slot"))
    slots = tuple(plan.slot for plan in planned)
    place = {slot: i for i, slot in enumerate(slots)}
    own = [plan.scheme for plan in planned if plan.scheme is not None]
    schemes, scheme = _number_schemes(own)
    ties = [(place[tie.a], place[tie.b], tie.pass_through) for tie in constraints.same]
    if any(scheme[a] != scheme[b] for a, b, _ in ties):
        common = bearable_schemes(constraints)
        schemes, scheme = _number_schemes([common.get(*one) for one in zip(slots, own, strict=True)])
    is_made = [makes_its_tensor(slot) for slot in slots]
    tied = {b for a, b, _ in ties if not is_made[a]}  # two values that a user ties to each other stay values
    joined = [(a, b, passes) for a, b, passes in ties if scheme[a] == scheme[b]]
    fixed: dict[int, set[Parameters]] = {}
    for entry in constraints.fixed:
        i = place[entry.slot]
        fixed.setdefault(i, set()).add((entry.scale, entry.offset, scheme[i]))
    return Problem(
        slots=slots,
        tensors=tuple(plan.tensor for plan in planned),
        place=place,
        scheme=scheme,
        producers=[place[edge.producer] for edge in constraints.tensors],
        consumers=[place[edge.consumer] for edge in constraints.tensors],
        ties=[(a, b) for a, b, _ in joined],
        passes=[passes for _, _, passes in joined],
        is_made=is_made,
        is_value=[made and i not in tied for i, made in enumerate(is_made)],
        fixed=fixed,
        schemes=schemes,
    )


def _number_schemes(schemes: list[Scheme]) -> tuple[tuple[Scheme, ...], list[int]]:
    """The distinct schemes, and for each one given its number in there."""
    numbers: dict[Scheme, int] = {}
    # A few objects serve all slots: to compare them costs more than all else here.
    known = {key: numbers.setdefault(scheme, len(numbers)) for key, scheme in {id(s): s for s in schemes}.items()}
    return tuple(numbers), [known[id(scheme)] for scheme in schemes]


def find_families(problem: Problem) -> Families:
    """Join each value with the pass-through ops behind it; what is left of the tensor edges are the uses."""
    sets = UnionFind(len(problem.slots))
    entries = set()
    for (a, b), passes in zip(problem.ties, problem.passes, strict=True):
        if passes:
            sets.union(a, b)
            entries.add(a)
    uses = []
    for edge, (producer, consumer) in enumerate(zip(problem.producers, problem.consumers, strict=True)):
        if consumer in entries and problem.joinable(edge):
            sets.union(producer, consumer)
        else:
            uses.append(edge)
    of = [sets.find(problem.producers[edge]) for edge in uses]
    count: dict[int, int] = {}
    for root in of:
        count[root] = count.get(root, 0) + 1
    return Families(sets, uses, of, count, {sets.find(slot) for slot in problem.fixed})
