"""A tensor's values as its statistics know them: few enough to compute with, each with how often it occurred."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qgraph.calib.observers.density import points_and_pieces
from qgraph.calib.statistics import TensorStatistics


def weighted_values(statistics: TensorStatistics) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The finite values of a tensor, ascending, and how often each occurred.

    Zero, the extremes and the producer's clip bounds are exact. The values between the edges of a bin are told as its
    middle, which is at most 0.2 % off.

    >>> from qgraph.calib.statistics import statistics_of
    >>> weighted_values(statistics_of([0.0, 0.0, 1.0, 1.001, 6.0]))
    (array([0.        , 1.00195312, 6.        ]), array([2., 2., 1.]))
    """
    points, masses, edges, heights = points_and_pieces(statistics)
    widths = np.diff(edges)
    middles, counts = (edges[:-1] + edges[1:]) / 2, heights[:-1] * widths
    known = counts > 0
    values = np.concatenate([points, middles[known], [0.0]])
    occurred = np.concatenate([masses, counts[known], [float(statistics.zeros)]])
    order = np.argsort(values, kind="stable")
    order = order[occurred[order] > 0]
    return values[order], occurred[order]
