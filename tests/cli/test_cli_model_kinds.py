"""Models of every odd kind go through the real commands: analyzed, calibrated, solved, exported, verified."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import Cli
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

RANDOM = np.random.default_rng(0)

node = helper.make_node


def build(
    nodes: list[NodeProto], shape: list[Any], weights: dict[str, np.ndarray], *, dtype: int = TensorProto.FLOAT
) -> ModelProto:
    """A model from x to y."""
    graph = helper.make_graph(
        nodes,
        "kind",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype, [None] * len(shape))],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def kernel(*shape: int) -> np.ndarray:
    return RANDOM.normal(0, 0.3, shape).astype(np.float32)


def half_weights() -> ModelProto:
    nodes = [
        node("Cast", ["half"], ["w"], name="widen", to=TensorProto.FLOAT),
        node("Conv", ["x", "w"], ["y"], name="conv"),
    ]
    return build(nodes, ["n", 2, 4, 4], {"half": kernel(3, 2, 1, 1).astype(np.float16)})


def weights_behind_identity() -> ModelProto:
    nodes = [
        node("Identity", ["raw"], ["w"], name="again"),
        node("Conv", ["x", "w"], ["c"], name="first"),
        node("Conv", ["c", "raw"], ["y"], name="second"),
    ]
    return build(nodes, ["n", 2, 4, 4], {"raw": kernel(2, 2, 1, 1)})


def unnamed_and_repeated_names() -> ModelProto:
    names = ["", "", "same", "same", "graph:in:x"]
    tensors = ["x", "a", "b", "c", "d", "y"]
    nodes = [node("Conv", [tensors[i], "w"], [tensors[i + 1]], name=name) for i, name in enumerate(names)]
    return build(nodes, ["n", 2, 4, 4], {"w": kernel(2, 2, 1, 1)})


def a_tensor_used_twice() -> ModelProto:
    nodes = [
        node("Conv", ["x", "w"], ["c"], name="conv"),
        node("Mul", ["c", "c"], ["s"], name="square"),
        node("Concat", ["s", "s", "c"], ["y"], name="join", axis=1),
    ]
    return build(nodes, ["n", 2, 4, 4], {"w": kernel(2, 2, 1, 1)})


def a_dimension_of_zero() -> ModelProto:
    nodes = [
        node("Conv", ["x", "w"], ["c"], name="conv"),
        node("Slice", ["c", "from", "from", "axis"], ["none"], name="nothing"),
        node("Relu", ["none"], ["empty"], name="relu"),
        node("Concat", ["c", "empty", "blank"], ["y"], name="join", axis=2),
    ]
    constants = {"from": np.array([1]), "axis": np.array([2]), "blank": np.zeros((1, 2, 0, 4), np.float32)}
    return build(nodes, [1, 2, 4, 4], {"w": kernel(2, 2, 1, 1), **constants})


KINDS: tuple[Callable[[], ModelProto], ...] = (
    half_weights,
    weights_behind_identity,
    unnamed_and_repeated_names,
    a_tensor_used_twice,
    a_dimension_of_zero,
)


@pytest.mark.parametrize("target", ["tflite", "onnxruntime", "ppl_cuda"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind.__name__))
def test_it_goes_all_the_way(cli: Cli, tmp_path: Path, kind: Callable[[], ModelProto], target: str) -> None:
    onnx.save(kind(), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=RANDOM.normal(size=(4, 2, 4, 4)).astype(np.float32))
    steps = (
        ("analyze", "m.onnx", "--target", target),
        ("calibrate", "m.onnx", "--data", "d.npz", "--target", target, "--observer", "mse", "--name", "r"),
        ("export", "r", "--format", "qdq", "-o", "q.onnx"),
        ("verify", "r", "--data", "d.npz", "--json"),
    )
    for step in steps:
        done = cli(*step)
        assert done.code == 0, (step, done.stderr)
    assert done.json["outputs"]["y"]["snr_db"] > 25
    tensors = cli("scales", "r", "--json").json["tensors"]
    assert all(tensor["state"] != "INITIAL" for tensor in tensors.values())
    quantized = [name for name, tensor in tensors.items() if tensor["scale"] is not None]
    assert len(quantized) >= 3
    onnxruntime.InferenceSession(tmp_path / "q.onnx", providers=["CPUExecutionProvider"])


def test_weights_behind_identity_are_one_weight(cli: Cli, tmp_path: Path) -> None:
    onnx.save(weights_behind_identity(), tmp_path / "m.onnx")
    assert cli("analyze", "m.onnx", "--target", "tflite").code == 0
    groups = cli("groups", "latest", "--json").json["groups"]
    (group,) = [group for group in groups if "raw" in group["tensors"]]
    assert {"first:in:1", "second:in:1"} <= {*group["slots"]}


def test_a_tensor_used_twice_has_a_slot_for_each_use(cli: Cli, tmp_path: Path) -> None:
    onnx.save(a_tensor_used_twice(), tmp_path / "m.onnx")
    assert cli("analyze", "m.onnx", "--target", "tflite").code == 0
    slots = {slot for group in cli("groups", "latest", "--json").json["groups"] for slot in group["slots"]}
    assert {"square:in:0", "square:in:1", "join:in:0", "join:in:1", "join:in:2"} <= slots


def test_a_tensor_that_is_always_empty_says_so(cli: Cli, tmp_path: Path) -> None:
    onnx.save(a_dimension_of_zero(), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=RANDOM.normal(size=(2, 2, 4, 4)).astype(np.float32))
    # On this target Concat joins nothing, so that the empty tensors have no one to take a scale from.
    done = cli(
        "calibrate", "m.onnx", "--data", "d.npz", "--target", "onnxruntime", "--observer", "minmax", "--name", "r"
    )
    assert done.code == 0, done.stderr
    assert cli("show", "r", "--tensor", "none", "--json").json["statistics"]["condition"] == "EMPTY"


def test_half_precision_activations_stay_float_with_the_reason(cli: Cli, tmp_path: Path) -> None:
    nodes = [node("Conv", ["x", "w"], ["c"], name="conv"), node("Relu", ["c"], ["y"], name="relu")]
    weights = {"w": kernel(2, 2, 1, 1).astype(np.float16)}
    onnx.save(build(nodes, ["n", 2, 4, 4], weights, dtype=TensorProto.FLOAT16), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=RANDOM.normal(size=(2, 2, 4, 4)).astype(np.float16))
    assert cli("analyze", "m.onnx", "--target", "tflite").code == 0
    done = cli("calibrate", "m.onnx", "--data", "d.npz", "--target", "tflite", "--observer", "mse", "--name", "r")
    assert done.code == 0, done.stderr
    assert "nothing is quantized in r2: qgraph coverage tells why" in done.stderr
    shared = cli("share", "c", "--run", "r", "--json").json
    assert shared["state"] == "FP32"
    assert "float16" in shared["reason"]
    refused = cli("export", "r", "--format", "qdq", "-o", "q.onnx")
    assert (refused.code, "nothing is quantized" in refused.stderr) == (2, True)


def test_custom_ops_are_analyzed_and_running_them_is_refused_by_name(cli: Cli, tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"], name="conv"),
        node("Magic", ["c"], ["m"], name="magic", domain="own"),
        node("Relu", ["m"], ["y"], name="relu"),
    ]
    onnx.save(build(nodes, ["n", 2, 4, 4], {"w": kernel(2, 2, 1, 1)}), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=RANDOM.normal(size=(2, 2, 4, 4)).astype(np.float32))
    assert cli("analyze", "m.onnx", "--target", "tflite").code == 0
    assert cli("share", "c", "--json").json["group"] is not None
    refused = cli("calibrate", "m.onnx", "--data", "d.npz")
    assert refused.code == 2
    (line,) = refused.stderr.strip().splitlines()
    assert "own:Magic" in line
    assert "--op-library" in line


def a_table_that_is_a_weight() -> ModelProto:
    """Of a language model: the rows that tokens are looked up in are the weight of the last layer, too."""
    nodes = [
        node("Gather", ["table", "x"], ["rows"], name="embed"),
        node("Gemm", ["rows", "w"], ["mixed"], name="mix"),
        node("Concat", ["rows", "mixed"], ["both"], name="join", axis=0),
        node("Gemm", ["both", "table"], ["y"], name="head", transB=1),
    ]
    model = build(nodes, ["n"], {"table": kernel(20, 16) * 4, "w": kernel(16, 16)}, dtype=TensorProto.INT64)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 20]))
    return model


@pytest.mark.parametrize("target", ["tflite", "onnxruntime", "espdl"])
def test_a_table_that_is_the_last_layers_weight_has_scales_of_each(cli: Cli, tmp_path: Path, target: str) -> None:
    onnx.save(a_table_that_is_a_weight(), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=RANDOM.integers(0, 20, 32))
    done = cli("calibrate", "m.onnx", "--data", "d.npz", "--target", target, "--observer", "mse", "--name", "r")
    assert done.code == 0, done.stderr
    assert cli("verify", "r", "--data", "d.npz", "--json").json["outputs"]["y"]["snr_db"] > 30
    automatic = cli("solve", "r", "--target", target, "--observer", "mse", "--force-overlap", "auto")
    assert automatic.code == 0, automatic.stderr
    of_head = [one for one in cli("scales", "r", "--json").json["requantize"] if one["tensor"] == "table"]
    assert [(one["slot"], len(one["scale"])) for one in of_head] == [("head:in:1", 20)]
    advised = cli("advise", "r", "--data", "d.npz", "--target-snr", 90)  # of all changes at once, 16 bits of the table
    assert advised.code == 0, advised.stderr
