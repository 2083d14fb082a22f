"""What must hold for every graph, on random ones, against a literal implementation of the solving rule."""

from __future__ import annotations

import ast
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TypeVar

import networkx as nx
from constraint_graphs import ELEMENTWISE, Sketch, pack_with
from hypothesis import assume, given
from hypothesis import strategies as st
from literal_solver import literal_groups

from qgraph.constraints import grouping as grouping_module
from qgraph.constraints.blame import blame
from qgraph.constraints.explain import why
from qgraph.constraints.grouping import solve_groups
from qgraph.constraints.model import Constraints, Grouping, Kind, Origin, Same, Strength
from qgraph.constraints.pack import RulePack
from qgraph.constraints.rules import constrain
from qgraph.ir.elements import Op, Structure
from qgraph.ir.graph import Graph

UNARY = ("Conv", "MaxPool", "Reshape", "AveragePool", "Sigmoid", "Softmax", "Tanh", "Relu", "Split", "Exp", "Erf")
T = TypeVar("T")

MERGING = ("Add", "Mul", "Concat", "Max", "MatMul")


@cache
def pack() -> RulePack:
    with tempfile.TemporaryDirectory() as folder:
        return pack_with(ELEMENTWISE, Path(folder))


@st.composite
def structures(draw: st.DrawFn) -> Structure:
    sketch = Sketch()
    tensors = ["x", "y"]
    for number in range(draw(st.integers(1, 14))):
        kind = draw(st.sampled_from(UNARY + MERGING))
        count = 1 if kind in UNARY else draw(st.integers(2, 3)) if kind == "Concat" else 2
        # Recent tensors are preferred: deep graphs, not wide ones.
        inputs = [tensors[-1 - draw(st.integers(0, min(3, len(tensors) - 1)))] for _ in range(count)]
        outputs = [f"t{number}", f"u{number}"] if kind == "Split" else [f"t{number}"]
        if kind == "Conv" and draw(st.booleans()):
            sketch.constant("w", (4, 4, 1, 1))
            inputs.append("w")
        if kind == "Add" and draw(st.booleans()):
            sketch.constant("w", (4, 4, 1, 1))
            inputs[1] = "w"
        sketch.op(kind, " ".join(inputs), " ".join(outputs))
        tensors += outputs
    made = [name for op in sketch.ops for name in op.outputs if name is not None]
    outputs = draw(st.lists(st.sampled_from(made), unique=True, min_size=1, max_size=3))
    return sketch.graph(" ".join(outputs)).structure


def solve(structure: Structure, *, force_overlap: bool) -> tuple[Constraints, Grouping]:
    constraints = constrain(Graph(structure), pack())
    return constraints, solve_groups(constraints, force_overlap=force_overlap)


def members(grouping: Grouping) -> set[frozenset[str]]:
    return {frozenset(group.slots) for group in grouping.groups}


@given(structures(), st.booleans())
def test_the_solver_agrees_with_the_literal_rule(structure: Structure, force_overlap: bool) -> None:
    constraints, grouping = solve(structure, force_overlap=force_overlap)
    assert members(grouping) == literal_groups(constraints, force_overlap=force_overlap)


@given(structures(), st.booleans(), st.integers())
def test_no_order_matters(structure: Structure, force_overlap: bool, seed: int) -> None:
    constraints, grouping = solve(structure, force_overlap=force_overlap)
    other = constrain(Graph(replace(structure, ops=_reordered(structure, random.Random(seed)))), pack())
    assert other == constraints
    assert solve_groups(shuffled(constraints, seed), force_overlap=force_overlap) == grouping


def shuffled(constraints: Constraints, seed: int) -> Constraints:
    """The same constraints in another order."""
    shuffle = random.Random(seed)

    def mixed(items: tuple[T, ...]) -> tuple[T, ...]:
        return tuple(shuffle.sample(items, len(items)))

    return replace(
        constraints,
        slots=dict(mixed(tuple(constraints.slots.items()))),
        tensors=mixed(constraints.tensors),
        same=mixed(constraints.same),
        fixed=mixed(constraints.fixed),
    )


def _reordered(structure: Structure, shuffle: random.Random) -> tuple[Op, ...]:
    """Another topological order."""
    made = {name for op in structure.ops for name in op.outputs}
    waiting, placed, done = list(structure.ops), [], set[str | None]()
    while waiting:
        ready = [op for op in waiting if all(name not in made or name in done for name in op.inputs)]
        op = shuffle.choice(ready)
        waiting.remove(op)
        placed.append(op)
        done.update(op.outputs)
    return tuple(placed)


@given(structures(), st.booleans(), st.integers())
def test_names_do_not_matter(structure: Structure, force_overlap: bool, seed: int) -> None:
    _, grouping = solve(structure, force_overlap=force_overlap)
    names = [tensor.name for tensor in structure.tensors]
    table = dict(zip(names, random.Random(seed).sample(names, len(names)), strict=True))

    def renamed(slot: str) -> str:
        if slot.startswith("graph:"):
            graph, side, name = slot.split(":", 2)
            return f"{graph}:{side}:{table[name]}"
        op, direction, index = slot.rsplit(":", 2)
        return f"{table[op]}:{direction}:{index}"

    _, other = solve(_renamed(structure, table.__getitem__), force_overlap=force_overlap)
    # A constant that is read under two schemes goes to the first reader by name, so it is left out here.
    if not any(requantize.producer.startswith("graph:const:") for requantize in grouping.requantizes):
        assert {frozenset(map(renamed, group)) for group in members(grouping)} == members(other)


def _renamed(structure: Structure, new: Callable[[str], str]) -> Structure:
    ops = tuple(
        replace(
            op,
            name=new(op.name),
            inputs=tuple(None if name is None else new(name) for name in op.inputs),
            outputs=tuple(None if name is None else new(name) for name in op.outputs),
        )
        for op in structure.ops
    )
    tensors = tuple(sorted((replace(t, name=new(t.name)) for t in structure.tensors), key=lambda t: t.name))
    inputs, outputs = (tuple(sorted(map(new, names))) for names in (structure.inputs, structure.outputs))
    return replace(structure, ops=ops, tensors=tensors, inputs=inputs, outputs=outputs)


@given(structures())
def test_false_refines_true(structure: Structure) -> None:
    _, apart = solve(structure, force_overlap=False)
    _, together = solve(structure, force_overlap=True)
    home = {slot: group.id for group in together.groups for slot in group.slots}
    assert all(len({home[slot] for slot in group.slots}) == 1 for group in apart.groups)


@given(structures(), st.booleans())
def test_groups_partition_the_quantizable_slots_and_are_connected_by_their_edges(
    structure: Structure, force_overlap: bool
) -> None:
    constraints, grouping = solve(structure, force_overlap=force_overlap)
    slots = sorted(slot for group in grouping.groups for slot in group.slots)
    assert slots == [slot for slot, plan in constraints.slots.items() if plan.scheme is not None]
    for group in grouping.groups:
        assert all(why(grouping.joined, group.master, slot) is not None for slot in group.slots)
        assert {constraints.slots[slot].scheme for slot in group.slots} == {group.scheme}
    home = {slot: group.id for group in grouping.groups for slot in group.slots}
    assert all(home[edge.a] == home[edge.b] for edge in grouping.joined)
    cut = {(edge.producer, edge.consumer) for edge in constraints.tensors if home[edge.producer] != home[edge.consumer]}
    assert {(requantize.producer, requantize.slot) for requantize in grouping.requantizes} == cut


@given(structures(), st.booleans())
def test_what_a_target_ties_is_never_cut(structure: Structure, force_overlap: bool) -> None:
    constraints, grouping = solve(structure, force_overlap=force_overlap)
    home = {slot: group.id for group in grouping.groups for slot in group.slots}
    assert all(home[tie.a] == home[tie.b] for tie in constraints.same)


@given(structures(), st.booleans())
def test_each_quantized_tensor_belongs_to_one_group(structure: Structure, force_overlap: bool) -> None:
    _, grouping = solve(structure, force_overlap=force_overlap)
    tensors = [tensor for group in grouping.groups for tensor in group.tensors]
    assert len(tensors) == len(set(tensors))


@given(structures())
def test_solving_what_was_solved_changes_nothing(structure: Structure) -> None:
    constraints, grouping = solve(structure, force_overlap=True)
    fixed = {group.id for group in grouping.groups if group.fixed is not None}
    found = {slot: group.id for group in grouping.groups for slot in group.slots}
    origin = Origin("again", "", "", "the test")
    ties = tuple(
        Same(edge.a, edge.b, origin, Strength.REQUIRED, pass_through=False)
        for edge in grouping.joined
        if edge.kind == Kind.TENSOR and found[edge.a] not in fixed
    )
    again = replace(constraints, same=(*constraints.same, *ties))
    assert members(solve_groups(again, force_overlap=True)) == members(grouping)


@given(structures(), st.data())
def test_without_fixed_slots_one_more_constraint_never_splits_a_group(
    structure: Structure, data: st.DataObject
) -> None:
    constraints = replace(constrain(Graph(structure), pack()), fixed=())
    by_scheme: dict[object, list[str]] = {}
    for slot, plan in constraints.slots.items():
        if plan.scheme is not None and plan.role == "activation":
            by_scheme.setdefault(plan.scheme, []).append(slot)
    candidates = [slots for slots in by_scheme.values() if len(slots) > 1]
    if not candidates:
        return
    slots = data.draw(st.sampled_from(candidates))
    a, b = data.draw(st.lists(st.sampled_from(slots), min_size=2, max_size=2, unique=True))
    tie = Same(a, b, Origin("more", "", "", "the test"), Strength.REQUIRED, pass_through=False)
    before = members(solve_groups(constraints, force_overlap=True))
    after = members(solve_groups(replace(constraints, same=(*constraints.same, tie)), force_overlap=True))
    assert all(any(group <= other for other in after) for group in before)
    assert any({a, b} <= group for group in after)


@given(structures(), st.booleans(), st.data())
def test_why_finds_a_chain_of_existing_edges_exactly_where_two_slots_share(
    structure: Structure, force_overlap: bool, data: st.DataObject
) -> None:
    constraints, grouping = solve(structure, force_overlap=force_overlap)
    home = {slot: group.id for group in grouping.groups for slot in group.slots}
    assume(home)
    a, b = (data.draw(st.sampled_from(sorted(home))) for _ in "ab")
    chain = why(grouping.joined, a, b)
    assert (chain is not None) == (home[a] == home[b])
    ties = {(frozenset((tie.a, tie.b)), tie.origin.rule) for tie in constraints.same}
    along = {(frozenset((edge.producer, edge.consumer)), None) for edge in constraints.tensors}
    assert {(frozenset((edge.a, edge.b)), edge.rule) for edge in chain or ()} <= ties | along


@given(structures(), st.booleans())
def test_removing_what_blame_names_splits_the_group_in_its_two_parts(structure: Structure, force_overlap: bool) -> None:
    _, grouping = solve(structure, force_overlap=force_overlap)
    home = {slot: group.id for group in grouping.groups for slot in group.slots}
    for group in grouping.groups:
        edges = [edge for edge in grouping.joined if home[edge.a] == group.id]
        for split in blame(edges, {}, ()):
            left = nx.Graph((edge.a, edge.b) for edge in edges if edge not in split.edges)
            left.add_nodes_from(group.slots)
            assert {frozenset(part) for part in nx.connected_components(left)} == set(map(frozenset, split.parts))


def test_no_function_recurses_not_even_through_others() -> None:
    package = Path(grouping_module.__file__).parent
    for path in sorted(package.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        names = {function.name for function in functions}
        calls = {(function.name, name) for function in functions for name in _called(function) if name in names}
        assert list(nx.simple_cycles(nx.DiGraph(calls))) == [], path.stem


def _called(function: ast.FunctionDef) -> Iterator[str]:
    """The names of functions, and of methods of the same object, that a function calls."""
    for node in ast.walk(function):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func).removeprefix("self.")
