"""Models with custom ops run with the user's library of them: calibrated, solved, exported, verified, improved."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import onnxruntime_extensions
import pytest
from conftest import Cli
from onnx import TensorProto, helper, numpy_helper

import qgraph
from qgraph.errors import QgraphError, UsageError

LIBRARY = Path(onnxruntime_extensions.get_library_path())
RANDOM = np.random.default_rng(0)
DOMAIN = "ai.onnx.contrib"


@pytest.fixture(autouse=True)
def _model(tmp_path: Path) -> None:
    """m.onnx: Conv, then NegPos, which parts what is below zero from what is above, then Conv of that times
    a factor; and its data."""
    weights = {name: RANDOM.normal(0, 0.3, (2, 2, 1, 1)).astype(np.float32) for name in ("w", "v")}
    weights["s"] = np.array([0.5, 3], np.float32).reshape(1, 2, 1, 1)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="first"),
        helper.make_node("NegPos", ["c"], ["below", "above"], name="part", domain=DOMAIN),
        helper.make_node("Conv", ["above", "v"], ["z"], name="last"),
        helper.make_node("Mul", ["z", "s"], ["y"], name="factor"),
    ]
    graph = helper.make_graph(
        nodes,
        "custom",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2, 4, 4])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
        value_info=[helper.make_tensor_value_info("above", TensorProto.FLOAT, ["n", 2, 4, 4])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=RANDOM.normal(size=(8, 2, 4, 4)).astype(np.float32))


CALIBRATE = ("calibrate", "m.onnx", "--data", "d.npz", "--target", "tflite", "--name", "r")
EXPORT = ("export", "r", "-o", "q.onnx")
VERIFY = ("verify", "r", "--data", "d.npz", "--json")
WITH = ("--op-library", LIBRARY)


def runner_of(database: Path) -> list[dict[str, str]]:
    with sqlite3.connect(database) as connection:
        return [json.loads(row[0]) for row in connection.execute("SELECT runner FROM calibrations ORDER BY id")]


def test_a_library_takes_the_model_all_the_way(cli: Cli, tmp_path: Path) -> None:
    for step in (CALIBRATE, ("solve", "r", "--target", "onnxruntime", "--name", "s"), EXPORT, VERIFY):
        done = cli(*step) if step[0] == "solve" else cli(*step, *WITH)
        assert done.code == 0, (step, done.stderr)
    assert done.json["outputs"]["y"]["snr_db"] > 25
    tensors = cli("scales", "r", "--json").json["tensors"]
    assert {name for name, tensor in tensors.items() if tensor["scale"] is not None} >= {"x", "c", "above", "y"}
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(LIBRARY))
    session = onnxruntime.InferenceSession(tmp_path / "q.onnx", options, providers=["CPUExecutionProvider"])
    assert session.run(["y"], {"x": np.ones((1, 2, 4, 4), np.float32)})[0].shape == (1, 2, 4, 4)
    kinds = {(node.domain, node.op_type) for node in onnx.load(tmp_path / "q.onnx").graph.node}
    assert (DOMAIN, "NegPos") in kinds


def test_outputs_of_a_custom_op_without_a_known_type_are_told(cli: Cli, tmp_path: Path) -> None:
    model = onnx.load(tmp_path / "m.onnx")
    del model.graph.value_info[:]
    onnx.save(model, tmp_path / "m.onnx")
    done = cli(*CALIBRATE[:-2], *WITH, "--json")
    assert done.code == 0, done.stderr
    run = done.json["run"]
    assert "untyped: below, above: not quantized" in cli("coverage", run).stdout
    findings = cli("coverage", run, "--json").json["findings"]
    assert [one["op"] for one in findings if one["kind"] == "untyped"] == ["part"]


@pytest.mark.parametrize("step", [CALIBRATE, (*CALIBRATE[:-2], "--dry-run"), EXPORT, VERIFY])
def test_without_it_the_error_names_the_op_and_the_option(cli: Cli, tmp_path: Path, step: tuple[str, ...]) -> None:
    if step[0] != "calibrate":
        assert cli(*CALIBRATE, *WITH).code == 0
    refused = cli(*step)
    assert refused.code == 2
    (line,) = refused.stderr.strip().splitlines()
    assert f"{DOMAIN}:NegPos;" in line
    assert "--op-library" in line
    assert not (tmp_path / "q.onnx").exists()


@pytest.mark.parametrize("step", [CALIBRATE, (*CALIBRATE[:-2], "--dry-run"), EXPORT, VERIFY])
@pytest.mark.parametrize(("library", "told"), [("none.so", "no such op library"), ("d.npz", "cannot be loaded")])
def test_a_wrong_library_is_one_line(cli: Cli, step: tuple[str, ...], library: str, told: str) -> None:
    if step[0] != "calibrate":
        assert cli(*CALIBRATE, *WITH).code == 0
    refused = cli(*step, "--op-library", library)
    assert refused.code == 2
    (line,) = refused.stderr.strip().splitlines()
    assert told in line
    assert library in line


def test_a_name_without_a_folder_is_a_file_here(cli: Cli, tmp_path: Path) -> None:
    shutil.copy(LIBRARY, tmp_path / "ops.so")
    assert cli(*CALIBRATE, "--op-library", "ops.so").code == 0


def test_what_is_in_the_library_is_part_of_what_a_calibration_is(cli: Cli, tmp_path: Path) -> None:
    shutil.copy(LIBRARY, tmp_path / "elsewhere.so")
    changed = tmp_path / "changed.so"
    changed.write_bytes(LIBRARY.read_bytes() + b"\0")
    same = ("--op-library", "elsewhere.so", "--op-library", "elsewhere.so")
    answers = [cli(*CALIBRATE[:-4], *given, "--json").json for given in (WITH, same, ("--op-library", changed))]
    assert [answer["status"] for answer in answers] == ["complete", "reused", "complete"]
    first, second = runner_of(tmp_path / "qgraph.db")
    assert first["op_libraries"] != second["op_libraries"]
    assert {**first, "op_libraries": ""} == {**second, "op_libraries": ""}


def test_without_a_library_a_calibration_is_what_it_was(cli: Cli, tmp_path: Path) -> None:
    model = onnx.load(tmp_path / "m.onnx")
    del model.graph.node[1:]
    del model.graph.value_info[:]
    model.graph.output[0].name = "c"
    onnx.save(model, tmp_path / "m.onnx")
    assert cli(*CALIBRATE).code == 0
    (found,) = runner_of(tmp_path / "qgraph.db")
    assert set(found) == {"runtime", "version", "provider", "level", "threads", "cpu"}


def test_a_model_with_custom_ops_is_improved(cli: Cli) -> None:
    assert cli(*CALIBRATE, *WITH).code == 0
    refused = cli("improve", "r", "--data", "d.npz")
    assert (refused.code, "--op-library" in refused.stderr) == (2, True)
    done = cli("improve", "r", "--data", "d.npz", "--without", "observer", "--name", "better", *WITH, "--json")
    assert done.code == 0, done.stderr
    verified = cli("verify", "better", *VERIFY[2:], *WITH)
    assert verified.json["outputs"]["y"]["snr_db"] > 25


def test_where_a_model_with_custom_ops_loses_is_measured(cli: Cli) -> None:
    assert cli(*CALIBRATE, *WITH).code == 0
    refused = cli("sensitivity", "r", "--data", "d.npz")
    assert (refused.code, "--op-library" in refused.stderr) == (2, True)
    assert cli("sensitivity", "r", "--data", "d.npz", *WITH, "--json").json["groups"][0]["noise_db"]["all"] < -20
    assert cli("advise", "r", "--data", "d.npz", *WITH, "--target-snr", 45, "--json").json["changes"]
    assert cli(*VERIFY, "--layers", *WITH).json["layers"]["tensors"]


@pytest.mark.parametrize("given", [LIBRARY, str(LIBRARY), [LIBRARY, str(LIBRARY)]], ids=["path", "text", "several"])
def test_python_takes_one_or_several(tmp_path: Path, given: object) -> None:
    data = {"x": RANDOM.normal(size=(4, 2, 4, 4)).astype(np.float32)}
    with qgraph.open(tmp_path / "q.db") as database:
        assert database.forecast(tmp_path / "m.onnx", data, op_library=given)["samples"] == 4  # type: ignore[arg-type]
        calibration = database.calibrate(tmp_path / "m.onnx", data, op_library=given)  # type: ignore[arg-type]
        run = calibration.solve(target="tflite")
        run.export(tmp_path / "q.onnx", op_library=given)  # type: ignore[arg-type]
        assert run.verify(data, op_library=given).samples == 4  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="op_library must be a path"):
            run.verify(data, op_library=[3])  # type: ignore[list-item]
        with pytest.raises(QgraphError, match="--op-library"):
            run.verify(data)


def test_a_module_takes_none(tmp_path: Path) -> None:
    import torch

    module = torch.nn.Conv2d(2, 2, 1).eval()
    data = RANDOM.normal(size=(2, 2, 4, 4)).astype(np.float32)
    with qgraph.open(tmp_path / "q.db") as database, pytest.raises(UsageError, match="op_library"):
        database.calibrate(module, data, input_shapes=(1, 2, 4, 4), op_library=LIBRARY)
