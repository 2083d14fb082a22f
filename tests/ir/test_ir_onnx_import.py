"""An ONNX file becomes a structure that says what the model says, and still runs."""

from __future__ import annotations

import contextlib
import resource
import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx_models import Load, build, run, save_and_load, weight
from package_file import package_file

from qgraph.errors import ModelError, NotFoundError
from qgraph.ir.elements import SMALL_CONSTANT
from qgraph.ir.graph import Graph
from qgraph.ir.onnx_import import load_model

node = helper.make_node


@pytest.fixture
def load(tmp_path: Path) -> Load:
    return partial(save_and_load, tmp_path)


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def small() -> onnx.ModelProto:
    nodes = [node("Conv", ["x", "w"], ["c"], name="conv"), node("Relu", ["c"], ["y"], name="relu")]
    return build(nodes, {"x": [1, 3, 8, 8]}, {"y": [1, 4, 6, 6]}, {"w": weight(4, 3, 3, 3)})


# Structure


def test_ops_tensors_and_types_are_those_of_the_file(small: onnx.ModelProto, load: Load) -> None:
    structure = load(small).structure
    assert [(op.name, op.type, op.inputs, op.outputs) for op in structure.ops] == [
        ("conv", "Conv", ("x", "w"), ("c",)),
        ("relu", "Relu", ("c",), ("y",)),
    ]
    assert [(t.name, t.dtype, t.shape, t.constant) for t in structure.tensors] == [
        ("c", "float32", (1, 4, 6, 6), False),
        ("w", "float32", (4, 3, 3, 3), True),
        ("x", "float32", (1, 3, 8, 8), False),
        ("y", "float32", (1, 4, 6, 6), False),
    ]
    assert (structure.inputs, structure.outputs, structure.opset, structure.name) == (("x",), ("y",), 17, "tested")


def test_dynamic_dimensions_keep_their_names_and_unknown_ones_have_none(load: Load) -> None:
    nodes = [node("Relu", ["x"], ["r"]), node("NonZero", ["r"], ["n"]), node("Cast", ["n"], ["y"], to=1)]
    structure = load(build(nodes, {"x": ["batch", 3, "height"]}, {"y": [3, "found"]})).structure
    shapes = {tensor.name: tensor.shape for tensor in structure.tensors}
    assert shapes["r"] == ("batch", 3, "height")
    assert shapes["n"] == (3, None)


def test_ops_without_a_usable_name_are_named_by_type_and_first_output(load: Load) -> None:
    names = ["", "twice", "twice", "graph", "graph:in:x", "fine"]
    chain = ["x", "a", "b", "c", "d", "e", "y"]
    nodes = [node("Relu", [chain[i]], [chain[i + 1]], name=name) for i, name in enumerate(names)]
    imported = load(build(nodes, {"x": [2]}, {"y": [2]}))
    expected = ["Relu@a", "Relu@b", "Relu@c", "Relu@d", "Relu@e", "fine"]
    assert [op.name for op in imported.structure.ops] == expected
    assert [n.name for n in imported.proto.graph.node] == expected


def test_a_generated_name_never_takes_a_users_name(load: Load) -> None:
    nodes = [node("Relu", ["x"], ["a"]), node("Relu", ["a"], ["y"], name="Relu@a")]
    names = [op.name for op in load(build(nodes, {"x": [2]}, {"y": [2]})).structure.ops]
    assert names == ["Relu@a@", "Relu@a"]


def test_both_uses_of_one_tensor_by_one_op_are_kept(load: Load) -> None:
    graph = Graph(load(build([node("Mul", ["x", "x"], ["y"], name="square")], {"x": [2]}, {"y": [2]})).structure)
    assert [(op.name, index) for op, index in graph.consumers("x")] == [("square", 0), ("square", 1)]


def test_the_order_of_ops_does_not_depend_on_the_file(load: Load) -> None:
    nodes = [
        node("Relu", ["x"], ["a"], name="z"),
        node("Relu", ["x"], ["b"], name="m"),
        node("Add", ["a", "b"], ["y"], name="add"),
    ]
    for order in ([0, 1, 2], [1, 0, 2], [2, 1, 0]):
        model = build([nodes[i] for i in order], {"x": [2]}, {"y": [2]})
        assert [op.name for op in load(model).structure.ops] == ["m", "z", "add"]


@pytest.mark.parametrize(
    ("data_type", "numbers"),
    [
        (TensorProto.FLOAT, (0.5, -2.0)),
        (TensorProto.DOUBLE, (0.5, -2.0)),
        (TensorProto.FLOAT16, (0.5, -2.0)),
        (TensorProto.BFLOAT16, (0.5, -2.0)),
        (TensorProto.FLOAT8E4M3FN, (0.5, -2.0)),
        (TensorProto.INT64, (5, -2)),
        (TensorProto.UINT8, (5, 2)),
        (TensorProto.INT4, (5, -2)),
        (TensorProto.BOOL, (1, 0)),
    ],
)
def test_small_constants_carry_their_values_in_any_type(load: Load, data_type: int, numbers: tuple[float, ...]) -> None:
    model = build([node("Magic", ["x", "k"], ["y"], domain="my.ops")], {"x": [2]}, {"y": [2]}, domains=["my.ops"])
    model.graph.initializer.append(helper.make_tensor("k", data_type, [2, 1], numbers))
    tensor = Graph(load(model).structure).tensor("k")
    assert (tensor.constant, tensor.shape, tensor.values) == (True, (2, 1), numbers)


def test_the_element_types_have_their_usual_names(load: Load) -> None:
    kinds = [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.BFLOAT16, TensorProto.INT64, TensorProto.BOOL]
    inputs = [f"k{kind}" for kind in kinds]
    model = build([node("Magic", ["x", *inputs], ["y"], domain="my.ops")], {"x": [2]}, {"y": [2]}, domains=["my.ops"])
    for kind, name in zip(kinds, inputs, strict=True):
        model.graph.initializer.append(helper.make_tensor(name, kind, [1], [1]))
    graph = Graph(load(model).structure)
    assert [graph.tensor(name).dtype for name in inputs] == ["float32", "float64", "bfloat16", "int64", "bool"]


@pytest.mark.parametrize("count", [64, 65])
def test_only_small_constants_carry_values(load: Load, count: int) -> None:
    model = build([node("Mul", ["x", "k"], ["y"])], {"x": [count]}, {"y": [count]}, {"k": weight(count)})
    assert (Graph(load(model).structure).tensor("k").values is not None) == (count <= SMALL_CONSTANT)


def test_attributes_are_plain_values(load: Load) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["y"], name="c", strides=[2, 2], auto_pad="SAME_UPPER", group=1),
        node("LeakyRelu", ["y"], ["z"], name="l", alpha=0.25),
    ]
    graph = Graph(load(build(nodes, {"x": [1, 1, 4, 4]}, {"z": [1, 1, 2, 2]}, {"w": weight(1, 1, 3, 3)})).structure)
    assert dict(graph.op("c").attributes) == {"auto_pad": "SAME_UPPER", "group": 1, "strides": (2, 2)}
    assert dict(graph.op("l").attributes) == {"alpha": 0.25}


def test_inputs_that_are_also_weights_are_no_data(small: onnx.ModelProto, load: Load) -> None:
    small.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3, 3, 3]))
    small.ir_version = 3
    imported = load(small)
    assert imported.structure.inputs == ("x",)
    assert Graph(imported.structure).tensor("w").constant
    x = weight(1, 3, 8, 8)
    np.testing.assert_array_equal(run(imported, x=x)[0], run(small, x=x)[0])


def test_constants_are_read_by_name(small: onnx.ModelProto, load: Load) -> None:
    imported = load(small)
    assert imported.constant("w").shape == (4, 3, 3, 3)
    with pytest.raises(NotFoundError, match="did you mean w"):
        imported.constant("ww")


def test_a_model_whose_shapes_contradict_is_still_imported(load: Load) -> None:
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Relu", ["m"], ["y"])]
    graph = Graph(load(build(nodes, {"x": [2, 3]}, {"y": [2, 7]}, {"w": weight(4, 5)})).structure)
    assert graph.tensor("m").shape is None


# What cannot be quantized


def branch(name: str, nodes: list[onnx.NodeProto], output: str) -> onnx.GraphProto:
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)])


def test_control_flow_is_excluded_and_reads_what_its_bodies_capture(load: Load) -> None:
    inner = node(
        "If",
        ["flag"],
        ["deep"],
        then_branch=branch("t2", [node("Sqrt", ["r"], ["t2"])], "t2"),
        else_branch=branch("e2", [node("Abs", ["own"], ["e2"])], "e2"),
    )
    then = branch("then", [node("Neg", ["x"], ["own"]), inner], "deep")
    nodes = [
        node("Relu", ["x"], ["r"], name="relu"),
        node("ReduceSum", ["x"], ["s"], keepdims=0),
        node("Cast", ["s"], ["flag"], to=TensorProto.BOOL),
        node(
            "If",
            ["flag"],
            ["i"],
            name="if",
            then_branch=then,
            else_branch=branch("e", [node("Exp", ["r"], ["e"])], "e"),
        ),
        node("Relu", ["i"], ["y"], name="last"),
    ]
    model = build(nodes, {"x": [4]}, {"y": [4]})
    imported = load(model)
    graph = Graph(imported.structure)
    assert graph.op("if").inputs == ("flag", "r", "x")
    assert graph.op("if").excluded == "control flow"
    assert graph.op("relu").excluded is None
    assert [(op.name, index) for op, index in graph.consumers("r")] == [("if", 1)]
    x = weight(4)
    np.testing.assert_array_equal(run(imported, x=x)[0], run(model, x=x)[0])


def test_custom_ops_are_carried_and_excluded(load: Load) -> None:
    nodes = [
        node("Relu", ["x"], ["r"], name="relu"),
        node("Magic", ["r"], ["m"], name="magic", domain="my.ops", power=3),
        node("Plugin_TRT", ["m"], ["p"], name="plugin"),
        node("Relu", ["p"], ["y"], name="last"),
    ]
    imported = load(build(nodes, {"x": [4]}, {"y": [4]}, domains=["my.ops"]))
    graph = Graph(imported.structure)
    assert graph.op("magic").excluded == "custom op of domain my.ops"
    assert graph.op("magic").attributes["power"] == 3
    assert graph.op("plugin").excluded == "custom op that ONNX does not define"
    assert graph.tensor("r").shape == (4,)
    assert [n.domain for n in imported.proto.graph.node] == ["", "my.ops", "", ""]
    assert [(o.domain, o.version) for o in imported.proto.opset_import] == [("", 17), ("my.ops", 1)]


def test_sequences_are_excluded(load: Load) -> None:
    nodes = [
        node("SequenceConstruct", ["x", "x"], ["s"], name="make"),
        node("ConcatFromSequence", ["s"], ["y"], name="join", axis=0),
    ]
    model = build(nodes, {"x": [4]}, {"y": [8]})
    imported = load(model)
    assert {op.excluded for op in imported.structure.ops} == {"sequence, optional or map values"}
    assert Graph(imported.structure).tensor("s").dtype == ""
    x = weight(4)
    np.testing.assert_array_equal(run(imported, x=x)[0], run(model, x=x)[0])


# External data


def with_external(model: onnx.ModelProto, location: str) -> onnx.ModelProto:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.append(onnx.StringStringEntryProto(key="location", value=location))
    return model


def test_external_weights_stay_external_until_asked_for(small: onnx.ModelProto, load: Load, tmp_path: Path) -> None:
    data = small.graph.initializer[0].raw_data
    x = weight(1, 3, 8, 8)
    expected, inline = run(small, x=x)[0], load(small).structure
    (tmp_path / "weights.bin").write_bytes(data)
    imported = load(with_external(small, "weights.bin"))
    assert imported.proto.graph.initializer[0].data_location == TensorProto.EXTERNAL
    assert imported.constant("w").tobytes() == data
    np.testing.assert_array_equal(run(imported, x=x)[0], expected)
    assert imported.structure.fingerprint == inline.fingerprint


def test_external_content_counts_in_the_fingerprint(small: onnx.ModelProto, load: Load, tmp_path: Path) -> None:
    data = bytearray(small.graph.initializer[0].raw_data)
    with_external(small, "weights.bin")
    seen = set()
    for _ in range(2):
        (tmp_path / "weights.bin").write_bytes(data)
        seen.add(load(small).structure.fingerprint)
        data[-1] ^= 1
    assert len(seen) == 2


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", "sub/../../weights.bin", "link.bin", ""])
def test_external_data_outside_the_folder_is_refused(small: onnx.ModelProto, tmp_path: Path, location: str) -> None:
    (tmp_path / "weights.bin").write_bytes(small.graph.initializer[0].raw_data)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link.bin").symlink_to(tmp_path / "weights.bin")
    path = folder / "model.onnx"
    path.write_bytes(with_external(small, location).SerializeToString())
    assert "outside the model's folder" in refusal(path)


def test_external_data_that_is_missing_or_short_is_refused(small: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(with_external(small, "weights.bin").SerializeToString())
    assert "missing" in refusal(path)
    (tmp_path / "weights.bin").write_bytes(b"short")
    assert "does not hold the 432 bytes" in refusal(path)


def test_large_external_weights_are_not_loaded(load: Load, tmp_path: Path) -> None:
    rows, columns = 60_000, 1024
    model = build([node("Gather", ["huge", "i"], ["g"]), node("Add", ["g", "x"], ["y"])], {"x": [1]}, {"y": [1, 1024]})
    model.graph.initializer.append(helper.make_tensor("i", TensorProto.INT64, [1], [rows - 1]))
    huge = TensorProto(
        name="huge", data_type=TensorProto.FLOAT, dims=[rows, columns], data_location=TensorProto.EXTERNAL
    )
    huge.external_data.append(onnx.StringStringEntryProto(key="location", value="huge.bin"))
    model.graph.initializer.append(huge)
    with (tmp_path / "huge.bin").open("wb") as file:
        file.truncate(rows * columns * 4)
    tracemalloc.start()
    try:
        imported = load(model)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    (tmp_path / "huge.bin").unlink()
    assert len(imported.serialized()) < 10_000
    assert peak < rows * columns
    assert Graph(imported.structure).tensor("g").shape == (1, columns)


def test_a_stale_annotation_gives_way_to_inference(load: Load) -> None:
    nodes = [node("Relu", ["x"], ["r"]), node("MaxPool", ["r"], ["y"], kernel_shape=[2, 2])]
    model = build(nodes, {"x": ["n", 3, 8, 8]}, {"y": ["n", 3, 7, 7]})
    model.graph.value_info.append(helper.make_tensor_value_info("r", TensorProto.FLOAT, ["n", 3]))
    loaded = load(model)
    shapes = {tensor.name: tensor.shape for tensor in loaded.structure.tensors}
    assert shapes == {"x": ("n", 3, 8, 8), "r": ("n", 3, 8, 8), "y": ("n", 3, 7, 7)}
    assert [len(value.type.tensor_type.shape.dim) for value in loaded.proto.graph.value_info] == [4]


def test_annotations_lead_inference_past_custom_ops_even_if_others_are_stale(load: Load) -> None:
    nodes = [
        node("Relu", ["x"], ["r"]),
        node("Own", ["r"], ["o"], domain="com.example"),
        node("Flatten", ["o"], ["f"]),
        node("Relu", ["f"], ["y"]),
    ]
    model = build(nodes, {"x": [2, 4]}, {"y": [2, 30]}, domains=["com.example"])
    for name, shape in (("r", [2]), ("o", [2, 5, 6])):
        model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    shapes = {tensor.name: tensor.shape for tensor in load(model).structure.tensors}
    assert (shapes["r"], shapes["o"], shapes["f"]) == ((2, 4), (2, 5, 6), (2, 30))


def test_the_shape_of_an_output_is_inferred_where_the_file_leaves_it_out(small: onnx.ModelProto, load: Load) -> None:
    small.graph.output[0].type.tensor_type.ClearField("shape")
    model = load(small)
    assert {tensor.name: tensor.shape for tensor in model.structure.tensors}["y"] == (1, 4, 6, 6)
    onnx.checker.check_model(model.proto)


def test_an_output_without_a_shape_that_cannot_be_inferred_is_named(tmp_path: Path) -> None:
    nodes = [node("Relu", ["x"], ["r"]), node("Own", ["r"], ["y"], domain="com.example")]
    model = build(nodes, {"x": [2, 4]}, {"y": [2]}, domains=["com.example"])
    model.graph.output[0].type.tensor_type.ClearField("shape")
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    message = refusal(path)
    assert "model.onnx: y; declare its shape" in message


def test_float16_weights_behind_a_cast_are_folded_to_float32(load: Load) -> None:
    nodes = [node("Cast", ["half"], ["w"], to=TensorProto.FLOAT), node("Conv", ["x", "w"], ["y"])]
    half = weight(4, 3, 3, 3).astype(np.float16)
    model = load(build(nodes, {"x": [1, 3, 8, 8]}, {"y": [1, 4, 6, 6]}, {"half": half}))
    assert [(t.name, t.dtype, t.constant) for t in model.structure.tensors if t.constant] == [("w", "float32", True)]
    np.testing.assert_array_equal(model.constant("w"), half.astype(np.float32))


def test_a_vector_of_a_million_elements_does_not_slow_shape_inference(load: Load) -> None:
    nodes = [node("Gather", ["v", "i"], ["g"], axis=0), node("Add", ["g", "x"], ["y"])]
    model = build(nodes, {"x": [1]}, {"y": [1]}, {"v": np.zeros(3 << 20, np.float32), "i": np.array([7])})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    load(model)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 150 << 20


# Bad files


def test_each_bad_file_gives_one_clear_line(small: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    assert "no such model file" in refusal(path)
    assert "folder" in refusal(tmp_path)
    path.write_bytes(b"")
    assert "empty" in refusal(path)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    assert "ONNX" in refusal(path)
    path.write_text("not a model, but a text of some length")
    assert "ONNX" in refusal(path)
    small.graph.node[0].ClearField("input")
    path.write_bytes(small.SerializeToString())
    message = refusal(path)
    assert "not a valid ONNX model" in message
    assert ".;" not in message


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    data = package_file("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx").read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(data[: int(len(data) * share)])
    refusal(path)


def test_every_cut_of_a_small_file_is_refused(small: onnx.ModelProto, tmp_path: Path) -> None:
    data = small.SerializeToString()
    path = tmp_path / "cut.onnx"
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        refusal(path)


@pytest.mark.parametrize(("opset", "words"), [(9, "too old"), (99, "too new"), (0, "no operator set")])
def test_opsets_out_of_range_are_refused(small: onnx.ModelProto, tmp_path: Path, opset: int, words: str) -> None:
    small.opset_import[0].version = opset
    path = tmp_path / "model.onnx"
    path.write_bytes(small.SerializeToString())
    assert words in refusal(path)


def test_a_model_without_ops_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(build([], {"x": [1]}, {"x": [1]}).SerializeToString())
    assert "no ops" in refusal(path)


def test_all_breaches_of_the_graph_are_told_together(tmp_path: Path) -> None:
    nodes = [
        node("Relu", ["ghost"], ["a"], name="first"),
        node("Relu", ["x"], ["a"], name="second"),
        node("Add", ["d", "x"], ["c"], name="third"),
        node("Relu", ["c"], ["d"], name="fourth"),
    ]
    path = tmp_path / "model.onnx"
    path.write_bytes(build(nodes, {"x": [1]}, {"a": [1], "nowhere": [1]}).SerializeToString())
    text = refusal(path)
    for words in (
        "4 breaches",
        "op first reads tensor ghost, which nothing produces",
        "tensor a has two producers (first and second)",
        "output nowhere is a tensor that nothing produces",
        "fourth",
    ):
        assert words in text


def test_sparse_weights_are_refused(small: onnx.ModelProto, tmp_path: Path) -> None:
    values = helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    small.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    path = tmp_path / "model.onnx"
    path.write_bytes(small.SerializeToString())
    assert "sparse" in refusal(path)


def test_weights_whose_bytes_do_not_fit_their_shape_are_refused(small: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    tensor = small.graph.initializer[0]
    tensor.raw_data = b"1234"
    path.write_bytes(small.SerializeToString())
    assert "does not fill its shape: w: float32 (4, 3, 3, 3)" in refusal(path)
    tensor.ClearField("raw_data")
    tensor.float_data.append(1.0)
    path.write_bytes(small.SerializeToString())
    assert "does not fill its shape" in refusal(path)


def test_names_that_are_not_utf8_are_refused(small: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(small.SerializeToString().replace(b"relu", b"re\xffu"))
    assert "not UTF-8" in refusal(path)


@given(st.data())
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_anywhere_in_a_file_never_gives_anything_but_a_model_error(
    small: onnx.ModelProto, tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(small.SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with contextlib.suppress(ModelError):
        load_model(path)
