"""Channels, rows and provenance: exact whatever the bits, the order, the split and the number of interruptions."""

from fractions import Fraction
from functools import reduce

import numpy as np
import pytest
from activations import ATOMS, AWKWARD, from_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qgraph.calib.channels import (
    channels_of,
    magnitudes,
    means,
    merge_channels,
    no_channels,
    repeated_channels,
    same_channels,
)
from qgraph.calib.cpu.accumulator import Accumulator
from qgraph.calib.cpu.channel_accumulator import ChannelAccumulator
from qgraph.calib.cpu.row_kernels import RowAccumulator
from qgraph.calib.exact_sums import value
from qgraph.calib.grid import bin_of
from qgraph.calib.observers.density import points_and_pieces
from qgraph.calib.provenance import UNKNOWN, Provenance, joined
from qgraph.calib.rows import gap_edges, merge_rows, no_rows, row_view, rows_of, same_rows, second_edges
from qgraph.calib.spread import channel_statistics
from qgraph.calib.statistics import merge, same_statistics, statistics_of
from qgraph.errors import StatisticsError

Array = NDArray[np.float32]


@pytest.fixture(scope="module", autouse=True)
def compiled_kernels() -> None:
    """Compile now, so that no example is charged for it."""
    binned, plain = (
        ChannelAccumulator(no_channels(1, binned=one, atoms=ATOMS if one else ())) for one in (True, False)
    )
    rows = RowAccumulator(no_rows(-1))
    for size in (4, 600):
        binned.add(np.full((1, 3, size), np.nan, np.float32))
        plain.add(np.full((1, 3, size), np.nan, np.float32))
        rows.add(np.ones((3, size), np.float32))
    Accumulator().add([1.0])


UNBOUNDED = (-np.inf, np.inf)
BOUNDS = (UNBOUNDED, (0.0, np.inf), (0.0, 6.0), (0.0, 0.3), (1.0, 6.0), (-1.0, 1.0), (-np.inf, 6.0), (-np.inf, -1.0))

SHAPES = ((1, 3, 4), (1, 3, 1), (2, 3, 2))
patterns = st.one_of(st.sampled_from(AWKWARD), st.integers(0, 2**32 - 1))


@st.composite
def samples(draw: st.DrawFn) -> list[Array]:
    """A few activations of one tensor, of different sizes but for its channels, from raw bits."""
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=5))
    sizes = [int(np.prod(shape)) for shape in shapes]
    bits = [draw(st.lists(patterns, min_size=size, max_size=size)) for size in sizes]
    return [from_bits(one).reshape(shape) for one, shape in zip(bits, shapes, strict=True)]


@settings(deadline=None)  # each shape of an example compiles once
@given(samples(), st.booleans(), st.sampled_from([0, 1, -1]), st.sampled_from(BOUNDS))
def test_the_kernel_counts_channels_as_the_slow_way_does(
    activations: list[Array], binned: bool, axis: int, bounds: tuple[float, float]
) -> None:
    atoms = ATOMS if binned else ()
    accumulator = ChannelAccumulator(no_channels(axis, binned=binned, atoms=atoms), bounds)
    for one in activations:
        accumulator.add(one)
    low, high = np.float32(bounds[0]), np.float32(bounds[1])
    cut_off = [np.clip(one, low, high) for one in activations]
    expected = [channels_of(one, axis, binned=binned, atoms=atoms) for one in cut_off]
    assert same_channels(accumulator.snapshot(), reduce(merge_channels, expected))


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_long_channels_are_counted_as_short_ones_are(seed: int, raw: bool) -> None:
    random = np.random.default_rng(seed)
    bits = random.integers(0, 2**32, (1, 2, 700), np.uint32, endpoint=False)
    values = bits.view(np.float32) if raw else np.maximum(random.normal(size=(1, 2, 700)), 0).astype(np.float32)
    values[0, 0, ::7] = random.choice(from_bits(list(AWKWARD)), 100)
    accumulator = ChannelAccumulator(no_channels(1, binned=True, atoms=ATOMS))
    for _ in range(2):
        accumulator.add(values)
    assert same_channels(accumulator.snapshot(), repeated_channels(channels_of(values, 1, atoms=ATOMS), 2))


@pytest.mark.parametrize("bounds", [UNBOUNDED, (0.0, 6.0)])
@pytest.mark.parametrize(("elements", "times"), [(300, 500), (70_000, 3)])
def test_one_bin_can_hold_more_than_its_small_counter(bounds: tuple[float, float], elements: int, times: int) -> None:
    values = np.full((1, 2, elements), 1.5, np.float32)
    values[0, 1, ::3] = -0.25
    accumulator = ChannelAccumulator(no_channels(1, binned=True), bounds)
    for _ in range(times):
        accumulator.add(values)
    accumulator.add(values * np.float32(2.0**90))  # moves the window
    once, last = (channels_of(np.clip(one, *bounds), 1) for one in (values, values * np.float32(2.0**90)))
    assert same_channels(accumulator.snapshot(), merge_channels(repeated_channels(once, times), last))


@given(samples(), st.randoms(use_true_random=False), st.integers(0, 5))
def test_channels_do_not_depend_on_order_or_interruptions(activations: list[Array], random: object, cut: int) -> None:
    expected = reduce(merge_channels, [channels_of(one, 1, atoms=ATOMS) for one in activations])
    random.shuffle(activations)  # type: ignore[attr-defined]
    first, second = (ChannelAccumulator(no_channels(1, binned=True, atoms=ATOMS)) for _ in range(2))
    for one in activations[:cut]:
        first.add(one)
    resumed = ChannelAccumulator(first.snapshot())
    for one in activations[cut:]:
        resumed.add(one)
        second.add(one)
    assert same_channels(resumed.snapshot(), expected)
    assert same_channels(merge_channels(second.snapshot(), first.snapshot()), expected)


@given(samples())
def test_merging_channels_is_associative_and_has_an_identity(activations: list[Array]) -> None:
    parts = [channels_of(one, 1, atoms=ATOMS) for one in [*activations, *activations]]
    left = reduce(merge_channels, parts)
    right = reduce(lambda later, one: merge_channels(one, later), reversed(parts))
    assert same_channels(left, right)
    assert same_channels(merge_channels(left, no_channels(1, binned=True, atoms=ATOMS)), left)


@given(samples(), st.integers(1, 9))
def test_a_repetition_is_a_merge_with_itself(activations: list[Array], times: int) -> None:
    one = channels_of(activations[0], 1, atoms=ATOMS)
    assert same_channels(repeated_channels(one, times), reduce(merge_channels, [one] * times))


@given(st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=1)))
def test_sums_of_single_values_are_exact(rows: list[list[float]]) -> None:
    total = reduce(merge_channels, [channels_of([row], 1) for row in rows], no_channels(1, binned=True))
    if rows:
        assert value(total.sums[0]) == sum(Fraction(row[0]) for row in rows)


def test_sums_survive_cancellation_that_floats_do_not() -> None:
    parts = [[[3e38]], [[1e-45]], [[-3e38]]]
    total = reduce(merge_channels, [channels_of(part, 1) for part in parts])
    assert means(total)[0] == pytest.approx(2.0**-149 / 3)


def test_means_and_magnitudes_are_those_of_the_values() -> None:
    values = np.random.default_rng(0).normal(1, 2, (4, 5, 30)).astype(np.float32)
    channels = reduce(merge_channels, [channels_of(one[None], 1) for one in values])
    np.testing.assert_allclose(means(channels), values.astype(np.float64).mean(axis=(0, 2)), rtol=1e-14)
    assert magnitudes(channels).tolist() == np.abs(values).max(axis=(0, 2)).tolist()


def test_channels_without_values_have_no_mean() -> None:
    assert np.isnan(means(channels_of([[np.nan, 1.0]], 1))).tolist() == [True, False]


def test_channels_of_different_plans_are_not_merged() -> None:
    with pytest.raises(StatisticsError, match="channels collected differently"):
        merge_channels(channels_of([[1.0]], 1), channels_of([[1.0]], 0))


def test_a_tensor_that_loses_its_axis_is_left_out() -> None:
    accumulator = ChannelAccumulator(no_channels(2, binned=True))
    accumulator.add(np.ones((2, 2), np.float32))
    assert same_channels(accumulator.snapshot(), no_channels(2, binned=True))


@given(samples())
def test_a_channel_as_statistics_keeps_all_that_is_exact(activations: list[Array]) -> None:
    values = activations[0]
    for index, one in enumerate(channel_statistics(channels_of(values, 1, atoms=ATOMS), samples=1)):
        expected = statistics_of(values[:, index], ATOMS)
        for name in ("minimum", "maximum", "minimum_count", "maximum_count", "atoms", "zeros", "nan", "elements"):
            assert getattr(one, name) == getattr(expected, name), name
        coarse = [np.unique(found.bins // 8, return_inverse=True) for found in (one, expected)]
        assert coarse[0][0].tolist() == coarse[1][0].tolist()
        for (bins, place), found in zip(coarse, (one, expected), strict=True):
            assert len(bins) == 0 or np.bincount(place, found.counts).sum() == found.counts.sum()


@pytest.mark.parametrize("sign", [1, -1])
def test_an_extreme_at_the_edge_of_its_bin_has_that_bin_to_itself(sign: int) -> None:
    (one,) = channel_statistics(
        channels_of([[sign * 7.484375, sign * 7.4, sign * 7.45, sign * 7.47]], axis=0), samples=1
    )
    assert one.counts[one.bins == bin_of(sign * 7.484375)].tolist() == [1]
    assert np.isfinite(np.concatenate(points_and_pieces(one))).all()


@given(samples(), st.sampled_from([0, 1, 2, -1]))
def test_the_kernel_ranks_rows_as_the_slow_way_does(activations: list[Array], axis: int) -> None:
    accumulator = RowAccumulator(no_rows(axis))
    for one in activations:
        accumulator.add(one)
    expected = reduce(merge_rows, [rows_of(one, axis) for one in activations])
    assert same_rows(accumulator.snapshot(), expected)
    assert same_rows(merge_rows(expected, no_rows(axis)), expected)


@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=6))
def test_a_row_lies_in_its_bin(row: list[float]) -> None:
    rows = rows_of([row], -1)
    second, largest = sorted(row)[-2:]
    (low, high), (least, most) = second_edges(rows), gap_edges(rows)
    assert low[0] <= second <= high[0]
    assert least[0] * (1 - 2**-23) <= largest - second <= most[0]


def test_rows_without_an_order_are_counted_apart() -> None:
    inf, nan = np.inf, np.nan
    rows = rows_of([[nan, 1.0], [inf, 1.0], [-inf, 1.0], [2.0, 2.0], [3.0, 1.0]], -1)
    assert (rows.nan, rows.infinite, rows.total) == (1, 2, 2)
    assert rows_of([[1.0], [nan]], -1).single == 1


def test_a_row_view_has_the_axis_last() -> None:
    assert row_view(np.arange(6, dtype=np.float32).reshape(2, 3), 0).tolist() == [[0, 3], [1, 4], [2, 5]]
    assert row_view(np.array(1, np.float32), -1).shape == (1, 1)


hashes = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=5, unique=True)


@given(samples(), hashes)
def test_provenance_names_a_sample_that_holds_it_whatever_the_order(activations: list[Array], names: list[str]) -> None:
    pairs = list(zip(names, activations, strict=False))
    found = []
    for order in (pairs, pairs[::-1]):
        accumulator = Accumulator()
        for name, one in order:
            accumulator.add(one, sample=name)
        found.append(accumulator.snapshot())
    assert same_statistics(*found)
    by_name = {name: statistics_of(one) for name, one in pairs}
    whole = found[0]
    holders = [name for name in sorted(by_name) if by_name[name].minimum == whole.minimum is not None]
    assert whole.provenance.minimum == (holders[0] if holders else None)
    odd = [name for name, one in sorted(by_name.items()) if one.finite < one.elements]
    assert whole.provenance.nonfinite == (odd[0] if odd else None)


@given(samples(), hashes)
def test_merging_parts_gives_the_same_provenance_as_one_pass(activations: list[Array], names: list[str]) -> None:
    whole, parts = Accumulator(), []
    for name, one in zip(names, activations, strict=False):
        whole.add(one, sample=name)
        part = Accumulator()
        part.add(one, sample=name)
        parts.append(part.snapshot())
    assert reduce(merge, parts).provenance == whole.snapshot().provenance


def test_the_unknown_provenance_is_the_identity() -> None:
    known = Provenance("a", "b", "c")
    assert joined(UNKNOWN, known, minima=(None, 1.0), maxima=(None, 1.0)) == known
