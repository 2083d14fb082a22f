"""Folding and equalizing change numbers, and not what the model computes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import ArrayLike, NDArray
from onnx import helper, numpy_helper

from qgraph.improve.equalize import equalize, regions
from qgraph.improve.fold import fold_factors
from qgraph.improve.weighted import weighted_ops, with_biases
from qgraph.ir.onnx_import import ImportedModel, load_model

RANDOM = np.random.default_rng(0)


def saved(path: Path, nodes: list[onnx.NodeProto], weights: Mapping[str, ArrayLike], channels: int) -> ImportedModel:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", onnx.TensorProto.FLOAT, [1, 3, 8, 8])],
        [value("y", onnx.TensorProto.FLOAT, [1, channels, 8, 8])],
        [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return load_model(path)


def outputs(model: onnx.ModelProto, x: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip([one.name for one in session.get_outputs()], session.run(None, {"x": x}), strict=True))


@pytest.fixture
def image() -> NDArray[np.float32]:
    return RANDOM.normal(size=(1, 3, 8, 8)).astype(np.float32)


def normal(*shape: int) -> NDArray[np.float32]:
    return RANDOM.normal(size=shape).astype(np.float32)


def test_factors_and_addends_behind_a_convolution_are_folded(tmp_path: Path, image: NDArray[np.float32]) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="conv"),
        helper.make_node("Mul", ["k", "a"], ["b"], name="scale"),
        helper.make_node("Add", ["b", "t"], ["c"], name="shift"),
        helper.make_node("Relu", ["c"], ["y"], name="relu"),
    ]
    model = saved(tmp_path / "m.onnx", nodes, {"w": normal(4, 3, 1, 1), "k": np.float32(0.5), "t": normal(4, 1, 1)}, 4)
    folded, swallowed = fold_factors(model.proto, tmp_path)
    assert swallowed == {"conv": ("scale", "shift")}
    assert [node.op_type for node in folded.graph.node] == ["Conv", "Relu"]
    np.testing.assert_allclose(outputs(folded, image)["y"], outputs(model.proto, image)["y"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("constant", [normal(8), normal(1, 1, 8, 8)])
def test_a_factor_that_differs_from_place_to_place_stays(tmp_path: Path, constant: NDArray[np.float32]) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="conv"),
        helper.make_node("Mul", ["a", "k"], ["y"], name="scale"),
    ]
    model = saved(tmp_path / "m.onnx", nodes, {"w": normal(4, 3, 1, 1), "k": constant}, 4)
    assert fold_factors(model.proto, tmp_path)[1] == {}


def test_an_output_that_something_else_reads_is_not_folded(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="conv"),
        helper.make_node("Mul", ["a", "k"], ["b"], name="scale"),
        helper.make_node("Sub", ["b", "a"], ["y"], name="difference"),
    ]
    model = saved(tmp_path / "m.onnx", nodes, {"w": normal(4, 3, 1, 1), "k": np.float32(3)}, 4)
    assert fold_factors(model.proto, tmp_path)[1] == {}


def residual(path: Path, activation: list[onnx.NodeProto], **constants: float) -> ImportedModel:
    """Conv → activation → depthwise Conv, and a residual stream through an Add."""
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["a"], name="first"),
        *activation,
        helper.make_node("Conv", ["r", "w1"], ["d"], name="depthwise", group=4, pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["d", "w2"], ["e"], name="left"),
        helper.make_node("Conv", ["r", "w3"], ["f"], name="right"),
        helper.make_node("Add", ["e", "f"], ["s"], name="add"),
        helper.make_node("Conv", ["s", "w4"], ["y"], name="last"),
    ]
    sizes = np.array([0.01, 0.3, 1, 4], np.float32).reshape(4, 1, 1, 1)
    weights: dict[str, ArrayLike] = {
        "w0": normal(4, 3, 1, 1) * sizes,
        "b0": normal(4) * 0.1,
        "w1": normal(4, 1, 3, 3),
        "w2": normal(5, 4, 1, 1),
        "w3": normal(5, 4, 1, 1),
        "w4": normal(2, 5, 1, 1),
        **{name: np.float32(value) for name, value in constants.items()},
    }
    return saved(path, nodes, weights, 2)


def magnitudes(model: ImportedModel, image: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
    shown = onnx.ModelProto()
    shown.CopyFrom(model.proto)
    names = [op.data for op in weighted_ops(model.proto.graph) if op.data != "x"]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names))
    return {
        name: np.abs(a).max(axis=(0, 2, 3)).astype(float) for name, a in outputs(shown, image).items() if name != "y"
    }


RELU = [helper.make_node("Relu", ["a"], ["r"], name="relu")]
RELU6 = [helper.make_node("Clip", ["a", "low", "high"], ["r"], name="relu6")]


def test_regions_reach_through_residual_additions(tmp_path: Path) -> None:
    model = residual(tmp_path / "m.onnx", RELU)
    found = {one.tensors: one for one in regions(model.structure, weighted_ops(with_biases(model.proto).graph))}
    assert sorted(map(sorted, found)) == [["a", "r"], ["d"], ["e", "f", "s"]]
    stream = next(one for tensors, one in found.items() if "s" in tensors)
    assert [op.op for op in stream.makers] == ["left", "right"]
    assert [op.op for op in stream.readers] == ["last"]


def test_equalizing_changes_no_output_but_by_rounding(tmp_path: Path, image: NDArray[np.float32]) -> None:
    model = residual(tmp_path / "m.onnx", RELU)
    better, factors = equalize(model.proto, model.structure, magnitudes(model, image), tmp_path)
    assert max(np.ptp(np.log2(one)) for one in factors.values()) > 1
    other = 100 * normal(1, 3, 8, 8)  # nothing like the data
    for x in (image, other):
        np.testing.assert_allclose(
            outputs(better, x)["y"], outputs(model.proto, x)["y"], rtol=1e-4, atol=1e-4 * np.abs(x).max()
        )


def test_a_channel_that_relu6_cuts_keeps_its_unit_and_the_others_stay_below_the_bound(
    tmp_path: Path, image: NDArray[np.float32]
) -> None:
    model = residual(tmp_path / "m.onnx", RELU6, low=0, high=2)
    sizes = magnitudes(model, image)
    assert (sizes["r"] == 2).any()
    assert (sizes["r"] < 1).any()
    better, factors = equalize(model.proto, model.structure, sizes, tmp_path)
    assert (factors["r"][sizes["r"] == 2] == 1).all()
    assert (factors["r"] * sizes["r"] <= 2).all()
    np.testing.assert_allclose(outputs(better, image)["y"], outputs(model.proto, image)["y"], rtol=1e-4, atol=1e-4)


def test_a_region_that_something_else_reads_is_left_alone(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], name="first"),
        helper.make_node("Sigmoid", ["a"], ["s"], name="sigmoid"),
        helper.make_node("Conv", ["a", "w1"], ["b"], name="second"),
        helper.make_node("Mul", ["s", "b"], ["y"], name="gate"),
    ]
    model = saved(tmp_path / "m.onnx", nodes, {"w0": normal(4, 3, 1, 1), "w1": normal(4, 4, 1, 1)}, 4)
    assert regions(model.structure, weighted_ops(with_biases(model.proto).graph)) == []


@pytest.mark.parametrize("order", [["a", "t"], ["t", "a"]])
def test_a_fully_connected_layer_of_two_ops_becomes_one(tmp_path: Path, order: list[str]) -> None:
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], name="flatten"),
        helper.make_node("MatMul", ["flat", "w"], ["a"], name="matmul"),
        helper.make_node("Add", order, ["b"], name="bias"),
        helper.make_node("Reshape", ["b", "shape"], ["y"], name="shaped"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 5, 1])],
        [
            numpy_helper.from_array(normal(192, 5), "w"),
            numpy_helper.from_array(normal(5), "t"),
            numpy_helper.from_array(np.array([1, 5, 1]), "shape"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "m.onnx")
    model = load_model(tmp_path / "m.onnx")
    folded, swallowed = fold_factors(model.proto, tmp_path)
    assert swallowed == {"matmul": ("bias",)}
    assert [node.op_type for node in folded.graph.node] == ["Flatten", "Gemm", "Reshape"]
    x = normal(1, 3, 8, 8)
    np.testing.assert_allclose(outputs(folded, x)["y"], outputs(model.proto, x)["y"], rtol=1e-5, atol=1e-4)


def test_a_product_of_more_than_matrices_stays(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="matmul"),
        helper.make_node("Add", ["a", "t"], ["y"], name="bias"),
    ]
    model = saved(tmp_path / "m.onnx", nodes, {"w": normal(8, 8), "t": normal(8)}, 3)
    folded, swallowed = fold_factors(model.proto, tmp_path)
    assert swallowed == {}
    assert [node.op_type for node in folded.graph.node] == ["MatMul", "Add"]


def test_a_product_whose_bias_cannot_be_folded_stays_one(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        helper.make_node("Add", ["a", "t"], ["b"], name="first_bias"),
        helper.make_node("MatMul", ["b", "w"], ["c"], name="second"),
        helper.make_node("Add", ["c", "t"], ["d"], name="second_bias"),
        helper.make_node("MatMul", ["d", "column"], ["e"], name="narrow"),
        helper.make_node("Add", ["e", "t"], ["y"], name="wider"),
    ]
    values = {"w": normal(5, 5), "t": normal(5), "column": normal(5, 1)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [3, 5])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [3, 5])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 10)], ir_version=8), tmp_path / "m.onnx")
    model = load_model(tmp_path / "m.onnx")
    folded, swallowed = fold_factors(model.proto, tmp_path)
    assert swallowed == {}
    assert [node.op_type for node in folded.graph.node] == ["MatMul", "Add"] * 3
    x = normal(3, 5)
    np.testing.assert_allclose(outputs(folded, x)["y"], outputs(model.proto, x)["y"], rtol=1e-5, atol=1e-4)
