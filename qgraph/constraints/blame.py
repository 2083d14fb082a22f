"""Who is to blame for a sharing: the cuts that would split a group, and what one op's ties drag along.

Works on edges as a run stores them. No third-party import, and nothing of the model is needed.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from qgraph.constraints.cuts import bridges, minimum_cut, neighbours
from qgraph.constraints.model import Edge, Strength
from qgraph.constraints.union_find import UnionFind

MOST_CUTS = 20
"""How many cuts `blame` tells of, unless it is asked for another number."""

MOST_STEPS = 2_000_000
"""Edges examined times edges of the group, about: what a search may take in a group that has very many."""


@dataclass(frozen=True, slots=True)
class Split:
    """A minimal set of edges whose removal splits a group in two.

    Attributes:
        edges: sorted by their ends; without one of them the group still hangs together.
        parts: the slots of both sides, each sorted; the smaller side first, then by name.
        price_db: what the sharing across these edges costs: on one of the sides every tensor pays at least as much
            for it. None where no price is known on either side.
    """

    edges: tuple[Edge, ...]
    parts: tuple[tuple[str, ...], tuple[str, ...]]
    price_db: float | None


def blame(
    joined: Iterable[Edge], paid: Mapping[str, float], makers: Container[str], *, most: int = MOST_CUTS
) -> tuple[Split, ...]:
    """The minimal cuts of a group, the dearest sharing first.

    For each edge the smallest set of edges, itself among them, that parts its two ends. Ties of strength ``exact`` are
    never cut, since sharing across them costs nothing. A group without cycles is cut by any one of its other edges.

    A side on which every tensor that is made there pays is one that the other side forces its scale upon. So the price
    of a cut is the least that is paid on a side, for the side where that is more::

        Conv1 ─┐ pays 40 dB          Conv1 | Add, Conv2      40 dB: all that is made on the left does pay it
               Add                   Conv1, Add | Conv2      40 dB: the same
        Conv2 ─┘ pays 0 dB           Conv1, Conv2, Add       where Conv1 and Conv2 stay together nothing is gained

    The edges whose ends pay most are examined first, and all of them in groups of up to about a thousand edges.

    Args:
        joined: the edges of one group, in any order.
        paid: by slot, noise of its tensor in the group minus noise alone, in dB, where it is known.
        makers: the slots that make a tensor, or stand for the slot that does.
        most: how many cuts to return at most.

    >>> from qgraph.constraints.model import Kind
    >>> edges = [Edge(Kind.TENSOR, f"Conv{i}:out:0", f"Add:in:{i}") for i in (1, 2)]
    >>> edges += [Edge(Kind.SAME, "Add:in:1", "Add:in:2", "add")]
    >>> paid = {"Conv1:out:0": 40.0, "Conv2:out:0": 0.0, "Add:in:1": 40.0, "Add:in:2": 0.0}
    >>> for split in blame(edges, paid, ("Conv1:out:0", "Conv2:out:0"), most=2):
    ...     print(split.price_db, *split.parts)
    40.0 ('Add:in:1', 'Conv1:out:0') ('Add:in:2', 'Conv2:out:0')
    40.0 ('Conv1:out:0',) ('Add:in:1', 'Add:in:2', 'Conv2:out:0')
    """
    graph = _contracted(joined)
    rank = {index: _paid_at(edge, paid) for index, edge in enumerate(graph.edges)}
    alone = bridges(len(graph.members), graph.ends)
    found: dict[tuple[int, ...], Split] = {}
    dearest_first = sorted(rank, key=lambda i: (-rank[i], _key(graph.edges[i])))
    priced = {slot: price for slot, price in paid.items() if slot in makers}
    for index in dearest_first[: max(most, MOST_STEPS // (len(graph.edges) + 1))]:
        chosen, side = _cut(graph, index, alone)
        if chosen not in found:
            found[chosen] = _split(graph, chosen, side, priced)
    ordered = sorted(found.values(), key=lambda split: (-_price(split), len(split.edges), _first(split)))
    return tuple(ordered[:most])


def cascade(joined: Iterable[Edge], op: str) -> tuple[tuple[str, ...], ...]:
    """What a group falls into without the ties of one op, each part sorted, in the order of their first slots.

    Args:
        joined: the edges of one group, in any order.

    >>> from qgraph.constraints.model import Kind
    >>> edges = [Edge(Kind.SAME, "c:in:0", "c:out:0", "concat", "c"), Edge(Kind.SAME, "c:in:1", "c:out:0", op="c")]
    >>> cascade(edges, "c")
    (('c:in:0',), ('c:in:1',), ('c:out:0',))
    """
    edges = tuple(joined)
    slots = sorted({slot for edge in edges for slot in (edge.a, edge.b)})
    place = {slot: number for number, slot in enumerate(slots)}
    sets = UnionFind(len(slots))
    for edge in edges:
        if edge.op != op:
            sets.union(place[edge.a], place[edge.b])
    parts: dict[int, list[str]] = {}
    for slot, root in zip(slots, sets.roots(), strict=True):
        parts.setdefault(root, []).append(slot)
    return tuple(sorted(tuple(part) for part in parts.values()))


@dataclass(frozen=True, slots=True)
class _Contracted:
    """A group whose exact ties are shrunk to one node.

    Attributes:
        members: per node, its slots.
        edges: what can be cut, sorted; `ends` are their nodes.
        beside: per node, its neighbours.
    """

    members: tuple[tuple[str, ...], ...]
    edges: tuple[Edge, ...]
    ends: list[tuple[int, int]]
    beside: list[list[tuple[int, int]]]


def _contracted(joined: Iterable[Edge]) -> _Contracted:
    edges = sorted(joined, key=_key)
    slots = sorted({slot for edge in edges for slot in (edge.a, edge.b)})
    place = {slot: number for number, slot in enumerate(slots)}
    sets = UnionFind(len(slots))
    for edge in edges:
        if edge.strength == Strength.EXACT:
            sets.union(place[edge.a], place[edge.b])
    nodes: dict[int, list[str]] = {}
    for slot, root in zip(slots, sets.roots(), strict=True):
        nodes.setdefault(root, []).append(slot)
    node_of = {slot: node for node, members in enumerate(nodes.values()) for slot in members}
    kept = tuple(edge for edge in edges if node_of[edge.a] != node_of[edge.b])
    ends = [(node_of[edge.a], node_of[edge.b]) for edge in kept]
    members = tuple(tuple(slots) for slots in nodes.values())
    return _Contracted(members, kept, ends, neighbours(len(members), ends))


def _key(edge: Edge) -> tuple[str, str, str, str, str]:
    return edge.a, edge.b, edge.kind, edge.rule or "", edge.op or ""


def _paid_at(edge: Edge, paid: Mapping[str, float]) -> float:
    """What the ends of an edge pay."""
    return max(paid.get(edge.a, float("-inf")), paid.get(edge.b, float("-inf")))


def _cut(graph: _Contracted, index: int, alone: frozenset[int]) -> tuple[tuple[int, ...], frozenset[int]]:
    """The smallest cut through an edge, and the nodes on one side of it."""
    count, (a, b) = len(graph.members), graph.ends[index]
    if index in alone:
        return (index,), _reached(graph, a, index)
    cut = minimum_cut(count, graph.ends, [1.0] * len(graph.ends), a, b)
    assert cut is not None
    return cut.edges, cut.side


def _reached(graph: _Contracted, start: int, without: int) -> frozenset[int]:
    seen, waiting = {start}, [start]
    while waiting:
        for other, edge in graph.beside[waiting.pop()]:
            if edge != without and other not in seen:
                seen.add(other)
                waiting.append(other)
    return frozenset(seen)


def _split(graph: _Contracted, chosen: tuple[int, ...], side: frozenset[int], paid: Mapping[str, float]) -> Split:
    inside = sorted(slot for node in side for slot in graph.members[node])
    outside = sorted(slot for node, members in enumerate(graph.members) if node not in side for slot in members)
    smaller, larger = sorted((tuple(inside), tuple(outside)), key=lambda part: (len(part), part))
    prices = [min(known) for part in (smaller, larger) if (known := [paid[slot] for slot in part if slot in paid])]
    return Split(tuple(graph.edges[index] for index in chosen), (smaller, larger), max(prices) if prices else None)


def _price(split: Split) -> float:
    return float("-inf") if split.price_db is None else split.price_db


def _first(split: Split) -> list[tuple[str, str, str, str, str]]:
    return [_key(edge) for edge in split.edges]
