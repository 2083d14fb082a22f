"""Cuts, blame and cascade: which edges hold a group together."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qgraph.constraints.blame import blame, cascade
from qgraph.constraints.cuts import bridges, minimum_cut
from qgraph.constraints.model import Edge, Kind, Strength


@st.composite
def multigraphs(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]], list[float]]:
    count = draw(st.integers(2, 6))
    node = st.integers(0, count - 1)
    edges = draw(st.lists(st.tuples(node, node), max_size=9))
    return count, edges, [float(draw(st.integers(0, 4))) for _ in edges]


def connected(count: int, edges: list[tuple[int, int]], a: int, b: int) -> bool:
    reached = {a}
    for _ in range(count):
        reached |= {y for x, y in edges if x in reached} | {x for x, y in edges if y in reached}
    return b in reached


@given(multigraphs())
def test_a_minimum_cut_parts_the_two_at_the_least_price(graph: tuple[int, list[tuple[int, int]], list[float]]) -> None:
    count, edges, prices = graph
    cut = minimum_cut(count, edges, prices, 0, 1)
    assert cut is not None
    left = [edge for number, edge in enumerate(edges) if number not in cut.edges]
    assert not connected(count, left, 0, 1)
    price = sum(prices[number] for number in cut.edges)
    for size in range(len(edges) + 1):
        for chosen in itertools.combinations(range(len(edges)), size):
            if not connected(count, [e for n, e in enumerate(edges) if n not in chosen], 0, 1):
                assert price <= sum(prices[number] for number in chosen)


@given(multigraphs())
def test_a_bridge_is_an_edge_that_alone_connects_its_ends(
    graph: tuple[int, list[tuple[int, int]], list[float]],
) -> None:
    count, edges, _ = graph
    assert bridges(count, edges) == {
        number
        for number, (a, b) in enumerate(edges)
        if not connected(count, edges[:number] + edges[number + 1 :], a, b)
    }


def test_what_cannot_be_cut_has_no_cut() -> None:
    infinite = float("inf")
    assert minimum_cut(3, [(0, 1), (1, 2)], [infinite, infinite], 0, 2) is None
    assert minimum_cut(2, [], [], 1, 1) is None


def test_a_million_edges_in_a_row_are_no_matter_of_depth() -> None:
    count = 100_000
    edges = [(number, number + 1) for number in range(count - 1)]
    assert len(bridges(count, edges)) == count - 1
    cut = minimum_cut(count, edges, [1.0] * len(edges), 0, count - 1)
    assert cut is not None
    assert cut.edges == (0,)


EDGES = (
    Edge(Kind.TENSOR, "a:out:0", "cat:in:0"),
    Edge(Kind.TENSOR, "b:out:0", "cat:in:1"),
    Edge(Kind.SAME, "cat:in:0", "cat:out:0", "concat", "cat", "Concat", Strength.REQUIRED, "the test"),
    Edge(Kind.SAME, "cat:in:1", "cat:out:0", "concat", "cat", "Concat", Strength.REQUIRED, "the test"),
    Edge(Kind.TENSOR, "cat:out:0", "flat:in:0"),
    Edge(Kind.SAME, "flat:in:0", "flat:out:0", "reshape", "flat", "Reshape", Strength.EXACT, "the test"),
)
MAKERS = ("a:out:0", "b:out:0", "cat:out:0", "flat:out:0")
PAID = {"a:out:0": 30.0, "cat:in:0": 30.0, "b:out:0": 0.0, "cat:in:1": 0.0, "cat:out:0": 1.0, "flat:out:0": 1.0}


def test_the_dearest_sharing_comes_first() -> None:
    prices = [split.price_db for split in blame(EDGES, PAID, MAKERS)]
    assert prices[:2] == [30.0, 30.0]
    known = [price for price in prices if price is not None]
    assert known == sorted(known, reverse=True)


def test_exact_ties_are_never_cut() -> None:
    cut = {edge for split in blame(EDGES, PAID, MAKERS) for edge in split.edges}
    assert cut == set(EDGES[:5])


def test_without_prices_the_order_is_by_name() -> None:
    splits = blame(EDGES, {}, MAKERS)
    assert all(split.price_db is None for split in splits)
    assert [split.edges[0].a for split in splits] == sorted(split.edges[0].a for split in splits)


def test_edges_side_by_side_go_together() -> None:
    beside = Edge(Kind.SAME, "a:out:0", "cat:in:0", "other", "op", strength=Strength.PREFERRED)
    twice = (*EDGES[:1], beside)
    (split,) = blame(twice, {}, ())
    assert len(split.edges) == 2


def parts_without(edges: tuple[Edge, ...], dropped: tuple[Edge, ...]) -> int:
    slots = {slot for edge in edges for slot in (edge.a, edge.b)}
    parts = [{slot} for slot in slots]
    for edge in edges:
        if edge not in dropped:
            touched = [part for part in parts if edge.a in part or edge.b in part]
            parts = [part for part in parts if part not in touched] + [set().union(*touched)]
    return len(parts)


@given(st.integers(3, 7), st.integers(0, 6), st.integers())
def test_removing_a_blame_set_splits_the_group_and_no_part_of_it_does(size: int, more: int, seed: int) -> None:
    shuffle = random.Random(seed)
    pairs = [(shuffle.randrange(number), number) for number in range(1, size)]
    pairs += [(a, b) for _ in range(more) if (a := shuffle.randrange(size)) != (b := shuffle.randrange(size))]
    edges = tuple(
        Edge(Kind.SAME, f"s{a}", f"s{b}", f"r{number}", "op", "Op", Strength.REQUIRED, "the test")
        for number, (a, b) in enumerate(pairs)
    )
    paid = {f"s{number}": shuffle.random() for number in range(size)}
    splits = blame(edges, paid, tuple(paid))
    assert splits
    assert {edge for split in splits for edge in split.edges} == set(edges)
    for split in splits:
        assert parts_without(edges, split.edges) == 2
        assert sorted(map(len, split.parts)) == [len(part) for part in split.parts]
        for kept in split.edges:
            assert parts_without(edges, tuple(edge for edge in split.edges if edge != kept)) == 1
    mixed = tuple(shuffle.sample(edges, len(edges)))
    assert blame(mixed, paid, tuple(paid)) == splits


def test_cascade_is_what_falls_apart_without_one_op() -> None:
    assert cascade(EDGES, "cat") == (
        ("a:out:0", "cat:in:0"),
        ("b:out:0", "cat:in:1"),
        ("cat:out:0", "flat:in:0", "flat:out:0"),
    )
    assert len(cascade(EDGES, "elsewhere")) == 1


@pytest.mark.parametrize("most", [1, 3])
def test_as_many_cuts_as_asked_for(most: int) -> None:
    assert len(blame(EDGES, PAID, MAKERS, most=most)) == most
