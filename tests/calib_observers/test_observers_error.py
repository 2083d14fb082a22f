"""Densities, their error integrals and their moments, against sums over many values."""

import numpy as np
import pytest
import torch

from qgraph.calib import grid
from qgraph.calib.decibels import decibels
from qgraph.calib.observers.density import densities
from qgraph.calib.observers.error import error_energy, signal_energy
from qgraph.calib.observers.moments import moments_of
from qgraph.calib.statistics import TensorStatistics, statistics_of

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)
LOPSIDED = np.concatenate([RNG.normal(0.4, 1, 3000), np.full(500, 1.5), np.zeros(100), [-4.0] * 7]).astype(np.float32)


def spread(one: TensorStatistics, per_bin: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Values and weights that stand for a density: the points, and each bin as many equal parts."""
    known = {value: count for value, count in one.atoms if value}
    assert one.minimum is not None
    assert one.maximum is not None
    known |= {one.minimum: one.minimum_count, one.maximum: one.maximum_count}
    values, weights = [list(known)], [list(known.values())]
    lower, upper = grid.edges(one.bins)
    for index, low, high, count in zip(one.bins, lower, upper, one.counts, strict=True):
        left = count - sum(mass for value, mass in known.items() if int(grid.bin_of(value)) == index)
        low, high = max(low, one.minimum), min(high, one.maximum)
        values.append(list(low + (np.arange(per_bin) + 0.5) / per_bin * (high - low)))
        weights.append([left / per_bin] * per_bin)
    return np.concatenate(values), np.concatenate(weights)


STATISTICS = statistics_of(LOPSIDED, atoms=(1.5,))
VALUES, WEIGHTS = spread(STATISTICS)


@pytest.mark.parametrize(("scale", "low", "high"), [(0.05, -128, 127), (0.3, -3, 4), (1.0, 0, 3), (1e-3, -2000, 9000)])
def test_the_error_energy_is_the_sum_over_the_density(scale: float, low: int, high: int) -> None:
    expected = (WEIGHTS * (np.clip(np.round(VALUES / scale), low, high) * scale - VALUES) ** 2).sum()
    table = [torch.tensor([[float(number)]], dtype=torch.float64) for number in (scale, low, high)]
    assert error_energy(densities([STATISTICS], CPU), *table).item() == pytest.approx(expected, rel=2e-3)


def test_an_atom_is_exact() -> None:
    grid_values = statistics_of([1.5] * 900 + [-3.0, 3.0], atoms=(1.5,))
    table = [torch.tensor([[number]], dtype=torch.float64) for number in (1.5, -2.0, 2.0)]
    assert error_energy(densities([grid_values], CPU), *table).item() == 0


def test_signal_energy_is_the_sum_of_squares() -> None:
    expected = (LOPSIDED.astype(np.float64) ** 2).sum()
    assert signal_energy(densities([STATISTICS], CPU)).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("threshold", [-9.0, -4.0, -0.3, 0.0, 0.1234, 1.5, 1.6, 99.0])
def test_moments_split_the_values_at_a_threshold(threshold: float) -> None:
    moments = moments_of(densities([statistics_of([1e-3, 7.0]), STATISTICS], CPU))
    t = torch.tensor([[threshold], [threshold]], dtype=torch.float64)
    for found, side in ((moments.below(t), threshold > VALUES), (moments.above(t), threshold <= VALUES)):
        expected = [(WEIGHTS[side] * VALUES[side] ** order).sum() for order in range(3)]
        assert found[1, :, 0].tolist() == pytest.approx(expected, rel=1e-3, abs=1e-2)


def test_an_extreme_value_ends_the_density_of_its_bin() -> None:
    density = densities([statistics_of([1.0009, 1.001, 1.0015, 1.003])], CPU)
    assert density.edges.tolist() == [[float(np.float32(1.0009)), float(np.float32(1.003))]]
    assert density.masses.tolist() == [[1, 1]]


def test_decibels_are_finite_without_noise_and_without_signal() -> None:
    assert [decibels(0, 1), decibels(0, 0), decibels(1e-30, 1e10), decibels(1, 0), decibels(1e300, 1e-300)] == [
        -140,
        -140,
        -140,
        140,
        140,
    ]
