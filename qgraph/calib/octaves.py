"""A histogram in octaves, few enough to be looked at: how many values lie in each power of two, of either sign.

>>> from qgraph.calib.statistics import statistics_of
>>> for one in octaves(statistics_of([-3.0, 0.0, 0.0, 0.3, 1.0, 1.5, 6.0])):
...     print(one.low, one.high, one.count)
-4.0 -2.0 1
0.0 0.0 2
0.25 0.5 1
0.5 1.0 0
1.0 2.0 2
2.0 4.0 0
4.0 8.0 1
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qgraph.calib.grid import MANTISSA_BITS, SIGN_BIN, edges
from qgraph.calib.statistics import TensorStatistics


@dataclass(frozen=True, slots=True)
class Octave:
    """How many finite values lie between two powers of two, or in a part of that; the zeros lie between 0 and 0.

    The denormals are one octave, from 0.
    """

    low: float
    high: float
    count: int


def octaves(statistics: TensorStatistics) -> tuple[Octave, ...]:
    """All octaves from the most negative to the most positive that occur, empty ones between two of a sign too."""
    number = statistics.bins >> np.uint32(MANTISSA_BITS)
    counts = np.zeros(2 * (SIGN_BIN >> MANTISSA_BITS), np.int64)
    np.add.at(counts, number, statistics.counts)
    positive, negative = np.split(counts, 2)
    found = [Octave(-_edge(i + 1), -_edge(i) + 0.0, int(negative[i])) for i in reversed(_between(negative))]
    if statistics.zeros:
        found.append(Octave(0.0, 0.0, statistics.zeros))
    return (*found, *(Octave(_edge(i), _edge(i + 1), int(positive[i])) for i in _between(positive)))


def pieces(statistics: TensorStatistics, parts: int) -> tuple[Octave, ...]:
    """Octaves cut into equal parts, by value, without zeros and without empty ones.

    Args:
        parts: a power of two, at most 256.
    """
    width = (1 << MANTISSA_BITS) // parts
    first, place = np.unique(statistics.bins // width * width, return_inverse=True)
    counts = np.zeros(first.size, np.int64)
    np.add.at(counts, place, statistics.counts)
    # A negative bin's lower end is that of its greatest magnitude.
    negative = first >= SIGN_BIN
    low, _ = edges(np.where(negative, first + width - 1, first))
    _, high = edges(np.where(negative, first, first + width - 1))
    return tuple(Octave(float(low[i]), float(high[i]), int(counts[i])) for i in low.argsort())


def _between(counts: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> range:
    """The exponents from the lowest to the highest that occurs."""
    (some,) = np.nonzero(counts)
    return range(int(some[0]), int(some[-1]) + 1) if some.size else range(0)


def _edge(exponent: int) -> float:
    """The smallest magnitude with that exponent field; 0 for the denormals."""
    return 2.0 ** (exponent - 127) if exponent else 0.0
