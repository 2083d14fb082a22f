"""What is remembered of the rows of a tensor: how far the largest element is ahead of the second largest.

A row is all elements along one axis. The isotone observer keeps the order of the largest L1 and the second largest
L2, so it needs both of each row together: a sparse joint histogram of L2 and of the gap L1 − L2. Both are binned by
their top bits, with 6 mantissa bits (64 bins per octave, 1.6 % wide). A row's bin is one number::

    bit  28 ............... 14 13 ............ 0
         L2: s eeeeeeee mmmmmm   gap: eeeeeeee mmmmmm

Counts are integers, so `merge_rows` is exact, associative and commutative; no rows are its identity. There are at
most as many bins as rows, and as many as two numbers of some octaves can fill, however many samples there are.

>>> rows = rows_of([[1.0, 4.0, 3.0], [0.0, float("nan"), 2.0]], axis=-1)
>>> rows.total, rows.nan, second_edges(rows), gap_edges(rows)[0]
(1, 1, (array([3.]), array([3.03125])), array([1.]))
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

ROW_MANTISSA_BITS: Final = 6
"""Mantissa bits of both bins."""

GAP_BITS: Final = 8 + ROW_MANTISSA_BITS
SECOND_BITS: Final = 1 + GAP_BITS
KEYS: Final = 1 << (SECOND_BITS + GAP_BITS)
"""All bins of the joint histogram."""

_DROPPED: Final = 23 - ROW_MANTISSA_BITS
_LARGEST: Final = float(np.finfo(np.float32).max)

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RowStatistics:
    """Joint histogram of the second largest element and the gap above it, of the rows along one axis.

    Attributes:
        axis: as it was planned; −1 is the last.
        keys: uint32, sorted, the bins that occurred.
        counts: int64, how many rows fell into each.
        nan: rows with a NaN, which have no order.
        infinite: rows whose largest or second largest element is infinite; they are in no bin.
        single: rows of one element, which are always in order.
    """

    axis: int
    keys: NDArray[np.uint32]
    counts: NDArray[np.int64]
    nan: int = 0
    infinite: int = 0
    single: int = 0

    @property
    def total(self) -> int:
        """Rows in the histogram."""
        return int(self.counts.sum())


def no_rows(axis: int) -> RowStatistics:
    """Statistics of a tensor that was never produced: the identity of `merge_rows`."""
    return RowStatistics(axis, np.zeros(0, np.uint32), np.zeros(0, np.int64))


def joint_keys(second: NDArray[np.float32], largest: NDArray[np.float32]) -> NDArray[np.uint32]:
    """The bin of each row, from its two largest elements, both finite. −0 is 0."""
    upper = (second + np.float32(0)).view(np.uint32) >> np.uint32(_DROPPED)
    gap = (np.minimum(largest.astype(np.float64) - second.astype(np.float64), _LARGEST) + 0.0).astype(np.float32)
    return (upper << np.uint32(GAP_BITS)) | (gap.view(np.uint32) >> np.uint32(_DROPPED))


def row_view(values: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """The rows along an axis as float32 [rows, elements]; of a scalar, one row of one element."""
    if values.ndim == 0:
        return values.reshape(1, 1)
    moved = np.moveaxis(values, axis, -1)
    return np.ascontiguousarray(moved).reshape(moved.size // max(1, moved.shape[-1]), moved.shape[-1])


def rows_of(values: ArrayLike, axis: int) -> RowStatistics:
    """Statistics of the rows of one sample, the slow and obvious way.

    Args:
        values: rounded to float32.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        rows = row_view(np.asarray(values).astype(np.float32), axis)
    if rows.shape[1] == 0:
        return no_rows(axis)
    nan = np.isnan(rows).any(axis=1)
    if rows.shape[1] == 1:
        return replace(no_rows(axis), nan=int(nan.sum()), single=int((~nan).sum()))
    pairs = np.sort(rows[~nan], axis=1)[:, -2:]
    finite = np.isfinite(pairs).all(axis=1)
    keys, counts = np.unique(joint_keys(*pairs[finite].T.copy()), return_counts=True)
    return RowStatistics(axis, keys, counts.astype(np.int64), int(nan.sum()), int((~finite).sum()))


def merge_rows(a: RowStatistics, b: RowStatistics) -> RowStatistics:
    """Statistics of the rows of both, which lie along the same axis: exact, associative, commutative."""
    keys = np.union1d(a.keys, b.keys)
    counts = np.zeros(keys.size, np.int64)
    counts[np.searchsorted(keys, a.keys)] += a.counts
    counts[np.searchsorted(keys, b.keys)] += b.counts
    return RowStatistics(a.axis, keys, counts, a.nan + b.nan, a.infinite + b.infinite, a.single + b.single)


def repeated_rows(one: RowStatistics, times: int) -> RowStatistics:
    """Statistics of the same rows seen `times` times, at least once."""
    counts = {name: getattr(one, name) * times for name in ("counts", "nan", "infinite", "single")}
    return replace(one, **counts)


def second_edges(rows: RowStatistics) -> tuple[Floats, Floats]:
    """Lower and upper edge, by value, of the second largest element of each bin."""
    upper = rows.keys >> np.uint32(GAP_BITS)
    magnitude = upper & np.uint32((1 << GAP_BITS) - 1)
    inner, outer = _edge(magnitude), _edge(magnitude + np.uint32(1))
    negative = upper >> np.uint32(GAP_BITS) == 1
    return np.where(negative, -outer, inner), np.where(negative, -inner, outer)


def gap_edges(rows: RowStatistics) -> tuple[Floats, Floats]:
    """Lower and upper edge of the gap of each bin; the lower one is 0 where the two largest may be equal."""
    gap = rows.keys & np.uint32((1 << GAP_BITS) - 1)
    return _edge(gap), _edge(gap + np.uint32(1))


def _edge(magnitude: NDArray[np.uint32]) -> Floats:
    """The smallest float32 of a bin of that magnitude; beyond the largest one, 2^128."""
    finite = magnitude < 255 << ROW_MANTISSA_BITS
    edge = (np.where(finite, magnitude, 0).astype(np.uint32) << np.uint32(_DROPPED)).view(np.float32)
    return np.where(finite, edge.astype(np.float64), 2.0**128)


def same_rows(a: RowStatistics, b: RowStatistics) -> bool:
    """Whether all fields are equal."""
    plain = (a.axis, a.nan, a.infinite, a.single) == (b.axis, b.nan, b.infinite, b.single)
    return plain and np.array_equal(a.keys, b.keys) and np.array_equal(a.counts, b.counts)
