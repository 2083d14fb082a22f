"""Statistics are bit-identical however the samples are ordered, batched, split, interrupted or threaded."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from development_models import IMAGENET_MEAN, IMAGENET_STD
from numpy.typing import NDArray
from package_file import package_file
from photographs import photographs
from recorded import merged, recorded_of
from small_models import build, inputs_of, small_cnn

from qgraph.calib.collect import Progress, collect, no_progress, unchanged
from qgraph.calib.data.source import DataSource, open_data
from qgraph.calib.plan import plan_collection
from qgraph.calib.runners.onnx_runner import OnnxRunner
from qgraph.calib.statistics import TensorStatistics, same_statistics
from qgraph.errors import DataError, StatisticsError, UsageError
from qgraph.ir.onnx_import import ImportedModel, load_model


class Case:
    """A model, its data, and what one plain pass over them gives."""

    def __init__(self, model: ImportedModel, data: NDArray[np.float32]) -> None:
        self.data = data
        self.inputs = inputs_of(model.structure)
        self.plan = plan_collection(model.structure)
        self.runner = OnnxRunner(model.proto, self.plan.exposed)
        self.expected = self.collect(data)

    def source(self, data: object) -> DataSource:
        return open_data(data, self.inputs)

    def collect(self, data: object, **options: Any) -> Progress[TensorStatistics]:
        return collect(self.runner, self.source(data), self.plan, keep=unchanged, **options)

    def assert_expected(self, progress: Progress[TensorStatistics]) -> None:
        assert progress.counted == self.expected.counted
        for name, statistics in self.expected.statistics.items():
            assert same_statistics(progress.statistics[name], statistics), name


@pytest.fixture(scope="module")
def cnn(tmp_path_factory: pytest.TempPathFactory) -> Case:
    data = np.random.default_rng(2).normal(0, 1.5, (7, 3, 12, 10)).astype(np.float32)
    data[5] = data[2]
    return Case(small_cnn(tmp_path_factory.mktemp("cnn")), data)


@pytest.fixture(scope="module")
def detector() -> Case:
    model = load_model(package_file("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx"))
    return Case(model, photographs(5, 96, 96, mean=IMAGENET_MEAN, std=IMAGENET_STD, bgr=True))


@pytest.fixture(params=["cnn", "detector"])
def case(request: pytest.FixtureRequest) -> Case:
    value = request.getfixturevalue(request.param)
    assert isinstance(value, Case)
    return value


def merged_parts(a: Progress[TensorStatistics], b: Progress[TensorStatistics]) -> Progress[TensorStatistics]:
    """Two parts of one data set, counted apart."""
    statistics = merged([dict(a.statistics), dict(b.statistics)])
    return Progress(statistics, Counter(a.counted) + Counter(b.counted), a.inferences + b.inferences)


def test_statistics_are_those_of_all_activations(cnn: Case) -> None:
    samples = cnn.source(cnn.data).samples()
    expected = merged([recorded_of(cnn.plan, cnn.runner.run(dict(one.arrays)), one.hash) for one in samples])
    assert expected.keys() == cnn.expected.statistics.keys()
    for name, statistics in cnn.expected.statistics.items():
        assert same_statistics(statistics, expected[name]), name


def test_the_order_of_the_samples_does_not_matter(case: Case) -> None:
    order = np.random.default_rng(0).permutation(len(case.data))
    case.assert_expected(case.collect(case.data[order]))


@pytest.mark.parametrize("batch_size", [2, 3, 100])
def test_the_batch_size_does_not_matter(case: Case, batch_size: int) -> None:
    case.assert_expected(case.collect(case.data, batch_size=batch_size))


@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_does_not_matter(case: Case, threads: int) -> None:
    case.assert_expected(case.collect(case.data, threads=threads))


def test_parts_can_be_counted_apart_and_merged(case: Case) -> None:
    parts = [case.collect(case.data[::2]), case.collect(case.data[1::2])]
    case.assert_expected(merged_parts(*parts))
    case.assert_expected(merged_parts(*reversed(parts)))
    case.assert_expected(merged_parts(case.expected, no_progress(case.plan)))


class DiedError(Exception):
    """Stands for a process that dies."""


def dies_after(
    checkpoints: int, saved: list[Progress[TensorStatistics]]
) -> Callable[[Progress[TensorStatistics]], None]:
    def checkpoint(progress: Progress[TensorStatistics]) -> None:
        saved.append(progress)
        if len(saved) == checkpoints:
            raise DiedError

    return checkpoint


@pytest.mark.parametrize("threads", [1, 2])
def test_it_can_be_interrupted_anywhere_and_resumed_in_any_order(case: Case, threads: int) -> None:
    points = set()
    for checkpoints in range(1, len(case.data)):
        saved: list[Progress[TensorStatistics]] = []
        with pytest.raises(DiedError):
            case.collect(case.data, threads=threads, checkpoint=dies_after(checkpoints, saved), checkpoint_every=0)
        points.add(saved[-1].samples)
        resumed = case.collect(case.data[::-1], start=saved[-1])
        case.assert_expected(resumed)
        assert resumed.inferences == len(case.data) - saved[-1].samples
    assert points == set(range(1, len(case.data)))


def test_what_is_complete_is_not_run_again(case: Case) -> None:
    again = case.collect(case.data, start=case.expected)
    case.assert_expected(again)
    assert again.inferences == 0


def test_equal_samples_are_counted_as_often_as_they_occur(cnn: Case) -> None:
    assert sorted(cnn.expected.counted.values()) == [1, 1, 1, 1, 1, 2]
    assert cnn.expected.samples == 7


def test_checkpoints_come_in_time_and_not_more_often(cnn: Case) -> None:
    saved: list[Progress[TensorStatistics]] = []
    cnn.collect(cnn.data, checkpoint=saved.append, checkpoint_every=3600)
    assert saved == []
    cnn.collect(cnn.data, checkpoint=saved.append, checkpoint_every=0)
    assert [progress.samples for progress in saved] == [1, 2, 3, 4, 5, 6, 7]


def test_progress_counts_samples(cnn: Case) -> None:
    seen: list[tuple[int, int]] = []
    first = cnn.collect(cnn.data, steps=2, batch_size=2)
    cnn.collect(cnn.data, start=first, batch_size=2, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (7, 7)
    assert seen == sorted(seen)
    assert first.samples == 4


def test_steps_count_batches(cnn: Case) -> None:
    assert cnn.collect(cnn.data, steps=2, batch_size=3).samples == 6
    assert cnn.collect(cnn.data, steps=2).samples == 2
    assert cnn.collect((row[None] for row in cnn.data), steps=100).samples == 7


def test_samples_may_have_different_shapes(cnn: Case) -> None:
    items = [cnn.data[:2], cnn.data[2:4, :, :6], cnn.data[4:5]]
    together = cnn.collect(items)
    apart = merged_parts(cnn.collect(items[::2]), cnn.collect(items[1:2]))
    assert together.counted == apart.counted
    assert all(same_statistics(together.statistics[n], s) for n, s in apart.statistics.items())


class Changing:
    """Data that is augmented at random: every pass differs."""

    def __init__(self, data: NDArray[np.float32]) -> None:
        self.data = data

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        self.data = self.data + 1
        return iter(self.data[:, None])


class Shrinking(Changing):
    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        self.data = self.data[1:]
        return iter(self.data[:, None])


@pytest.mark.parametrize("data", [Changing, Shrinking])
def test_data_that_does_not_repeat_is_refused(cnn: Case, data: type[Changing]) -> None:
    with pytest.raises(DataError, match="differs between two passes"):
        cnn.collect(data(cnn.data))


def test_a_start_with_samples_that_the_data_lacks_is_refused(cnn: Case) -> None:
    with pytest.raises(DataError, match="2 samples that were counted are no longer there"):
        cnn.collect(cnn.data[2:], start=cnn.expected)


def test_a_start_of_another_plan_is_refused(cnn: Case, detector: Case) -> None:
    with pytest.raises(StatisticsError, match="another plan"):
        cnn.collect(cnn.data, start=no_progress(detector.plan))
    other = replace(cnn.plan, atoms=dict.fromkeys(cnn.plan.atoms, (1.5,)))
    with pytest.raises(StatisticsError, match="another plan"):
        cnn.collect(cnn.data, start=no_progress(other))


@pytest.mark.parametrize("options", [{"steps": 0}, {"batch_size": 0}, {"batch_size": -1}])
def test_impossible_steps_and_batches_are_refused(cnn: Case, options: Mapping[str, int]) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        cnn.collect(cnn.data, **options)


def fixed(folder: Path, batch: int, data: NDArray[np.float32]) -> Case:
    return Case(small_cnn(folder, batch=str(batch)), data)


def test_a_fixed_batch_is_filled(tmp_path: Path, cnn: Case) -> None:
    case = fixed(tmp_path, 3, cnn.data[:6])
    assert case.expected.samples == 6
    by_sample = cnn.collect(cnn.data[:6])
    assert same_statistics(case.expected.statistics["a"], by_sample.statistics["a"])
    saved: list[Progress[TensorStatistics]] = []
    with pytest.raises(DiedError):
        case.collect(case.data, checkpoint=dies_after(1, saved), checkpoint_every=0)
    case.assert_expected(case.collect(case.data, start=saved[0]))


def test_a_fixed_batch_of_one_takes_any_number_of_rows(tmp_path: Path, cnn: Case) -> None:
    assert same_statistics(fixed(tmp_path, 1, cnn.data).expected.statistics["y"], cnn.expected.statistics["y"])


def test_a_fixed_batch_that_cannot_be_filled_is_refused(tmp_path: Path, cnn: Case) -> None:
    with pytest.raises(DataError, match="batches of 3 only"):
        fixed(tmp_path, 3, cnn.data)


def test_another_batch_size_than_the_fixed_one_is_refused(tmp_path: Path, cnn: Case) -> None:
    with pytest.raises(UsageError, match="use batch size 3"):
        fixed(tmp_path, 3, cnn.data[:3]).collect(cnn.data[:3], batch_size=2)


def test_empty_activations_and_nan_are_counted_not_hidden(tmp_path: Path) -> None:
    model = build(
        tmp_path,
        """
        <ir_version: 8, opset_import: ["" : 13]>
        odd (float[n, 3] x) => (float[n, 3] root, float[n, 0] none)
        <int64[1] start = {0}, int64[1] end = {0}, int64[1] axis = {1}>
        {
            root = Sqrt (x)
            none = Slice (x, start, end, axis)
        }
        """,
    )
    case = Case(model, np.array([[-1, 4, 9], [0, 1, 16]], np.float32))
    root, none = case.expected.statistics["root"], case.expected.statistics["none"]
    assert (root.nan, root.maximum, root.samples) == (1, 4.0, 2)
    assert (none.elements, none.samples) == (0, 2)


class Unsteady:
    """A runner whose results differ a little each time."""

    def __init__(self, runner: OnnxRunner) -> None:
        self.runner = runner
        self.calls = count()

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        values = dict(self.runner.run(inputs))
        values["a"] = values["a"] + np.float32(next(self.calls))
        return values


def test_a_model_that_does_not_repeat_is_told_before_anything_is_counted(cnn: Case) -> None:
    told: list[str] = []
    unsteady = Unsteady(cnn.runner)
    collect(unsteady, cnn.source(cnn.data), cnn.plan, keep=unchanged, on_doubt=told.append)
    assert len(told) == 1
    assert "(a)" in told[0]
    assert next(unsteady.calls) == len(cnn.data) + 1  # the first sample twice, and one of both counted
    cnn.collect(cnn.data, on_doubt=told.append)
    assert len(told) == 1


def test_a_part_of_the_data_is_counted_alone(cnn: Case) -> None:
    census = cnn.source(cnn.data).census()
    one = {name: census[name] for name in sorted(census)[::2]}
    two = {name: census[name] for name in sorted(census)[1::2]}
    parts = [cnn.collect(cnn.data, part=part) for part in (one, two)]
    assert parts[0].counted == one
    cnn.assert_expected(merged_parts(*parts))


def test_some_of_the_activations_are_counted_alone(cnn: Case) -> None:
    names = cnn.plan.exposed
    for some in (names[:3], names[3:]):
        found = collect(cnn.runner, cnn.source(cnn.data), cnn.plan.only(some), keep=unchanged)
        assert found.statistics
        for name, statistics in found.statistics.items():
            assert same_statistics(statistics, cnn.expected.statistics[name]), name
