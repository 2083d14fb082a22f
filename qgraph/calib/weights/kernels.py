"""The kernels that weights are measured with: magnitudes and rounding errors of blocks of a flat array.

Every block is summed alone and in order, so a result depends neither on threads nor on what else is measured. Four
blocks are walked side by side: a sum waits for the one before it, and the sums of other blocks fill that time.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from qgraph.calib.cpu.compiling import compiled
from qgraph.calib.grid import ALL_BUT_SIGN

ABREAST: Final = 4
"""Blocks that are walked side by side."""

LANES: Final = 8
"""A number of scales that is a multiple of this needs no loop for the rest."""


@compiled
def largest_magnitudes(
    bits: NDArray[np.int32], start: NDArray[np.int64], stop: NDArray[np.int64], out: NDArray[np.int32]
) -> None:
    """The largest |value| of each block ``start[b]:stop[b]``, as the bits of a float32; NaN is above infinity.

    Args:
        bits: float32 values, seen as integers.
    """
    for b in range(start.size):
        block = bits[start[b] : stop[b]]
        highest = np.int32(0)
        for i in range(block.size):
            highest = max(highest, block[i] & np.int32(ALL_BUT_SIGN))
        out[b] = highest


@compiled
def _add_errors(
    value: np.float32, scale: NDArray[np.float64], low: float, high: float, out: NDArray[np.float64]
) -> None:
    """Add the squared error of one value, in steps, to the sum of each scale."""
    x = np.float64(value)
    for j in range(scale.size):
        # `/` would check for zero, which keeps the loop from being vectorised.
        u = np.divide(x, scale[j])
        error = u - np.rint(min(max(u, low), high))
        out[j] += error * error


@compiled
def error_sums(
    values: NDArray[np.float32],
    start: NDArray[np.int64],
    stop: NDArray[np.int64],
    scale: NDArray[np.float64],
    low: float,
    high: float,
    out: NDArray[np.float64],
) -> None:
    """Σ (u − clip(round(u)))² with u = value / scale, over each block ``start[b]:stop[b]`` and each of its k scales.

    Args:
        scale: [blocks, k], positive.
        low, high: the ends of the integer range, both whole numbers.
        out: [blocks, k].
    """
    out[:, :] = 0.0
    count = start.size
    together = count - count % ABREAST
    for first in range(0, together, ABREAST):
        shortest = stop[first] - start[first]
        for b in range(first + 1, first + ABREAST):
            shortest = min(shortest, stop[b] - start[b])
        for i in range(shortest):
            for b in range(first, first + ABREAST):
                _add_errors(values[start[b] + i], scale[b], low, high, out[b])
        for b in range(first, first + ABREAST):
            for i in range(start[b] + shortest, stop[b]):
                _add_errors(values[i], scale[b], low, high, out[b])
    for b in range(together, count):
        for i in range(start[b], stop[b]):
            _add_errors(values[i], scale[b], low, high, out[b])
