"""Exports and comparisons of models that are not like the others, and files that an export must not replace."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import Cli
from onnx import TensorProto, helper, numpy_helper

import qgraph
from qgraph.analysis.verify import OutputAgreement, Verification


def write_model(
    path: Path, batch: int | str, names: tuple[str, str] = ("first", "second"), *, relu_only: bool = False
) -> Path:
    """Two convolutions: input x (batch, 2, 4, 4), output y."""
    weights = (
        [] if relu_only else [numpy_helper.from_array(np.full((2, 2, 1, 1), k, np.float32), f"w{k}") for k in (1, 2)]
    )
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["h"], names[0]),
        helper.make_node("Conv", ["h", "w2"], ["y"], names[1]),
    ]
    if relu_only:
        nodes = [helper.make_node("Erf", ["x"], ["y"], "erf")]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 2, 4, 4]) for name in "xy"]
    graph = helper.make_graph(nodes, "small", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).normal(size=(6, 2, 4, 4)).astype(np.float32))
    return tmp_path / "data.npz"


@pytest.mark.parametrize("batch", [1, 3, "n"])
def test_a_model_of_any_batch_is_exported_and_verified(cli: Cli, tmp_path: Path, data: Path, batch: int | str) -> None:
    model = write_model(tmp_path / "model.onnx", batch)
    assert cli("calibrate", model, "--data", data, "--target", "onnxruntime").code == 0
    assert cli("export", "latest", "-o", "out.onnx").code == 0
    verified = cli("verify", "latest", "--data", data, "--json").json
    assert verified["outputs"]["y"]["snr_db"] > 20


def test_a_model_with_repeated_op_names_is_verified(cli: Cli, tmp_path: Path, data: Path) -> None:
    model = write_model(tmp_path / "model.onnx", "n", ("same", "same"))
    assert cli("calibrate", model, "--data", data, "--target", "onnxruntime").code == 0
    assert cli("verify", "latest", "--data", data, "--json").json["outputs"]["y"]["snr_db"] > 20


def test_an_export_replaces_neither_its_sources_nor_what_is_no_file(cli: Cli, tmp_path: Path, data: Path) -> None:
    model = write_model(tmp_path / "model.onnx", "n")
    assert cli("calibrate", model, "--data", data, "--target", "onnxruntime").code == 0
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere.onnx")
    before = {
        path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file() and path.suffix != ".db-shm"
    }
    for output in (
        "model.onnx",
        "qgraph.db",
        "qgraph.db-wal",
        "pipe",
        "link",
        ".",
        "no/folder/x.onnx",
        "x" * 300,
        "../" + tmp_path.name + "/model.onnx",
    ):
        refused = cli("export", "latest", "-o", output)
        assert (refused.code, len(refused.stderr.splitlines())) == (2, 1), output
        assert "unexpected" not in refused.stderr
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file() and path.suffix != ".db-shm"}
    assert after == before
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link").is_symlink()


def test_a_model_in_which_nothing_is_quantized_is_not_exported(cli: Cli, tmp_path: Path, data: Path) -> None:
    model = write_model(tmp_path / "model.onnx", "n", relu_only=True)
    assert cli("calibrate", model, "--data", data, "--target", "onnxruntime").code == 0
    refused = cli("export", "latest", "-o", "out.onnx")
    assert refused.code == 2
    assert "nothing is quantized" in refused.stderr


def test_a_run_without_scales_is_exported_in_no_format(cli: Cli, tmp_path: Path) -> None:
    x = "<ir_version: 8, opset_import: ['' : 17]> g (float[4] x) => (float[4] y) { h = Sigmoid (x)  y = Sigmoid (h) }"
    onnx.save(onnx.parser.parse_model(x.replace("'", '"')), tmp_path / "m.onnx")
    assert cli("analyze", "m.onnx", "--target", "tflite").code == 0
    for name in ("qdq", "json", "csv"):
        refused = cli("export", "latest", "--format", name, "-o", "out")
        assert (refused.code, "the run has no scales" in refused.stderr) == (2, True)
    assert not (tmp_path / "out").exists()


def test_integers_that_onnx_does_not_have_are_told_with_their_tensor(cli: Cli, tmp_path: Path, data: Path) -> None:
    write_model(tmp_path / "model.onnx", "n")
    assert cli("calibrate", "model.onnx", "--data", data, "--target", "onnxruntime").code == 0
    assert cli("export", "latest", "--format", "json", "-o", "s.json").code == 0
    file = json.loads((tmp_path / "s.json").read_text())
    file["tensors"]["h"] |= {"bits": 24, "signed": False, "quant_min": 0, "quant_max": 2**24 - 1}
    (tmp_path / "s.json").write_text(json.dumps(file))
    assert cli("import", "s.json", "--model", "model.onnx", "--target", "onnxruntime", "--name", "wide").code == 0
    refused = cli("export", "wide", "-o", "out.onnx")
    assert refused.code == 2
    assert refused.stderr == "qgraph: QDQ ONNX cannot quantize a tensor like this: h in uint32; use at most 16 bits\n"


def test_the_float_model_has_the_names_and_values_that_every_format_speaks_of(cli: Cli, tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 11]> g (float[1,2,4,4] x) => (float[1,2,4,4] y)
    <float[2,2,1,1] w = {1, 2, 3, 4},
     float[2] scale = {2, 3}, float[2] shift = {1, 0}, float[2] mean = {0, 1}, float[2] var = {1, 4}>
    { h = Conv (x, w)  y = BatchNormalization (h, scale, shift, mean, var) }
    """
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    x = np.random.default_rng(0).normal(size=(4, 2, 4, 4)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    assert cli("calibrate", "m.onnx", "--data", "data.npz", "--target", "qnn").code == 0
    assert "valid ONNX" in cli("export", "latest", "--format", "float", "-o", "float.onnx").stdout
    assert cli("export", "latest", "--format", "aimet-2.0.0", "-o", "encodings.json").code == 0
    written = onnx.load(tmp_path / "float.onnx")
    graph = written.graph
    names = {one.name for one in (*graph.input, *graph.initializer)} | {
        one for node in graph.node for one in node.output
    }
    assert {one["name"] for one in json.loads((tmp_path / "encodings.json").read_text())["encodings"]} <= names
    assert [node.op_type for node in graph.node] == ["Conv"]
    outputs = [
        onnxruntime.InferenceSession(tmp_path / name, providers=["CPUExecutionProvider"]).run(None, {"x": x[:1]})[0]
        for name in ("m.onnx", "float.onnx")
    ]
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-4, atol=1e-4)


def test_a_name_that_another_run_has_is_refused_before_anything_runs(cli: Cli, tmp_path: Path, data: Path) -> None:
    model = write_model(tmp_path / "model.onnx", "n")
    assert cli("analyze", model, "--target", "onnxruntime", "--name", "taken").code == 0
    command = ("calibrate", model, "--data", data, "--target", "onnxruntime", "--json", "--name")
    refused = cli(*command, "taken")
    assert refused.code == 2
    assert "taken" in refused.stderr
    first = cli(*command, "free").json
    assert (first["status"], first["calibration"]) == ("complete", "c1")
    assert cli(*command, "free").json["run"] == first["run"]


def test_verify_tells_a_perfect_match_from_an_output_that_is_all_zero(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Path
) -> None:
    write_model(tmp_path / "model.onnx", "n")
    assert cli("calibrate", "model.onnx", "--data", data, "--target", "onnxruntime").code == 0
    figures: dict[str, Any] = {"cosine": None, "top1": None, "mse": 0.0, "nonfinite": 0}
    outputs = {
        "same": OutputAgreement(exact=True, snr_db=math.inf, max_abs_error=0.0, **figures),
        "zero": OutputAgreement(exact=False, snr_db=-math.inf, max_abs_error=1.0, **figures),
        "nan": OutputAgreement(exact=False, snr_db=-math.inf, max_abs_error=0.0, broken=7, **figures),
    }
    monkeypatch.setattr(qgraph.Run, "verify", lambda *_, **__: Verification(outputs, 1))
    found = cli("verify", "latest", "--data", data, "--json").json["outputs"]
    assert {name: (one["exact"], one["snr_db"]) for name, one in found.items()} == {
        "same": (True, None),
        "zero": (False, None),
        "nan": (False, None),
    }
    shown = cli("verify", "latest", "--data", data).stdout
    rows = [line.split() for line in shown.splitlines()]
    words = [["same", "exact", "–"], ["zero", "no", "signal"], ["nan", "not", "finite"]]
    assert [row[:3] for row in rows if row[0] in outputs] == words
    assert "nan: 7 values NaN or infinite that the float model has not" in shown
