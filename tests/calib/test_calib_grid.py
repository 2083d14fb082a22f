"""The grid: every float32 lies inside its bin, and bins are ordered as values are."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from qgraph.calib.grid import BIN_COUNT, FIRST_NONFINITE, SIGN_BIN, bin_of, edges, value_rank

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False).filter(lambda x: x != 0)
ALL_FINITE_BINS = np.concatenate([np.arange(FIRST_NONFINITE), SIGN_BIN + np.arange(FIRST_NONFINITE)])


@given(FINITE)
def test_a_value_lies_inside_its_bin(value: float) -> None:
    lower, upper = edges(bin_of(value))
    assert (lower <= value < upper) if value > 0 else (lower < value <= upper)


@given(FINITE, FINITE)
def test_the_rank_of_a_bin_orders_like_its_values(a: float, b: float) -> None:
    rank_a, rank_b = value_rank(bin_of([a, b]))
    assert rank_a == rank_b or (rank_a < rank_b) == (a < b)


def test_bins_in_order_of_value_tile_the_line() -> None:
    lower, upper = edges(ALL_FINITE_BINS[np.argsort(value_rank(ALL_FINITE_BINS))])
    assert (lower < upper).all()
    np.testing.assert_array_equal(upper[:-1], lower[1:])
    assert lower[0] == -(2.0**128)
    assert upper[-1] == 2.0**128


def test_every_bin_has_a_rank_of_its_own() -> None:
    every = np.arange(BIN_COUNT)
    np.testing.assert_array_equal(np.sort(value_rank(every)), every)


def test_an_octave_has_256_bins_of_equal_width() -> None:
    lower, upper = edges(np.arange(int(bin_of(2.0)), int(bin_of(4.0))))
    assert lower.size == 256
    np.testing.assert_array_equal(upper - lower, 2 / 256)
