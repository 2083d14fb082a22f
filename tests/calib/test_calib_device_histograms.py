"""A GPU's kernels count exactly what the slow version counts; without a GPU they run in Triton's interpreter."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from activations import ATOMS, AWKWARD, activations, from_bits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from triton_place import PLACE

from qgraph.calib.gpu.histograms import BLOCK, CHUNK, DeviceHistograms
from qgraph.calib.provenance import Provenance
from qgraph.calib.statistics import TensorStatistics, empty_statistics, merge, same_statistics, statistics_of


def counted(*arrays: NDArray[np.generic] | torch.Tensor, atoms: tuple[float, ...] = ATOMS) -> TensorStatistics:
    histograms = DeviceHistograms({"x": empty_statistics(atoms)}, PLACE)
    for array in arrays:
        histograms.add({"x": array}, (None,))
    return histograms.snapshot()["x"]


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(activations(), max_size=3))
def test_the_kernel_agrees_with_the_slow_version(arrays: list[NDArray[np.float32]]) -> None:
    expected = empty_statistics(ATOMS)
    for array in arrays:
        expected = merge(expected, statistics_of(array, ATOMS))
    assert same_statistics(counted(*arrays), expected)


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, CHUNK + 17])
@pytest.mark.parametrize("atoms", [(), (6.0,), (-1.0, 0.0, 0.5, 6.0, 7.0)])
def test_programs_join_without_a_seam(size: int, atoms: tuple[float, ...]) -> None:
    values = np.clip(np.random.default_rng(size).normal(0, 4, size), -1, 6).astype(np.float32)
    values[: len(AWKWARD)] = from_bits(list(AWKWARD))[:size]
    assert same_statistics(counted(values, atoms=atoms), statistics_of(values, atoms))


@pytest.mark.parametrize("value", [0.0, -0.0, 3.0, -3e38, 1e-45, float("nan"), float("inf")])
def test_a_constant_is_counted_once_per_element(value: float) -> None:
    values = np.full(2 * BLOCK + 3, value, np.float32)
    assert same_statistics(counted(values), statistics_of(values, ATOMS))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_are_counted_as_their_float32(dtype: torch.dtype) -> None:
    if dtype == torch.float64:
        values = torch.cat([torch.randn(500, dtype=dtype) * 1e-38, torch.tensor([1e300, float("nan")], dtype=dtype)])
    else:
        values = torch.arange(-(2**15), 2**15).to(torch.int16)[:: 1 if PLACE.type == "cuda" else 7].view(dtype)
    expected = statistics_of(values.to(torch.float32).numpy(), ATOMS)
    assert same_statistics(counted(values.to(PLACE)), expected)


def test_any_layout_can_be_added() -> None:
    values = torch.randn(6, 8, device=PLACE)
    for view in (values.T, values[::2, 1::3], values[:1].expand(5, 8), values[0, 0], values[:0]):
        assert same_statistics(counted(view), statistics_of(view.cpu().numpy(), ATOMS))


def test_counting_goes_on_from_statistics_and_a_snapshot_does_not_change() -> None:
    start = statistics_of([1.0, 6.0], ATOMS)
    histograms = DeviceHistograms({"x": start}, PLACE)
    histograms.add({"x": np.array([7.0, 0.0], np.float32)}, (None,))
    snapshot = histograms.snapshot()["x"]
    histograms.add({"x": np.ones(4, np.float32)}, (None,))
    assert same_statistics(snapshot, merge(start, statistics_of([7.0, 0.0], ATOMS)))


def test_who_holds_the_extremes_is_known_per_sample_of_a_batch() -> None:
    histograms = DeviceHistograms({"x": empty_statistics(), "whole": empty_statistics()}, PLACE)
    batch = np.array([[1.0, 5.0], [-2.0, 5.0], [np.nan, 0.0]], np.float32)
    histograms.add({"x": batch, "whole": batch.reshape(-1)}, ("c", "a", "b"))
    histograms.add({"x": batch[:1], "whole": batch[:1]}, ("0",))
    found = histograms.snapshot()
    assert found["x"].provenance == Provenance(minimum="a", maximum="0", nonfinite="b")
    assert found["whole"].provenance == Provenance(minimum="a", maximum="0", nonfinite="a")
    both = [statistics_of(batch[:, None][index], samples=1) for index in (0, 1, 2, 0)]
    expected = merge(merge(both[0], both[1]), merge(both[2], both[3]))
    assert same_statistics(replace(found["x"], provenance=expected.provenance), expected)


def test_a_full_log_is_read_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qgraph.calib.gpu.histograms.LOGGED_BYTES", 1)
    values = np.arange(10, dtype=np.float32)
    assert same_statistics(counted(values, -values), merge(statistics_of(values, ATOMS), statistics_of(-values, ATOMS)))
