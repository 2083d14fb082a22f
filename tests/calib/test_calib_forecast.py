"""A forecast says what a calibration then does, and runs one batch for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_models import inputs_of, small_cnn

from qgraph.calib.collect import THREADS, collect, unchanged
from qgraph.calib.data.source import open_data
from qgraph.calib.forecast import Forecast, forecast
from qgraph.calib.plan import plan_collection
from qgraph.calib.runners.onnx_runner import OnnxRunner
from qgraph.errors import DataError


def image(size: int, count: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(size).normal(size=(count, 3, size, size)).astype(np.float32)


class Counted(OnnxRunner):
    """A runner that remembers what it was fed."""

    shapes: tuple[tuple[int, ...], ...] = ()

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.shapes = (*self.shapes, inputs["x"].shape)
        return super().run(inputs)


def foretell(
    folder: Path, data: object, limit: int | None = None, batch: str = "n"
) -> tuple[Forecast, tuple[tuple[int, ...], ...]]:
    imported = small_cnn(folder, batch=batch)
    plan = plan_collection(imported.structure)
    runner = Counted(imported.proto, plan.exposed)
    source = open_data(data, inputs_of(imported.structure))
    return forecast(runner, source, plan, imported.structure, limit), runner.shapes


def test_it_tells_the_samples_and_tensors_that_are_then_counted(tmp_path: Path) -> None:
    found, _ = foretell(tmp_path, [image(8, 3), image(9, 2)])
    imported = small_cnn(tmp_path)
    plan = plan_collection(imported.structure)
    source = open_data([image(8, 3), image(9, 2)], inputs_of(imported.structure))
    done = collect(OnnxRunner(imported.proto, plan.exposed), source, plan, keep=unchanged)
    assert found.samples == done.samples == 5
    assert found.collected == len(done.statistics)
    assert found.followed == len({follower.tensor for follower in plan.followers} - plan.recorded.keys()) > 0
    assert found.passes == 1
    everything = found.collected + found.followed + sum(found.not_collected.values())
    assert everything == len(imported.structure.tensors)
    assert found.not_collected == {"constant": 4, "not a float": 1}


def test_only_the_largest_sample_is_run(tmp_path: Path) -> None:
    found, shapes = foretell(tmp_path, [image(8), image(16), image(12)])
    assert shapes == ((1, 3, 16, 16),)
    assert found.run == 1


def test_a_model_with_a_fixed_batch_gets_one_batch(tmp_path: Path) -> None:
    found, shapes = foretell(tmp_path, image(8, 4), batch="2")
    assert shapes == ((2, 3, 8, 8),)
    assert (found.samples, found.run) == (4, 2)


def test_memory_follows_the_largest_sample_and_not_their_number(tmp_path: Path) -> None:
    foretell(tmp_path, image(8))  # what loads on first use is not the sample's
    one, _ = foretell(tmp_path, [image(32)])
    many, _ = foretell(tmp_path, [image(32), *(image(8) for _ in range(50))])
    large, _ = foretell(tmp_path, [image(256)])
    assert many.memory.histograms == one.memory.histograms
    assert many.memory.activations == pytest.approx(one.memory.activations, abs=2**21)
    assert large.memory.activations > 40 * 3 * 256 * 256 * THREADS
    assert one.memory.peak == one.memory.fixed + one.memory.activations + one.memory.histograms


def test_time_and_disk_grow_with_the_samples_that_are_used(tmp_path: Path) -> None:
    all_of_them, _ = foretell(tmp_path, image(32, 40))
    few, _ = foretell(tmp_path, image(32, 40), limit=2)
    assert (all_of_them.samples, few.samples) == (40, 2)
    assert all_of_them.running_seconds > few.running_seconds > 0
    assert all_of_them.checkpoint > few.checkpoint > 0
    assert all_of_them.seconds >= all_of_them.reading_seconds + all_of_them.running_seconds


def test_what_a_calibration_refuses_is_refused(tmp_path: Path) -> None:
    for data, batch in (([], "n"), (image(8, 3), "2"), ([np.full((1, 3, 8, 8), np.nan, np.float32)], "n")):
        with pytest.raises(DataError):
            foretell(tmp_path, data, batch=batch)
