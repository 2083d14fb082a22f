"""What is remembered of a tensor: an exactly mergeable summary of all values that it took.

The core is a histogram on the universal grid of `qgraph.calib.grid`. Everything is a count, an extreme or a
multiplicity, so `merge` is exact, associative and commutative, and `EMPTY_STATISTICS` is its identity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """Statistics of one tensor, or of one channel.

    Attributes:
        bins: uint32, sorted, grid indices of the finite values other than zero that occurred.
        counts: int64, how many values fell into each of `bins`.
        zeros: values equal to zero (−0 is zero).
        nan, positive_infinities, negative_infinities: values that are not finite; they are in no bin.
        samples: samples that produced the tensor, even with no element.
        minimum, maximum: exact, over finite values (zero included); None if there was none.
        minimum_count, maximum_count: exact multiplicity of both.
        atoms: exact multiplicity of planned values (a producer's clip bounds), as (value, count), sorted by value.
            The values are part of the plan: two statistics of one tensor have the same ones.
    """

    bins: NDArray[np.uint32]
    counts: NDArray[np.int64]
    zeros: int = 0
    nan: int = 0
    positive_infinities: int = 0
    negative_infinities: int = 0
    samples: int = 0
    minimum: float | None = None
    maximum: float | None = None
    minimum_count: int = 0
    maximum_count: int = 0
    atoms: tuple[tuple[float, int], ...] = ()

    @property
    def finite(self) -> int:
        """Number of finite values."""
        return int(self.counts.sum()) + self.zeros

    @property
    def elements(self) -> int:
        """Number of all values."""
        return self.finite + self.nan + self.positive_infinities + self.negative_infinities
