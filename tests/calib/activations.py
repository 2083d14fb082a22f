"""Activations of every kind of bit pattern, for the tests of statistics, kernels and codec."""

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

AWKWARD = (
    *(0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0xFF7FFFFF),
    *(0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00000, 0x7F800001, 0xFF800001, 0x40C00000, 0x3F800000),
)
"""Both zeros, denormals, the ends of the range, infinities, NaNs quiet and signalling, 6.0 and 1.0."""

ATOMS = (-1.0, 0.0, 6.0)


def from_bits(bits: list[int]) -> NDArray[Any]:
    return np.array(bits, np.uint32).view(np.float32)


def activations(max_size: int = 40) -> st.SearchStrategy[NDArray[Any]]:
    """Arrays of float32 from raw bits, rich in special values and in repetitions."""
    pattern = st.one_of(st.sampled_from(AWKWARD), st.integers(0, 2**32 - 1))
    return st.lists(pattern, max_size=max_size).map(from_bits)
