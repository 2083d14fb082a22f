"""The percentile observer against order statistics of the raw values."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from qgraph.calib.observers.catalog import entry_of, parse_parameters, resolve_parameters
from qgraph.calib.observers.observe import ScaleAndOffset, observe
from qgraph.calib.statistics import TensorStatistics, merge, statistics_of
from qgraph.errors import NotFoundError, QgraphError, UsageError
from qgraph.tqc import Scheme, scale_and_offset

Values = NDArray[np.float32]
ONE_BIN = 2.0**-8
"""Relative width of the widest bin of the grid."""


def scheme(bits: int = 8, *, signed: bool = True, symmetric: bool = False, power_of_two: bool = False) -> Scheme:
    low = -(1 << (bits - 1)) if signed else 0
    return Scheme(bits, signed, symmetric, low, low + (1 << bits) - 1, power_of_two=power_of_two)


def ends(values: Values, percentile: float) -> tuple[float, float]:
    """The order statistics, from the sorted values."""
    ordered = np.sort(values)
    left_out = int(round(values.size * (1 - percentile), 6))
    return float(ordered[left_out]), float(ordered[-1 - left_out])


def solve(statistics: TensorStatistics, how: Scheme, percentile: float = 0.9999) -> ScaleAndOffset:
    (found,) = observe("percentile", [statistics], [how], parameters={"percentile": percentile})
    assert found is not None
    return found


DATA = {
    "gaussian": lambda rng, n: rng.standard_normal(n),
    "shifted": lambda rng, n: rng.standard_normal(n) * 0.1 - 5,
    "laplace": lambda rng, n: rng.laplace(size=n),
    "relu": lambda rng, n: np.maximum(rng.standard_normal(n), 0),
    "heavy": lambda rng, n: rng.standard_t(2, n),
    "tiny": lambda rng, n: rng.gamma(2, size=n) * 1e-30,
}


@pytest.mark.parametrize("percentile", [0.6, 0.99, 0.9999, 1.0])
@pytest.mark.parametrize("name", DATA)
def test_both_ends_are_order_statistics_within_one_bin(name: str, percentile: float) -> None:
    values = DATA[name](np.random.default_rng(1), 40_000).astype(np.float32)
    low, high = ends(values, percentile)
    scale, offset = solve(statistics_of(values), scheme(16), percentile)
    found = (-32768 - offset) * scale, (32767 - offset) * scale
    wanted = min(low, 0.0), max(high, 0.0)
    assert found == pytest.approx(wanted, rel=ONE_BIN, abs=scale)


@pytest.mark.parametrize("name", DATA)
def test_a_symmetric_scheme_takes_the_larger_magnitude_of_both(name: str) -> None:
    values = DATA[name](np.random.default_rng(2), 40_000).astype(np.float32)
    low, high = ends(values, 0.99)
    scale, offset = solve(statistics_of(values), scheme(symmetric=True), 0.99)
    assert offset == 0
    assert scale * 127 == pytest.approx(max(-low, high), rel=ONE_BIN)


def test_a_rank_among_equal_values_that_are_known_is_exact() -> None:
    values = np.clip(np.random.default_rng(3).normal(2, 3, 50_000), 0, 20).astype(np.float32)
    values[:400] = 6.3
    values[400:410] = 19.9
    values[values > 6.3] = np.where(np.arange((values > 6.3).sum()) < 300, values[values > 6.3], 6.2)
    atom = float(np.float32(6.3))
    assert ends(values, 0.99)[1] == atom
    assert solve(statistics_of(values, (atom,)), scheme(), 0.99) == scale_and_offset(0.0, atom, scheme())


@pytest.mark.parametrize("how", [scheme(2), scheme(4, signed=False), scheme(8, symmetric=True), scheme(16)], ids=str)
@pytest.mark.parametrize("count", [1, 2, 100, 9_999])
def test_few_values_are_all_kept(count: int, how: Scheme) -> None:
    values = np.random.default_rng(count).standard_normal(count).astype(np.float32)
    assert solve(statistics_of(values), how) == scale_and_offset(float(values.min()), float(values.max()), how)


def test_the_percentile_is_of_all_data_and_not_a_mean_of_batches() -> None:
    batches = [np.full(100, value, np.float32) for value in (1.0, 100.0)]
    together = merge(*(statistics_of(batch) for batch in batches))
    assert solve(together, scheme()) == scale_and_offset(0.0, 100.0, scheme())


def test_outliers_beyond_the_percentile_do_not_widen_the_range() -> None:
    values = np.random.default_rng(4).standard_normal(100_000).astype(np.float32)
    values[:5] = 1e6
    assert solve(statistics_of(values), scheme(symmetric=True))[0] * 127 < 5


def test_a_tensor_that_is_nearly_all_zeros_keeps_its_whole_range() -> None:
    values = np.zeros(1_000_000, np.float32)
    values[:20] = 3.0
    assert solve(statistics_of(values), scheme()) == scale_and_offset(0.0, 3.0, scheme())


def test_billions_of_values_are_counted_exactly() -> None:
    calm = statistics_of(np.linspace(0.5, 1, 1000))
    crowd = replace(calm, counts=calm.counts * 10**10, minimum_count=10**10, maximum_count=10**10)
    far = merge(
        crowd,
        replace(statistics_of([50.0]), counts=np.array([2 * 10**9]), maximum_count=2 * 10**9, minimum_count=2 * 10**9),
    )
    assert solve(far, scheme(symmetric=True))[0] * 127 == pytest.approx(50)
    assert solve(far, scheme(symmetric=True), 0.999)[0] * 127 == pytest.approx(1, rel=ONE_BIN)


def test_a_power_of_two_scheme_holds_the_range() -> None:
    values = np.random.default_rng(5).standard_normal(50_000).astype(np.float32)
    low, high = ends(values, 0.99)
    scale, offset = solve(statistics_of(values), scheme(power_of_two=True), 0.99)
    assert np.frexp(scale)[0] == 0.5
    assert (-128 - offset) * scale <= low * (1 - ONE_BIN)
    assert (127 - offset) * scale >= high * (1 - ONE_BIN)


@pytest.mark.parametrize("symmetric", [True, False])
def test_what_is_solved_alone_or_among_others_is_the_same(symmetric: bool) -> None:
    rng = np.random.default_rng(6)
    shapes = list(DATA.values())
    statistics = [statistics_of(shapes[i % len(shapes)](rng, 100 + 900 * i), (0.0, 6.0)) for i in range(40)]
    schemes = [scheme(symmetric=symmetric)] * len(statistics)
    together = observe("percentile", statistics, schemes)
    assert together == observe("percentile", statistics[::-1], schemes)[::-1]
    assert together == [observe("percentile", [one], schemes[:1])[0] for one in statistics]


@pytest.mark.parametrize("name", ["precentile", "Precentile", "PERCENTILE"])
def test_the_seeds_spelling_is_an_alias(name: str) -> None:
    assert entry_of(name).name == "percentile"


@pytest.mark.parametrize(
    ("assignment", "error", "words"),
    [
        ("percentil=0.9", NotFoundError, "did you mean percentile"),
        ("percentile=99.99", UsageError, "from 0.5 to 1.0"),
        ("percentile=nan", UsageError, "limits"),
        ("percentile=much", UsageError, "type float"),
        ("percentile", UsageError, "NAME=VALUE"),
        ("=0.9", UsageError, "NAME=VALUE"),
    ],
)
def test_a_parameter_that_cannot_work_is_refused(assignment: str, error: type[QgraphError], words: str) -> None:
    with pytest.raises(error, match=words):
        parse_parameters(entry_of("percentile"), [assignment])


def test_parameters_have_the_type_of_their_default() -> None:
    assert parse_parameters(entry_of("percentile"), ["percentile = 1"]) == {"percentile": 1.0}
    assert parse_parameters(entry_of("mse"), ["octaves=3", "octaves=5"]) == {"octaves": 5}
    assert parse_parameters(entry_of("kl"), ["zeros=False"]) == {"zeros": False}
    assert dict(resolve_parameters(entry_of("percentile"), {"percentile": 1})) == {"percentile": 1.0}
