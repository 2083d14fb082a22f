"""Disjoint sets over the integers 0 to n - 1: union by size with path halving, iterative.

Roots depend on the order of the unions, so they must never be shown or stored; the sets do not.
"""

from __future__ import annotations


class UnionFind:
    """The sets that a sequence of unions makes.

    >>> sets = UnionFind(4)
    >>> sets.union(0, 2), sets.union(2, 0)
    (True, False)
    >>> sets.find(0) == sets.find(2), sets.find(0) == sets.find(1)
    (True, False)
    """

    __slots__ = ("_parent", "_size")

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))
        self._size = [1] * count

    def copy(self) -> UnionFind:
        """The same sets, independent of this one from now on."""
        twin = UnionFind(0)
        twin._parent, twin._size = self._parent.copy(), self._size.copy()
        return twin

    def find(self, item: int) -> int:
        """The root of the set that holds `item`."""
        parent = self._parent
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    def union(self, a: int, b: int) -> bool:
        """Join the sets of `a` and `b`; tells whether they were two."""
        a, b = self.find(a), self.find(b)
        if a == b:
            return False
        if self._size[a] < self._size[b]:
            a, b = b, a
        self._parent[b] = a
        self._size[a] += self._size[b]
        return True

    def roots(self) -> list[int]:
        """For each item the root of its set: a snapshot."""
        parent = self._parent
        for item, root in enumerate(parent):
            while parent[root] != root:
                root = parent[root]
            parent[item] = root
        return parent.copy()
