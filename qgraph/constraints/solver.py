r"""Which slots share: the joins of ``force_overlap`` False and True, as sets of numbered slots.

Every decision is taken on a snapshot of the sets, so nothing depends on the order of ops, tensors or constraints.
The seed's example, with a rule that the inputs of Add agree::

    Conv1 ──▶ Add1           Conv1 has one reader: joined in step 1.
    Conv2 ─┬▶ Add1           Conv2 fans out. Add1's inputs are tied and hold Conv1's value, which is foreign to
           └▶ Conv3          Conv2: False cuts that edge. Nothing is tied in Conv3: joined.

>>> from qgraph.constraints.families import Problem, find_families
>>> names = ("Add1.in0", "Add1.in1", "Conv1.out", "Conv2.out", "Conv3.in")
>>> problem = Problem(
...     slots=names, tensors=("x", "y", "x", "y", "y"), scheme=[0] * 5,
...     place={name: number for number, name in enumerate(names)},
...     producers=[2, 3, 3], consumers=[0, 1, 4], ties=[(0, 1)], passes=[False],
...     is_made=[False, False, True, True, False], is_value=[False, False, True, True, False], fixed={},
... )
>>> for force_overlap in (False, True):
...     sets = solve_sets(problem, find_families(problem), force_overlap=force_overlap)
...     roots = sets.roots()
...     print(force_overlap, sorted([n for n, r in zip(names, roots) if r == root] for root in set(roots)))
False [['Add1.in0', 'Add1.in1', 'Conv1.out'], ['Conv2.out', 'Conv3.in']]
True [['Add1.in0', 'Add1.in1', 'Conv1.out', 'Conv2.out', 'Conv3.in']]
"""

from __future__ import annotations

from collections.abc import Iterable

from qgraph.constraints.families import Families, Parameters, Problem
from qgraph.constraints.union_find import UnionFind


def solve_sets(problem: Problem, families: Families, *, force_overlap: bool) -> UnionFind:
    """Join the slots that share.

    Near-linear in slots and constraints; iterative.
    """
    sets = _components(problem, families)
    given = _given(problem, families, sets)
    _join_equal_parameters(problem, families, sets, given)
    roots = sets.roots()
    fixed = {sets.find(slot) for slot in given}
    # An edge at fixed parameters is decided by now: joined, or requantized in every mode.
    open_uses = [
        use
        for use, edge in enumerate(families.uses)
        if problem.joinable(edge)
        and roots[problem.producers[edge]] not in fixed
        and roots[problem.consumers[edge]] not in fixed
    ]
    if force_overlap:
        _join_uses(problem, families, sets, open_uses)
    else:
        _join_uses(problem, families, sets, _without_foreign_values(problem, families, roots, open_uses))
        _join_agreeing_families(problem, families, sets, open_uses)
    return sets


def _join_uses(problem: Problem, families: Families, sets: UnionFind, uses: Iterable[int]) -> None:
    for use in uses:
        edge = families.uses[use]
        sets.union(problem.producers[edge], problem.consumers[edge])


def _components(problem: Problem, families: Families) -> UnionFind:
    """Step 1: families, the ties of merging ops, and the one use of each family that has no other and is not fixed."""
    sets = families.sets.copy()
    for (a, b), passes in zip(problem.ties, problem.passes, strict=True):
        if not passes:
            sets.union(a, b)
    _join_uses(
        problem,
        families,
        sets,
        (
            use
            for use, family in enumerate(families.of)
            if families.count[family] == 1 and family not in families.fixed and problem.joinable(families.uses[use])
        ),
    )
    return sets


def _given(problem: Problem, families: Families, sets: UnionFind) -> dict[int, Parameters]:
    """Step 2: the fixed components, by root. One without values of its own takes what all that enters it has."""
    roots = sets.roots()
    given: dict[int, Parameters] = {}
    for slot, parameters in problem.fixed.items():
        root = roots[slot]
        # Where several contradict each other, any will do: the contradiction is reported in the end.
        given[root] = min(parameters | {given[root]}) if root in given else min(parameters)
    valued = {roots[slot] for slot, value in enumerate(problem.is_value) if value}
    entering: dict[int, list[int]] = {}
    leaving: dict[int, list[int]] = {}
    for edge in families.uses:
        source, sink = roots[problem.producers[edge]], roots[problem.consumers[edge]]
        if source != sink:
            entering.setdefault(sink, []).append(edge)
            leaving.setdefault(source, []).append(sink)
    waiting = {sink: len(edges) for sink, edges in entering.items() if sink not in valued and sink not in given}
    ready = list(given)
    while ready:
        for sink in leaving.get(ready.pop(), ()):
            if sink not in waiting:
                continue
            waiting[sink] -= 1
            if waiting[sink] == 0 and (agreed := _agreed(problem, roots, entering[sink], given)) is not None:
                given[sink] = agreed
                ready.append(sink)
    return given


def _agreed(problem: Problem, roots: list[int], edges: list[int], given: dict[int, Parameters]) -> Parameters | None:
    """The parameters of all components that enter by these edges, if they are the same and can be shared."""
    entering = {given[roots[problem.producers[edge]]] for edge in edges}
    if len(entering) != 1 or not all(problem.joinable(edge) for edge in edges):
        return None
    return entering.pop()


def _join_equal_parameters(problem: Problem, families: Families, sets: UnionFind, given: dict[int, Parameters]) -> None:
    roots = sets.roots()
    for edge in families.uses:
        producer, consumer = problem.producers[edge], problem.consumers[edge]
        parameters = given.get(roots[producer])
        if parameters is not None and parameters == given.get(roots[consumer]):
            sets.union(producer, consumer)


def _without_foreign_values(problem: Problem, families: Families, roots: list[int], open_uses: list[int]) -> list[int]:
    """Step 3 for False: the uses where joining brings nothing foreign to the family, judged on `roots`."""
    merging = {roots[a] for (a, _), passes in zip(problem.ties, problem.passes, strict=True) if not passes}
    valued = {roots[slot] for slot, value in enumerate(problem.is_value) if value}
    only: dict[int, int | None] = {}
    for use, edge in enumerate(families.uses):
        sink, family = roots[problem.consumers[edge]], families.of[use]
        if roots[problem.producers[edge]] != sink:
            only[sink] = family if only.get(sink, family) == family else None
    chosen = []
    for use in open_uses:
        edge = families.uses[use]
        sink = roots[problem.consumers[edge]]
        nothing_foreign = only.get(sink) == families.of[use] and sink not in valued
        if roots[problem.producers[edge]] == sink or sink not in merging or nothing_foreign:
            chosen.append(use)
    return chosen


def _join_agreeing_families(problem: Problem, families: Families, sets: UnionFind, open_uses: list[int]) -> None:
    """Until nothing changes: join the families whose uses are all in one group already.

    Joining only makes groups larger, so the result is the same in whatever order families are looked at.
    """
    uses: dict[int, list[int]] = {}
    for use in open_uses:
        uses.setdefault(families.of[use], []).append(use)
    # A family with a decided use (another scheme, fixed parameters) has a use outside every open group.
    pending = [entries for family, entries in uses.items() if len(entries) == families.count[family]]
    changed = True
    while changed:
        changed = False
        waiting = []
        for entries in pending:
            if len({sets.find(problem.consumers[families.uses[use]]) for use in entries}) > 1:
                waiting.append(entries)
                continue
            for use in entries:
                edge = families.uses[use]
                changed |= sets.union(problem.producers[edge], problem.consumers[edge])
        pending = waiting
