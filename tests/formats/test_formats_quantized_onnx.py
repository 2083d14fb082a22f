"""A quantized file is read as the float model that it stands for, with the parameters of every slot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from qgraph.errors import ModelError
from qgraph.formats.quantized_model import Quantization, QuantizedModel
from qgraph.formats.quantized_onnx import read_quantized_onnx

A = "float a = {0.5}, int8 az = {3}"
B = "float b = {0.25}, int8 bz = {-7}"
HEAD = '<ir_version: 8, opset_import: ["" : 13, "com.microsoft" : 1]>'


def read(tmp_path: Path, signature: str, initializers: str, nodes: str) -> QuantizedModel:
    model = onnx.parser.parse_model(f"{HEAD} g ({signature} <{initializers}> {{ {nodes} }}")
    onnx.save(model, tmp_path / "model.onnx")
    return read_quantized_onnx(tmp_path / "model.onnx")


def said(model: QuantizedModel, slot: str) -> list[tuple[str, tuple[float, ...], tuple[int, ...]]]:
    return [(entry.dtype, entry.scale, entry.offset) for entry in model.quantizations.get(slot, ())]


AT_A, AT_B = [("int8", (0.5,), (3,))], [("int8", (0.25,), (-7,))]


class TestQdq:
    def test_quantize_and_dequantize_vanish_and_leave_their_parameters_at_both_slots(self, tmp_path: Path) -> None:
        model = read(
            tmp_path,
            "float[1,4,8,8] x) => (float[1,4,4,4] y)",
            f"{A}, {B}",
            """
            xq = QuantizeLinear(x, a, az)  xd = DequantizeLinear(xq, a, az)
            p = MaxPool <kernel_shape=[2,2], strides=[2,2]> (xd)
            pq = QuantizeLinear(p, b, bz)  y = DequantizeLinear(pq, b, bz)
            """,
        )
        (pool,) = model.structure.ops
        assert (pool.type, pool.inputs, pool.outputs) == ("MaxPool", ("x",), ("y",))
        assert said(model, "graph:in:x") == said(model, f"{pool.name}:in:0") == AT_A
        assert said(model, f"{pool.name}:out:0") == said(model, "graph:out:y") == AT_B
        assert {tensor.name: tensor.shape for tensor in model.structure.tensors} == {
            "x": (1, 4, 8, 8),
            "y": (1, 4, 4, 4),
        }

    def test_the_width_of_the_floats_does_not_matter_to_the_rules(self, tmp_path: Path) -> None:
        path = tmp_path / "half.onnx"
        text = """
            <ir_version: 9, opset_import: ["" : 19]>
            g (float16[1,4,8,8] x) => (float16[1,4,4,4] y) <int8 az = {3}> {
                xq = QuantizeLinear(x, a, az)  xd = DequantizeLinear(xq, a, az)
                y = MaxPool <kernel_shape=[2,2], strides=[2,2]> (xd)
            }
        """
        half = onnx.parser.parse_model(text)
        half.graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float16), "a"))
        onnx.save(half, path)
        model = read_quantized_onnx(path)
        assert said(model, "graph:in:x") == AT_A
        assert {tensor.name: tensor.dtype for tensor in model.structure.tensors} == {"x": "float32", "y": "float32"}

    def test_a_second_pair_on_a_tensor_is_a_requantize_of_its_reader(self, tmp_path: Path) -> None:
        model = read(
            tmp_path,
            "float[4] x) => (float[4] y)",
            f"{A}, {B}",
            """
            xq = QuantizeLinear(x, a, az)  xd = DequantizeLinear(xq, a, az)
            xr = QuantizeLinear(xd, b, bz) xe = DequantizeLinear(xr, b, bz)
            y = Add(xd, xe)
            """,
        )
        (add,) = model.structure.ops
        assert add.inputs == ("x", "x")
        assert said(model, "graph:in:x") == said(model, f"{add.name}:in:0") == AT_A
        assert said(model, f"{add.name}:in:1") == AT_B
        assert said(model, f"{add.name}:out:0") == []

    def test_a_float_tensor_that_is_quantized_twice_has_both_parameters(self, tmp_path: Path) -> None:
        model = read(
            tmp_path,
            "float[4] x) => (float[4] y)",
            f"{A}, {B}",
            """
            r = Sqrt(x)
            q0 = QuantizeLinear(r, a, az)  d0 = DequantizeLinear(q0, a, az)
            q1 = QuantizeLinear(r, b, bz)  d1 = DequantizeLinear(q1, b, bz)
            y = Add(d0, d1)
            """,
        )
        assert said(model, "Sqrt@r:out:0") == AT_A + AT_B

    def test_a_stored_weight_is_a_float_constant_with_the_range_of_its_integers(self, tmp_path: Path) -> None:
        model = read(
            tmp_path,
            "float[1,2] x) => (float[1,3] y)",
            "int8[2,3] w = {-128, 1, 2, 3, 4, 90}, float[3] ws = {0.1, 0.2, 0.3}, int8[3] wz = {0, 0, 0}",
            "wd = DequantizeLinear <axis=-1> (w, ws, wz)  y = MatMul(x, wd)",
        )
        (weight,) = [tensor for tensor in model.structure.tensors if tensor.constant]
        assert (weight.name, weight.dtype, weight.shape) == ("w", "float32", (2, 3))
        scales = tuple(float(np.float32(value)) for value in (0.1, 0.2, 0.3))
        assert model.quantizations["MatMul@y:in:1"] == (Quantization("int8", scales, (0, 0, 0), 1, -128, 90),)

    def test_a_float_weight_behind_a_pair_is_quantized_too(self, tmp_path: Path) -> None:
        model = read(
            tmp_path,
            "float[1,2] x) => (float[1,2] y)",
            "float[2,2] w = {-0.5, 0.25, 0.0, 0.4}, float ws = {0.01}, int8 wz = {0}",
            "wq = QuantizeLinear(w, ws, wz)  wd = DequantizeLinear(wq, ws, wz)  y = MatMul(x, wd)",
        )
        (entry,) = model.quantizations["MatMul@y:in:1"]
        assert (entry.low, entry.high) == (-50, 40)
        assert next(tensor for tensor in model.structure.tensors if tensor.name == "w").constant

    def test_a_transposed_weight_is_a_weight_with_its_channels_on_another_axis(self, tmp_path: Path) -> None:
        model = read(
            tmp_path,
            "float[1,2] x) => (float[1,3] y)",
            "int8[3,2] w = {1, 2, 1, 2, 1, 2}, float[3] ws = {0.1, 0.2, 0.3}",
            "d = DequantizeLinear <axis=0> (w, ws)  t = Transpose <perm=[1,0]> (d)  y = MatMul(x, t)",
        )
        (matmul,) = model.structure.ops
        weight = next(tensor for tensor in model.structure.tensors if tensor.constant)
        assert (weight.name, weight.shape, weight.values) == (
            "t",
            (2, 3),
            tuple(np.outer([1, 2], np.array([0.1, 0.2, 0.3], "f")).ravel().tolist()),
        )
        assert model.quantizations[f"{matmul.name}:in:1"][0].axis == 1

    def test_a_clip_of_the_integers_narrows_the_range(self, tmp_path: Path) -> None:
        model = read(
            tmp_path,
            "float[4] x) => (float[4] y)",
            f"{A}, int8 low = {{-8}}, int8 high = {{7}}",
            "q = QuantizeLinear(x, a, az)  c = Clip(q, low, high)  d = DequantizeLinear(c, a, az)  y = Sqrt(d)",
        )
        assert [op.type for op in model.structure.ops] == ["Sqrt"]
        for slot in ("graph:in:x", "Sqrt@y:in:0"):
            assert [(entry.low, entry.high) for entry in model.quantizations[slot]] == [(-8, 7)]

    def test_without_a_zero_point_it_is_uint8_and_0(self, tmp_path: Path) -> None:
        nodes = "q = QuantizeLinear(x, a)  d = DequantizeLinear(q, a)  y = Sqrt(d)"
        model = read(tmp_path, "float[4] x) => (float[4] y)", A, nodes)
        assert said(model, "Sqrt@y:in:0") == [("uint8", (0.5,), (0,))]

    def test_a_pair_that_does_not_belong_together_is_told(self, tmp_path: Path) -> None:
        nodes = "q = QuantizeLinear(x, a, az)  d = DequantizeLinear(q, b, bz)  y = Sqrt(d)"
        (entry,) = read(tmp_path, "float[4] x) => (float[4] y)", f"{A}, {B}", nodes).reinterpreted
        assert (entry.tensor, entry.op, entry.made.scale, entry.read.scale) == (
            "x",
            "DequantizeLinear@d",
            (0.5,),
            (0.25,),
        )

    def test_constant_nodes_are_constants(self, tmp_path: Path) -> None:
        model = read(
            tmp_path,
            "float[4] x) => (float[4] y)",
            A,
            """
            s = Constant <value = float {0.125}> ()  z = Constant <value = int8 {1}> ()
            q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)
            low = Constant <value_float = 0.0> ()  high = Constant <value_float = 6.0> ()
            y = Clip(d, low, high)
            """,
        )
        assert said(model, "Clip@y:in:0") == [("int8", (0.125,), (1,))]
        assert {tensor.name: tensor.values for tensor in model.structure.tensors if tensor.constant} == {
            "low": (0.0,),
            "high": (6.0,),
        }


class TestIntegerOps:
    def test_qlinear_conv_is_a_conv_with_its_bias_at_the_implied_scale(self, tmp_path: Path) -> None:
        model = read(
            tmp_path,
            "float[1,1,4,4] x) => (float[1,2,4,4] y)",
            f"{A}, {B}, int8[2,1,1,1] w = {{5, -6}}, float[2] ws = {{0.5, 0.25}}, int8 wz = {{0}}, "
            "int32[2] bias = {100, -100}",
            """
            q = QuantizeLinear(x, a, az)
            c = QLinearConv(q, a, az, w, ws, wz, b, bz, bias)
            y = DequantizeLinear(c, b, bz)
            """,
        )
        (conv,) = model.structure.ops
        assert (conv.type, conv.domain, conv.inputs, conv.outputs) == ("Conv", "", ("x", "w", "bias"), ("y",))
        assert said(model, "QLinearConv@c:in:0") == AT_A
        assert said(model, "QLinearConv@c:in:1") == [("int8", (0.5, 0.25), (0, 0))]
        assert said(model, "QLinearConv@c:in:2") == [("int32", (0.25, 0.125), (0, 0))]
        assert said(model, "QLinearConv@c:out:0") == AT_B

    def test_ops_that_move_integers_keep_their_meaning(self, tmp_path: Path) -> None:
        model = read(
            tmp_path,
            "float[1,1,4,4] x) => (float[4] y)",
            f"{A}, int64[1] shape = {{4}}",
            """
            q = QuantizeLinear(x, a, az)
            p = MaxPool <kernel_shape=[2,2], strides=[2,2]> (q)
            r = Reshape(p, shape)
            y = DequantizeLinear(r, a, az)
            """,
        )
        slots = ("MaxPool@p:in:0", "MaxPool@p:out:0", "Reshape@r:in:0", "Reshape@r:out:0", "graph:out:y")
        assert all(said(model, slot) == AT_A for slot in slots)
        assert said(model, "Reshape@r:in:1") == []

    def test_onnxruntimes_own_ops_are_float_ops(self, tmp_path: Path) -> None:
        model = read(
            tmp_path,
            "float[1,4] x) => (float[1,8] y)",
            f"{A}, {B}",
            """
            q = QuantizeLinear(x, a, az)
            s = com.microsoft.QLinearAdd(q, a, az, q, a, az, b, bz)
            c = com.microsoft.QLinearConcat <axis=1> (a, az, q, a, az, s, b, bz)
            y = DequantizeLinear(c, a, az)
            """,
        )
        assert [(op.type, op.inputs) for op in model.structure.ops] == [("Add", ("x", "x")), ("Concat", ("x", "s"))]
        assert said(model, "QLinearConcat@c:in:1") == AT_B
        assert said(model, "QLinearConcat@c:out:0") == AT_A
        assert next(tensor for tensor in model.structure.tensors if tensor.name == "s").is_float

    def test_integer_inputs_and_outputs_of_a_model_stand_for_floats(self, tmp_path: Path) -> None:
        nodes = "d = DequantizeLinear(x, a, az)  r = Sqrt(d)  y = QuantizeLinear(r, b, bz)"
        model = read(tmp_path, "int8[4] x) => (int8[4] y)", f"{A}, {B}", nodes)
        assert [tensor.dtype for tensor in model.structure.tensors] == ["float32", "float32"]
        assert said(model, "graph:in:x") == AT_A
        assert said(model, "graph:out:y") == AT_B


class TestRefusals:
    def test_a_float_model_is_told_apart(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"nothing in the model is quantized.*qgraph analyze"):
            read(tmp_path, "float[4] x) => (float[4] y)", A, "y = Sqrt(x)")

    def test_scales_that_are_computed_are_not_guessed(self, tmp_path: Path) -> None:
        nodes = "s = ReduceMax(x)  q = QuantizeLinear(x, s, az)  d = DequantizeLinear(q, s, az)  y = Sqrt(d)"
        with pytest.raises(ModelError, match="computed at run time"):
            read(tmp_path, "float[4] x) => (float[4] y)", A, nodes)

    @pytest.mark.parametrize("scale", ["nan", "-0.5", "0.0", "inf"])
    def test_a_scale_that_is_none_is_told_with_its_tensor(self, tmp_path: Path, scale: str) -> None:
        nodes = "q = QuantizeLinear(x, a, az)  d = DequantizeLinear(q, a, az)  y = Sqrt(d)"
        read(tmp_path, "float[4] x) => (float[4] y)", A, nodes)
        model = onnx.load(tmp_path / "model.onnx")
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array([scale], np.float32), "a"))
        onnx.save(model, tmp_path / "model.onnx")
        with pytest.raises(ModelError, match=f"no positive number: a: {scale}"):
            read_quantized_onnx(tmp_path / "model.onnx")

    def test_a_missing_file_is_one_clear_error(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="no such model file"):
            read_quantized_onnx(tmp_path / "absent.onnx")


def test_the_order_of_the_nodes_in_the_file_does_not_matter(tmp_path: Path) -> None:
    nodes = "q = QuantizeLinear(x, a, az)  d = DequantizeLinear(q, a, az)  y = Sqrt(d)"
    expected = read(tmp_path, "float[4] x) => (float[4] y)", A, nodes)
    model = onnx.load(tmp_path / "model.onnx")
    shuffled = [model.graph.node[index] for index in (2, 0, 1)]
    copies = onnx.GraphProto(node=shuffled)
    del model.graph.node[:]
    model.graph.node.extend(copies.node)
    onnx.save(model, tmp_path / "model.onnx")
    assert read_quantized_onnx(tmp_path / "model.onnx") == expected


def test_a_body_reads_the_float_tensor(tmp_path: Path) -> None:
    then = onnx.parser.parse_graph("then () => (float[4] t) { t = Sqrt(d) }")
    otherwise = onnx.parser.parse_graph("otherwise () => (float[4] e) { e = Exp(d) }")
    model = onnx.parser.parse_model(
        f"{HEAD} g (float[4] x, bool c) => (float[4] y) <{A}> "
        "{ q = QuantizeLinear(x, a, az)  d = DequantizeLinear(q, a, az)  n = Not(c)  y = Neg(d) }"
    )
    branch = onnx.helper.make_node("If", ["n"], ["y"], then_branch=then, else_branch=otherwise)
    model.graph.node.pop()
    model.graph.node.append(branch)
    onnx.save(model, tmp_path / "model.onnx")
    read_model = read_quantized_onnx(tmp_path / "model.onnx")
    assert next(op for op in read_model.structure.ops if op.type == "If").inputs == ("n", "x")


def test_large_weights_are_not_dequantized(tmp_path: Path) -> None:
    weight = np.arange(-32, 32, dtype=np.int8).reshape(1, 64).repeat(64, axis=0)
    model = onnx.parser.parse_model(
        f"{HEAD} g (float[1,64] x) => (float[1,64] y) <float s = {{0.1}}> "
        "{ d = DequantizeLinear(w, s)  y = MatMul(x, d) }"
    )
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    onnx.save(model, tmp_path / "model.onnx")
    (entry,) = read_quantized_onnx(tmp_path / "model.onnx").quantizations["MatMul@y:in:1"]
    assert (entry.low, entry.high, entry.axis) == (-32, 31, None)
