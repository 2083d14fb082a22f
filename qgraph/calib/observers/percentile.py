"""The percentile observer: the range without the outermost values at either end.

Of n values the m = ⌊n · (1 − percentile)⌋ smallest and the m largest are left out; the range ends at those that
remain. These are order statistics of all data, not means over batches of theirs::

    sorted   x[0] … x[m−1]  x[m] ………………… x[n−1−m]  x[n−m] … x[n−1]
                 out        low              high         out

A symmetric scheme takes the larger magnitude of low and high, as the range of PPQ's percentile observer does. With
fewer than 1 / (1 − percentile) values nothing is left out, and this is minmax.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

import torch
from torch import Tensor

from qgraph.calib.observers.density import Density
from qgraph.calib.observers.entry import Parameter
from qgraph.calib.observers.minmax import range_offset, range_scale
from qgraph.calib.observers.moments import Moments
from qgraph.calib.observers.prepared import prepared
from qgraph.calib.statistics import TensorStatistics
from qgraph.tqc import Scheme


def percentile(
    statistics: Sequence[TensorStatistics], scheme: Scheme, parameters: Mapping[str, Parameter], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Scale and offset of the range between two order statistics.

    Where both of them are zero, as in a tensor that is nearly all zeros, the whole range is taken: no scale could be
    made of nothing.

    Args:
        parameters: ``percentile``, above ½ and at most 1.

    Returns:
        Scales, float64 [n], each a float32; offsets, int64 [n].
    """
    low = torch.empty(len(statistics), dtype=torch.float64, device=device)
    high = torch.empty_like(low)
    for batch, members in prepared(statistics, device):
        density = members.density
        left_out = [outermost(one.finite, float(parameters["percentile"])) for one in members]
        ranks = [(m, one.finite - 1 - m) for m, one in zip(left_out, members, strict=True)]
        zeros = torch.tensor([[one.zeros] for one in members], dtype=torch.float64, device=device)
        ends = order_statistics(density, members.moments, zeros, torch.tensor(ranks, device=device))
        nothing = (ends == 0).all(dim=1)
        low[batch] = torch.where(nothing, density.minimum, ends[:, 0])
        high[batch] = torch.where(nothing, density.maximum, ends[:, 1])
    scale = range_scale(low, high, scheme)
    return scale, range_offset(low, scale, scheme)


def outermost(count: int, fraction: float) -> int:
    """How many of `count` values lie beyond a percentile, at each end.

    The fraction is taken as the decimal that it is written as, so that no rounding decides on a value.

    >>> outermost(9_999, 0.9999), outermost(10_000, 0.9999), outermost(100_000, 0.9999)
    (0, 1, 10)
    """
    return int(count * (1 - Fraction(str(fraction))))


def order_statistics(density: Density, moments: Moments, zeros: Tensor, ranks: Tensor) -> Tensor:
    """The values at given places of the sorted values.

    Exact at points and zeros; elsewhere within the bin, where values are taken as evenly spaced.

    Args:
        zeros: float64 [n, 1], how many values are zero.
        ranks: int64 [n, k], places counted from 0, the smallest value.

    Returns:
        float64 [n, k].
    """
    # Halfway between two ranks, so that rounding noise in a sum of many counts decides nothing.
    target = ranks + 0.5
    start = torch.full_like(target, -torch.inf)
    following = torch.full_like(target, torch.inf)
    for places, counts in (
        (density.edges, moments.counts_at_edges()),
        (density.points, moments.count_below(density.points)),
        (torch.zeros_like(zeros), moments.count_below(torch.zeros_like(zeros))),
    ):
        index = torch.searchsorted(counts + zeros * (places > 0), target, right=True)
        last = places.shape[1] - 1
        before, after = places.gather(1, (index - 1).clamp(min=0)), places.gather(1, index.clamp(max=last))
        start = torch.where(index > 0, torch.maximum(start, before), start)
        following = torch.where(index <= last, torch.minimum(following, after), following)
    counted = moments.count_below(start) + moments.at(start) + zeros * (start >= 0)
    until = moments.count_below(following) + zeros * (following > 0)
    share = (target - counted) / (until - counted)
    inside = start + share * (following - start)
    return torch.where((target <= counted) | following.isinf(), start, inside)
