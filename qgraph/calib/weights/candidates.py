"""Scales to try and their costs, as the mse observer makes them, bit for bit, but in numpy.

Weights are solved while a model is stored, in a process that seldom needs torch, which takes a second to load.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qgraph.tqc import FLOAT32_LARGEST, FLOAT32_TINY

COST_BITS = 40
"""Mantissa bits of a cost; see `qgraph.calib.observers.mse`."""

Floats = NDArray[np.float64]


def finish_scales(scale: Floats, *, power_of_two: bool) -> Floats:
    """Make positive numbers legal scales; see `qgraph.calib.observers.minmax.finish_scales`."""
    scale = np.clip(scale, FLOAT32_TINY, FLOAT32_LARGEST)
    if power_of_two:
        mantissa, exponent = np.frexp(scale)
        scale = np.ldexp(1.0, np.minimum(np.where(mantissa == 0.5, exponent - 1, exponent), 127))
    return scale.astype(np.float32).astype(np.float64)


def ladder(center: Floats, rungs: int, first: int, last: int) -> Floats:
    """Each center times 2^(j / rungs) for j from `first` to `last`: [n, 1] to [n, k]."""
    scales: Floats = center * np.array([2.0 ** (j / rungs) for j in range(first, last + 1)])
    return scales


def rounded_cost(cost: Floats) -> Floats:
    """Costs with only their `COST_BITS` leading bits."""
    mantissa, exponent = np.frexp(cost)
    rounded: Floats = np.ldexp(np.rint(mantissa * 2.0**COST_BITS), exponent - COST_BITS)
    return rounded
