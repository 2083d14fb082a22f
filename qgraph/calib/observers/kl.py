"""The kl observer: the range whose quantized distribution diverges least from that of the values.

The algorithm is S. Migacz's, "8-bit Inference with TensorRT", GTC 2017. Its histogram has 16 uniform bins for each
quantization level of the whole range, 2048 for the 128 magnitudes of int8. A candidate is a range of these bins::

    reference P     bins of the range; what is clipped is added to its outermost bins    ▂▅▇█▇▅▃█│
    quantized Q     the range cut into one group of bins per level, the values of        ▂▆▆▇▇▄▄▄│▂▁
                    each group spread evenly over its bins that are not empty

and its cost is Σ P · log(P / Q). Here the uniform histogram is read off the one on the universal grid, so that no
range is needed while data is collected, and four things are added:

- Without symmetry, the upper and the lower end are searched in turn until both stay.
- A range so wide that nearly all values would be rounded to zero tells nothing apart; the search begins at the part
  of it that would be.
- No range clips more than a twentieth of the values other than zero: to keep a spike of zeros (after Relu) apart from
  its neighbours, the divergence alone would give up all the others, the more so the fewer levels there are.
- A clipped value goes to the outermost bin that is not empty, and equal costs go to the wider range. So a range is
  never narrowed for nothing: with more levels than bins, as at 16 bits, this is minmax.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from qgraph.calib.observers.density import Density
from qgraph.calib.observers.entry import Parameter
from qgraph.calib.observers.error import row_sums, tiles, working_elements
from qgraph.calib.observers.minmax import finish_scales, range_offset, range_scale
from qgraph.calib.observers.moments import Moments
from qgraph.calib.observers.prepared import prepared
from qgraph.calib.statistics import TensorStatistics
from qgraph.tqc import Scheme

BINS_PER_LEVEL = 16
"""Bins of the uniform histogram for each level of the whole range: 2048 / 128, as published."""

MOST_BINS = 2048
"""Bins of the uniform histogram at most, as published."""

STRIDES_PER_LEVEL = 16
"""Candidates of the first scan for each bin that a level's group grows by."""

FINALISTS = 4
"""Around so many of the best candidates of the first scan, all those between are tried: the cost is jagged."""

NEGLIGIBLE = 1e-4
"""Share of the values other than zero that may lie outside the range where the search begins."""

MOST_CLIPPED = 0.05
"""Share of the values other than zero that a range may clip."""

RESOLUTION = 2.0**-40
"""Costs, in nats, are rounded to this; what is below is rounding noise that must not choose between candidates."""

ROUNDS = 3
"""How often the two ends are searched in turn at most; the second seldom moves one by much."""


def kl(
    statistics: Sequence[TensorStatistics], scheme: Scheme, parameters: Mapping[str, Parameter], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Scale and offset of the range of least divergence.

    Args:
        parameters: ``zeros``, whether a symmetric scheme counts values equal to zero. The published histogram has them
            in its first bin; where they are many (after Relu), the range becomes narrow to keep that bin apart from
            its neighbours. Implementations differ: NVIDIA's pytorch-quantization and PPQ empty that bin. Without
            symmetry, where nothing is published, zeros never count: every range represents them exactly.

    Returns:
        Scales, float64 [n], each a float32; offsets, int64 [n].
    """
    scale = torch.empty(len(statistics), dtype=torch.float64, device=device)
    low = torch.empty_like(scale)
    counted = scheme.symmetric and parameters["zeros"]
    for batch, members in prepared(statistics, device):
        zeros = [[one.zeros if counted else 0] for one in members]
        counts = torch.tensor(zeros, dtype=torch.float64, device=device)
        found = _best_range(members.density, members.moments, counts, scheme)
        scale[batch], low[batch] = (column[:, 0] for column in found)
    return scale, range_offset(low, scale, scheme)


@dataclass(frozen=True, eq=False)
class Histogram:
    """Uniform histograms of n tensors as running sums. B is the number of bins.

    Attributes:
        start, width: float64 [n, 1], lower edge of the first bin and width of all.
        origin: int64 [n, 1], the edge at zero or next to it; every range contains it.
        counts: float64 [n, B + 1], values left of each edge, integers.
        occupied: int64 [n, B + 1], bins left of each edge that are not empty.
        information: float64 [n, B + 1], Σ h · log h over the bins left of each edge.
        first, last: int64 [n, B + 1], the next bin at or right of each edge, and the next left of it, that is not
            empty; an end of the histogram if there is none.
        below, above: float64 [n, 1], values outside the histogram.
        tolerated: float64 [n, 1], how many values a range may leave out.
    """

    start: Tensor
    width: Tensor
    origin: Tensor
    counts: Tensor
    occupied: Tensor
    information: Tensor
    first: Tensor
    last: Tensor
    below: Tensor
    above: Tensor
    tolerated: Tensor

    def rows(self, index: slice | Tensor) -> Histogram:
        """Some of the histograms."""
        return Histogram(*(getattr(self, field.name)[index] for field in fields(self)))


def _best_range(density: Density, moments: Moments, zeros: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """Search the range of each density: its scale and its low end, float64 [n, 1] as `zeros`."""
    levels = scheme.half_range + 1 if scheme.symmetric else scheme.quant_max - scheme.quant_min + 1
    low, high = _telling_range(density, moments, levels, symmetric=scheme.symmetric)
    bins = min(BINS_PER_LEVEL * levels, MOST_BINS)
    if levels < bins:
        histogram = _histogram(moments, zeros, low, high, bins, symmetric=scheme.symmetric)
        left, right = _search(histogram, levels, bins, symmetric=scheme.symmetric)
        # Ends that were not moved stay as they are, to the last bit.
        low = torch.where(left == 0, low, histogram.start + left * histogram.width)
        high = torch.where(right == bins, high, histogram.start + right * histogram.width)
        if scheme.power_of_two:
            return _power_of_two(histogram, low, high, levels, scheme)
    return range_scale(low, high, scheme), low


def _telling_range(density: Density, moments: Moments, levels: int, *, symmetric: bool) -> tuple[Tensor, Tensor]:
    """The range, cut to what would be rounded to zero while nearly all values would be: two float64 [n, 1].

    A symmetric range is one of magnitudes: it begins at zero.
    """
    low, high = density.minimum.clamp(max=0)[:, None], density.maximum.clamp(min=0)[:, None]
    if symmetric:
        low, high = torch.zeros_like(low), torch.maximum(-low, high)
    total = moments.above(-torch.full_like(low, torch.inf))[:, 0]
    while True:
        step = (high - low) / (levels - 1)
        half = step / 2
        outside = moments.below(-half)[:, 0] + moments.above(half)[:, 0]
        blind = outside <= NEGLIGIBLE * total
        if not blind.any():
            return low, high
        low, high = torch.where(blind, low.clamp(min=-half), low), torch.where(blind, high.clamp(max=half), high)


def _histogram(moments: Moments, zeros: Tensor, low: Tensor, high: Tensor, bins: int, *, symmetric: bool) -> Histogram:
    """Uniform histograms over the ranges, of magnitudes or of values.

    Running counts are rounded to integers: a bin of less than half a value is empty, as it would be in the data.
    """
    width = (high - low) / bins
    edges = low + width * torch.arange(bins + 1, dtype=low.dtype, device=low.device)
    edges[:, -1:] = high
    left = moments.below(edges)[:, 0]
    if symmetric:
        left = left - moments.below(-edges)[:, 0]
        left[:, 0] = 0
    outermost = torch.nextafter(high, torch.full_like(high, torch.inf))
    left[:, -1:] = moments.below(outermost)[:, 0] - (moments.below(-outermost)[:, 0] if symmetric else 0)
    total = moments.above(-torch.full_like(high, torch.inf))[:, 0]
    left = (left + zeros * ((edges > 0) | (edges == high))).round()
    below, above = left[:, :1], (total + zeros).round() - left[:, -1:]
    # Rounding noise of a sum must not make a count negative.
    counts = (left - below).cummax(dim=1).values
    heights = counts.diff(dim=1)
    full = heights > 0
    places = torch.arange(bins, device=low.device).expand_as(heights)
    none = torch.zeros_like(below, dtype=torch.int64)
    last = torch.where(full, places, 0).cummax(dim=1).values
    first = torch.where(full, places, bins - 1).flip(1).cummin(dim=1).values.flip(1)
    return Histogram(
        start=low,
        width=width,
        origin=(-low / width).round().clamp(0, bins).to(torch.int64),
        counts=counts,
        occupied=torch.cat([none, full.cumsum(dim=1)], dim=1),
        information=torch.cat([torch.zeros_like(below), torch.xlogy(heights, heights).cumsum(dim=1)], dim=1),
        first=torch.cat([first, none + bins - 1], dim=1),
        last=torch.cat([none, last], dim=1),
        below=below,
        above=above,
        tolerated=MOST_CLIPPED * total,
    )


def _search(histogram: Histogram, levels: int, bins: int, *, symmetric: bool) -> tuple[Tensor, Tensor]:
    """The edges between which the divergence is least: two int64 [n, 1]."""
    left = torch.zeros_like(histogram.origin)
    right = torch.full_like(histogram.origin, bins)
    if symmetric:
        return left, _search_end(histogram, left, right, bins, levels, upper=True)
    # Where one end stays, the other would, too; one that is at zero has nowhere to go.
    moving = torch.arange(left.shape[0], device=left.device)
    for turn in range(2 * ROUNDS):
        upper = turn % 2 == 0
        ends, outermost = (right, bins) if upper else (left, 0)
        free = moving[(histogram.origin[moving] != outermost)[:, 0]]
        if not free.numel():
            if turn == 0:
                continue
            break
        before = ends[free]
        ends[free] = _search_end(histogram.rows(free), left[free], right[free], outermost, levels, upper=upper)
        if turn > 0:
            moving = free[(ends[free] != before)[:, 0]]
    return left, right


def _search_end(
    histogram: Histogram, left: Tensor, right: Tensor, outermost: int, levels: int, *, upper: bool
) -> Tensor:
    """The best place of one end while the other stays: int64 [n, 1]. No range is less than one bin per level."""
    inward = -1 if upper else 1
    other = left if upper else right
    stride = max(1, levels // STRIDES_PER_LEVEL)

    def best(candidates: Tensor, count: int) -> Tensor:
        """The `count` candidates of least cost, the widest range first among equals: [n, k] to [n, count]."""
        inside = (candidates >= histogram.origin) if upper else (candidates <= histogram.origin)
        inside &= (candidates - other).abs() >= levels
        inside &= (candidates - outermost) * inward >= 0
        candidates = torch.where(inside, candidates, outermost).sort(dim=1, descending=upper).values
        ends = (other, candidates) if upper else (candidates, other)
        cost = divergence(histogram, *ends, levels)
        # How often a candidate is repeated depends on the other rows, so only the first of its kind counts.
        cost[:, 1:].masked_fill_(candidates[:, 1:] == candidates[:, :-1], torch.inf)
        order = cost.argsort(dim=1, stable=True)
        return candidates.gather(1, order[:, :count])

    reach = int((histogram.origin - outermost).abs().max())
    coarse = torch.arange(0, reach + 1, stride, device=left.device)
    found = best((outermost + inward * coarse).expand(left.shape[0], -1), FINALISTS)
    near = torch.arange(-stride + 1, stride, device=left.device)
    return best((found[:, :, None] + near).flatten(1), 1)


def divergence(histogram: Histogram, left: Tensor, right: Tensor, levels: int) -> Tensor:
    """Σ P · log(P / Q) in nats for k ranges of each of n histograms: float64 [n, k].

    Args:
        left, right: int64 [n, k] or [n, 1], the edges at the ends of each range; they may lie outside the histogram.

    Returns:
        Multiples of `RESOLUTION`; infinite for a range that clips more than is tolerated.
    """
    rows, columns = max(left.shape[0], right.shape[0]), max(left.shape[1], right.shape[1])
    left, right = left.expand(rows, columns), right.expand(rows, columns)
    result = torch.empty(rows, columns, dtype=torch.float64, device=left.device)
    for tile in tiles(rows, columns, levels + 1, working_elements(left.device)):
        result[tile] = _divergence(histogram.rows(tile[0]), left[tile], right[tile], levels)
    return (result / RESOLUTION).round().clamp(min=0) * RESOLUTION


def _divergence(histogram: Histogram, left: Tensor, right: Tensor, levels: int) -> Tensor:
    """`divergence` of one tile, in the memory of [n, k, levels + 1]."""
    bins = histogram.counts.shape[1] - 1
    # float64, as dividing integers is slow.
    left, right = left.to(torch.float64), right.to(torch.float64)
    extent = right - left

    def border(level: Tensor) -> Tensor:
        """The edge at which the group of a level begins. A quotient of such small integers rounds to no integer."""
        offset = (level * extent[..., None] / levels).ceil_()
        return offset.add_(left[..., None]).clamp_(0, bins).to(torch.int64)

    borders = border(torch.arange(levels + 1, device=left.device))
    values = _at(histogram.counts, borders).diff(dim=-1)
    bins_taken = _at(histogram.occupied, borders).diff(dim=-1)
    spread = row_sums(torch.xlogy(values, values / bins_taken.clamp(min=1)))
    inside, outside = (edge.clamp(0, bins).to(torch.int64) for edge in (left, right))
    counts = [histogram.counts.gather(1, edge) for edge in (inside, outside)]
    information = [histogram.information.gather(1, edge) for edge in (inside, outside)]
    kept, total = counts[1] - counts[0], histogram.counts[:, -1:] + histogram.below + histogram.above
    shift = torch.log(kept) - torch.log(total)
    cost = information[1] - information[0] - spread + kept * shift

    # What is clipped at either end joins the outermost bin that is not empty, in P but not in Q.
    lower = histogram.below + counts[0], histogram.first.gather(1, inside)
    upper = histogram.above + histogram.counts[:, -1:] - counts[1], histogram.last.gather(1, outside)
    for more, place in (lower, upper):
        level = ((place - left) * levels / extent).floor()[..., None]
        ends = torch.cat([border(level), border(level + 1)], dim=-1)
        members = _at(histogram.counts, ends).diff(dim=-1)[..., 0]
        sharing = _at(histogram.occupied, ends).diff(dim=-1)[..., 0]
        height = _at(histogram.counts, torch.stack([place, place + 1], dim=-1)).diff(dim=-1)[..., 0]
        folded = torch.xlogy(height + more, height + more) - torch.xlogy(height, height)
        cost = cost + folded + more * (shift - torch.log(members / sharing))
    return torch.where(total - kept <= histogram.tolerated, cost / total, torch.inf)


def _at(sums: Tensor, edges: Tensor) -> Tensor:
    """Running sums at edges: [n, B + 1] and [n, k, m] to [n, k, m]."""
    return sums.gather(1, edges.flatten(1)).view(edges.shape)


def _power_of_two(
    histogram: Histogram, low: Tensor, high: Tensor, levels: int, scheme: Scheme
) -> tuple[Tensor, Tensor]:
    """The power of two above or below the scale of each range, whichever diverges less, and the range's new low end.

    A larger scale leaves the low end where it is; a smaller one draws both ends in alike. All tensors are
    float64 [n, 1].
    """
    wanted = range_scale(low, high, replace(scheme, power_of_two=False))
    above = finish_scales(wanted, power_of_two=True)
    scales = torch.cat([finish_scales(above / 2, power_of_two=True), above], dim=1)
    ratio = scales / wanted
    lows = low * ratio.clamp(max=1)
    highs = lows + (high - low) * ratio
    left, right = (((end - histogram.start) / histogram.width).round().to(torch.int64) for end in (lows, highs))
    cost = divergence(histogram, left, right, levels)
    smaller = cost[:, :1] < cost[:, 1:]
    scale, bottom = (torch.where(smaller, both[:, :1], both[:, 1:]) for both in (scales, lows))
    return scale, bottom
