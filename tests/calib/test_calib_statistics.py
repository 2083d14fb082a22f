"""Statistics form an exact commutative monoid, and name what is degenerate."""

import numpy as np
import pytest
from activations import ATOMS, activations, from_bits
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from qgraph.calib.grid import bin_of
from qgraph.calib.statistics import (
    EMPTY_STATISTICS,
    TensorStatistics,
    condition,
    empty_statistics,
    merge,
    repeated,
    same_statistics,
    statistics_of,
)
from qgraph.errors import StatisticsError
from qgraph.tqc import QuantizationState

STATISTICS = st.builds(lambda values, samples: statistics_of(values, ATOMS, samples), activations(), st.integers(0, 3))


@given(STATISTICS, STATISTICS, STATISTICS)
def test_merging_is_associative(a: TensorStatistics, b: TensorStatistics, c: TensorStatistics) -> None:
    assert same_statistics(merge(merge(a, b), c), merge(a, merge(b, c)))


@given(STATISTICS, STATISTICS)
def test_merging_is_commutative(a: TensorStatistics, b: TensorStatistics) -> None:
    assert same_statistics(merge(a, b), merge(b, a))


@given(STATISTICS)
def test_nothing_is_the_identity(a: TensorStatistics) -> None:
    nothing = empty_statistics(ATOMS)
    assert same_statistics(merge(a, nothing), a)
    assert same_statistics(merge(nothing, a), a)


@given(activations(), activations())
def test_merging_equals_counting_all_values_together(a: NDArray[np.float32], b: NDArray[np.float32]) -> None:
    together = statistics_of(np.concatenate([a, b]), ATOMS, samples=2)
    assert same_statistics(merge(statistics_of(a, ATOMS), statistics_of(b, ATOMS)), together)


@given(STATISTICS, st.integers(1, 4))
def test_repeating_equals_merging_with_oneself(a: TensorStatistics, times: int) -> None:
    merged = empty_statistics(ATOMS)
    for _ in range(times):
        merged = merge(merged, a)
    assert same_statistics(repeated(a, times), merged)


@given(activations())
def test_every_element_is_counted_once(values: NDArray[np.float32]) -> None:
    assert statistics_of(values).elements == values.size


def test_both_zeros_are_zero() -> None:
    statistics = statistics_of([-0.0, 0.0, -0.0], atoms=(-0.0,))
    assert (statistics.zeros, statistics.minimum_count, statistics.bins.size) == (3, 3, 0)
    assert str(statistics.minimum) == str(statistics.maximum) == "0.0"
    assert statistics.atoms == ((0.0, 3),)


def test_extremes_and_multiplicities_are_over_finite_values() -> None:
    statistics = statistics_of([np.nan, np.inf, -np.inf, 2, 2, -3, 1e-42, 0])
    assert (statistics.minimum, statistics.minimum_count) == (-3.0, 1)
    assert (statistics.maximum, statistics.maximum_count) == (2.0, 2)
    assert (statistics.nan, statistics.positive_infinities, statistics.negative_infinities) == (1, 1, 1)


def test_atoms_are_counted_exactly_and_not_by_bin() -> None:
    below = np.nextafter(np.float32(6), np.float32(0))
    assert bin_of(below) != bin_of(6.0)
    above = np.nextafter(np.float32(6), np.float32(7))
    assert bin_of(above) == bin_of(6.0)
    assert statistics_of(np.array([6, 6, above, below]), atoms=(6.0,)).atoms == ((6.0, 2),)


def test_other_float_types_are_counted_as_float32() -> None:
    half = np.array([0.1, 65504, np.inf], np.float16)
    assert same_statistics(statistics_of(half), statistics_of(half.astype(np.float32)))
    double = np.array([0.1, 1e300])
    assert same_statistics(statistics_of(double), statistics_of(np.array([0.1, np.inf], np.float32)))


def test_statistics_with_different_atoms_do_not_merge() -> None:
    with pytest.raises(StatisticsError, match="different atoms"):
        merge(empty_statistics((6.0,)), EMPTY_STATISTICS)


def test_atoms_must_be_finite() -> None:
    with pytest.raises(StatisticsError, match="finite"):
        empty_statistics((np.inf,))


@pytest.mark.parametrize(
    ("values", "state"),
    [
        ([], QuantizationState.EMPTY),
        ([0.0, -0.0], QuantizationState.ALL_ZERO),
        ([2.5, 2.5], QuantizationState.CONSTANT),
        ([2.5, 0.0], None),
        ([1e-42, -1e-42, 0.0], QuantizationState.DENORMAL),
        ([1e-42, 1e-42], QuantizationState.DENORMAL),
        ([1e-42, 1.2e-38], None),
        ([1.0, 2.0, np.nan], QuantizationState.NONFINITE),
        ([0.0, np.inf], QuantizationState.NONFINITE),
        ([-np.inf], QuantizationState.NONFINITE),
        ([1.0, 2.0], None),
    ],
)
def test_degenerate_tensors_have_a_state(values: list[float], state: QuantizationState | None) -> None:
    assert condition(statistics_of(np.array(values, np.float32))) == state


def test_a_tensor_that_was_never_produced_has_a_state() -> None:
    assert condition(EMPTY_STATISTICS) == QuantizationState.NEVER_RUN


def test_equality_sees_every_field() -> None:
    a = statistics_of(from_bits([0x3F800000, 0x40C00000]))
    assert same_statistics(a, statistics_of([6.0, 1.0]))
    assert not same_statistics(a, statistics_of([6.0, 1.0], samples=2))
    assert not same_statistics(a, statistics_of([6.0, 1.5]))
    assert not same_statistics(a, statistics_of([6.0, 1.0, 0.0]))
