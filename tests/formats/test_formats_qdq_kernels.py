"""onnxruntime, at its default optimisation, runs an exported file on integers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from simulation import BIAS, INT8, UINT8, Array, P, Parameters, run_of, simulate, weight

from qgraph.formats.qdq import to_qdq
from qgraph.tqc import Scheme

RNG = np.random.default_rng(3)
IMAGE = RNG.uniform(-1, 1, (1, 8, 12, 12)).astype("f")
WEIGHTS = tuple(0.002 + 0.0001 * i for i in range(8))
LARGEST_STEP = 0.03


def residual_block() -> ModelProto:
    """x → conv1+relu → a → {conv2 → c, add}; add → y → maxpool → z; concat(z, maxpool(a)) → out."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["t"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["t"], ["a"], name="relu"),
        helper.make_node("Conv", ["a", "w2"], ["c"], name="conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["a", "c"], ["y"], name="add"),
        helper.make_node("MaxPool", ["y"], ["z"], name="pool", kernel_shape=[2, 2]),
        helper.make_node("MaxPool", ["a"], ["q"], name="pool2", kernel_shape=[2, 2]),
        helper.make_node("Concat", ["z", "q"], ["out"], name="concat", axis=1),
    ]
    constants: dict[str, Array] = {
        "w1": RNG.uniform(-0.25, 0.25, (8, 8, 3, 3)).astype("f"),
        "w2": RNG.uniform(-0.25, 0.25, (8, 8, 3, 3)).astype("f"),
        "b1": RNG.uniform(-0.5, 0.5, 8).astype("f"),
    }
    graph = helper.make_graph(
        nodes,
        "residual",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, IMAGE.shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, (1, 16, 11, 11))],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def slots(scheme: Scheme, *, is_shared: bool) -> Parameters:
    """Parameters of the block; the branch of `a` into the concat has the concat's own, or a's."""
    low = scheme.quant_min
    x, a, c = P(0.008, low + 128, scheme), P(0.02, low, scheme), P(0.03, low + 128, scheme)
    y = P(0.03, low + 100, scheme)
    second = y if is_shared else a
    return {
        **dict.fromkeys(["graph:in:x", "conv1:in:0"], x),
        **{f"conv{i}:in:1": P(WEIGHTS, 0, weight()) for i in (1, 2)},
        "conv1:in:2": P(tuple(x.scales[0] * one for one in P(WEIGHTS).scales), 0, BIAS),
        **dict.fromkeys(["relu:out:0", "conv2:in:0", "add:in:0"], a),
        **dict.fromkeys(["conv2:out:0", "add:in:1"], c),
        **dict.fromkeys(["pool2:in:0", "pool2:out:0", "concat:in:1"], second),
        **dict.fromkeys(["add:out:0", "pool:in:0", "pool:out:0", "concat:in:0", "concat:out:0", "graph:out:out"], y),
    }


def optimized(model: ModelProto, folder: Path, scheme: Scheme) -> tuple[Counter[str], Array]:
    """How often each op type is left after onnxruntime's default optimisation, and the output."""
    options = onnxruntime.SessionOptions()
    if scheme.signed:  # off by default on x86, where int8 activations would else be computed in float
        options.add_session_config_entry("session.qdqisint8allowed", "1")
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"x": IMAGE})
    kinds = Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)
    return kinds, output


@pytest.mark.parametrize("scheme", [UINT8, INT8], ids=["uint8", "int8"])
def test_without_a_requantize_every_op_runs_on_integers(tmp_path: Path, scheme: Scheme) -> None:
    model = residual_block()
    parameters = slots(scheme, is_shared=False)
    kinds, output = optimized(to_qdq(model, run_of(model, parameters), {}), tmp_path, scheme)
    assert (kinds["QLinearConv"], kinds["QLinearAdd"], kinds["QLinearConcat"]) == (2, 1, 1), kinds
    assert {"Conv", "Add", "Relu", "Concat"}.isdisjoint(kinds), kinds
    expected = simulate(model, parameters, {"x": IMAGE}, [node.name for node in model.graph.node])["out"]
    assert np.abs(output - expected).max() <= LARGEST_STEP * 1.001  # integer kernels may round a tie the other way


@pytest.mark.parametrize("op", ["conv1", "conv2"])
def test_a_weight_that_is_left_in_float_is_not_quantized_by_the_runtime(tmp_path: Path, op: str) -> None:
    """It would be, per tensor: here one channel is a hundred times larger, and nothing would be left of the others."""
    model = residual_block()
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        if tensor.name == model.graph.node[0 if op == "conv1" else 2].input[1]:
            values[0] *= 100
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    floats = {f"{op}:in:1", f"{op}:in:2"}
    parameters = {slot: one for slot, one in slots(UINT8, is_shared=False).items() if slot not in floats}
    exported = to_qdq(model, run_of(model, parameters), {})
    kinds, output = optimized(exported, tmp_path, UINT8)
    assert kinds["QLinearConv"] == 1, kinds
    plain = onnxruntime.SessionOptions()
    plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(exported.SerializeToString(), plain, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": IMAGE})
    assert np.abs(output - expected).max() <= 2.001 * LARGEST_STEP


@pytest.mark.parametrize("scheme", [UINT8, INT8], ids=["uint8", "int8"])
def test_a_requantize_at_a_fan_out_is_kept_and_the_rest_runs_on_integers(tmp_path: Path, scheme: Scheme) -> None:
    model = residual_block()
    parameters = slots(scheme, is_shared=True)
    kinds, output = optimized(to_qdq(model, run_of(model, parameters), {}), tmp_path, scheme)
    assert (kinds["QLinearConv"], kinds["QLinearAdd"]) == (2, 1), kinds
    assert kinds["QuantizeLinear"] == 2, kinds  # the graph's input and the requantize
    assert {"Conv", "Add", "Relu"}.isdisjoint(kinds), kinds
    expected = simulate(model, parameters, {"x": IMAGE}, [node.name for node in model.graph.node])["out"]
    assert np.abs(output - expected).max() <= LARGEST_STEP * 1.001
