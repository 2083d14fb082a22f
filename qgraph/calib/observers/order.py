"""Which rows stay in order once they are quantized: the largest element L1 strictly above the second largest L2.

For ``Quant(y) = clip(round(y / scale) + offset, quant_min, quant_max)`` three things together are enough::

    scale < L1 − L2                              two numbers more than one step apart are never rounded onto each other
    round(L2 / scale) + offset < quant_max       L2 is not clipped onto L1 from above,
    round(L1 / scale) + offset > quant_min       nor L1 onto L2 from below

A row is known by its bin (see `qgraph.calib.rows`), so each is asked of that end of the bin where it is hardest: a row
that is said to be kept is kept, whatever its exact values are. Runtimes divide in float32, which moves a quotient of b
bits by up to 2^(b − 24); the gap has to be larger than a step by that of both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qgraph.calib.rows import RowStatistics, gap_edges, second_edges
from qgraph.tqc import Scheme

BATCH_ELEMENTS = 1 << 17
"""Elements of an intermediate tensor, candidates times bins, or candidates times offsets: one stays in the cache."""


@dataclass(frozen=True, eq=False)
class Rows:
    """The bins of rows along all recorded axes, those with the largest gap first.

    Attributes:
        second: float64 [b], the least number above which no second largest element of the bin lies.
        largest: float64 [b], the greatest number below which no largest element of the bin lies.
        gap: float64 [b], the greatest number below which no gap of the bin lies.
        counts: int64 [b], rows.
        single: rows of one element.
    """

    second: Tensor
    largest: Tensor
    gap: Tensor
    counts: Tensor
    single: int

    @property
    def total(self) -> int:
        """All rows that have an order."""
        return int(self.counts.sum()) + self.single


def rows_from(statistics: Sequence[RowStatistics], device: torch.device) -> Rows:
    """Rows as torch tensors; those along several axes count together."""
    columns: tuple[list[Tensor], ...] = ([], [], [], [])
    for one in statistics:
        (low, high), (least, _) = second_edges(one), gap_edges(one)
        for column, values in zip(columns, (high, low + least, least, one.counts), strict=True):
            column.append(torch.from_numpy(values))
    second, largest, gap = (
        torch.cat([torch.zeros(0, dtype=torch.float64), *column]).to(device) for column in columns[:3]
    )
    counts = torch.cat([torch.zeros(0, dtype=torch.int64), *columns[3]]).to(device)
    order = gap.argsort(descending=True, stable=True)
    return Rows(second[order], largest[order], gap[order], counts[order], sum(one.single for one in statistics))


def least_gap(scheme: Scheme) -> float:
    """How many steps a gap has to exceed, so that float32 arithmetic keeps it apart: a little more than one."""
    return 1 + 2.0 ** (scheme.bits - 22)


def kept(rows: Rows, scale: Tensor, offset: Tensor, scheme: Scheme) -> Tensor:
    """How many rows stay in order with each scale and offset, float64 and int64 [k]: int64 [k]."""
    found = [torch.zeros(0, dtype=torch.int64, device=scale.device)]
    for part in _parts(scale.numel(), rows.counts.numel()):
        apart, some = _apart(rows, scale[part, None], scheme)
        lowest, highest = _offsets(some, scale[part, None], scheme)
        inside = apart & (lowest <= offset[part, None]) & (offset[part, None] <= highest)
        found.append((inside * some.counts).sum(dim=1))
    return torch.cat(found) + rows.single


def best_kept(rows: Rows, scale: Tensor, wanted: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """The offsets that keep most rows at each scale.

    Args:
        scale: float64 [k].
        wanted: int64 [k], the offset that one would like to have.

    Returns:
        int64 [k, 2], the nearest to the wanted one from below and from above (twice the same if there is but one
        side); int64 [k], how many rows they keep.
    """
    steps = scheme.quant_max - scheme.quant_min
    offsets = [torch.zeros((0, 2), dtype=torch.int64, device=scale.device)]
    counts = [torch.zeros(0, dtype=torch.int64, device=scale.device)]
    for part in _parts(scale.numel(), max(rows.counts.numel(), steps + 2)):
        apart, some = _apart(rows, scale[part, None], scheme)
        lowest, highest = _offsets(some, scale[part, None], scheme)
        first = lowest.sub_(scheme.quant_min).clamp_(0, steps + 1).to(torch.int64)
        after = torch.maximum(highest.sub_(scheme.quant_min - 1).clamp_(0, steps + 1).to(torch.int64), first)
        change = torch.zeros((first.shape[0], steps + 2), dtype=torch.int64, device=scale.device)
        weight = apart * some.counts
        change.scatter_add_(1, first, weight).scatter_add_(1, after, -weight)
        cover = change.cumsum(1)[:, : steps + 1]
        most = cover.amax(dim=1)
        places = torch.arange(steps + 1, device=scale.device)
        best, target = cover == most[:, None], (wanted[part] - scheme.quant_min)[:, None]
        below = torch.where(best & (places <= target), places, -1).amax(dim=1)
        above = torch.where(best & (places >= target), places, steps + 1).amin(dim=1)
        pair = torch.stack([torch.where(below < 0, above, below), torch.where(above > steps, below, above)], dim=1)
        offsets.append(pair + scheme.quant_min)
        counts.append(most + rows.single)
    return torch.cat(offsets), torch.cat(counts)


def kept_of(statistics: Sequence[RowStatistics], scale: float, offset: int, scheme: Scheme) -> tuple[int, int]:
    """How many rows are sure to stay in order with given parameters, and how many there are.

    >>> from qgraph.calib.rows import rows_of
    >>> int8 = Scheme(8, signed=True, symmetric=True, quant_min=-128, quant_max=127)
    >>> kept_of([rows_of([[1.0, 9.0], [4.0, 4.0625]], axis=-1)], 0.125, 0, int8)
    (1, 2)
    """
    rows = rows_from(statistics, torch.device("cpu"))
    count = kept(rows, torch.tensor([scale], dtype=torch.float64), torch.tensor([offset]), scheme)
    return int(count[0]), rows.total


def _apart(rows: Rows, scale: Tensor, scheme: Scheme) -> tuple[Tensor, Rows]:
    """Which gaps are wide enough for each scale, float64 [k, 1]: bool [k, b], for those b that are for one of them."""
    wanted = scale * least_gap(scheme)
    b = int((rows.gap > wanted.amin()).sum())
    some = Rows(rows.second[:b], rows.largest[:b], rows.gap[:b], rows.counts[:b], rows.single)
    return wanted < some.gap, some


def _offsets(rows: Rows, scale: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """The lowest and the highest offset that keeps each row at each scale, whole numbers as float64 [k, b].

    The second largest element lies at most at the edge, so a quotient that is rounded up there is the worst case.
    """
    lowest = (rows.largest / scale).round_().neg_().add_(scheme.quant_min + 1)
    highest = (rows.second / scale).round_().neg_().add_(scheme.quant_max - 1)
    return lowest, highest


def _parts(candidates: int, width: int) -> Iterator[slice]:
    size = max(1, BATCH_ELEMENTS // max(1, width))
    for start in range(0, candidates, size):
        yield slice(start, start + size)
