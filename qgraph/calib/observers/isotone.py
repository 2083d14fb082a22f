"""The isotone observer: the most rows in which the largest element stays the largest, then the least squared error.

It is for what is ranked in the end: logits, and what Softmax reads and makes. A row stays in order over an interval of
scales, which ends just below its gap (see `qgraph.calib.observers.order`)::

    row 1        ├──────────────┤              the scales tried: just below every gap that occurred,
    row 2    ├────────┤                        a ladder below the minmax scale, and the answer of mse
    row 3             ├───────────────┤
                       ▲▲▲▲ three rows at once? among these scales the one of least squared error

Where most rows stay in order for a scale that the mse observer likes, it has the answer of the mse observer; and so it
has where no rows are known (only graph outputs and what Softmax and its like rank have any), since there is no order
to lose. Rows with a NaN have no order and do not count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from qgraph.calib.observers.density import Density, densities
from qgraph.calib.observers.entry import Parameter
from qgraph.calib.observers.error import error_energy
from qgraph.calib.observers.minmax import finish_scales, range_scale
from qgraph.calib.observers.moments import moments_of
from qgraph.calib.observers.mse import HEADROOM, RUNGS, best_offset, ladder, mse, rounded_cost
from qgraph.calib.observers.order import Rows, best_kept, kept, least_gap, rows_from
from qgraph.calib.statistics import TensorStatistics
from qgraph.tqc import FLOAT32_TINY, Scheme

ISOTONE = "isotone"
"""Its name."""


def isotone(
    statistics: Sequence[TensorStatistics], scheme: Scheme, parameters: Mapping[str, Parameter], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Scale and offset that keep most rows in order, with the least expected squared error among those.

    Args:
        parameters: ``octaves``, how many octaves below the minmax scale are searched.

    Returns:
        Scales, float64 [n], each a float32; offsets, int64 [n].
    """
    scale, offset = mse(statistics, scheme, parameters, device)
    for index, one in enumerate(statistics):
        rows = rows_from(one.rows, device)
        if rows.counts.numel():
            density = densities([one], device)
            first = scale[index : index + 1], offset[index : index + 1]
            scale[index], offset[index] = _ranked(rows, density, first, scheme, int(parameters["octaves"]))
    return scale, offset


def _ranked(
    rows: Rows, density: Density, first: tuple[Tensor, Tensor], scheme: Scheme, octaves: int
) -> tuple[Tensor, Tensor]:
    """Scale and offset of one tensor; `first` is what mse answers, tensors [1]."""
    scale = _candidates(rows, density, scheme, octaves)
    wanted = best_offset(moments_of(density), scale[None, :], scheme)[0]
    if scheme.symmetric:
        offset, count = wanted, kept(rows, scale, wanted, scheme)
    else:
        pairs, count = best_kept(rows, scale, wanted, scheme)
        scale, count, offset = scale.repeat_interleave(2), count.repeat_interleave(2), pairs.reshape(-1)
    scale, offset = torch.cat([first[0], scale]), torch.cat([first[1], offset])
    count = torch.cat([kept(rows, *first, scheme), count])
    best = count == count.amax()
    scale, offset = scale[best], offset[best]
    low, high = (scheme.quant_min - offset).to(scale.dtype), (scheme.quant_max - offset).to(scale.dtype)
    cost = rounded_cost(error_energy(density, scale[None, :], low[None, :], high[None, :]))[0]
    least = cost == cost.amin()
    smallest = least & (scale == scale[least].amin())
    return scale[smallest][0], offset[smallest].amin()


def _candidates(rows: Rows, density: Density, scheme: Scheme, octaves: int) -> Tensor:
    """The scales to try, sorted: float64 [k], each a float32."""
    whole = range_scale(density.minimum, density.maximum, scheme)[:, None]
    rungs = finish_scales(ladder(whole, RUNGS, -RUNGS * octaves, HEADROOM), power_of_two=scheme.power_of_two)[0]
    edges = torch.unique(rows.gap[rows.gap > 0]) / least_gap(scheme)
    # A scale is rounded to float32, or down to a power of two, and must stay below the gap.
    if scheme.power_of_two:
        _, exponent = torch.frexp(edges * (1 - 2.0**-23))
        below = torch.ldexp(torch.ones_like(edges), exponent - 1)
    else:
        below = (edges * (1 - 2.0**-23)).to(torch.float32).to(torch.float64)
    # Above the ladder only the gaps that every row has are of use, and the least squared error is never there.
    below = below[(below >= FLOAT32_TINY) & (below <= rungs.amax()) & (below >= rungs.amin())]
    found: Tensor = torch.unique(torch.cat([rungs, below]))
    return found
