"""`--param` reaches the observer, is kept with the run, and is refused in one line where it cannot work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Cli
from onnx import TensorProto, helper

ARGUMENTS = ("--target", "tflite", "--observer", "percentile")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with model.onnx, a product, and data.npz with outliers."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "x"], ["y"], "square")],
        "square",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1000])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1000])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    values = np.random.default_rng(0).normal(size=(20, 1000)).astype(np.float32)
    values[0, 0] = 100
    np.savez(tmp_path / "data.npz", x=values)
    return tmp_path


def scale(cli: Cli, run: str) -> float:
    found = cli("scales", run, "--json").json["tensors"]["x"]["scale"]
    return float(found)


@pytest.mark.usefixtures("project")
def test_parameters_reach_the_observer_and_are_kept_with_the_run(cli: Cli) -> None:
    first = cli(
        "calibrate", "model.onnx", "--data", "data.npz", *ARGUMENTS, "--param", "percentile=0.99", "--json"
    ).json
    shown = cli("show", first["run"], "--json").json["settings"]
    assert shown["observer"] == "percentile"
    assert shown["observer_parameters"] == {"percentile": 0.99}
    whole = cli("solve", "c1", *ARGUMENTS, "--param", "percentile=0.5", "--param", "percentile=1", "--json").json["run"]
    assert cli("show", whole, "--json").json["settings"]["observer_parameters"] == {"percentile": 1.0}
    assert scale(cli, whole) > 10 * scale(cli, first["run"])


@pytest.mark.usefixtures("project")
def test_the_seeds_spelling_is_stored_under_the_right_name(cli: Cli) -> None:
    run = cli("calibrate", "model.onnx", "--data", "data.npz", *ARGUMENTS, "--json").json["run"]
    again = cli("solve", "c1", "--target", "tflite", "--observer", "Precentile", "--json").json["run"]
    assert again == run


@pytest.mark.parametrize(
    ("parameter", "words"),
    [
        ("percentil=0.9", "did you mean percentile?"),
        ("percentile=99", "percentile=99.0; pass a value from 0.5 to 1.0"),
        ("percentile=high", "pass a value of type float"),
        ("0.9", "write NAME=VALUE"),
    ],
)
@pytest.mark.parametrize("command", [("calibrate", "model.onnx", "--data", "data.npz"), ("solve", "c1")])
def test_a_parameter_that_cannot_work_is_one_line(
    cli: Cli, project: Path, command: tuple[str, ...], parameter: str, words: str
) -> None:
    result = cli(*command, *ARGUMENTS, "--param", parameter)
    assert result.code == 2
    assert result.stdout == ""
    (line,) = result.stderr.strip().splitlines()
    assert words in line
    assert not (project / "qgraph.db").exists()
