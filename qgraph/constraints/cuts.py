"""Cuts of an undirected multigraph over the integers 0 to n - 1: bridges, and minimum cuts between two nodes.

Both are iterative, and their answers depend on the graph alone, not on the order of its edges::

    0 ── 1 ══ 2 ── 3      0-1 and 2-3 are bridges; to part 1 from 2, both edges between them have to go

>>> edges = [(0, 1), (1, 2), (2, 1), (2, 3)]
>>> sorted(bridges(4, edges))
[0, 3]
>>> minimum_cut(4, edges, [1.0, 1.0, 1.0, 1.0], 0, 3)
Cut(edges=(0,), side=frozenset({0}))
>>> minimum_cut(4, edges, [9.0, 1.0, 2.0, 9.0], 0, 3)
Cut(edges=(1, 2), side=frozenset({0, 1}))
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

Edges = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Cut:
    """Edges that part two nodes, by their place in the list of edges, ascending.

    Attributes:
        side: the nodes on the first one's side.
    """

    edges: tuple[int, ...]
    side: frozenset[int]


def neighbours(count: int, edges: Edges) -> list[list[tuple[int, int]]]:
    """Per node, its neighbours, each with the edge that leads there. Edges from a node to itself are left out."""
    found: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    for edge, (a, b) in enumerate(edges):
        if a != b:
            found[a].append((b, edge))
            found[b].append((a, edge))
    return found


def bridges(count: int, edges: Edges) -> frozenset[int]:
    """The edges each of which alone holds its two ends together.

    R. E. Tarjan, A note on finding the bridges of a graph (1974), with a stack of its own. Linear.
    """
    beside = neighbours(count, edges)
    order = [-1] * count  # when a node was entered
    low = [0] * count  # the earliest node that can be reached without the edge by which it was entered
    entered = 0
    found = []
    for start in range(count):
        if order[start] >= 0:
            continue
        order[start] = low[start] = entered
        entered += 1
        path = [(start, -1, iter(beside[start]))]
        while path:
            node, came_by, rest = path[-1]
            for other, edge in rest:
                if order[other] < 0:
                    order[other] = low[other] = entered
                    entered += 1
                    path.append((other, edge, iter(beside[other])))
                    break
                if edge != came_by:
                    low[node] = min(low[node], order[other])
            else:
                path.pop()
                if path:
                    above = path[-1][0]
                    low[above] = min(low[above], low[node])
                    if low[node] > order[above]:
                        found.append(came_by)
    return frozenset(found)


def minimum_cut(count: int, edges: Edges, prices: Sequence[float], a: int, b: int) -> Cut | None:
    """The cheapest edges to remove so that no path leads from `a` to `b`; of several such sets the one nearest to `a`.

    J. Edmonds and R. M. Karp, Theoretical improvements in algorithmic efficiency for network flow problems (1972):
    while a shortest path has room, fill it. Every node that can still be reached then lies on the side of `a`.
    At most nodes · edges paths, whatever the prices; with prices of 1 as many as the cut has edges.

    Args:
        prices: per edge, at least 0; infinity forbids to remove it.

    Returns:
        None if `a` is `b`, or if they cannot be parted at a finite price.
    """
    if a == b:
        return None
    beside = neighbours(count, edges)
    # What an edge still carries from its first end to its second, and back.
    room = [[price, price] for price in prices]
    while True:
        came: dict[int, tuple[int, int]] = {a: (-1, -1)}
        waiting = deque([a])
        while waiting and b not in came:
            node = waiting.popleft()
            for other, edge in beside[node]:
                if other not in came and room[edge][edges[edge][0] != node] > 0:
                    came[other] = (node, edge)
                    waiting.append(other)
        if b not in came:
            side = frozenset(came)
            parted = (i for i, (x, y) in enumerate(edges) if (x in side) != (y in side))
            return Cut(tuple(parted), side)
        steps = []
        node = b
        while node != a:
            before, edge = came[node]
            steps.append((edge, edges[edge][0] != before))
            node = before
        filled = min(room[edge][back] for edge, back in steps)
        if math.isinf(filled):
            return None
        for edge, back in steps:
            room[edge][back] -= filled
            room[edge][not back] += filled
