"""The seed's subgraph, with a fused pair, a pool, biases and ops that stay float around it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qgraph.passes.entry import quantize_onnx_model
from qgraph.passes.graph import QuantizedGraph
from qgraph.passes.platforms import TargetPlatform
from qgraph.tqc import TensorQuantizationConfig

RNG = np.random.default_rng(0)

DATA = [RNG.normal(size=(2, 4, 8, 8)).astype(np.float32) for _ in range(8)]
"""Eight batches of two."""


def seed_model() -> onnx.ModelProto:
    """x → conv1 → relu1 ─ add1 → erf → e; x → conv2 ─┬ add1; conv2 → conv3 → pool → p; shape of s → sh."""
    random = np.random.default_rng(1)

    def conv(number: int, source: str, made: str) -> onnx.NodeProto:
        return helper.make_node("Conv", [source, f"w{number}", f"b{number}"], [made], f"conv{number}", pads=[1] * 4)

    nodes = [
        conv(1, "x", "c1"),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        conv(2, "x", "c2"),
        helper.make_node("Add", ["r1", "c2"], ["s"], "add1"),
        conv(3, "c2", "c3"),
        helper.make_node("MaxPool", ["c3"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Shape", ["s"], ["sh"], "shape"),
        helper.make_node("Erf", ["s"], ["e"], "erf"),
    ]
    constants = []
    for number in (1, 2, 3):
        weight = random.normal(size=(4, 4, 3, 3)) * number
        constants.append(numpy_helper.from_array(weight.astype(np.float32), f"w{number}"))
        constants.append(numpy_helper.from_array(random.normal(size=4).astype(np.float32), f"b{number}"))
    shape: list[Any] = ["n", 4, 8, 8]
    outputs = [
        ("e", TensorProto.FLOAT, shape),
        ("p", TensorProto.FLOAT, ["n", 4, 4, 4]),
        ("sh", TensorProto.INT64, [4]),
    ]
    graph = helper.make_graph(
        nodes,
        "seed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(*one) for one in outputs],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def quantized(**options: Any) -> QuantizedGraph:
    """The seed's model on PPL_CUDA_INT8, by the seed's call."""
    platform = options.pop("platform", TargetPlatform.PPL_CUDA_INT8)
    return quantize_onnx_model(
        onnx_import_file=seed_model(),
        calib_dataloader=DATA,
        calib_steps=8,
        input_shape=[1, 4, 8, 8],
        platform=platform,
        **options,
    )


def reads(graph: QuantizedGraph, op: str, index: int = 0) -> TensorQuantizationConfig:
    """The config of an operation's input."""
    return graph.operations[op].config.input_quantization_config[index]


def makes(graph: QuantizedGraph, op: str) -> TensorQuantizationConfig:
    """The config of an operation's first output."""
    return graph.operations[op].config.output_quantization_config[0]
