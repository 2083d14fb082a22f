"""Statistics of a model's own constants; one that is mapped from a file stays there."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from qgraph.calib.cpu.accumulator import Accumulator
from qgraph.calib.statistics import TensorStatistics

PIECE = 1 << 22
"""Elements that are looked at in one go."""


def constant_statistics(values: NDArray[Any]) -> TensorStatistics:
    """Statistics of a constant, which counts as one sample.

    Args:
        values: floats of any shape, rounded to float32; may be mapped from a file.
    """
    flat = values.reshape(-1)
    counted = Accumulator()
    counted.add(flat[:PIECE])
    for start in range(PIECE, flat.size, PIECE):
        counted.add(flat[start : start + PIECE], samples=0)
    return counted.snapshot()
