"""The cheapest choice of one label for each of many cells, where neighbours cost something if they choose apart.

Exact, by variable elimination (Bertelè and Brioschi, Nonserial Dynamic Programming, 1972): the cell with the fewest
neighbours is taken out, and what it would cost at best becomes a table over those neighbours. Networks are nearly
chains, so that these tables stay small::

    a ── b ── c      a out: for each label of b the best of a.   b out: for each label of c the best of a and b.
                     c chooses its best; then b, then a, look up what they would choose.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Costs = NDArray[np.float64]

LARGEST_TABLE = 1 << 20
"""A cell whose table would be larger chooses by its own costs alone; the result may then cost more than the least."""


def cheapest(own: Sequence[Costs], pairs: Mapping[tuple[int, int], Costs]) -> list[int]:
    """Choose a label for each cell so that the sum of all costs is least.

    Args:
        own: float64 [labels] per cell: what each label costs.
        pairs: float64 [labels of a, labels of b] by pair of cells (a, b): what it costs that they choose so.

    Returns:
        The index of a label per cell; among equally cheap choices always the same one.

    >>> apart = 1.0 - np.eye(2)
    >>> cheapest([np.array([0.0, 1.0]), np.zeros(2), np.array([3.0, 0.0])], {(0, 1): apart, (1, 2): apart})
    [0, 0, 1]
    """
    return _Elimination(own, pairs).solve()


class _Elimination:
    """Tables over cells, each with the cells that its axes stand for."""

    def __init__(self, own: Sequence[Costs], pairs: Mapping[tuple[int, int], Costs]) -> None:
        self._sizes = [len(costs) for costs in own]
        self._tables: list[list[tuple[tuple[int, ...], Costs]]] = [[((i,), costs)] for i, costs in enumerate(own)]
        self._near: list[set[int]] = [set() for _ in own]
        for (a, b), costs in sorted(pairs.items(), key=lambda item: item[0]):
            self._add((a, b), costs)

    def _add(self, scope: tuple[int, ...], table: Costs) -> None:
        for cell in scope:
            self._tables[cell].append((scope, table))
            self._near[cell].update(other for other in scope if other != cell)

    def solve(self) -> list[int]:
        choice = [0] * len(self._sizes)
        steps: list[tuple[int, tuple[int, ...], NDArray[np.intp]]] = []
        queue = [(len(near), cell) for cell, near in enumerate(self._near)]
        heapq.heapify(queue)
        done = [False] * len(self._sizes)
        while queue:
            degree, cell = heapq.heappop(queue)
            if done[cell] or degree != len(self._near[cell]):
                continue
            done[cell] = True
            scope = tuple(sorted(self._near[cell]))
            if math.prod(self._sizes[other] for other in (*scope, cell)) > LARGEST_TABLE:
                steps.append((cell, (), self._fix(cell)))
            else:
                steps.append((cell, scope, self._eliminate(cell, scope)))
            for other in scope:
                heapq.heappush(queue, (len(self._near[other]), other))
        for cell, scope, best in reversed(steps):
            choice[cell] = int(best[tuple(choice[other] for other in scope)])
        return choice

    def _eliminate(self, cell: int, scope: tuple[int, ...]) -> NDArray[np.intp]:
        """Take a cell out; its best label for each choice of its neighbours."""
        axes = (*scope, cell)
        total = np.zeros([self._sizes[axis] for axis in axes])
        for named, table in self._tables[cell]:
            total += _aligned(named, table, axes)
        self._forget(cell, scope)
        if scope:
            self._add(scope, total.min(axis=-1))
        best: NDArray[np.intp] = np.asarray(total.argmin(axis=-1))
        return best

    def _fix(self, cell: int) -> NDArray[np.intp]:
        """Let a cell choose by its own costs, and its neighbours live with that."""
        own = sum((table for named, table in self._tables[cell] if named == (cell,)), np.zeros(self._sizes[cell]))
        label = int(own.argmin())
        rest = [(named, table) for named, table in self._tables[cell] if len(named) > 1]
        self._forget(cell, tuple(self._near[cell]))
        for named, table in rest:
            self._add(
                tuple(axis for axis in named if axis != cell), np.asarray(table.take(label, axis=named.index(cell)))
            )
        return np.array(label, np.intp)

    def _forget(self, cell: int, scope: tuple[int, ...]) -> None:
        for other in scope:
            self._near[other].discard(cell)
            self._tables[other] = [entry for entry in self._tables[other] if cell not in entry[0]]
        self._tables[cell] = []
        self._near[cell] = set()


def _aligned(named: tuple[int, ...], table: Costs, axes: tuple[int, ...]) -> Costs:
    """A table with its axes in the order of `axes`, of size 1 where it has none."""
    order = sorted(range(len(named)), key=lambda position: axes.index(named[position]))
    present = {axes.index(cell): size for cell, size in zip(named, table.shape, strict=True)}
    return table.transpose(order).reshape([present.get(position, 1) for position in range(len(axes))])
