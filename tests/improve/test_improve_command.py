"""`qgraph improve` on a real model: a derived model, its run, and less error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import Cli
from onnx import TensorProto, helper, numpy_helper, save

import qgraph
from qgraph.improve.settings import Parts
from qgraph.store import runs


def write_model(path: Path) -> None:
    """A depthwise network whose channels have very different sizes, so that one scale for all serves it badly."""
    random = np.random.default_rng(0)
    sizes = np.geomspace(0.02, 4, 8).astype(np.float32).reshape(8, 1, 1, 1)
    weights = {
        "w0": random.normal(size=(8, 3, 3, 3)) * sizes,
        "w1": random.normal(size=(8, 1, 3, 3)) / sizes,
        "w2": random.normal(size=(4, 8, 1, 1)),
    }
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "w1"], ["d"], name="depthwise", group=8),
        helper.make_node("Relu", ["d"], ["s"], name="relu2"),
        helper.make_node("Conv", ["s", "w2"], ["y"], name="last"),
    ]
    graph = helper.make_graph(
        nodes,
        "uneven",
        [value("x", TensorProto.FLOAT, [1, 3, 16, 16])],
        [value("y", TensorProto.FLOAT, [1, 4, 12, 12])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a model, its data, other data, and the run ``plain`` in a database."""
    write_model(tmp_path / "model.onnx")
    random = np.random.default_rng(1)
    for name in ("data", "others"):
        np.savez(tmp_path / f"{name}.npz", x=random.normal(size=(12, 3, 16, 16)).astype(np.float32))
    with qgraph.open(tmp_path / "qgraph.db") as database:
        calibration = database.calibrate(tmp_path / "model.onnx", tmp_path / "data.npz")
        calibration.solve(target="onnxruntime", observer="minmax", name="plain")
    return tmp_path


def snr(cli: Cli, run: str) -> float:
    found = cli("verify", run, "--data", "others.npz", "--json")
    assert found.code == 0, found.stderr
    return float(min(one["snr_db"] for one in found.json["outputs"].values()))


def test_a_poor_result_tells_what_to_ask_next(cli: Cli, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = ("fold", "equalize", "observer", "weights", "ranges", "bias")
    improve = ("improve", "plain", "--data", "data.npz", *(word for part in parts for word in ("--without", part)))
    _, told = cli(*improve).stdout.split("below 10 dB\n")
    assert "qgraph verify r2 --data data.npz --layers\n" in told
    assert "qgraph advise r2 --data data.npz --target-snr 20\n" in told
    monkeypatch.setattr("qgraph.cli.improving.POOR_DB", -100.0)
    assert "advise" not in cli(*improve).stdout


def test_the_improved_run_is_the_latest_and_nearer_to_the_original(cli: Cli, project: Path) -> None:
    before = (project / "model.onnx").read_bytes()
    done = cli("improve", "plain", "--data", "data.npz", "--name", "better", "--json")
    assert done.code == 0, done.stderr
    answer = done.json
    assert Path(answer["model"]) == project / "model.improved.onnx"
    assert (project / "model.onnx").read_bytes() == before
    assert cli("show", "latest", "--json").json["run"] == answer["run"]
    assert snr(cli, "better") > snr(cli, "plain") + 3
    verified = cli("verify", "better", "--data", "others.npz")
    assert f"made from: {project / 'model.onnx'}" in verified.stderr
    assert answer["snr_db"] > 10


def test_the_run_keeps_its_observer_and_weights_if_that_is_asked_for(cli: Cli, project: Path) -> None:
    off = [word for part in ("observer", "weights", "equalize") for word in ("--without", part)]
    arguments = (*off, "--steps", 3, "-o", "b.onnx")
    done = cli("improve", "plain", "--data", "data.npz", *arguments)
    assert done.code == 0, done.stderr
    assert "time: " in done.stdout
    assert (project / "b.onnx").exists()
    settings = [qgraph.open("qgraph.db").run(run).data().settings for run in ("plain", "latest")]
    assert [(one.observer, one.weights) for one in settings] == [("minmax", "minmax")] * 2


def test_scales_of_weights_are_those_that_measure_better(cli: Cli, tmp_path: Path) -> None:
    """A weight with one outlier among so many values that all others lose more by its range than it would by less."""
    random = np.random.default_rng(0)
    weight = random.normal(size=(1, 4, 220, 220)).astype(np.float32)
    weight[0, 0, 0, 0] = 12.0
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "outlier",
        [value("x", TensorProto.FLOAT, [1, 4, 220, 220])],
        [value("y", TensorProto.FLOAT, [1, 1, 1, 1])],
        [numpy_helper.from_array(weight, "w")],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "model.onnx")
    samples = random.normal(size=(16, 4, 220, 220)).astype(np.float32)
    samples[:, 0, 0, 0] = 0.0  # what the outlier is multiplied with
    np.savez(tmp_path / "data.npz", x=samples)
    with qgraph.open(tmp_path / "qgraph.db") as database:
        calibration = database.calibrate(tmp_path / "model.onnx", tmp_path / "data.npz")
        calibration.solve(target="onnxruntime", observer="mse", weights="minmax", name="wide")
    off = [word for part in Parts().on if part != "weights" for word in ("--without", part)]
    done = cli("improve", "wide", "--data", "data.npz", *off, "--json")
    assert done.code == 0, done.stderr
    assert "weights: mse; the run has minmax" in done.json["done"]
    assert qgraph.open("qgraph.db").run("latest").data().settings.weights == "mse"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("plain", "--without", "equalise"), "equalize"),
        (("plain", "-o", "model.onnx"), "would replace the float model"),
        (("nothing",), "nothing"),
        (("structure",), "qgraph calibrate"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(
    cli: Cli, project: Path, arguments: tuple[str, ...], says: str
) -> None:
    assert cli("analyze", "model.onnx", "--target", "onnxruntime", "--name", "structure").code == 0
    done = cli("improve", *arguments, "--data", "data.npz")
    assert done.code == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(project.glob("*.improved.onnx"))


def test_a_model_that_nothing_changes_stays_the_same_model(cli: Cli, project: Path) -> None:
    off = [word for part in Parts().on for word in ("--without", part)]
    done = cli("improve", "plain", "--data", "data.npz", "--steps", 2, *off, "-o", "same.onnx", "--json")
    assert done.code == 0, done.stderr
    assert (project / "same.onnx").exists()
    assert cli("show", done.json["run"], "--json").code == 0


def test_a_run_with_other_kept_scales_is_another_run(cli: Cli, project: Path) -> None:
    off = [word for part in Parts().on if part != "bias" for word in ("--without", part)]
    first = cli("improve", "plain", "--data", "data.npz", *off, "--without", "bias", "-o", "a.onnx", "--json").json[
        "run"
    ]
    with qgraph.open("qgraph.db") as database, database.store().transaction() as connection:
        record, data = runs.resolve_run(connection, first), runs.load_run(connection, first)
        saved = [
            runs.save_run(connection, record.model, record.calibration, data, given=given) for given in ("x", "y", "x")
        ]
    assert saved[0] == saved[2] != saved[1]
    assert first not in saved
    again = cli("improve", "plain", "--data", "data.npz", *off, "--without", "bias", "-o", "b.onnx", "--json").json
    assert again["run"] == first
