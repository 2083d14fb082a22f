"""The same model has the same fingerprint, and another one another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx_models import build, weight

from qgraph.ir.fingerprint import fingerprint

node = helper.make_node
HERE = Path()


def model() -> onnx.ModelProto:
    body = helper.make_graph([node("Neg", ["a"], ["t"])], "t", [], [helper.make_tensor_value_info("t", 1, None)])
    other = helper.make_graph([node("Abs", ["a"], ["e"])], "e", [], [helper.make_tensor_value_info("e", 1, None)])
    nodes = [
        node("Conv", ["x", "w"], ["a"], name="conv", strides=[1, 1], group=1),
        node("Relu", ["x"], ["r"], name="relu"),
        node("Constant", [], ["k"], value=numpy_helper.from_array(np.array([3.0], np.float32))),
        node("Cast", ["k"], ["flag"], to=TensorProto.BOOL),
        node("If", ["flag"], ["i"], name="if", then_branch=body, else_branch=other),
        node("Add", ["i", "v"], ["y"], name="add"),
    ]
    rng = np.random.default_rng(1)
    weights = {"w": rng.standard_normal((1, 1, 1, 1)).astype(np.float32), "v": np.array([1.5, -0.0], np.float32)}
    return build(nodes, {"x": [1, 1, 2, 2]}, {"y": [1, 1, 2, 2], "r": [1, 1, 2, 2]}, weights)


REFERENCE = fingerprint(model(), HERE)


def test_it_is_a_digest_of_fixed_length() -> None:
    assert len(REFERENCE) == 64
    assert int(REFERENCE, 16)


@given(st.permutations(range(6)), st.permutations(range(2)))
@settings(deadline=None, max_examples=30)
def test_the_order_of_nodes_and_weights_does_not_count(order: list[int], weights: list[int]) -> None:
    shuffled = model()
    nodes, initializers = list(shuffled.graph.node), list(shuffled.graph.initializer)
    copy = onnx.GraphProto(node=[nodes[i] for i in order], initializer=[initializers[i] for i in weights])
    shuffled.graph.ClearField("node")
    shuffled.graph.ClearField("initializer")
    shuffled.graph.node.extend(copy.node)
    shuffled.graph.initializer.extend(copy.initializer)
    assert fingerprint(shuffled, HERE) == REFERENCE


def test_descriptions_and_metadata_do_not_count() -> None:
    told = model()
    told.producer_name, told.doc_string, told.graph.doc_string = "someone", "text", "more"
    told.graph.node[0].doc_string = told.graph.node[0].attribute[0].doc_string = "conv"
    told.graph.initializer[0].doc_string = "weight"
    told.metadata_props.append(onnx.StringStringEntryProto(key="k", value="v"))
    told.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, [1, 1, 2, 2]))
    assert fingerprint(told, HERE) == REFERENCE


def test_the_order_of_attributes_does_not_count() -> None:
    other = model()
    attributes = list(other.graph.node[0].attribute)[::-1]
    copy = onnx.NodeProto(attribute=attributes)
    other.graph.node[0].ClearField("attribute")
    other.graph.node[0].attribute.extend(copy.attribute)
    assert fingerprint(other, HERE) == REFERENCE


@pytest.mark.parametrize(
    ("data_type", "numbers"),
    [
        (TensorProto.FLOAT, [1.5, -2.0]),
        (TensorProto.DOUBLE, [1.5, -2.0]),
        (TensorProto.FLOAT16, [1.5, -2.0]),
        (TensorProto.BFLOAT16, [1.5, -2.0]),
        (TensorProto.INT64, [5, -7]),
        (TensorProto.INT8, [5, -7]),
        (TensorProto.BOOL, [True, False]),
        (TensorProto.UINT4, [5, 7]),
    ],
)
def test_the_encoding_of_numbers_does_not_count(data_type: int, numbers: list[float]) -> None:
    listed = helper.make_tensor("t", data_type, [2], numbers)
    raw = numpy_helper.from_array(numpy_helper.to_array(listed), "t")
    assert raw.HasField("raw_data")
    assert not listed.HasField("raw_data")
    digests = set()
    for tensor in (listed, raw):
        other = model()
        other.graph.initializer.append(tensor)
        digests.add(fingerprint(other, HERE))
    assert len(digests) == 1


def change_weight(m: onnx.ModelProto) -> None:
    m.graph.initializer[0].raw_data = weight(1, 1, 1, 1).tobytes()


def change_sign_of_zero(m: onnx.ModelProto) -> None:
    m.graph.initializer[1].raw_data = np.array([1.5, 0.0], np.float32).tobytes()


def change_constant(m: onnx.ModelProto) -> None:
    m.graph.node[2].attribute[0].t.raw_data = np.array([4.0], np.float32).tobytes()


def change_attribute(m: onnx.ModelProto) -> None:
    m.graph.node[0].attribute[0].CopyFrom(helper.make_attribute("strides", [2, 2]))


def change_op(m: onnx.ModelProto) -> None:
    m.graph.node[1].op_type = "Sigmoid"


def change_name(m: onnx.ModelProto) -> None:
    m.graph.node[1].name = "renamed"


def change_tensor(m: onnx.ModelProto) -> None:
    m.graph.node[1].output[0] = m.graph.output[1].name = "renamed"


def change_body(m: onnx.ModelProto) -> None:
    m.graph.node[4].attribute[0].g.node[0].op_type = "Exp"


def change_opset(m: onnx.ModelProto) -> None:
    m.opset_import[0].version = 16


def change_outputs(m: onnx.ModelProto) -> None:
    m.graph.output.reverse()


def change_shape(m: onnx.ModelProto) -> None:
    m.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"


CHANGES = [
    change_weight,
    change_sign_of_zero,
    change_constant,
    change_attribute,
    change_op,
    change_name,
    change_tensor,
    change_body,
    change_opset,
    change_outputs,
    change_shape,
]


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_content_counts(change: Callable[[onnx.ModelProto], None]) -> None:
    changed = model()
    change(changed)
    assert fingerprint(changed, HERE) != REFERENCE


def test_swapping_two_weights_counts() -> None:
    swapped = model()
    first, second = swapped.graph.initializer
    first.name, second.name = second.name, first.name
    assert fingerprint(swapped, HERE) != REFERENCE


def test_local_functions_count() -> None:
    digests = set()
    for op_type in ("Relu", "Neg"):
        other = model()
        body = [node(op_type, ["a"], ["b"])]
        other.functions.append(helper.make_function("mine", "F", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))
        digests.add(fingerprint(other, HERE))
    assert len(digests | {REFERENCE}) == 3
