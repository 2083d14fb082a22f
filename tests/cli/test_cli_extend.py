"""Samples are added to a finished calibration: what comes of it is that of all samples together, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Cli
from onnx import TensorProto, helper
from test_cli_max_memory import statistics_of

import qgraph
from qgraph.calib.data.images import ImageOptions
from qgraph.errors import UsageError

SAMPLES = np.random.default_rng(0).normal(size=(12, 1, 64)).astype(np.float32)


def write_model(path: Path, op: str = "Mul", batch: str | int = "n") -> Path:
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "x"], ["s"], "first"), helper.make_node("Softmax", ["s"], ["y"], "second")],
        "squares",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 64])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with model.onnx, some.npz, more.npz (which repeats two of its samples) and all.npz."""
    write_model(tmp_path / "model.onnx")
    np.savez(tmp_path / "some.npz", x=SAMPLES[:8, 0])
    np.savez(tmp_path / "more.npz", x=SAMPLES[6:, 0])
    np.savez(tmp_path / "all.npz", x=SAMPLES[:, 0])
    return tmp_path


CALIBRATE = ("calibrate", "model.onnx", "--data")


def test_an_extended_calibration_is_that_of_all_samples_and_the_old_one_stays(cli: Cli, project: Path) -> None:
    cli(*CALIBRATE, "some.npz")
    before = statistics_of(project / "qgraph.db")
    done = cli(*CALIBRATE, "more.npz", "--extend", "c1", "--target", "tflite", "--json").json
    assert done | {"run": None} == {
        "schema": 1,
        "calibration": "c2",
        "run": None,
        "status": "complete",
        "samples": 12,
        "resumed_from": 8,
        "inferences": 4,
    }
    assert cli("show", done["run"], "--json").json["calibration"] == "c2"
    assert statistics_of(project / "qgraph.db", "c1") == before
    cli(*CALIBRATE, "all.npz", "--db", "whole.db")
    assert statistics_of(project / "qgraph.db", "c2") == statistics_of(project / "whole.db")
    again = cli(*CALIBRATE, "all.npz", "--json").json
    assert (again["status"], again["calibration"], again["inferences"]) == ("reused", "c2", 0)
    repeated = cli(*CALIBRATE, "more.npz", "--extend", "c1", "--json").json
    assert (repeated["status"], repeated["calibration"]) == ("reused", "c2")


@pytest.mark.usefixtures("project")
def test_samples_that_are_all_counted_make_nothing_new(cli: Cli) -> None:
    cli(*CALIBRATE, "all.npz", "--steps", "8")
    told = cli(*CALIBRATE, "some.npz", "--extend", "c1", "--target", "tflite", "--name", "first", "--json").json
    assert (told["status"], told["calibration"], told["inferences"]) == ("reused", "c1", 0)
    assert cli("show", "first", "--json").json["calibration"] == "c1"


def test_a_sample_counts_as_often_as_the_data_that_has_it_most_often(project: Path) -> None:
    with qgraph.open(project / "q.db") as database:
        base = database.calibrate(project / "model.onnx", SAMPLES[[0, 0, 1], 0])
        done = database.calibrate(project / "model.onnx", SAMPLES[[0, 1, 1, 2], 0], extend=base)
        assert (done.samples, done.inferences) == (5, 2)
        whole = database.calibrate(project / "model.onnx", SAMPLES[[1, 0, 2, 1, 0], 0])
        assert (whole.id, whole.status) == (done.id, "reused")


class StoppedError(Exception):
    """What an interruption raises here."""


@pytest.mark.parametrize("max_memory", [None, "tight"])
def test_an_extension_that_was_interrupted_goes_on_and_ends_the_same(project: Path, max_memory: str | None) -> None:
    limit = None
    if max_memory is not None:
        with qgraph.open(project / "nowhere.db") as database:
            memory = database.forecast(project / "model.onnx", project / "all.npz")["memory_bytes"]
        limit = int(memory["fixed"] + memory["activations"] + memory["histograms"] * 0.7) + (8 << 20)

    def stop(counted: int, _: int) -> None:
        if counted >= 10:
            raise StoppedError

    with qgraph.open(project / "q.db") as database:
        base = database.calibrate(project / "model.onnx", project / "some.npz")
        more = {"extend": base, "checkpoint_every": 0.0, "max_memory": limit}
        with pytest.raises(StoppedError):
            database.calibrate(project / "model.onnx", project / "more.npz", tick=stop, **more)  # type: ignore[arg-type]
        done = database.calibrate(project / "model.onnx", project / "more.npz", **more)  # type: ignore[arg-type]
        assert (done.status, done.samples) == ("complete", 12)
        assert done.resumed_from >= 10
    with qgraph.open(project / "whole.db") as database:
        database.calibrate(project / "model.onnx", project / "all.npz")
    assert statistics_of(project / "q.db", "c2") == statistics_of(project / "whole.db")


def test_several_passes_extend_each_their_part(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qgraph.calib.passes import Footprint, Schedule
    from qgraph.jobs import counting

    def one_by_one(footprint: Footprint, threads: int, limit: int | None) -> Schedule:
        assert limit is not None
        return Schedule(threads, tuple((name,) for name in footprint.counters))

    monkeypatch.setattr(counting, "schedule", one_by_one)
    with qgraph.open(project / "q.db") as database:
        base = database.calibrate(project / "model.onnx", project / "some.npz")
        done = database.calibrate(project / "model.onnx", project / "more.npz", extend=base, max_memory="1G")
        assert (done.samples, done.inferences) == (12, 3 * 4)
    with qgraph.open(project / "whole.db") as database:
        database.calibrate(project / "model.onnx", project / "all.npz")
    assert statistics_of(project / "q.db", "c2") == statistics_of(project / "whole.db")


def test_what_cannot_be_extended_is_refused_with_the_reason(cli: Cli, project: Path) -> None:
    def refused(*arguments: object) -> str:
        told = cli("calibrate", *arguments)
        assert told.code == 2
        assert told.stderr.count("\n") == 1
        message: str = told.stderr
        return message

    model, more = project / "model.onnx", ("--data", project / "more.npz", "--extend")
    assert "no database yet" in refused(model, *more, "c1")
    cli(*CALIBRATE, "some.npz")
    cli(*CALIBRATE, "some.npz", "--shard", "1/2")
    assert "unknown calibration" in refused(model, *more, "c9")
    assert "a shard cannot be extended" in refused(model, *more, "c2")
    assert "--shard" in refused(model, *more, "c1", "--shard", "1/2")
    assert "dry run" in refused(model, *more, "c1", "--dry-run")
    assert "differ in their model" in refused(write_model(project / "other.onnx", "Add"), *more, "c1")
    assert "batch size" in refused(model, *more, "c1", "--batch-size", "4")


def test_a_partial_calibration_is_not_extended(project: Path) -> None:
    def stop(*_: int) -> None:
        raise StoppedError

    with qgraph.open(project / "q.db") as database:
        with pytest.raises(StoppedError):
            database.calibrate(project / "model.onnx", project / "some.npz", checkpoint_every=0.0, tick=stop)
        with pytest.raises(UsageError, match="not complete"):
            database.calibrate(project / "model.onnx", project / "more.npz", extend="c1")


def test_a_calibration_of_another_database_is_refused(project: Path) -> None:
    with qgraph.open(project / "q.db") as database, qgraph.open(project / "other.db") as other:
        base = other.calibrate(project / "model.onnx", project / "some.npz")
        with pytest.raises(UsageError, match="another database"):
            database.calibrate(project / "model.onnx", project / "more.npz", extend=base)


def test_images_made_ready_in_another_way_are_refused(tmp_path: Path) -> None:
    from PIL import Image

    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "pictures",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 4, 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "pictures.onnx")
    for name, shade in (("a", 10), ("b", 200)):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4), (shade, 0, 0)).save(tmp_path / name / "one.png")
    with qgraph.open(tmp_path / "q.db") as database:
        base = database.calibrate(tmp_path / "pictures.onnx", tmp_path / "a", images=ImageOptions(mean=(0.5,) * 3))
        with pytest.raises(UsageError, match="preprocessing"):
            database.calibrate(tmp_path / "pictures.onnx", tmp_path / "b", extend=base)
