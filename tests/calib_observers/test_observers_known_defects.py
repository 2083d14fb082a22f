"""Defects that observers of other tools have: none of them is here."""

from __future__ import annotations

import numpy as np
import pytest

from qgraph.calib.observers.observe import SHIPPED, observe
from qgraph.calib.statistics import TensorStatistics, merge, repeated, statistics_of
from qgraph.tqc import Scheme, scale_and_offset

RNG = np.random.default_rng(11)
NORMAL = RNG.standard_normal(20_000).astype(np.float32)


def scheme(bits: int, *, symmetric: bool = True, signed: bool = True, power_of_two: bool = False) -> Scheme:
    low = -(1 << (bits - 1)) if signed else 0
    return Scheme(bits, signed, symmetric, low, low + (1 << bits) - 1, power_of_two=power_of_two)


def solved(name: str, statistics: TensorStatistics, how: Scheme) -> tuple[float, int]:
    (found,) = observe(name, [statistics], [how])
    assert found is not None
    return found


def squared_error(scale: float, offset: int, how: Scheme) -> float:
    x = NORMAL.astype(np.float64)
    levels = np.clip(np.round(x / scale) + offset, how.quant_min, how.quant_max) - offset
    return float(((levels * scale - x) ** 2).sum())


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_sixteen_bits_are_not_many_times_too_coarse(name: str, symmetric: bool, power_of_two: bool) -> None:
    how = scheme(16, symmetric=symmetric, power_of_two=power_of_two)
    whole, _ = scale_and_offset(float(NORMAL.min()), float(NORMAL.max()), how)
    assert whole / 4 < solved(name, statistics_of(NORMAL), how)[0] <= whole * 1.2


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_the_modelled_step_is_the_step(bits: int) -> None:
    how = scheme(bits)
    whole, _ = scale_and_offset(float(NORMAL.min()), float(NORMAL.max()), how)
    best = min(squared_error(whole * 2.0 ** (-j / 64), 0, how) for j in range(-32, 256))
    assert squared_error(*solved("mse", statistics_of(NORMAL), how), how) <= best * 1.01


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_kl_with_few_bits_does_not_clip_nearly_everything(bits: int, symmetric: bool) -> None:
    how = scheme(bits, symmetric=symmetric)
    scale, offset = solved("kl", statistics_of(NORMAL), how)
    low, high = (how.quant_min - offset) * scale, (how.quant_max - offset) * scale
    assert ((low <= NORMAL) & (high >= NORMAL)).mean() > 0.8


def test_kl_uses_the_integer_range_and_not_only_the_bits() -> None:
    narrow = Scheme(8, signed=True, symmetric=True, quant_min=-64, quant_max=63)
    wide, half = (solved("kl", statistics_of(NORMAL), how)[0] for how in (scheme(8), narrow))
    assert half > 1.3 * wide


def test_percentile_of_small_batches_is_not_a_mean_of_their_extremes() -> None:
    batches = [statistics_of([-1.0, 1.0]), statistics_of([-100.0, 100.0])]
    how = scheme(8)
    assert solved("percentile", merge(*batches), how) == scale_and_offset(-100.0, 100.0, how)


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_counts_beyond_32_bits_do_not_overflow(name: str) -> None:
    how, many = scheme(8), repeated(repeated(statistics_of(NORMAL), 3000), 1000)
    assert many.finite == 60_000_000_000
    scale, offset = solved(name, many, how)
    assert scale == pytest.approx(solved(name, statistics_of(NORMAL), how)[0], rel=0.3)
    assert offset == 0


def test_the_exact_maximum_is_counted() -> None:
    how = scheme(8, symmetric=False, signed=False)
    assert solved("minmax", statistics_of([0.0, 0.1, 6.0]), how) == scale_and_offset(0.0, 6.0, how)
    for name in sorted(SHIPPED):
        scale, _ = solved(name, statistics_of([6.0] * 1000 + [0.5]), how)
        assert min(round(6.0 / scale), 255) * scale == pytest.approx(6.0, rel=0.01)


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_a_signed_asymmetric_offset_begins_at_the_least_integer(name: str) -> None:
    how = scheme(8, symmetric=False)
    uniform = statistics_of(np.linspace(-1, 1, 5001))
    scale, offset = solved(name, uniform, how)
    assert scale * (how.quant_max - offset) == pytest.approx(1.0, rel=0.05)
    assert scale * (how.quant_min - offset) == pytest.approx(-1.0, rel=0.05)


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_the_offset_is_that_of_the_scale_after_it_became_a_power_of_two(name: str) -> None:
    how = scheme(8, symmetric=False, signed=False, power_of_two=True)
    scale, offset = solved(name, statistics_of(np.linspace(-1, 2, 5001)), how)
    assert np.frexp(scale)[0] == 0.5
    assert offset * scale == pytest.approx(1.0, abs=0.2)
    assert 0 <= offset <= 255


@pytest.mark.parametrize("name", sorted(SHIPPED))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_changes_no_scale(name: str, value: float) -> None:
    how = scheme(8, symmetric=False)
    assert solved(name, statistics_of([*NORMAL, value]), how) == solved(name, statistics_of(NORMAL), how)


def test_a_symmetric_scale_puts_the_largest_magnitude_on_the_end_of_the_range() -> None:
    assert solved("minmax", statistics_of([-127.0, 3.0]), scheme(8)) == (1.0, 0)
