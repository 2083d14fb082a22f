"""The kl observer against a literal implementation of the published algorithm on the raw values."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from qgraph.calib.observers.observe import ScaleAndOffset, observe
from qgraph.calib.statistics import TensorStatistics, same_statistics, statistics_of
from qgraph.tqc import Scheme, scale_and_offset

Values = NDArray[np.float32]
BINS, LEVELS = 2048, 128


def scheme(bits: int = 8, *, signed: bool = True, symmetric: bool = True, power_of_two: bool = False) -> Scheme:
    low = -(1 << (bits - 1)) if signed else 0
    return Scheme(bits, signed, symmetric, low, low + (1 << bits) - 1, power_of_two=power_of_two)


def solve(statistics: TensorStatistics, how: Scheme, *, zeros: bool = True) -> ScaleAndOffset:
    (found,) = observe("kl", [statistics], [how], parameters={"zeros": zeros})
    assert found is not None
    return found


def outliers(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    values = rng.standard_normal(count)
    values[:3] = 40, -60, 50
    return values


DATA: dict[str, Callable[[np.random.Generator, int], NDArray[np.float64]]] = {
    "gaussian": lambda rng, n: rng.standard_normal(n),
    "laplace": lambda rng, n: rng.laplace(size=n),
    "relu": lambda rng, n: np.maximum(rng.standard_normal(n), 0),
    "sparse": lambda rng, n: np.maximum(rng.normal(-1.5, 1, n), 0),
    "relu6": lambda rng, n: np.clip(rng.normal(2, 3, n), 0, 6),
    "hardswish": lambda rng, n: (lambda x: x * np.clip(x + 3, 0, 6) / 6)(rng.normal(0, 2, n)),
    "lognormal": lambda rng, n: rng.lognormal(size=n),
    "outliers": outliers,
}


def values_of(name: str, count: int = 20_000, seed: int = 7) -> Values:
    return DATA[name](np.random.default_rng(seed), count).astype(np.float32)


def literal_divergence(histogram: NDArray[np.int64], bins: int, levels: int = LEVELS) -> float:
    """KL(P, Q) of the first `bins` bins; what is clipped goes to the last of them that is not empty."""
    kept = histogram[:bins].astype(np.float64)
    full = np.flatnonzero(kept)
    if not full.size:
        return math.inf
    reference = kept.copy()
    reference[full[-1]] += histogram[bins:].sum()
    quantized = np.zeros_like(kept)
    for level in range(levels):
        group = np.arange(math.ceil(level * bins / levels), math.ceil((level + 1) * bins / levels))
        occupied = group[kept[group] > 0]
        quantized[occupied] = kept[occupied].sum() / max(occupied.size, 1)
    p, q = reference[full] / reference.sum(), quantized[full] / quantized.sum()
    return float((p * np.log(p / q)).sum())


def signal_to_noise(values: Values, found: ScaleAndOffset, how: Scheme) -> float:
    x, (scale, offset) = values.astype(np.float64), found
    q = np.clip(np.round(x / scale) + offset, how.quant_min, how.quant_max)
    noise = float((((q - offset) * scale - x) ** 2).sum())
    return 10 * math.log10(float((x**2).sum()) / noise) if noise else math.inf


@pytest.mark.parametrize("name", [name for name in DATA if name not in ("outliers", "sparse")])
def test_the_divergence_on_raw_data_is_that_of_the_literal_algorithm(name: str) -> None:
    values = np.abs(values_of(name, 200_000))
    histogram, _ = np.histogram(values, BINS, (0, values.max()))
    # A literal candidate ends in a bin that is not empty; elsewhere its divergence is infinite.
    candidates = [bins for bins in range(LEVELS, BINS + 1, 4) if histogram[bins - 1]]
    least = min(literal_divergence(histogram, bins) for bins in candidates)
    scale, _ = solve(statistics_of(values, (0.0, 6.0)), scheme())
    bins = round(scale * (LEVELS - 1) / float(values.max()) * BINS)
    assert literal_divergence(histogram, bins) <= 1.02 * least


@pytest.mark.parametrize(("name", "seed", "apart"), [("laplace", 0, 0.1), ("hardswish", 3, 2**-8)])
def test_values_that_another_runtime_rounds_differently_may_move_it_between_ranges_that_are_as_good(
    name: str, seed: int, apart: float
) -> None:
    """The divergence is jagged over the ranges, so its least place is not continuous in the values; the least is."""
    values = np.abs(values_of(name, seed=seed))
    rounding = np.random.default_rng(seed).uniform(-1e-5, 1e-5, (12, values.size))
    scales = [solve(statistics_of((values * (1 + part)).astype(np.float32)), scheme())[0] for part in rounding]
    assert max(scales) / min(scales) > 1 + apart
    histogram, _ = np.histogram(values, BINS, (0, values.max()))
    costs = [literal_divergence(histogram, round(s * (LEVELS - 1) / float(values.max()) * BINS)) for s in scales]
    assert max(costs) <= 1.01 * min(costs)


def test_far_outliers_are_clipped_as_the_literal_algorithm_does() -> None:
    values = np.abs(values_of("outliers", 200_000))
    histogram, _ = np.histogram(values, BINS, (0, values.max()))
    least = min(literal_divergence(histogram, bins) for bins in range(LEVELS, 600))
    scale, _ = solve(statistics_of(values), scheme())
    assert literal_divergence(histogram, round(scale * 127 / 60 * BINS)) <= 1.02 * least
    assert scale * 127 < 6


def moved_within_bins(values: Values, rng: np.random.Generator) -> Values:
    """Other values with the same statistics: the bits below those of a bin are random, but for the outermost bins."""
    bins = values.view(np.uint32) >> 15
    moved = ((bins << 15) | rng.integers(0, 1 << 15, values.size, dtype=np.uint32)).view(np.float32)
    outermost = (bins == bins[values.argmax()]) | (bins == bins[values.argmin()])
    return np.where(outermost | (values == 0), values, moved)


def test_no_range_is_near_the_best_of_all_sets_of_few_values_that_have_the_same_statistics() -> None:
    values = np.abs(np.random.default_rng(1).choice(values_of("gaussian", 100_000), 300, replace=False))
    rng, curves = np.random.default_rng(5), []
    for index in range(12):
        same = moved_within_bins(values, rng) if index else values
        assert same_statistics(statistics_of(same), statistics_of(values))
        histogram, _ = np.histogram(same, BINS, (0, values.max()))
        curves.append([literal_divergence(histogram, bins) for bins in range(LEVELS, BINS + 1, 8)])
    excess = np.array(curves) / np.min(curves, axis=1, keepdims=True)
    assert excess.max(axis=0).min() > 1.1


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("name", [name for name in DATA if name not in ("outliers", "lognormal")])
def test_no_number_of_bits_makes_it_collapse(name: str, bits: int, symmetric: bool) -> None:
    values, how = values_of(name), scheme(bits, symmetric=symmetric)
    statistics = statistics_of(values, (0.0, 6.0))
    (best,) = observe("mse", [statistics], [how])
    assert best is not None
    for zeros in (True, False):
        found = solve(statistics, how, zeros=zeros)
        assert signal_to_noise(values, found, how) >= min(signal_to_noise(values, best, how) - 8, 17)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", DATA)
def test_sixteen_bits_hold_the_whole_range(name: str, symmetric: bool) -> None:
    values, how = values_of(name), scheme(16, symmetric=symmetric)
    found = solve(statistics_of(values), how)
    assert found == scale_and_offset(float(values.min()), float(values.max()), how)


@pytest.mark.parametrize(
    "how", [scheme(bits, symmetric=s) for bits in (2, 3, 4, 8, 16) for s in (True, False)], ids=str
)
@pytest.mark.parametrize("values", [[0.1] * 9, [-0.3, 1.7] * 50, [0.0] * 9999 + [1.0], [-2.0, 0.0, 0.5]], ids=len)
def test_a_few_values_are_not_clipped(values: list[float], how: Scheme) -> None:
    array = np.array(values, np.float32)
    found = solve(statistics_of(array), how)
    assert found == scale_and_offset(float(array.min()), float(array.max()), how)


def test_an_outlier_that_would_leave_only_zeros_does_not_set_the_range() -> None:
    values = values_of("gaussian", 100_000)
    values[0] = 1e9
    for how in (scheme(), scheme(symmetric=False), scheme(4)):
        assert signal_to_noise(values[1:], solve(statistics_of(values), how), how) > 15


def test_one_sided_values_use_all_levels_of_an_asymmetric_scheme() -> None:
    how = scheme(symmetric=False)
    scale, offset = solve(statistics_of(values_of("relu6"), (0.0, 6.0)), how)
    assert (scale, offset) == scale_and_offset(0.0, 6.0, how)
    scale, offset = solve(statistics_of(-values_of("relu6"), (-6.0, 0.0)), how)
    assert (scale, offset) == scale_and_offset(-6.0, 0.0, how)


def test_mirrored_values_get_a_mirrored_range() -> None:
    values, how = values_of("lognormal") - 1, scheme(symmetric=False)
    scale, offset = solve(statistics_of(values), how)
    mirrored, other = solve(statistics_of(-values), how)
    assert mirrored == pytest.approx(scale, rel=0.05)
    assert other + offset == pytest.approx(-1, abs=4)


def test_the_integer_range_decides_and_not_the_bits() -> None:
    statistics = statistics_of(values_of("gaussian"))
    narrow = Scheme(8, signed=True, symmetric=True, quant_min=-8, quant_max=7)
    assert solve(statistics, narrow) == solve(statistics, scheme(4))
    assert solve(statistics, Scheme(8, True, True, -127, 127)) == solve(statistics, scheme())


def test_an_unsigned_scheme_has_the_levels_of_a_signed_one() -> None:
    statistics = statistics_of(values_of("hardswish"))
    for symmetric in (True, False):
        scale, offset = solve(statistics, scheme(symmetric=symmetric))
        assert solve(statistics, scheme(symmetric=symmetric, signed=False)) == (scale, offset + 128)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [3, 4, 8, 16])
def test_a_power_of_two_scheme_gets_one_next_to_the_free_scale(bits: int, symmetric: bool) -> None:
    values = values_of("laplace")
    free, _ = solve(statistics_of(values), scheme(bits, symmetric=symmetric))
    how = scheme(bits, symmetric=symmetric, power_of_two=True)
    found = solve(statistics_of(values), how)
    assert np.frexp(found[0])[0] == 0.5
    assert free / 2 < found[0] < free * 2
    assert signal_to_noise(values, found, how) > 5


def test_zeros_may_be_left_out() -> None:
    values = np.abs(values_of("gaussian"))
    sparse = np.concatenate([values, np.zeros(4 * values.size, np.float32)])
    assert solve(statistics_of(sparse), scheme(), zeros=False) == solve(statistics_of(values), scheme())
    assert solve(statistics_of(sparse), scheme())[0] < solve(statistics_of(values), scheme())[0]


def test_an_asymmetric_range_does_not_depend_on_zeros() -> None:
    values, how = np.abs(values_of("gaussian")), scheme(symmetric=False)
    sparse = np.concatenate([values, np.zeros(9 * values.size, np.float32)])
    assert solve(statistics_of(sparse), how) == solve(statistics_of(values), how)
    assert signal_to_noise(sparse, solve(statistics_of(sparse), how), how) > 30


@pytest.mark.parametrize("symmetric", [True, False])
def test_what_is_solved_alone_among_others_or_in_another_order_is_the_same(symmetric: bool) -> None:
    statistics = [statistics_of(values_of(name, 2000 + 500 * i, i), (0.0, 6.0)) for i, name in enumerate(DATA)] * 2
    schemes = [scheme(symmetric=symmetric)] * len(statistics)
    together = observe("kl", statistics, schemes)
    assert together == observe("kl", statistics[::-1], schemes)[::-1]
    assert together == [observe("kl", [one], schemes[:1])[0] for one in statistics]
