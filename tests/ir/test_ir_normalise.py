"""Normalising changes the form of a model, never what it computes or what its tensors are called."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import Load, build, run, save_and_load, weight
from package_file import package_file

from qgraph.errors import ModelError
from qgraph.ir import normalise
from qgraph.ir.graph import Graph
from qgraph.ir.onnx_import import ImportedModel, load_model

node = helper.make_node
MODELS = "rapidocr_onnxruntime"


@pytest.fixture
def load(tmp_path: Path) -> Load:
    return partial(save_and_load, tmp_path)


def types(imported: ImportedModel) -> list[str]:
    return [op.type for op in imported.structure.ops]


def agrees(imported: ImportedModel, model: onnx.ModelProto, **feeds: np.ndarray) -> None:
    for ours, theirs in zip(run(imported, **feeds), run(model, **feeds), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def constant_node(name: str, array: np.ndarray) -> onnx.NodeProto:
    return node("Constant", [], [name], value=numpy_helper.from_array(array))


def expose(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """A copy whose outputs are the named tensors."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.ClearField("output")
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return copy


# Real models


@pytest.mark.parametrize(
    ("file", "shape"),
    [
        ("models/ch_PP-OCRv4_det_infer.onnx", (1, 3, 64, 96)),
        ("models/ch_PP-OCRv4_rec_infer.onnx", (1, 3, 48, 96)),
        ("models/ch_ppocr_mobile_v2.0_cls_infer.onnx", (1, 3, 48, 192)),
    ],
)
def test_real_models_become_lean_and_compute_the_same(file: str, shape: tuple[int, ...]) -> None:
    path = package_file(MODELS, file)
    model = onnx.load(path)
    imported = load_model(path)
    assert not {"Constant", "BatchNormalization"} & set(types(imported))
    assert imported.structure.opset == 13
    onnx.checker.check_model(imported.proto)
    shared = {name for n in model.graph.node for name in n.output if n.op_type != "Constant"}
    names = sorted(shared & {name or "" for op in imported.structure.ops for name in op.outputs})
    assert len(names) > 150
    x = weight(*shape)
    for ours, theirs in zip(run(expose(imported.proto, names), x=x), run(expose(model, names), x=x), strict=True):
        # 1e-6: a Sigmoid near zero has steps of 6e-8, whatever its largest value is.
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max() + 1e-6, rtol=0)


def test_real_models_keep_the_names_of_their_ops_and_activations() -> None:
    path = package_file(MODELS, "models/ch_PP-OCRv4_det_infer.onnx")
    model = onnx.load(path)
    imported = load_model(path)
    kept = {op.name for op in imported.structure.ops} | {name for op in imported.structure.ops for name in op.origins}
    assert kept >= {n.name for n in model.graph.node if n.op_type != "Constant"}
    before = {name for n in model.graph.node for name in n.output}
    assert {name for op in imported.structure.ops for name in op.outputs} <= before


# Opsets


def test_opset_10_forms_are_raised_to_13(load: Load) -> None:
    nodes = [
        node("Clip", ["x"], ["c"], name="clip", min=0.0, max=6.0),
        node("Pad", ["c"], ["p"], name="pad", pads=[0, 0, 1, 1, 0, 0, 1, 1], value=0.5),
        node("Slice", ["p", "starts", "ends", "axes"], ["s"], name="slice"),
        node("Dropout", ["s"], ["d"], name="drop", ratio=0.5),
        node("ReduceMean", ["d"], ["y"], name="mean", axes=[2, 3]),
    ]
    weights = {"starts": np.array([1]), "ends": np.array([5]), "axes": np.array([2])}
    model = build(nodes, {"x": [1, 2, 4, 4]}, {"y": [1, 2, 1, 1]}, weights, opset=10)
    imported = load(model)
    assert types(imported) == ["Clip", "Pad", "Slice", "Dropout", "ReduceMean"]
    assert [op.name for op in imported.structure.ops] == ["clip", "pad", "slice", "drop", "mean"]
    assert imported.structure.opset == 13
    graph = Graph(imported.structure)
    assert [graph.tensor(name or "").values for name in graph.op("clip").inputs[1:]] == [(0.0,), (6.0,)]
    agrees(imported, model, x=weight(1, 2, 4, 4))


def test_opset_11_forms_are_raised_to_13(load: Load) -> None:
    nodes = [
        node("Resize", ["x", "roi", "scales"], ["r"], name="resize", mode="nearest"),
        node("Squeeze", ["r"], ["q"], name="squeeze", axes=[0]),
        node("Unsqueeze", ["q"], ["u"], name="unsqueeze", axes=[0]),
        node("Split", ["u"], ["a", "b"], name="split", axis=1, split=[1, 1]),
        node("Add", ["a", "b"], ["y"], name="add"),
    ]
    weights = {"roi": np.zeros(0, np.float32), "scales": np.array([1, 1, 2, 2], np.float32)}
    model = build(nodes, {"x": [1, 2, 3, 3]}, {"y": [1, 1, 6, 6]}, weights, opset=11)
    imported = load(model)
    assert types(imported) == ["Resize", "Squeeze", "Unsqueeze", "Split", "Add"]
    agrees(imported, model, x=weight(1, 2, 3, 3))


def test_custom_ops_survive_the_raising_of_the_opset(load: Load) -> None:
    nodes = [
        node("Magic", ["x"], ["m"], name="magic", domain="my.ops"),
        node("Plugin_TRT", ["m"], ["p"], name="plugin"),
        node("Clip", ["p"], ["y"], name="clip", min=0.0),
    ]
    imported = load(build(nodes, {"x": [2]}, {"y": [2]}, opset=10, domains=["my.ops"]))
    assert [(op.name, op.domain) for op in imported.structure.ops] == [
        ("magic", "my.ops"),
        ("plugin", ""),
        ("clip", ""),
    ]


def test_an_opset_that_cannot_be_raised_is_refused_with_the_converters_reason(tmp_path: Path) -> None:
    nodes = [node("Upsample", ["x", "s"], ["y"], mode="linear")]
    model = build(nodes, {"x": [1, 1, 2, 2], "s": [4]}, {"y": [1, 1, 4, 4]}, opset=10)
    with pytest.raises(ModelError) as caught:
        save_and_load(tmp_path, model)
    assert "\n" not in str(caught.value)


def test_a_softmax_over_the_last_axis_stays_one_op(load: Load) -> None:
    nodes = [node("Relu", ["x"], ["r"]), node("Softmax", ["r"], ["y"], axis=2)]
    assert types(load(build(nodes, {"x": ["n", 3, 4]}, {"y": ["n", 3, 4]}, opset=12))) == ["Relu", "Softmax"]


def test_both_names_of_the_standard_domain_mean_the_same(load: Load) -> None:
    nodes = [
        node("Constant", [], ["k"], value_float=2.0, domain="ai.onnx"),
        node("Mul", ["x", "k"], ["y"], name="mul", domain="ai.onnx"),
    ]
    imported = load(build(nodes, {"x": [2]}, {"y": [2]}))
    assert [(op.name, op.domain, op.excluded) for op in imported.structure.ops] == [("mul", "", None)]


def test_a_constant_that_the_model_returns_is_excluded(load: Load) -> None:
    nodes = [node("Relu", ["x"], ["y"]), constant_node("k", weight(2))]
    graph = Graph(load(build(nodes, {"x": [2]}, {"y": [2], "k": [2]})).structure)
    assert graph.op("Constant@k").excluded == "constant that the model returns"


def test_newer_opsets_stay(load: Load) -> None:
    assert load(build([node("Gelu", ["x"], ["y"])], {"x": [2]}, {"y": [2]}, opset=20)).structure.opset == 20


# Constants


def test_constant_nodes_of_every_size_and_kind_become_constants(load: Load) -> None:
    nodes = [
        constant_node("w", weight(4, 3, 3, 3)),
        node("Constant", [], ["one"], value_float=1.0),
        node("Constant", [], ["shape"], value_ints=[1, -1]),
        node("Conv", ["x", "w"], ["c"]),
        node("Add", ["c", "one"], ["a"]),
        node("Sigmoid", ["a"], ["s"]),
        node("Reshape", ["s", "shape"], ["y"]),
    ]
    model = build(nodes, {"x": [1, 3, 4, 4]}, {"y": [1, 16]})
    imported = load(model)
    assert "Constant" not in types(imported)
    graph = Graph(imported.structure)
    assert graph.tensor("w").constant
    assert graph.tensor("shape").values == (1, -1)
    agrees(imported, model, x=weight(1, 3, 4, 4))


def test_weights_behind_identity_cast_and_transpose_become_constants(load: Load) -> None:
    nodes = [
        node("Identity", ["w"], ["wi"], name="alias"),
        node("Cast", ["wi"], ["wc"], name="cast", to=TensorProto.FLOAT),
        node("Transpose", ["wc"], ["wt"], name="turn", perm=[1, 0]),
        node("MatMul", ["x", "wt"], ["y"], name="matmul"),
    ]
    model = build(nodes, {"x": [2, 300]}, {"y": [2, 400]}, {"w": weight(400, 300).astype(np.float16)})
    imported = load(model)
    (matmul,) = imported.structure.ops
    assert matmul.inputs == ("x", "wt")
    assert matmul.origins == ("alias", "cast", "turn")
    assert imported.constant("wt").dtype == np.float32
    agrees(imported, model, x=weight(2, 300))


def test_identities_on_data_stay_under_their_names(load: Load) -> None:
    nodes = [node("Identity", ["x"], ["i"]), node("Relu", ["i"], ["r"]), node("Identity", ["r"], ["y"])]
    imported = load(build(nodes, {"x": [2]}, {"y": [2]}))
    assert [op.outputs for op in imported.structure.ops] == [("i",), ("r",), ("y",)]


@pytest.mark.parametrize(
    ("op_type", "weights"),
    [
        ("Expand", {"a": np.ones(1, np.float32), "b": np.array([1 << 20, 1 << 20])}),
        ("Tile", {"a": np.ones(1, np.float32), "b": np.array([1 << 40])}),
    ],
)
def test_a_constant_that_would_explode_is_not_folded(load: Load, op_type: str, weights: dict[str, np.ndarray]) -> None:
    nodes = [node(op_type, ["a", "b"], ["huge"]), node("Shape", ["huge"], ["s"]), node("Reshape", ["x", "s"], ["y"])]
    assert types(load(build(nodes, {"x": [2]}, {"y": [2]}, weights))) == [op_type, "Shape", "Reshape"]


def test_stored_quantization_is_not_folded_away(load: Load) -> None:
    weights = {"q": np.ones((2, 2), np.int8), "s": np.float32(0.5), "z": np.int8(0)}
    nodes = [node("DequantizeLinear", ["q", "s", "z"], ["w"]), node("MatMul", ["x", "w"], ["y"])]
    assert types(load(build(nodes, {"x": [2, 2]}, {"y": [2, 2]}, weights))) == ["DequantizeLinear", "MatMul"]


def test_random_ops_and_returned_constants_stay(load: Load) -> None:
    nodes = [
        node("RandomNormalLike", ["c"], ["r"]),
        node("Neg", ["c"], ["n"], name="returned"),
        node("Add", ["x", "r"], ["y"]),
    ]
    imported = load(build(nodes, {"x": [2]}, {"y": [2], "n": [2]}, {"c": weight(2)}))
    assert sorted(types(imported)) == ["Add", "Neg", "RandomNormalLike"]


def test_what_no_output_needs_is_dropped(load: Load) -> None:
    nodes = [node("Relu", ["x"], ["y"], name="used"), node("Add", ["x", "w"], ["dead"], name="dead")]
    structure = load(build(nodes, {"x": [2]}, {"y": [2]}, {"w": weight(2), "unused": weight(2)})).structure
    assert [op.name for op in structure.ops] == ["used"]
    assert [tensor.name for tensor in structure.tensors] == ["x", "y"]


@pytest.mark.parametrize("stated", [False, True])
def test_a_model_with_nothing_to_fold_comes_out_as_if_the_libraries_had_rewritten_it(
    load: Load, monkeypatch: pytest.MonkeyPatch, stated: bool
) -> None:
    nodes = [
        node("Conv", ["x", "w", "b"], ["conv"], name="conv", kernel_shape=[1, 1]),
        node("Relu", ["conv"], ["relu"]),
        node("Clip", ["relu", "", "high"], ["clip"], name="relu"),
        node("Add", ["clip", "conv"], ["y"], name="twice"),
        node("MaxPool", ["conv"], ["z"], name="twice", kernel_shape=[1, 1]),
    ]
    weights = {"w": weight(4, 3, 1, 1), "b": weight(4), "high": np.array(6, np.float32)}
    model = build(nodes, {"x": [1, 3, 8, 8]}, {"y": [1, 4, 8, 8], "z": [1, 4, 8, 8]}, weights)
    if stated:
        model = onnx.shape_inference.infer_shapes(model)
    monkeypatch.setattr(normalise, "_rewrite", None)
    short = load(model)
    monkeypatch.undo()
    monkeypatch.setattr(normalise, "_may_change", lambda _: True)
    long = load(model)
    assert short.structure == long.structure
    assert short.proto == long.proto


def test_inputs_and_outputs_that_are_left_out_at_the_end_are_cut_off(load: Load) -> None:
    clip, dropout = node("Clip", ["x", "", ""], ["y"]), node("Dropout", ["x"], ["y", ""])
    for only in (clip, dropout):
        (op,) = load(build([only], {"x": [2]}, {"y": [2]})).structure.ops
        assert (op.inputs, op.outputs) == (("x",), ("y",))


def test_constants_inside_bodies_keep_working(load: Load) -> None:
    scalar = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    then = helper.make_graph([constant_node("z", weight(1)), node("Add", ["x", "z"], ["out"])], "then", [], [scalar])
    low = numpy_helper.from_array(np.array(-0.1, np.float32), "low")
    other = helper.make_graph([node("Clip", ["x", "low"], ["out"])], "else", [], [scalar], [low])
    nodes = [
        node("ReduceMax", ["x"], ["top"], keepdims=0),
        node("Cast", ["top"], ["flag"], to=TensorProto.BOOL),
        node("If", ["flag"], ["y"], then_branch=then, else_branch=other),
    ]
    model = build(nodes, {"x": [4]}, {"y": [4]}, opset=12)
    for x in (weight(4), np.zeros(4, np.float32)):
        agrees(load(model), model, x=x)


# Functions


def test_local_functions_are_inlined(load: Load) -> None:
    body = [node("Mul", ["a", "a"], ["sq"]), node("Relu", ["sq"], ["b"])]
    function = helper.make_function("mine", "Square", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    nodes = [node("Square", ["x"], ["s"], name="f", domain="mine"), node("Square", ["s"], ["y"], domain="mine")]
    model = build(nodes, {"x": [2]}, {"y": [2]}, domains=["mine"])
    model.functions.append(function)
    imported = load(model)
    assert types(imported) == ["Mul", "Relu", "Mul", "Relu"]
    assert {op.excluded for op in imported.structure.ops} == {None}
    assert len({op.name for op in imported.structure.ops}) == 4
    agrees(imported, model, x=weight(2))


# BatchNormalization and bias


def batchnorm(channels: int) -> dict[str, np.ndarray]:
    return {
        "gamma": weight(channels),
        "beta": weight(channels),
        "mean": weight(channels),
        "var": np.abs(weight(channels)) + 0.1,
    }


BN = ["gamma", "beta", "mean", "var"]


def image_model(
    middle: list[onnx.NodeProto], weights: dict[str, np.ndarray], **more: list[int | str]
) -> onnx.ModelProto:
    return build(middle, {"x": [1, 4, 5, 5]}, {"y": ["n", "c", "h", "w"], **more}, weights)


@pytest.mark.parametrize(
    ("op_type", "shape", "attributes"),
    [
        ("Conv", (6, 4, 3, 3), {}),
        ("Conv", (6, 2, 3, 3), {"group": 2}),
        ("ConvTranspose", (4, 6, 2, 2), {"strides": [2, 2]}),
        ("ConvTranspose", (4, 3, 2, 2), {"group": 2}),
    ],
)
@pytest.mark.parametrize("bias", ["none", "omitted", "own", "added", "both"])
def test_batchnorm_and_bias_are_folded_into_convolutions(
    load: Load, op_type: str, shape: tuple[int, ...], attributes: dict[str, Any], bias: str
) -> None:
    weights = {"w": weight(*shape), "b": weight(6), "add": weight(1, 6, 1, 1), **batchnorm(6)}
    inputs = {"none": [], "omitted": [""], "added": []}.get(bias, ["b"])
    nodes = [node(op_type, ["x", "w", *inputs], ["c"], name="conv", **attributes)]
    if bias in ("added", "both"):
        nodes.append(node("Add", ["add", "c"], ["a"], name="add"))
    nodes.append(node("BatchNormalization", [nodes[-1].output[0], *BN], ["y"], name="bn"))
    model = image_model(nodes, weights)
    imported = load(model)
    (fused,) = imported.structure.ops
    assert (fused.name, fused.outputs) == ("conv", ("y",))
    assert fused.origins == (("add", "bn") if len(nodes) == 3 else ("bn",))
    agrees(imported, model, x=weight(1, 4, 5, 5))


@pytest.mark.parametrize("attributes", [{"alpha": 0.5, "beta": 2.0}, {"transB": 1}])
def test_batchnorm_is_folded_into_gemm(load: Load, attributes: dict[str, Any]) -> None:
    w = weight(6, 4) if attributes.get("transB") else weight(4, 6)
    nodes = [
        node("Gemm", ["x", "w", "b"], ["g"], name="gemm", **attributes),
        node("BatchNormalization", ["g", *BN], ["y"], name="bn"),
    ]
    model = build(nodes, {"x": [3, 4]}, {"y": [3, 6]}, {"w": w, "b": weight(6), **batchnorm(6)})
    imported = load(model)
    assert types(imported) == ["Gemm"]
    agrees(imported, model, x=weight(3, 4))


def test_external_weights_are_folded_too(load: Load, tmp_path: Path) -> None:
    nodes = [node("Conv", ["x", "w"], ["c"]), node("BatchNormalization", ["c", *BN], ["y"])]
    model = image_model(nodes, {"w": weight(6, 4, 3, 3), **batchnorm(6)})
    outside = onnx.ModelProto()
    outside.CopyFrom(model)
    (tmp_path / "w.bin").write_bytes(outside.graph.initializer[0].raw_data)
    outside.graph.initializer[0].ClearField("raw_data")
    outside.graph.initializer[0].data_location = TensorProto.EXTERNAL
    outside.graph.initializer[0].external_data.append(onnx.StringStringEntryProto(key="location", value="w.bin"))
    imported = load(outside)
    assert types(imported) == ["Conv"]
    agrees(imported, model, x=weight(1, 4, 5, 5))


def stays(load: Load, nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], **more: list[int | str]) -> None:
    model = image_model(nodes, weights, **more)
    imported = load(model)
    assert sorted(types(imported)) == sorted(n.op_type for n in nodes)
    agrees(imported, model, x=weight(1, 4, 5, 5))


def test_batchnorm_stays_where_the_convolution_has_other_readers(load: Load) -> None:
    conv = node("Conv", ["x", "w"], ["c"])
    bn = node("BatchNormalization", ["c", *BN], ["n"])
    weights = {"w": weight(6, 4, 3, 3), **batchnorm(6)}
    stays(load, [conv, bn, node("Add", ["c", "n"], ["y"])], weights)
    stays(load, [conv, bn, node("Relu", ["n"], ["y"])], weights, c=["a", "b", "d", "e"])


def test_batchnorm_stays_where_the_weight_is_shared(load: Load) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("BatchNormalization", ["c", *BN], ["n"]),
        node("Conv", ["x", "w"], ["d"]),
        node("Add", ["d", "n"], ["y"]),
    ]
    stays(load, nodes, {"w": weight(6, 4, 3, 3), **batchnorm(6)})


def test_batchnorm_with_an_impossible_variance_stays(load: Load) -> None:
    weights = {"w": weight(6, 4, 3, 3), **batchnorm(6), "var": -np.ones(6, np.float32)}
    nodes = [node("Conv", ["x", "w"], ["c"]), node("BatchNormalization", ["c", *BN], ["y"])]
    assert types(load(image_model(nodes, weights))) == ["Conv", "BatchNormalization"]


def test_a_new_bias_takes_no_existing_name(load: Load) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("BatchNormalization", ["c", *BN], ["n"]),
        node("Add", ["n", "w_bias"], ["y"]),
    ]
    weights = {"w": weight(6, 4, 3, 3), "w_bias": weight(1, 1, 1, 3), **batchnorm(6)}
    model = image_model(nodes, weights)
    imported = load(model)
    assert types(imported) == ["Conv", "Add"]
    agrees(imported, model, x=weight(1, 4, 5, 5))


@pytest.mark.parametrize("shape", [(6, 1, 1), (1, 6, 1, 1), (1,), ()])
def test_a_constant_per_channel_becomes_the_bias(load: Load, shape: tuple[int, ...]) -> None:
    nodes = [node("Conv", ["x", "w"], ["c"], name="conv"), node("Add", ["c", "b"], ["y"], name="add")]
    model = image_model(nodes, {"w": weight(6, 4, 3, 3), "b": np.asarray(weight(*shape), np.float32)})
    imported = load(model)
    (conv,) = imported.structure.ops
    assert conv.inputs == ("x", "w", "b")
    assert imported.constant("b").shape == (6,)
    agrees(imported, model, x=weight(1, 4, 5, 5))


@pytest.mark.parametrize("shape", [(3,), (1, 1, 3, 1), (1, 1, 1, 1, 1), (2, 1, 1, 1), (1, 6, 3, 3)])
def test_an_addition_that_is_no_bias_stays(load: Load, shape: tuple[int, ...]) -> None:
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Add", ["c", "b"], ["y"])]
    model = build(
        nodes,
        {"x": [1, 4, 5, 5]},
        {"y": [f"d{i}" for i in range(max(4, len(shape)))]},
        {"w": weight(6, 4, 3, 3), "b": weight(*shape)},
    )
    assert types(load(model)) == ["Conv", "Add"]


def test_an_addition_that_widens_the_channels_stays(load: Load) -> None:
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Add", ["c", "b"], ["y"])]
    stays(load, nodes, {"w": weight(1, 4, 3, 3), "b": weight(1, 6, 1, 1)})


def test_one_constant_that_two_additions_share_becomes_two_biases(load: Load) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Add", ["c", "b"], ["p"]),
        node("Conv", ["x", "v"], ["d"]),
        node("Add", ["d", "b"], ["q"]),
        node("Mul", ["p", "q"], ["y"]),
    ]
    weights = {"w": weight(6, 4, 3, 3), "v": weight(6, 4, 3, 3), "b": weight(6, 1, 1)}
    model = image_model(nodes, weights)
    imported = load(model)
    assert types(imported) == ["Conv", "Conv", "Mul"]
    agrees(imported, model, x=weight(1, 4, 5, 5))


def test_half_precision_is_left_alone(load: Load) -> None:
    weights = {name: array.astype(np.float16) for name, array in {"w": weight(6, 4, 3, 3), **batchnorm(6)}.items()}
    nodes = [
        node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        node("Conv", ["h", "w"], ["c"]),
        node("BatchNormalization", ["c", *BN], ["n"]),
        node("Cast", ["n"], ["y"], to=TensorProto.FLOAT),
    ]
    stays(load, nodes, weights)


def test_an_unnamed_op_is_named_after_what_it_makes_in_the_end(load: Load) -> None:
    nodes = [node("Conv", ["x", "w"], ["c"]), node("BatchNormalization", ["c", *BN], ["y"])]
    (conv,) = load(image_model(nodes, {"w": weight(6, 4, 3, 3), **batchnorm(6)})).structure.ops
    assert conv.name == "Conv@y"
    assert conv.origins == ("BatchNormalization@y",)
