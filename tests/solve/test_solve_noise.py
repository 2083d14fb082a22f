"""Noise and the price of a requantize, against the raw values."""

import numpy as np
import pytest
from numpy.typing import NDArray

from qgraph.calib.observers.observe import observe
from qgraph.calib.statistics import EMPTY_STATISTICS, statistics_of
from qgraph.solve import noise
from qgraph.solve.noise import Quantizer, channel_noise_db, noise_db, requantize_price_db
from qgraph.tqc import Scheme

SYMMETRIC = Scheme(8, signed=True, symmetric=True, quant_min=-128, quant_max=127)
ASYMMETRIC = Scheme(8, signed=False, symmetric=False, quant_min=0, quant_max=255)
FOUR = Scheme(4, signed=True, symmetric=True, quant_min=-8, quant_max=7)
SIXTEEN = Scheme(16, signed=True, symmetric=True, quant_min=-32768, quant_max=32767)
VALUES = (np.random.default_rng(0).laplace(0.5, 1, 200_000)).astype(np.float32)
STATISTICS = statistics_of(VALUES)


def quantized(x: NDArray[np.float64], how: Quantizer) -> NDArray[np.float64]:
    steps = np.clip(np.round(x / how.scale) + how.offset, how.scheme.quant_min, how.scheme.quant_max)
    return np.asarray((steps - how.offset) * how.scale)


def db(error: NDArray[np.float64], x: NDArray[np.float64]) -> float:
    return float(10 * np.log10((error**2).sum() / (x**2).sum()))


QUANTIZERS = [
    Quantizer(0.03, 0, SYMMETRIC),
    Quantizer(0.05, 100, ASYMMETRIC),
    Quantizer(0.5, 1, FOUR),
    Quantizer(0.0004, 0, SIXTEEN),
    Quantizer(0.01, 0, SYMMETRIC),
]


@pytest.mark.parametrize("how", QUANTIZERS, ids=str)
def test_noise_is_that_of_the_raw_values(how: Quantizer) -> None:
    x = VALUES.astype(np.float64)
    assert noise_db([STATISTICS], [how]) == [pytest.approx(db(quantized(x, how) - x, x), abs=0.03)]


@pytest.mark.parametrize("reader", QUANTIZERS, ids=str)
@pytest.mark.parametrize("producer", QUANTIZERS, ids=str)
def test_the_price_of_a_requantize_is_the_noise_that_it_adds(producer: Quantizer, reader: Quantizer) -> None:
    x = VALUES.astype(np.float64)
    once = quantized(x, producer)
    expected = db(quantized(once, reader) - x, x) - db(once - x, x)
    assert requantize_price_db([STATISTICS], [producer], [reader]) == [pytest.approx(expected, abs=0.05)]


@pytest.mark.parametrize("how", QUANTIZERS, ids=str)
def test_quantizing_again_with_the_same_parameters_is_free(how: Quantizer) -> None:
    assert requantize_price_db([STATISTICS], [how], [how]) == [0.0]


def test_noise_is_finite_at_both_limits() -> None:
    how = Quantizer(0.5, 0, SYMMETRIC)
    statistics = [statistics_of([0.0]), statistics_of([0.5, -1.5]), statistics_of([1e-20]), EMPTY_STATISTICS]
    assert noise_db(statistics, [how] * 4) == [-140.0, -140.0, 0.0, None]
    assert requantize_price_db(statistics, [how] * 4, [Quantizer(0.7, 0, SYMMETRIC)] * 4)[0] == 0.0
    assert requantize_price_db(statistics, [how] * 4, [how] * 4) == [0.0, 0.0, 0.0, None]


def test_noise_does_not_depend_on_what_else_is_asked() -> None:
    statistics = [statistics_of(VALUES[: 10 + 977 * index]) for index in range(60)]
    together = noise_db(statistics, [QUANTIZERS[index % 5] for index in range(60)])
    alone = [noise_db([one], [QUANTIZERS[index % 5]])[0] for index, one in enumerate(statistics)]
    assert together == alone


@pytest.mark.parametrize("batch", [1, 1 << 14])
def test_noise_of_channels_is_that_of_their_values_over_any_number_of_batches(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three tensors: one of five channels that is cut into batches, one without a finite value, one of one channel."""
    channels = [VALUES[index::5] * (index + 1) for index in range(5)]
    tensors = [[statistics_of(one) for one in channels], [EMPTY_STATISTICS], [STATISTICS]]
    quantizers = (tuple(QUANTIZERS), (QUANTIZERS[0],), (QUANTIZERS[1],))
    at_once = channel_noise_db(tensors, quantizers)
    errors = [quantized(one.astype(np.float64), how) - one for one, how in zip(channels, QUANTIZERS, strict=True)]
    expected = db(np.concatenate(errors), np.concatenate(channels).astype(np.float64))
    assert at_once == [pytest.approx(expected, abs=0.03), None, noise_db([STATISTICS], [QUANTIZERS[1]])[0]]
    monkeypatch.setattr(noise, "HALF_BATCH_EDGES", batch)
    assert channel_noise_db(tensors, quantizers) == at_once


def test_mse_has_the_least_noise() -> None:
    (found,) = observe("mse", [STATISTICS], [SYMMETRIC])
    assert found is not None
    others = [Quantizer(found[0] * factor, 0, SYMMETRIC) for factor in (0.9, 0.97, 1.03, 1.1)]
    best, *rest = noise_db([STATISTICS] * 5, [Quantizer(*found, SYMMETRIC), *others])
    assert best is not None
    assert all(one is not None and best < one for one in rest)
