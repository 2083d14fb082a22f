"""The smallest repair: the fewest changes to a file after which all of its connected violations are gone.

A *cell* is all slots that rules tie: they must choose one pair of scale and zero point (a *label*). A change is one of

- *parameters*: a tensor is made with another label; whatever reads it reads it so,
- *requantize*: one reader takes a tensor with another label than it is made with (not counted where the file has it),
- *bias*: the bias of a weighted op is stored again, since its input has another scale.

::

    x (A) ─┐                        one change: CONCAT's output takes A, as two of three have it;
    y (A) ─┴─ CONCAT ─ z (B) ─ …    a majority, weighed against what else reads x, y and z

Which cells choose what is the cheapest choice of `qgraph.analysis.least_changes`. Among equally few changes the one
that costs least noise counts, where statistics exist; else a result changes rather than its source, what is merged
rather than the merged, and what few others read rather than what many do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from qgraph.analysis.case import Case
from qgraph.analysis.least_changes import Costs, cheapest
from qgraph.analysis.parameters import Parameters, product, same_parameters, same_scales, shifted
from qgraph.analysis.pricing import NO_PRICES, Prices
from qgraph.analysis.violation import Change, Repair, Violation
from qgraph.constraints.model import Derived, TensorEdge
from qgraph.constraints.union_find import UnionFind
from qgraph.ir.slots import parts

IMPOSSIBLE = 1e6
"""What a requantize costs where the target cannot, in changes: only fixed outputs can force it."""

PER_DECIBEL = 1e-6
"""What a decibel weighs against a change."""

AGAINST_THE_FLOW = 3e-8
"""What a change to a source weighs that its result could make as well."""

PER_READER = 2e-8
"""What it weighs that another op has to read the changed tensor."""


def plan_repairs(found: Mapping[Violation, str], case: Case, prices: Prices = NO_PRICES) -> tuple[Repair, ...]:
    """Repair all violations of rules that tie, prescribe or derive parameters.

    Args:
        found: the violations of kinds ``same``, ``fixed`` and ``derived``, each with a slot that it is about.

    Returns:
        Sets of violations that hang together, each with the changes that repair it, in the order of `found`.
    """
    if not found:
        return ()
    problem = _problem(tuple(found.values()), case)
    changes = [change for part in problem.parts for change in _solve(part, problem, case, prices)]
    return tuple(_sets(found, changes, problem))


@dataclass(frozen=True)
class _Problem:
    """Cells that may have to change.

    Attributes:
        cell: by slot, the number of its cell.
        slots: by cell, sorted.
        edges: by cell, those that matter: a reader that no rule binds reads whatever its tensor is made with.
        biases: by cell, those behind inputs in it.
        against: slots where tensors are made that rather stay as they are.
        others: by such a slot, how many ops read the tensor that no broken rule is about.
        parts: the cells that hang together with broken ones.
    """

    cell: Mapping[str, int]
    slots: Mapping[int, Sequence[str]]
    edges: Mapping[int, Sequence[TensorEdge]]
    biases: Mapping[int, Sequence[Derived]]
    against: frozenset[str]
    others: Mapping[str, int]
    parts: tuple[_Part, ...]


@dataclass(frozen=True)
class _Part:
    """Cells that hang together, sorted, and the labels that each can choose."""

    cells: tuple[int, ...]
    labels: Mapping[int, tuple[Parameters, ...]]


@dataclass(frozen=True)
class _Located:
    """A change and the cells that it makes agree."""

    change: Change
    cells: frozenset[int] = field(compare=False)


def _problem(anchors: Sequence[str], case: Case) -> _Problem:
    slots = sorted(slot for slot in case.constraints.slots if case.at(slot))
    number = {slot: index for index, slot in enumerate(slots)}
    sets = UnionFind(len(slots))
    for tie in case.binding:
        b = case.inside(tie.b, tie.origin.op)
        if tie.a in number and b in number:
            sets.union(number[tie.a], number[b])
    cell = {slot: sets.find(index) for slot, index in number.items()}
    members: dict[int, list[str]] = {}
    for slot in slots:
        members.setdefault(cell[slot], []).append(slot)
    biases: dict[int, list[Derived]] = {}
    for bias in case.constraints.derived:
        if bias.activation in cell and case.at(bias.slot) and case.at(bias.weight):
            biases.setdefault(cell[bias.activation], []).append(bias)
    edges: dict[int, list[TensorEdge]] = {}
    for edge in case.constraints.tensors:
        if edge.producer not in cell or edge.consumer not in cell:
            continue
        reader = cell[edge.consumer]
        if len(members[reader]) == 1 and reader not in biases:
            continue  # it reads whatever the tensor is made with
        for end in {cell[edge.producer], reader}:
            edges.setdefault(end, []).append(edge)
    fixed = {cell[slot]: label for slot, label in _fixed(case) if slot in cell}
    starts = [cell[slot] for slot in anchors if slot in cell]
    reached = _parts(starts, cell, edges)
    parts_ = tuple(_labelled(part, set(starts), members, fixed, case) for part in reached)
    return _Problem(cell, members, edges, biases, _against(case), _others(case, cell, set(starts)), parts_)


def _against(case: Case) -> frozenset[str]:
    """A result follows its source, and sources follow what they are merged into: the others rather stay."""
    producers = {edge.consumer: edge.producer for edge in case.constraints.tensors}
    found = set()
    for tie in case.binding:
        b = case.inside(tie.b, tie.origin.op)
        if not any(_has(tie.a, entry, case) for entry in case.at(b)):
            found.add(producers.get(tie.a, tie.a) if tie.pass_through else b)
    return frozenset(found)


def _others(case: Case, cell: Mapping[str, int], broken: set[int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for edge in case.constraints.tensors:
        if parts(edge.consumer).op is not None and cell.get(edge.consumer) not in broken:
            found[edge.producer] = found.get(edge.producer, 0) + 1
    return found


def _fixed(case: Case) -> Iterator[tuple[str, Parameters]]:
    for fixed in case.constraints.fixed:
        slot = case.inside(fixed.slot, fixed.origin.op)
        yield slot, Parameters("", case.pack.activation.dtype, (fixed.scale,), (fixed.offset,))


def _parts(
    starts: Sequence[int], cell: Mapping[str, int], edges: Mapping[int, Sequence[TensorEdge]]
) -> list[tuple[int, ...]]:
    """The cells that hang together with broken ones, by tensors between them."""
    seen: set[int] = set()
    found = []
    for start in starts:
        if start in seen:
            continue
        part, pending = [], [start]
        seen.add(start)
        while pending:
            current = pending.pop()
            part.append(current)
            for edge in edges.get(current, ()):
                for end in (cell[edge.producer], cell[edge.consumer]):
                    if end not in seen:
                        seen.add(end)
                        pending.append(end)
        found.append(tuple(sorted(part)))
    return found


def _labelled(
    part: tuple[int, ...],
    broken: set[int],
    members: Mapping[int, Sequence[str]],
    fixed: Mapping[int, Parameters],
    case: Case,
) -> _Part:
    """What each cell can choose: what its slots have, what broken cells have, and what is prescribed somewhere."""
    shared: list[Parameters] = []
    for cell in part:
        if cell in fixed:
            _add(shared, fixed[cell])
        if cell in broken:
            for slot in members[cell]:
                for entry in case.at(slot):
                    _add(shared, entry)
    labels = {}
    for cell in part:
        own: list[Parameters] = []
        for slot in members[cell]:
            for entry in case.at(slot):
                _add(own, entry)
        for entry in shared:
            _add(own, entry)
        labels[cell] = (fixed[cell],) if cell in fixed else tuple(own)
    return _Part(part, labels)


def _add(labels: list[Parameters], entry: Parameters) -> None:
    if not any(same_parameters(entry, label) for label in labels):
        labels.append(entry)


def _solve(part: _Part, problem: _Problem, case: Case, prices: Prices) -> list[_Located]:
    place = {cell: index for index, cell in enumerate(part.cells)}
    own = [_own_costs(cell, part, problem, case, prices) for cell in part.cells]
    pairs: dict[tuple[int, int], Costs] = {}
    for edge in _edges(part, problem):
        a, b = problem.cell[edge.producer], problem.cell[edge.consumer]
        costs = _reading_costs(edge, part.labels[a], part.labels[b], case, prices)
        if a == b:
            own[place[a]] = own[place[a]] + np.diagonal(costs)
        else:
            pairs[place[a], place[b]] = pairs.get((place[a], place[b]), 0.0) + costs
    chosen = cheapest(own, pairs)
    label = {cell: part.labels[cell][chosen[index]] for cell, index in place.items()}
    return list(_changes(part, label, problem, case, prices))


def _edges(part: _Part, problem: _Problem) -> list[TensorEdge]:
    found = dict.fromkeys(edge for cell in part.cells for edge in problem.edges.get(cell, ()))
    return sorted(found, key=lambda edge: (edge.producer, edge.consumer))


def _is_made(slot: str) -> bool:
    """Whether a tensor is made at a slot, rather than read."""
    op, side, _ = parts(slot)
    return side != "in" if op is not None else side != "out"


def _has(slot: str, label: Parameters, case: Case) -> bool:
    return any(same_parameters(entry, label) for entry in case.at(slot))


def _own_costs(cell: int, part: _Part, problem: _Problem, case: Case, prices: Prices) -> Costs:
    """What each label changes at the tensors that are made in a cell, and at biases behind it."""
    labels = part.labels[cell]
    costs = np.zeros(len(labels))
    for slot in filter(_is_made, problem.slots[cell]):
        made = case.at(slot)[0]
        found = prices.parameters([(made, _typed(label, made)) for label in labels])
        against = AGAINST_THE_FLOW if slot in problem.against else 0.0
        against += PER_READER * problem.others.get(slot, 0)
        for index, label in enumerate(labels):
            if not _has(slot, label, case):
                costs[index] += 1 + _weight(found[index]) + against
    for bias in problem.biases.get(cell, ()):
        for index, label in enumerate(labels):
            if _new_bias(bias, label, case) is not None:
                costs[index] += 1
    return costs


def _weight(price: float | None) -> float:
    return 0.0 if price is None else PER_DECIBEL * min(max(price, 0.0), 100.0)


def _typed(label: Parameters, like: Parameters) -> Parameters:
    """A label as the parameters of a tensor, in its integer type."""
    typed = shifted(label, like.dtype)
    return Parameters(like.name, typed.dtype, typed.scale, typed.offset)


def _reading_costs(
    edge: TensorEdge, made: Sequence[Parameters], read: Sequence[Parameters], case: Case, prices: Prices
) -> Costs:
    """What it costs that a tensor is made with one label and read with another: nothing where they are equal."""
    costs = np.zeros((len(made), len(read)))
    requantize = 1.0 if case.pack.can_requantize else IMPOSSIBLE
    stands = not any(_has(edge.producer, entry, case) for entry in case.at(edge.consumer))
    like = case.at(edge.producer)[0]
    for i, a in enumerate(made):
        for j, b in enumerate(read):
            if not same_parameters(a, b) and not (stands and _has(edge.consumer, b, case)):
                price = prices.requantize(_typed(a, like), _typed(b, like)) if case.pack.can_requantize else None
                costs[i, j] = requantize + AGAINST_THE_FLOW + _weight(price)
    return costs


def _new_bias(bias: Derived, label: Parameters, case: Case) -> Parameters | None:
    """What a bias has to be stored with behind an input with this label; None where it fits as it is."""
    stored, weight = case.at(bias.slot)[0], case.at(bias.weight)[0]
    wanted = product(label, weight, len(stored.scale))
    if wanted is None or (same_scales(stored.scale, wanted) and not any(stored.offset)):
        return None
    return Parameters(stored.name, case.bias_type(stored, label), wanted, (0,) * len(wanted))


def _changes(
    part: _Part, label: Mapping[int, Parameters], problem: _Problem, case: Case, prices: Prices
) -> Iterator[_Located]:
    for cell in part.cells:
        for slot in filter(_is_made, problem.slots[cell]):
            if not _has(slot, label[cell], case):
                was = case.at(slot)[0]
                to = _typed(label[cell], was)
                change = Change("parameters", was.name, None, was, to, prices.parameters([(was, to)])[0])
                readers = {problem.cell[edge.consumer] for edge in problem.edges.get(cell, ()) if edge.producer == slot}
                yield _Located(change, frozenset({cell, *readers}))
        for bias in problem.biases.get(cell, ()):
            wanted = _new_bias(bias, label[cell], case)
            if wanted is not None:
                yield _Located(Change("bias", wanted.name, None, case.at(bias.slot)[0], wanted), frozenset({cell}))
    for edge in _edges(part, problem):
        a, b = label[problem.cell[edge.producer]], label[problem.cell[edge.consumer]]
        stands = not any(_has(edge.producer, entry, case) for entry in case.at(edge.consumer))
        if same_parameters(a, b) or (stands and _has(edge.consumer, b, case)):
            continue
        like = case.at(edge.producer)[0]
        was, to = _typed(a, like), _typed(b, like)
        change = Change("requantize", like.name, parts(edge.consumer).op, was, to, prices.requantize(was, to))
        yield _Located(change, frozenset({problem.cell[edge.consumer]}))


def _sets(found: Mapping[Violation, str], changes: Sequence[_Located], problem: _Problem) -> Iterator[Repair]:
    """Put together what hangs together: a violation and the changes at its cell, a change and all of its cells."""
    violations = list(found)
    sets = UnionFind(len(violations) + len(changes))
    at: dict[int, list[int]] = {}
    for index, located in enumerate(changes):
        for cell in located.cells:
            at.setdefault(cell, []).append(len(violations) + index)
    for index, slot in enumerate(found.values()):
        for other in at.get(problem.cell.get(slot, -1), ()):
            sets.union(index, other)
    together: dict[int, tuple[list[Violation], list[Change]]] = {}
    for index, violation in enumerate(violations):
        together.setdefault(sets.find(index), ([], []))[0].append(violation)
    for index, located in enumerate(changes, start=len(violations)):
        if sets.find(index) in together:
            together[sets.find(index)][1].append(located.change)
    for members, repairs in together.values():
        if repairs:
            yield Repair(tuple(members), tuple(dict.fromkeys(repairs)))
