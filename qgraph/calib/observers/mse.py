"""The mse observer: scale and offset of the least expected squared error.

**Offset.** For one scale s, give the values above zero n steps and those below zero the other R − n. One more step
above zero changes only values beyond its rounding border: the error falls by

    C(n) − C(n + 1) = 2s · T((n + ½)s),   T(t) = Σ over values x > t of (x − t)

which falls with n. So the error above zero is convex in n, that below zero is convex in R − n, and so is their sum,
whatever the values are: a bisection on two tails finds the best offset of every scale, exactly.

**Scale.** The error is not convex in s. Clipping alone bounds it from below and only grows as s shrinks, which cuts
off all scales below some octave; the rest is searched on a ladder that is refined around its best rung::

    minmax/2^k … minmax/4   minmax/2   minmax      octaves: where can the best be?
                 |||||||||||||||||||||||||||       16 to the octave
                            |||||                  256, then 4096 to the octave around the best

Costs are rounded to 40 bits and ties go to the smaller scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from qgraph.calib.observers.catalog import Parameter
from qgraph.calib.observers.density import Density, batches, densities
from qgraph.calib.observers.error import error_energy
from qgraph.calib.observers.minmax import finish_scales, range_scale
from qgraph.calib.observers.moments import Moments, moments_of
from qgraph.calib.statistics import TensorStatistics
from qgraph.tqc import Scheme

COST_BITS = 40
"""Mantissa bits of a cost; what is below is rounding noise that must not choose between candidates."""

RUNGS = 16
"""Rungs of the first ladder per octave; each refinement has this many times more."""

HEADROOM = 4
"""Rungs above the minmax scale: with few levels a slightly larger scale can fit the values better."""

REFINEMENTS = (RUNGS**2, RUNGS**3)
"""Rungs per octave of the refinements."""


def mse(
    statistics: Sequence[TensorStatistics], scheme: Scheme, parameters: Mapping[str, Parameter], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Scale and offset of the least expected squared error.

    Args:
        parameters: ``octaves``, how many octaves below the minmax scale are searched.

    Returns:
        Scales, float64 [n], each a float32; offsets, int64 [n].
    """
    octaves = int(parameters["octaves"])
    scale = torch.empty(len(statistics), dtype=torch.float64, device=device)
    offset = torch.empty(len(statistics), dtype=torch.int64, device=device)
    for batch in batches(statistics):
        density = densities([statistics[index] for index in batch], device)
        moments = moments_of(density)
        scale[batch] = _best_scale(density, moments, scheme, octaves)
        offset[batch] = best_offset(moments, scale[batch, None], scheme)[:, 0]
    return scale, offset


def _best_scale(density: Density, moments: Moments, scheme: Scheme, octaves: int) -> Tensor:
    """Search the scale of each density: float64 [n]."""
    whole = range_scale(density.minimum, density.maximum, scheme)[:, None]
    coarse = finish_scales(ladder(whole, 1, -octaves, 0), power_of_two=scheme.power_of_two)
    best, least = _choose(coarse, _cost(density, moments, coarse, scheme))
    if scheme.power_of_two:
        return best[:, 0]
    windows = _windows(moments, coarse, least, scheme)
    for window in sorted(set(windows.tolist())):
        rows = (windows == window).nonzero()[:, 0]
        best[rows] = _search(density.rows(rows), moments.rows(rows), whole[rows], window, scheme)
    return best[:, 0]


def _search(density: Density, moments: Moments, whole: Tensor, window: int, scheme: Scheme) -> Tensor:
    """Walk the ladders of densities whose best scale is at most `window` octaves below the minmax scale: [n, 1]."""
    # An extreme over a power of two is represented exactly, which makes a constant tensor exact.
    magnitude = torch.maximum(-density.minimum, density.maximum)[:, None]
    levels = scheme.half_range if scheme.symmetric else scheme.quant_max - scheme.quant_min
    exact = magnitude / (1 << (levels.bit_length() - 1))
    scale = finish_scales(
        torch.cat([exact, ladder(whole, RUNGS, -RUNGS * window, HEADROOM)], dim=1), power_of_two=False
    )
    best, least = _choose(scale, _cost(density, moments, scale, scheme))
    for rungs in REFINEMENTS:
        scale = finish_scales(ladder(best, rungs, -RUNGS, RUNGS), power_of_two=False)
        cost = _cost(density, moments, scale, scheme)
        best, least = _choose(torch.cat([best, scale], dim=1), torch.cat([least, cost], dim=1))
    return best


def ladder(center: Tensor, rungs: int, first: int, last: int) -> Tensor:
    """Each center times 2^(j / rungs) for j from `first` to `last`: [n, 1] to [n, k].

    The powers are computed in Python: those of torch may differ with the width of its vector instructions.
    """
    powers = [2.0 ** (j / rungs) for j in range(first, last + 1)]
    return center * torch.tensor(powers, dtype=center.dtype, device=center.device)


def _cost(density: Density, moments: Moments, scale: Tensor, scheme: Scheme) -> Tensor:
    """Squared error of each scale with its best offset, rounded to `COST_BITS`: [n, k]."""
    offset = best_offset(moments, scale, scheme)
    low, high = (scheme.quant_min - offset).to(scale.dtype), (scheme.quant_max - offset).to(scale.dtype)
    return rounded_cost(error_energy(density, scale, low, high))


def rounded_cost(cost: Tensor) -> Tensor:
    """Costs with only their `COST_BITS` leading bits."""
    mantissa, exponent = torch.frexp(cost)
    return torch.ldexp((mantissa * 2.0**COST_BITS).round(), exponent - COST_BITS)


def _choose(scale: Tensor, cost: Tensor) -> tuple[Tensor, Tensor]:
    """The scale of least cost in each row, the smallest among ties, and that cost: [n, k] to [n, 1]."""
    least = cost.amin(dim=1, keepdim=True)
    return torch.where(cost == least, scale, torch.inf).amin(dim=1, keepdim=True), least


def _windows(moments: Moments, octaves: Tensor, least: Tensor, scheme: Scheme) -> Tensor:
    """How many octaves below the minmax scale the best scale can be: int64 [n].

    Args:
        octaves: [n, k], ascending scales an octave apart, the last being the minmax scale.
        least: [n, 1], a cost that some scale reaches.
    """
    offsets = (scheme.symmetric_offset,) * 2 if scheme.symmetric else (scheme.quant_max, scheme.quant_min)
    low, high = (scheme.quant_min - offsets[0]) * octaves, (scheme.quant_max - offsets[1]) * octaves
    below, above = moments.below(low), moments.above(high)
    clipped = sum(m[:, 2] - 2 * t * m[:, 1] + t.square() * m[:, 0] for m, t in ((below, low), (above, high)))
    return (clipped <= least).sum(dim=1).clamp(max=octaves.shape[1] - 1)


def best_offset(moments: Moments, scale: Tensor, scheme: Scheme) -> Tensor:
    """The offset of least squared error for each scale, by bisection on the two tails: int64 [n, k].

    Among equals the one with the most steps above zero, so that a range without negative values starts at zero.
    """
    if scheme.symmetric:
        return torch.full_like(scale, scheme.symmetric_offset, dtype=torch.int64)
    steps = scheme.quant_max - scheme.quant_min
    first, last = torch.zeros_like(scale), torch.full_like(scale, steps)
    for _ in range(steps.bit_length()):
        middle = ((first + last) / 2).floor()
        upper, lower = (middle + 0.5) * scale, -(steps - middle - 0.5) * scale
        above, below = moments.above(upper), moments.below(lower)
        gain = above[:, 1] - upper * above[:, 0]
        loss = lower * below[:, 0] - below[:, 1]
        stop = (loss > gain) & (middle < steps)
        last = torch.where(stop, middle, last)
        first = torch.where(stop, first, torch.minimum(middle + 1, last))
    return (scheme.quant_max - last).to(torch.int64)
