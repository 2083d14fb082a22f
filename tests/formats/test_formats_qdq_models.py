"""Exports of the development models: onnxruntime runs them on integers, whatever the sign of the target's activations.

Signed activations need the session entry ``session.qdqisint8allowed``; without it, on x86, only parts of the models
are converted.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import Cli
from development_models import MODELS
from onnx import ModelProto

import qgraph

INTEGER = {
    "Conv": "QLinearConv", "Add": "QLinearAdd", "Mul": "QLinearMul", "Concat": "QLinearConcat", "Gemm": "QGemm",
    "MatMul": "QLinearMatMul", "GlobalAveragePool": "QLinearGlobalAveragePool", "Sigmoid": "QLinearSigmoid",
}  # fmt: skip
"""Ops for which onnxruntime has an integer kernel, and that kernel."""

NO_INTEGER_KERNEL = {"Div", "HardSigmoid", "ConvTranspose", "ReduceMean", "Resize"}
"""Ops of these models that onnxruntime runs in float between a dequantize and a quantize, or on integers as such."""

MOVING = {"Transpose", "Reshape", "Flatten", "MaxPool", "Shape"}

SMALL_MODELS = ("ppocr_cls_v2", "ppocr4_det")


def optimized(file: Path, *, is_signed: bool) -> Counter[str]:
    """How often each op type is left after onnxruntime's default optimisation."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(file.with_suffix(".optimized.onnx"))
    if is_signed:
        options.add_session_config_entry("session.qdqisint8allowed", "1")
    onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def quantized_ops(model: ModelProto) -> Counter[str]:
    """How often each op type reads dequantized tensors."""
    made = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    return Counter(node.op_type for node in model.graph.node if made & set(node.input))


@pytest.fixture(scope="module", params=SMALL_MODELS)
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small model and its calibration, c1."""
    folder = tmp_path_factory.mktemp(request.param)
    MODELS[request.param].write(folder / "model.onnx")
    with qgraph.open(folder / "q.db") as db:
        db.calibrate(folder / "model.onnx", MODELS[request.param].samples(2, 0))
    return folder


@pytest.mark.parametrize(("target", "is_signed"), [("onnxruntime", False), ("tflite", True)])
def test_all_ops_with_an_integer_kernel_run_on_integers(project: Path, target: str, is_signed: bool) -> None:
    file = project / f"{target}.onnx"
    with qgraph.open(project / "q.db") as db:
        run = db.solve("c1", target=target, observer="minmax")
        run.export(file)
        requantizes = len(run.data().grouping.requantizes)
    written = onnx.load(file)
    before, after = quantized_ops(written), optimized(file, is_signed=is_signed)
    in_integers = {kernel: before[op_type] for op_type, kernel in INTEGER.items() if before[op_type]}
    assert {kernel: after[kernel] for kernel in in_integers} == in_integers, after
    assert INTEGER.keys().isdisjoint(after), after
    kernels = {*INTEGER.values(), "QLinearSoftmax", "QuantizeLinear", "DequantizeLinear"}
    assert set(after) <= kernels | NO_INTEGER_KERNEL | MOVING, after
    in_float = sum(after[op_type] for op_type in NO_INTEGER_KERNEL)
    ends = len(written.graph.input) + len(written.graph.output)
    assert after["QuantizeLinear"] <= in_float + ends + requantizes, "one behind each op in float, and no more"


def test_metadata_names_run_target_and_groups(project: Path) -> None:
    with qgraph.open(project / "q.db") as db:
        run = db.solve("c1", target="onnxruntime", observer="minmax")
        run.export(project / "named.onnx")
        entries = {entry.key: entry.value for entry in onnx.load(project / "named.onnx").metadata_props}
        assert (entries["qgraph.run"], entries["qgraph.target"]) == (run.id, "onnxruntime")
        groups = {name: one["group"] for name, one in run.scales()["tensors"].items() if one["group"]}

    assert json.loads(entries["qgraph.groups"]) == groups


def test_sixteen_bits_take_the_opset_that_has_them(cli: Cli, tmp_path: Path) -> None:
    MODELS["ppocr_cls_v2"].write(tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", allow_pickle=False, **MODELS["ppocr_cls_v2"].samples(2, 0))
    opsets = {}
    for bits in ("8", "16"):
        made = ("calibrate", "model.onnx", "--data", "data.npz", "--target", "onnxruntime", "--name", f"bits{bits}")
        wide = ("--bits", "type:Conv=16") if bits == "16" else ()
        assert cli(*made, *wide).code == 0
        assert cli("export", f"bits{bits}", "-o", f"{bits}.onnx").code == 0
        opsets[bits] = onnx.load(tmp_path / f"{bits}.onnx").opset_import[0].version
    assert opsets["8"] < 21 <= opsets["16"]
