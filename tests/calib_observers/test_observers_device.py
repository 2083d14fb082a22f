"""Observers make every tensor on the device that they are told: on a GPU, one from elsewhere cannot be mixed in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qgraph.calib.observers.observe import observe
from qgraph.calib.statistics import statistics_of
from qgraph.solve.noise import Quantizer, noise_db
from qgraph.tqc import Scheme

VALUES = np.random.default_rng(0).standard_normal(5000).astype(np.float32)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("power_of_two", [True, False])
@pytest.mark.parametrize("name", ["minmax", "percentile", "mse", "kl"])
def test_an_observer_makes_nothing_on_the_default_device(name: str, symmetric: bool, power_of_two: bool) -> None:
    low = -128 if symmetric else 0
    how = Scheme(8, symmetric, symmetric, low, low + 255, power_of_two=power_of_two)
    statistics = [statistics_of(VALUES), statistics_of(np.maximum(VALUES, 0), (0.0,))]
    expected = observe(name, statistics, [how] * 2)
    with torch.device("meta"):  # what is made without saying where would be there, and hold nothing
        assert observe(name, statistics, [how] * 2) == expected


def test_noise_is_computed_on_the_device_alone() -> None:
    statistics = [statistics_of(VALUES)]
    quantizers = [Quantizer(0.02, 0, Scheme(8, signed=True, symmetric=True, quant_min=-128, quant_max=127))]
    expected = noise_db(statistics, quantizers)
    with torch.device("meta"):
        assert noise_db(statistics, quantizers) == expected
