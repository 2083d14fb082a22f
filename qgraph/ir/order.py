"""The one order of ops: topological, ties broken by name, the same whatever order the file has."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from qgraph.ir.elements import Op


def topological(ops: Sequence[Op]) -> tuple[list[Op], list[Op]]:
    """Sort ops so that each comes after the producers of its inputs (Kahn's algorithm over a heap of names).

    Returns:
        The sorted ops, and those that lie on a cycle or behind one, by name.

    >>> a, b, c = (Op(n, "Relu", "", (i,), (o,)) for n, i, o in [("a", "y", "z"), ("b", "x", "y"), ("c", "x", "w")])
    >>> [op.name for op in topological([a, b, c])[0]]
    ['b', 'a', 'c']
    """
    producer = {name: index for index, op in enumerate(ops) for name in op.outputs if name is not None}
    readers: list[list[int]] = [[] for _ in ops]
    waiting = [0] * len(ops)
    for index, op in enumerate(ops):
        for name in op.inputs:
            if name is not None and name in producer:
                readers[producer[name]].append(index)
                waiting[index] += 1
    ready = [(op.name, index) for index, op in enumerate(ops) if not waiting[index]]
    heapq.heapify(ready)
    result: list[Op] = []
    while ready:
        _, index = heapq.heappop(ready)
        result.append(ops[index])
        for reader in readers[index]:
            waiting[reader] -= 1
            if not waiting[reader]:
                heapq.heappush(ready, (ops[reader].name, reader))
    stuck = sorted((op for index, op in enumerate(ops) if waiting[index]), key=lambda op: op.name)
    return result, stuck
