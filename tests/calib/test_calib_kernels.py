"""The kernel counts exactly what the slow version counts."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from activations import ATOMS, activations, from_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import qgraph
from qgraph.calib.cpu import accumulator as accumulating
from qgraph.calib.cpu.accumulator import LARGEST_COUNT, LARGEST_PIECE, Accumulator
from qgraph.calib.cpu.compiling import cpu_features
from qgraph.calib.cpu.kernels import BLOCK
from qgraph.calib.statistics import empty_statistics, merge, same_statistics, statistics_of


@settings(deadline=None)
@given(st.lists(activations(), max_size=4))
def test_the_kernel_agrees_with_the_slow_version(arrays: list[NDArray[np.float32]]) -> None:
    accumulator, expected = Accumulator(ATOMS), empty_statistics(ATOMS)
    for array in arrays:
        accumulator.add(array)
        expected = merge(expected, statistics_of(array, ATOMS))
        assert same_statistics(accumulator.snapshot(), expected)


@settings(deadline=None)
@given(activations(), activations())
def test_an_accumulator_goes_on_from_statistics(a: NDArray[np.float32], b: NDArray[np.float32]) -> None:
    accumulator = Accumulator(start=statistics_of(a, ATOMS))
    accumulator.add(b)
    assert same_statistics(accumulator.snapshot(), statistics_of(np.concatenate([a, b]), ATOMS, samples=2))


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 17])
@pytest.mark.parametrize("special", [[], [0x7FC00000], [0xFF800000, 0x7F800000], [0x80000000]])
def test_blocks_join_without_a_seam(size: int, special: list[int]) -> None:
    values = np.clip(np.random.default_rng(size).normal(0, 4, size), -1, 6).astype(np.float32)
    values[: len(special)] = from_bits(special)[:size]
    accumulator = Accumulator(ATOMS)
    accumulator.add(values)
    assert same_statistics(accumulator.snapshot(), statistics_of(values, ATOMS))


@pytest.mark.parametrize("first", [0, 1, BLOCK, 3 * BLOCK - 5])
def test_zeros_are_told_from_denormals_wherever_they_begin(first: int) -> None:
    values = np.random.default_rng(first).normal(0, 4, 4 * BLOCK + 17).astype(np.float32)
    values[::7] = from_bits([1])
    values[3::11] = from_bits([0x80000001])
    values[first::5] = 0.0
    values[first + 2 :: 3] = -0.0
    accumulator = Accumulator(ATOMS)
    for _ in range(2):
        accumulator.add(values)
    assert same_statistics(accumulator.snapshot(), statistics_of(np.tile(values, 2), ATOMS, samples=2))


def test_any_layout_and_float_type_can_be_added() -> None:
    values = np.random.default_rng(0).normal(size=(6, 8))
    for array in (values.T, values[::2, 1::3], values.astype(np.float16), values.astype(np.float32)[None]):
        accumulator = Accumulator()
        accumulator.add(array, samples=3)
        assert same_statistics(accumulator.snapshot(), statistics_of(array, samples=3))


def test_a_scalar_and_an_empty_tensor_can_be_added() -> None:
    accumulator = Accumulator()
    accumulator.add(np.zeros((2, 0), np.float32))
    accumulator.add(np.float32(3))
    assert same_statistics(accumulator.snapshot(), statistics_of([3.0], samples=2))


def test_a_snapshot_does_not_change_afterwards() -> None:
    accumulator = Accumulator()
    accumulator.add(np.ones(4, np.float32))
    snapshot = accumulator.snapshot()
    accumulator.add(np.ones(4, np.float32))
    assert same_statistics(snapshot, statistics_of(np.ones(4)))


def test_counts_do_not_overflow_32_bits() -> None:
    start = statistics_of([1.0, 0.0])
    big = merge(start, start)
    for _ in range(33):
        big = merge(big, big)
    accumulator = Accumulator(start=big)
    accumulator.add(np.ones(1, np.float32))
    assert accumulator.snapshot().counts.tolist() == [2**34 + 1]


@settings(deadline=None)
@given(st.lists(activations(), max_size=6), st.integers(1, 200))
def test_counters_are_emptied_before_they_could_overflow(arrays: list[NDArray[np.float32]], limit: int) -> None:
    assert LARGEST_PIECE <= LARGEST_COUNT <= np.iinfo(np.uint32).max
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accumulating, "LARGEST_COUNT", limit)
        accumulator = Accumulator(ATOMS)
        for array in arrays:
            accumulator.add(array)
    values = np.concatenate([np.empty(0, np.float32), *(array.reshape(-1) for array in arrays)])
    assert same_statistics(accumulator.snapshot(), statistics_of(values, ATOMS, samples=len(arrays)))


def test_a_counter_holds_what_fits_32_bits_and_no_more() -> None:
    accumulator = Accumulator()
    accumulator.add(np.ones(1, np.float32))
    accumulator._totals[accumulator.snapshot().bins] = accumulating.LARGEST_COUNT
    accumulator._room = 0
    accumulator.add(np.ones(3, np.float32))
    assert accumulator.snapshot().counts.tolist() == [accumulating.LARGEST_COUNT + 3]


def test_cpu_features_are_one_line_and_stable() -> None:
    assert cpu_features() == cpu_features()
    assert "\n" not in cpu_features()


def test_the_kernel_compiles_where_nothing_can_be_written(tmp_path: Path) -> None:
    """numba raises while decorating if neither its own cache folder nor the module's can be written."""
    package = tmp_path / "qgraph"
    statistics = ("__init__", "grid", "statistics", "channels", "exact_sums", "own", "provenance", "rows")
    counting = ("__init__", "compiling", "kernels", "accumulator")
    modules = [*(f"calib/{module}.py" for module in statistics), *(f"calib/cpu/{module}.py" for module in counting)]
    for name in ("__init__.py", "errors.py", "objects.py", "tqc.py", *modules):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_bytes((Path(qgraph.__file__).parent / name).read_bytes())
    (package / "calib" / "cpu" / "__pycache__").write_text("a file where a folder should be")
    (tmp_path / "cache").write_text("another one")
    code = (
        "from qgraph.calib.cpu.accumulator import Accumulator as A; a = A(); a.add([1.0]); print(a.snapshot().maximum)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "HOME": str(tmp_path / "cache")}
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "1.0", done.stderr
