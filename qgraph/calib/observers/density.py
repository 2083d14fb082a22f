"""Statistics of several tensors as densities in one padded batch of torch tensors.

A tensor's values are known exactly where they are zeros, extremes or atoms: these are *points*, taken out of
their bins. The values that remain in a bin are taken as uniform between its edges, clipped to [minimum, maximum].
Neighbouring bins share an edge, so that an integral costs one evaluation per edge::

    density   ┌──┐     ┌──┬─┐
              │  ├──┐  │  │ │  |   a point
    edges     0  1  2  3  4 5  ▲

The integral of `density · f` with antiderivative F is the sum over edges of
`F(edge) · (density left of it − density right of it)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray

from qgraph.calib import grid
from qgraph.calib.statistics import TensorStatistics

Floats = NDArray[np.float64]

BATCH_EDGES = 1 << 20
"""Edges that are worked on together: a float64 tensor of them has 8 MiB, and about 30 live at once."""

HALF_BATCH_EDGES = BATCH_EDGES // 2
"""Where two batches are worked on at a time. It is faster for one, too: with larger tensors the allocator hands memory
back to the system again and again."""


@dataclass(frozen=True, eq=False)
class Density:
    """Densities of n tensors. All fields are float64 and padded at the end with what changes no sum.

    Attributes:
        edges: [n, e], ascending; padded with the last edge.
        heights: [n, e], values per unit right of each edge.
        steps: [n, e], height left of each edge minus height right of it.
        points: [n, p], ascending, without zero; padded with the last point.
        masses: [n, p], how many values are at each point.
        minimum, maximum: [n], of the finite values.
    """

    edges: torch.Tensor
    heights: torch.Tensor
    steps: torch.Tensor
    points: torch.Tensor
    masses: torch.Tensor
    minimum: torch.Tensor
    maximum: torch.Tensor

    def rows(self, index: Sequence[int] | torch.Tensor) -> Density:
        """Some of the densities, as they are padded."""
        return Density(*(getattr(self, field.name)[index] for field in fields(self)))


def densities(statistics: Sequence[TensorStatistics], device: torch.device) -> Density:
    """The densities of tensors that have at least one finite value each; n, e, p as in `Density`."""
    points = [_points(one) for one in statistics]
    pieces = [_pieces(one, *point) for one, point in zip(statistics, points, strict=True)]
    edges = _padded([edge for edge, _ in pieces], repeat_last=True)
    heights = _padded([height for _, height in pieces], repeat_last=False)
    steps = -np.diff(heights, axis=1, prepend=0.0)
    # What follows the last edge of a row is padding without height, so its steps are zero already.
    arrays = (
        edges,
        heights,
        steps,
        _padded([position for position, _ in points], repeat_last=True),
        _padded([mass for _, mass in points], repeat_last=False),
        np.array([one.minimum for one in statistics], dtype=np.float64),
        np.array([one.maximum for one in statistics], dtype=np.float64),
    )
    return Density(*(torch.from_numpy(array).to(device) for array in arrays))


def batches(statistics: Sequence[TensorStatistics], most_edges: int = BATCH_EDGES) -> Iterator[list[int]]:
    """Indices of statistics of similar size, in batches of at most `most_edges` edges once padded."""
    sizes = [2 * one.bins.size + 2 for one in statistics]
    batch: list[int] = []
    for index in sorted(range(len(sizes)), key=sizes.__getitem__):
        if batch and (len(batch) + 1) * sizes[index] > most_edges:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def points_and_pieces(one: TensorStatistics) -> tuple[Floats, Floats, Floats, Floats]:
    """Points and their masses, edges and the heights right of them, each ascending; see `Density`."""
    points, masses = _points(one)
    return points, masses, *_pieces(one, points, masses)


def _points(one: TensorStatistics) -> tuple[Floats, Floats]:
    """Positions, ascending, and masses of the values other than zero that are known exactly."""
    masses = dict(one.atoms)
    if one.minimum is not None and one.maximum is not None:
        masses[one.minimum] = one.minimum_count
        masses[one.maximum] = one.maximum_count
    known = sorted((value, mass) for value, mass in masses.items() if value != 0 and mass > 0)
    table = np.array(known, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _pieces(one: TensorStatistics, points: Floats, masses: Floats) -> tuple[Floats, Floats]:
    """Edges, ascending, and the height right of each, of the values that are no points."""
    counts = one.counts.astype(np.float64)
    np.subtract.at(counts, np.searchsorted(one.bins, grid.bin_of(points)), masses)
    # Bins are sorted by their index: the positive ones first, ascending, then the negative ones, descending by value.
    first_negative = int(np.searchsorted(one.bins, grid.SIGN_BIN))
    order = np.concatenate([np.arange(one.bins.size - 1, first_negative - 1, -1), np.arange(first_negative)])
    order = order[counts[order] > 0]
    if not order.size:
        return np.zeros(1), np.zeros(1)
    lower, upper = (np.clip(side, one.minimum, one.maximum) for side in grid.edges(one.bins[order]))
    edges, heights = np.empty((order.size, 2)), np.zeros((order.size, 2))
    edges[:, 0], edges[:, 1] = lower, upper
    heights[:, 0] = counts[order] / (upper - lower)
    edges, heights = edges.ravel(), heights.ravel()
    # An upper edge that is the next bin's lower edge appears once, with the next bin's height.
    kept = np.append(edges[:-1] != edges[1:], True)
    return edges[kept], heights[kept]


def _padded(rows: Sequence[Floats], *, repeat_last: bool) -> Floats:
    """Rows of different lengths as one array of at least one column."""
    width = max((row.size for row in rows), default=0)
    padded = np.zeros((len(rows), max(width, 1)))
    for target, row in zip(padded, rows, strict=True):
        target[: row.size] = row
        if repeat_last and row.size:
            target[row.size :] = row[-1]
    return padded
