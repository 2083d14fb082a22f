"""Counts the rows of activations: one walk finds the two largest elements of each row."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qgraph.calib.cpu.compiling import compiled
from qgraph.calib.rows import RowStatistics, joint_keys, row_view

ORDERED, HAS_NAN, HAS_INFINITY = range(3)
"""What a row is."""

BUFFERED_ROWS: Final = 1 << 14
"""Rows that are kept before they are counted: counting sorts, which is dearer row by row."""


@compiled
def two_largest(
    rows: NDArray[np.float32], largest: NDArray[np.float32], second: NDArray[np.float32], kind: NDArray[np.int8]
) -> None:
    """The two largest elements of each row of at least two, and whether it has a NaN or one of them is infinite."""
    for r in range(rows.shape[0]):
        high = np.float32(-np.inf)
        next_high = np.float32(-np.inf)
        nan = False
        for i in range(rows.shape[1]):
            x = rows[r, i]
            nan |= x != x
            # Equal elements count as two: a row whose maximum occurs twice has no gap.
            next_high = max(next_high, min(x, high))
            high = max(high, x)
        largest[r], second[r] = high, next_high
        kind[r] = HAS_NAN if nan else ORDERED if np.isfinite(high) and np.isfinite(next_high) else HAS_INFINITY


class RowAccumulator:
    """The growing statistics of the rows along one axis. Not to be shared by threads."""

    def __init__(self, start: RowStatistics) -> None:
        self.axis = start.axis
        self._keys, self._counts = start.keys, start.counts
        self._kinds: Counter[int] = Counter({HAS_NAN: start.nan, HAS_INFINITY: start.infinite})
        self._single = start.single
        self._buffer: list[NDArray[np.uint32]] = []
        self._buffered = 0

    def add(self, values: NDArray[Any]) -> None:
        """Count the rows of an activation, float32."""
        if not -max(1, values.ndim) <= self.axis < max(1, values.ndim):
            return
        rows = row_view(values, self.axis)
        if rows.shape[1] < 2:
            nan = int(np.isnan(rows).sum())
            self._kinds[HAS_NAN] += nan
            self._single += rows.size - nan
            return
        largest, second = (np.empty(rows.shape[0], np.float32) for _ in range(2))
        kind = np.empty(rows.shape[0], np.int8)
        two_largest(rows, largest, second, kind)
        ordered = kind == ORDERED
        if not ordered.all():
            self._kinds.update(kind[~ordered].tolist())
            largest, second = largest[ordered], second[ordered]
        self._buffer.append(joint_keys(second, largest))
        self._buffered += second.size
        if self._buffered >= BUFFERED_ROWS:
            self._count()

    def _count(self) -> None:
        """Count the rows that were kept."""
        keys, counts = np.unique(np.concatenate([*self._buffer, self._keys[:0]]), return_counts=True)
        union = np.union1d(self._keys, keys)
        total = np.zeros(union.size, np.int64)
        total[np.searchsorted(union, self._keys)] += self._counts
        total[np.searchsorted(union, keys)] += counts
        self._keys, self._counts = union, total
        self._buffer, self._buffered = [], 0

    @property
    def nbytes(self) -> int:
        """Bytes that the counters hold, a full buffer included."""
        return self._keys.nbytes + self._counts.nbytes + BUFFERED_ROWS * self._keys.itemsize

    def snapshot(self) -> RowStatistics:
        """The statistics so far, as a value that later `add` calls do not change."""
        self._count()
        return RowStatistics(
            self.axis, self._keys, self._counts, self._kinds[HAS_NAN], self._kinds[HAS_INFINITY], self._single
        )
