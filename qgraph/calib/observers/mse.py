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
                           | | | |                 the nearer end of the values on a whole number of steps
                            |||||                  256, then 2048 to the octave around the best

Costs are rounded to 40 bits and ties go to the smaller scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from qgraph.calib.observers.density import Density
from qgraph.calib.observers.entry import Parameter
from qgraph.calib.observers.error import error_energy
from qgraph.calib.observers.minmax import finish_scales, range_scale
from qgraph.calib.observers.moments import Moments
from qgraph.calib.observers.prepared import Prepared, prepared
from qgraph.calib.statistics import TensorStatistics
from qgraph.tqc import Scheme

COST_BITS = 40
"""Mantissa bits of a cost; what is below is rounding noise that must not choose between candidates."""

RUNGS = 16
"""Rungs of the first ladder per octave."""

HEADROOM = 4
"""Rungs above the minmax scale: with few levels a slightly larger scale can fit the values better."""

REFINEMENTS = ((256, 16), (2048, 8))
"""Of each refinement the rungs per octave, and how many are tried on each side of the best one so far."""

FEW_STEPS = 64
"""Up to so many steps from zero, the end of the values that is nearer to it is tried on each whole number of steps."""

NEIGHBOURS = 6
"""How many whole numbers of steps on either side of the nearest."""

FIRST_OCTAVES = 5
"""Octaves whose error is computed before it is known how many of them are needed."""


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
    for batch, members in prepared(statistics, device):
        scale[batch], offset[batch] = members.once(("mse", scheme, octaves), partial(_solve, members, scheme, octaves))
    return scale, offset


def _solve(members: Prepared, scheme: Scheme, octaves: int) -> tuple[Tensor, Tensor]:
    scale = _best_scale(members.density, members.moments, scheme, octaves)
    return scale, best_offset(members.moments, scale[:, None], scheme)[:, 0]


def _best_scale(density: Density, moments: Moments, scheme: Scheme, octaves: int) -> Tensor:
    """Search the scale of each density: float64 [n]."""
    whole = range_scale(density.minimum, density.maximum, scheme)[:, None]
    coarse = finish_scales(ladder(whole, 1, -octaves, 0), power_of_two=scheme.power_of_two)
    first = coarse[:, -FIRST_OCTAVES:]
    best, least = _choose(first, _cost(density, moments, first, scheme))
    windows = _windows(moments, coarse, least, scheme)
    for window in sorted(set(windows.tolist())):
        rows = (windows == window).nonzero()[:, 0]
        some, tails = density.rows(rows), moments.rows(rows)
        if not scheme.power_of_two:
            best[rows] = _search(some, tails, whole[rows], window, scheme)
        elif window >= FIRST_OCTAVES:
            scale = coarse[rows][:, -1 - window :]
            best[rows], _ = _choose(scale, _cost(some, tails, scale, scheme))
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
    best, least = _try_aligned(density, moments, best, least, scheme)
    for rungs, reach in REFINEMENTS:
        scale = finish_scales(ladder(best, rungs, -reach, reach), power_of_two=False)
        cost = _cost(density, moments, scale, scheme)
        best, least = _choose(torch.cat([best, scale], dim=1), torch.cat([least, cost], dim=1))
    return best


def _try_aligned(
    density: Density, moments: Moments, best: Tensor, least: Tensor, scheme: Scheme
) -> tuple[Tensor, Tensor]:
    """Try the scales next to the best ones that put the nearer end of the values on a whole number of steps.

    Many values can be close to that end, as to the −0.375 of HardSwish. The error then has a dip at each such scale,
    and where the end is but few steps away, the dips lie further apart than the rungs of the ladder.
    """
    near = torch.minimum(density.minimum.abs(), density.maximum.abs())[:, None]
    steps = (near / best).round()
    rows = ((steps >= 1) & (steps <= FEW_STEPS))[:, 0].nonzero()[:, 0]
    if not rows.numel():
        return best, least
    around = torch.arange(-NEIGHBOURS, NEIGHBOURS + 1, dtype=near.dtype, device=near.device)
    scale = finish_scales(near[rows] / (steps[rows] + around).clamp(min=1), power_of_two=False)
    cost = _cost(density.rows(rows), moments.rows(rows), scale, scheme)
    best, least = best.clone(), least.clone()
    best[rows], least[rows] = _choose(torch.cat([best[rows], scale], dim=1), torch.cat([least[rows], cost], dim=1))
    return best, least


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


def _windows(moments: Moments, scales: Tensor, least: Tensor, scheme: Scheme) -> Tensor:
    """How many octaves below the minmax scale the best scale can be: int64 [n].

    Args:
        scales: [n, k], ascending, an octave apart, the last being the minmax scale.
        least: [n, 1], a cost that some scale reaches.
    """
    offsets = (scheme.symmetric_offset,) * 2 if scheme.symmetric else (scheme.quant_max, scheme.quant_min)
    low, high = (scheme.quant_min - offsets[0]) * scales, (scheme.quant_max - offsets[1]) * scales
    below, above = moments.below(low), moments.above(high)
    clipped = sum(m[:, 2] - 2 * t * m[:, 1] + t.square() * m[:, 0] for m, t in ((below, low), (above, high)))
    return (clipped <= least).sum(dim=1).clamp(max=scales.shape[1] - 1)


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
