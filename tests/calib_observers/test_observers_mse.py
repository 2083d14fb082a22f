"""The mse observer against a literal search over scales and zero points on the raw values."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from literal_mse import Values, brute_force, error, scheme

from qgraph.calib.observers.observe import observe
from qgraph.calib.statistics import TensorStatistics, merge, statistics_of
from qgraph.tqc import Scheme, scale_and_offset

COUNT = 6000


def relu6(rng: np.random.Generator) -> Values:
    return np.clip(rng.normal(2, 3, COUNT), 0, 6).astype(np.float32)


def outliers(rng: np.random.Generator) -> Values:
    values = rng.standard_normal(COUNT).astype(np.float32)
    values[:3] = 40, -60, 50
    return values


DATA: dict[str, Callable[[np.random.Generator], Values]] = {
    "gaussian": lambda rng: rng.standard_normal(COUNT).astype(np.float32),
    "laplace": lambda rng: rng.laplace(size=COUNT).astype(np.float32),
    "relu": lambda rng: np.maximum(rng.standard_normal(COUNT), 0).astype(np.float32),
    "relu6": relu6,
    "hardswish": lambda rng: (lambda x: (x * np.clip(x + 3, 0, 6) / 6).astype(np.float32))(rng.normal(0, 2, COUNT)),
    "outliers": outliers,
    "negative": lambda rng: -np.abs(rng.standard_normal(COUNT)).astype(np.float32) - 1,
    "bimodal": lambda rng: np.where(
        rng.random(COUNT) < 0.3, rng.normal(-4, 0.3, COUNT), rng.normal(5, 1, COUNT)
    ).astype(np.float32),
    "uniform": lambda rng: rng.uniform(-1, 3, COUNT).astype(np.float32),
    "sparse": lambda rng: np.maximum(rng.normal(-1.5, 1, COUNT), 0).astype(np.float32),
    "one outlier": lambda rng: np.append(rng.standard_normal(COUNT), 1e6).astype(np.float32),
    "seven values": lambda rng: rng.standard_normal(7).astype(np.float32),
    "two values": lambda rng: rng.choice(np.array([-0.3, 1.7], np.float32), COUNT),
    "one value": lambda rng: np.array([3.3], np.float32),
    "constant": lambda rng: np.full(COUNT, -0.7, np.float32),
    "tiny": lambda rng: (rng.standard_normal(COUNT) * 1e-33).astype(np.float32),
    "huge": lambda rng: (rng.standard_normal(COUNT) * 1e37).astype(np.float32),
}


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8, 16])
@pytest.mark.parametrize("name", DATA)
def test_the_error_is_that_of_the_best_scale_and_zero_point(name: str, bits: int, symmetric: bool) -> None:
    values = DATA[name](np.random.default_rng(7))
    atoms = (0.0, 6.0) if name == "relu6" else ()
    how = scheme(bits, symmetric=symmetric)
    (found,) = observe("mse", [statistics_of(values, atoms)], [how])
    assert found is not None
    achieved = error(values, *found, how)
    signal = float((values.astype(np.float64) ** 2).sum())
    if achieved <= signal * 1e-5:
        return
    assert bits < 16
    assert achieved <= brute_force(values, how) * 10**0.005


@pytest.mark.parametrize("signed", [True, False])
def test_an_unsigned_symmetric_scheme_has_its_offset_in_the_middle(signed: bool) -> None:
    values = np.random.default_rng(1).standard_normal(COUNT).astype(np.float32)
    (found,) = observe("mse", [statistics_of(values)], [scheme(8, signed=signed)])
    assert found is not None
    assert found[1] == (0 if signed else 128)


def test_an_unsigned_asymmetric_scheme_has_the_same_levels_as_a_signed_one() -> None:
    statistics = [statistics_of(np.random.default_rng(2).gamma(2, size=COUNT) - 1)]
    (signed,) = observe("mse", statistics, [scheme(8, symmetric=False)])
    (unsigned,) = observe("mse", statistics, [scheme(8, symmetric=False, signed=False)])
    assert signed is not None
    assert unsigned == (signed[0], signed[1] + 128)


def test_a_reduced_range_is_respected() -> None:
    values = DATA["gaussian"](np.random.default_rng(3))
    how = Scheme(8, signed=True, symmetric=True, quant_min=-64, quant_max=63)
    (found,) = observe("mse", [statistics_of(values)], [how])
    assert found is not None
    assert error(values, *found, how) <= brute_force(values, how) * 10**0.005


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [3, 8])
def test_a_power_of_two_scheme_gets_the_best_power_of_two(bits: int, symmetric: bool) -> None:
    values = DATA["laplace"](np.random.default_rng(4))
    how = scheme(bits, symmetric=symmetric, power_of_two=True)
    (found,) = observe("mse", [statistics_of(values)], [how])
    assert found is not None
    scale, offset = found
    assert np.frexp(scale)[0] == 0.5
    offsets = [0] if symmetric else range(how.quant_min, how.quant_max + 1)
    best = min(error(values, 2.0**k, o, how) for k in range(-9, 4) for o in offsets)
    assert error(values, scale, offset, how) <= best * 10**0.005


def test_sixteen_bits_are_not_coarser_than_the_range_asks_for() -> None:
    values = DATA["gaussian"](np.random.default_rng(5))
    how = scheme(16)
    (found,) = observe("mse", [statistics_of(values)], [how])
    assert found is not None
    assert found[0] <= 1.2 * scale_and_offset(float(values.min()), float(values.max()), how)[0]


def test_a_far_outlier_of_many_values_is_clipped() -> None:
    calm = statistics_of(np.random.default_rng(6).standard_normal(COUNT))
    crowd = replace(
        calm,
        counts=calm.counts * 100_000,
        minimum_count=calm.minimum_count * 100_000,
        maximum_count=calm.maximum_count * 100_000,
    )
    statistics = merge(crowd, statistics_of([1000.0]))
    (found,) = observe("mse", [statistics], [scheme(8)])
    assert found is not None
    assert found[0] * 127 < 10


def many(count: int) -> list[TensorStatistics]:
    rng = np.random.default_rng(8)
    shapes = list(DATA.values())
    return [statistics_of(shapes[index % len(shapes)](rng), atoms=(0.0, 6.0)) for index in range(count)]


@pytest.mark.parametrize("symmetric", [True, False])
def test_what_is_solved_alone_among_others_or_in_another_order_is_the_same(symmetric: bool) -> None:
    statistics = many(150)
    how = scheme(8, symmetric=symmetric)
    together = observe("mse", statistics, [how] * len(statistics))
    backwards = observe("mse", statistics[::-1], [how] * len(statistics))[::-1]
    alone = [observe("mse", [one], [how])[0] for one in statistics[:24]]
    assert together == backwards
    assert together[:24] == alone


def test_the_number_of_threads_changes_nothing() -> None:
    statistics = many(24)
    schemes = [scheme(8, symmetric=index % 2 == 0) for index in range(24)]
    before = torch.get_num_threads()
    answers = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            answers.append(observe("mse", statistics, schemes))
    finally:
        torch.set_num_threads(before)
    assert answers[0] == answers[1]
