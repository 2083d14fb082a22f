"""Weight scales and bias magnitudes from raw values."""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from literal_weights import solve_weight as literally
from numpy.typing import NDArray

from qgraph.calib.observers import minmax, mse
from qgraph.calib.weights import candidates
from qgraph.calib.weights import slabs as weight_slabs
from qgraph.calib.weights.scales import bias_magnitude, solve_weight
from qgraph.errors import ModelError, NotFoundError, UsageError
from qgraph.tqc import Scheme, scale_and_offset


def scheme(bits: int = 8, axis: int | None = None, *, power_of_two: bool = False) -> Scheme:
    low = -(1 << (bits - 1)) + 1
    return Scheme(bits, True, True, low, -low, axis=axis, power_of_two=power_of_two)


def noise(values: NDArray[np.float32], scale: NDArray[np.float64], how: Scheme) -> float:
    x = values.astype(np.float64)
    q = np.clip(np.round(x / scale), how.quant_min, how.quant_max) * scale
    return float(10 * np.log10(((q - x) ** 2).sum() / (x**2).sum()))


WEIGHT = np.random.default_rng(0).laplace(size=(6, 5, 4, 3)).astype(np.float32) * np.arange(1, 7)[:, None, None, None]
WEIGHT = WEIGHT.astype(np.float32)


@pytest.mark.parametrize("axis", [None, 0, 1, 3])
def test_minmax_is_the_scale_of_each_channels_range(axis: int | None) -> None:
    (found,) = solve_weight("w", WEIGHT, [scheme(axis=axis)], methods=["minmax"])
    channels = WEIGHT.reshape(1, -1) if axis is None else np.moveaxis(WEIGHT, axis, 0).reshape(WEIGHT.shape[axis], -1)
    assert found.scale == tuple(scale_and_offset(float(c.min()), float(c.max()), scheme())[0] for c in channels)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("length", [9, 300, 10_000])
def test_mse_is_the_best_of_a_literal_search(bits: int, length: int) -> None:
    values = np.random.default_rng(bits).standard_normal((2, length)).astype(np.float32)
    how = scheme(bits, axis=0)
    (found,) = solve_weight("w", values, [how], methods=["MSE"])
    for channel, scale in zip(values, found.scale, strict=True):
        whole = float(np.abs(channel).max()) / how.half_range
        best = min(noise(channel, np.array(whole * 2.0 ** (-j / 60)), how) for j in range(240))
        assert noise(channel, np.array(scale), how) <= best + 0.05


def test_noise_is_that_of_the_raw_values() -> None:
    for found in solve_weight("w", WEIGHT, [scheme(4), scheme(4, axis=1)]):
        shape = (1, -1, 1, 1) if found.scheme.axis == 1 else (1, 1, 1, 1)
        assert found.noise_db == pytest.approx(noise(WEIGHT, np.array(found.scale).reshape(shape), found.scheme))


def test_schemes_and_methods_come_in_order() -> None:
    found = solve_weight("w", WEIGHT, [scheme(8), scheme(4)])
    assert [(one.scheme.bits, one.method) for one in found] == [(8, "minmax"), (8, "mse"), (4, "minmax"), (4, "mse")]


@pytest.mark.parametrize("method", ["minmax", "mse"])
def test_a_channel_of_zeros_gets_the_largest_scale_of_the_others(method: str) -> None:
    values = WEIGHT.copy()
    values[2] = 0
    values[4] = 1e-42
    (found,) = solve_weight("w", values, [scheme(axis=0)], methods=[method])
    assert found.scale[2] == found.scale[4] == max(found.scale)
    (whole,) = solve_weight("w", WEIGHT, [scheme(axis=0)], methods=[method])
    assert [found.scale[index] for index in (0, 1, 3, 5)] == [whole.scale[index] for index in (0, 1, 3, 5)]


def test_a_weight_of_zeros_gets_scale_one_and_no_noise() -> None:
    (found,) = solve_weight("w", np.zeros((3, 4)), [scheme(axis=0)], methods=["mse"])
    assert (found.scale, found.noise_db) == ((1.0, 1.0, 1.0), -140.0)


def test_a_power_of_two_scheme_gets_powers_of_two() -> None:
    for found in solve_weight("w", WEIGHT, [scheme(4, axis=0, power_of_two=True)]):
        assert all(np.frexp(scale)[0] == 0.5 for scale in found.scale)


def test_float16_weights_are_solved_exactly() -> None:
    half = WEIGHT.astype(np.float16)
    assert solve_weight("w", half, [scheme()]) == solve_weight("w", half.astype(np.float32), [scheme()])


def test_the_number_of_threads_changes_nothing() -> None:
    values = np.random.default_rng(1).standard_normal(300_000)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(solve_weight("w", values, [scheme()]))
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


def test_a_read_only_array_is_fine() -> None:
    values = WEIGHT.copy()
    values.flags.writeable = False
    assert solve_weight("w", values, [scheme()]) == solve_weight("w", WEIGHT, [scheme()])


def test_a_bias_is_remembered_by_its_magnitudes() -> None:
    assert bias_magnitude("b", np.array([-2.5, 0.0, 1.0])).magnitude == (2.5, 0.0, 1.0)


def test_what_cannot_be_solved_is_refused() -> None:
    with pytest.raises(ModelError, match="NaN"):
        solve_weight("w", [1.0, np.nan], [scheme()])
    with pytest.raises(ModelError, match="bias"):
        bias_magnitude("b", [np.inf])
    with pytest.raises(UsageError, match="axis 4"):
        solve_weight("w", WEIGHT, [scheme(axis=4)])
    with pytest.raises(UsageError, match="symmetric"):
        solve_weight("w", WEIGHT, [Scheme(8, True, False, -128, 127)])
    with pytest.raises(NotFoundError, match="did you mean mse"):
        solve_weight("w", WEIGHT, [scheme()], methods=["mes"])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("kind", ["dense", "sparse", "a dead channel", "denormal"])
@pytest.mark.parametrize("shape", [(1,), (3,), (6, 5, 4, 3), (2, 9001), (300, 2), (50, 3, 1), (1, 20_000)])
def test_slabs_give_what_the_whole_weight_gives(
    shape: tuple[int, ...], kind: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    values = random.standard_normal(shape)
    if kind == "sparse":
        values *= random.random(shape) < 0.01
    elif kind == "a dead channel":
        values[0] = 1e-42
    elif kind == "denormal":
        values *= 1e-40
    values = values.astype(dtype)
    axes = (None, *range(len(shape)))
    schemes = [scheme(bits, axis, power_of_two=power) for bits, power in ((4, False), (8, True)) for axis in axes]
    expected = literally("w", values, schemes)
    assert solve_weight("w", values, schemes) == expected
    monkeypatch.setattr(weight_slabs, "SLAB", 1000)
    monkeypatch.setattr(weight_slabs, "PIECE", 5000)
    assert solve_weight("w", values, schemes) == expected


@pytest.mark.parametrize(("shape", "axis"), [((0, 3), 0), ((3, 0), 0), ((3, 0), None)])
def test_a_weight_without_elements_has_scales_of_one(shape: tuple[int, ...], axis: int | None) -> None:
    (found,) = solve_weight("w", np.zeros(shape), [scheme(axis=axis)], methods=["mse"])
    assert (found.scale, found.noise_db) == ((1.0,) * (1 if axis is None else shape[0]), -140.0)


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_a_weight_that_is_mapped_from_a_file_stays_there(axis: int | None, tmp_path: Path) -> None:
    rows, columns = 20_000, 5000  # 400 MB, a hole but for one row
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(rows * columns * 4)
        file.write(np.linspace(-1, 1, columns, dtype="<f4").tobytes())
    values = np.memmap(tmp_path / "w.bin", "<f4", "r", shape=(rows, columns))
    tracemalloc.start()
    try:
        (found,) = solve_weight("w", values, [scheme(axis=axis)], methods=["mse"])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert max(found.scale) == pytest.approx(1 / 127, rel=0.1)
    assert peak < 120 << 20


@pytest.mark.parametrize("power_of_two", [False, True])
def test_candidates_and_costs_are_those_of_the_mse_observer(*, power_of_two: bool) -> None:
    rng = np.random.default_rng(3)
    values = np.concatenate([rng.random(2000) * 2.0 ** rng.integers(-160, 140, 2000), 2.0 ** np.arange(-149.0, 130.0)])
    center, same = values[:, None], torch.from_numpy(values)[:, None]
    own = candidates.finish_scales(candidates.ladder(center, 8, -3, 3), power_of_two=power_of_two)
    theirs = minmax.finish_scales(mse.ladder(same, 8, -3, 3), power_of_two=power_of_two)
    assert own.tobytes() == theirs.numpy().tobytes()
    assert candidates.rounded_cost(center).tobytes() == mse.rounded_cost(same).numpy().tobytes()


def test_weights_are_solved_without_loading_torch() -> None:
    code = "import sys, qgraph.calib.weights.scales, qgraph.jobs.calibrating; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
