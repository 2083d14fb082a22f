"""Moments of all values on one side of a threshold, in constant time per threshold after one pass.

They give the cost of clipping (values beyond the end of the range) and that of a second quantization (values
between two thresholds) for any number of candidates.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from qgraph.calib.observers.density import Density


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums of x^0, x^1 and x^2 over the values of n tensors, from both ends. All float64.

    Both directions are kept: a tail is a sum over the tail alone, not a small difference of large sums.

    Attributes:
        edges: [n, e]; heights: [n, e]; points: [n, p]: as in `Density`.
        below_edge: [n, 3, e], over the pieces left of each edge.
        above_edge: [n, 3, e], over the pieces right of each edge.
        below_point: [n, 3, p + 1], over the first 0, 1, … p points.
        above_point: [n, 3, p + 1], over the points that remain.
    """

    edges: Tensor
    heights: Tensor
    points: Tensor
    below_edge: Tensor
    above_edge: Tensor
    below_point: Tensor
    above_point: Tensor

    def rows(self, index: Tensor) -> Moments:
        """Those of some of the densities."""
        return Moments(*(getattr(self, field.name)[index] for field in fields(self)))

    def below(self, threshold: Tensor) -> Tensor:
        """Moments of the values below each threshold, zeros left out: [n, k] to [n, 3, k]."""
        index, partial = self._piece(threshold)
        count = torch.searchsorted(self.points, threshold)
        return _gather(self.below_edge, index) + partial + _gather(self.below_point, count)

    def above(self, threshold: Tensor) -> Tensor:
        """Moments of the values at or above each threshold, zeros left out: [n, k] to [n, 3, k]."""
        index, partial = self._piece(threshold)
        count = torch.searchsorted(self.points, threshold)
        return _gather(self.above_edge, index) - partial + _gather(self.above_point, count)

    def count_below(self, threshold: Tensor) -> Tensor:
        """How many values are below each threshold, zeros left out: the first of `below`, [n, k] to [n, k]."""
        inside = torch.clamp(threshold, self.edges[:, :1], self.edges[:, -1:])
        index = torch.searchsorted(self.edges, inside, right=True).sub_(1)
        partial = (inside - self.edges.gather(1, index)).mul_(self.heights.gather(1, index))
        points = self.below_point[:, 0].gather(1, torch.searchsorted(self.points, threshold))
        return self.below_edge[:, 0].gather(1, index) + partial + points

    def counts_at_edges(self) -> Tensor:
        """How many values are below each edge, zeros left out: [n, e]."""
        return self.below_edge[:, 0] + self.below_point[:, 0].gather(1, torch.searchsorted(self.points, self.edges))

    def at(self, threshold: Tensor) -> Tensor:
        """How many values are known to be exactly at each threshold, zeros left out: [n, k] to [n, k]."""
        counts = self.below_point[:, 0]
        upper = counts.gather(1, torch.searchsorted(self.points, threshold, right=True))
        return upper - counts.gather(1, torch.searchsorted(self.points, threshold))

    def _piece(self, threshold: Tensor) -> tuple[Tensor, Tensor]:
        """The last edge up to each threshold (the first, if there is none) and the moments from there to it."""
        inside = torch.maximum(threshold, self.edges[:, :1])
        index = torch.searchsorted(self.edges, inside, right=True).sub_(1)
        moments = _power_integrals(inside) - _power_integrals(self.edges.gather(1, index))
        return index, moments.mul_(self.heights.gather(1, index)[:, None, :])


def moments_of(density: Density) -> Moments:
    """The moments of each density in a batch."""
    pieces = density.heights[:, None, :-1] * _power_integrals(density.edges).diff(dim=-1)
    points = density.points
    masses = density.masses[:, None, :] * torch.stack([torch.ones_like(points), points, points.square()], dim=1)
    return Moments(
        density.edges,
        density.heights,
        points,
        below_edge=_running(pieces),
        above_edge=_running(pieces.flip(-1)).flip(-1),
        below_point=_running(masses),
        above_point=_running(masses.flip(-1)).flip(-1),
    )


def _power_integrals(x: Tensor) -> Tensor:
    """x, x²/2, x³/3: [n, k] to [n, 3, k]."""
    square = x.square()
    return torch.stack([x, square / 2, square * x / 3], dim=1)


def _running(rows: Tensor) -> Tensor:
    """Sums of the first 0, 1, … m entries of each row of m."""
    return torch.cat([rows.new_zeros((*rows.shape[:-1], 1)), rows.cumsum(-1)], dim=-1)


def _gather(sums: Tensor, index: Tensor) -> Tensor:
    return sums.gather(2, index[:, None, :].expand(-1, 3, -1))
