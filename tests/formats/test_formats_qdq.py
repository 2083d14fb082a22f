"""An exported file computes what the run means, and says exactly the run's scales."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from simulation import BIAS, INT8, UINT8, Array, P, Parameters, fake_quantize, run_of, simulate, weight

from qgraph.constraints.model import Group
from qgraph.errors import ExportError
from qgraph.formats.qdq import to_qdq
from qgraph.tqc import QuantizationState, Scheme

RNG = np.random.default_rng(7)
IMAGE = RNG.uniform(-1, 1, (1, 3, 6, 6)).astype("f")
KERNEL = RNG.uniform(-0.5, 0.5, (4, 3, 3, 3)).astype("f")
A, B, C, D = P(0.013, 120), P(0.021, 100), P(0.008, 3), P(0.01, 240)


def kernel(axis: int | None = 0, channels: int = 4) -> P:
    return P(tuple(0.003 + 0.0007 * i for i in range(channels)) if axis is not None else 0.004, 0, weight(axis))


def op(kind: str, inputs: Sequence[str], outputs: str | Sequence[str], **attributes: object) -> NodeProto:
    """A node that is named after its first output."""
    names = [outputs] if isinstance(outputs, str) else list(outputs)
    return helper.make_node(kind, inputs, names, name=f"{names[0]}.op", **attributes)  # type: ignore[arg-type]


def model_of(
    nodes: Sequence[NodeProto],
    outputs: Sequence[str],
    constants: Mapping[str, Array] | None = None,
    feed: Mapping[str, Array] | None = None,
    opset: int = 13,
) -> ModelProto:
    feed = {"x": IMAGE} if feed is None else feed
    shapes = {name: value.shape for name, value in {**feed, **(constants or {})}.items()}
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in feed.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes.get(name)) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def run_plainly(model: ModelProto, feed: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs by onnxruntime, every node as it is written."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feed)), strict=True))


def export(
    model: ModelProto, parameters: Parameters, integer_ops: Sequence[str] = (), feed: Mapping[str, Array] | None = None
) -> ModelProto:
    """Export, and hold the file against the checker and against the simulation."""
    feed = {"x": IMAGE} if feed is None else feed
    exported = to_qdq(model, run_of(model, parameters), {})
    onnx.checker.check_model(exported, full_check=True)
    expected = simulate(model, parameters, feed, integer_ops)
    actual = run_plainly(exported, feed)
    assert [v.name for v in exported.graph.output] == [v.name for v in model.graph.output]
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-5, atol=1e-6)
    return exported


def count(model: ModelProto, kind: str) -> int:
    return sum(node.op_type == kind for node in model.graph.node)


def initializers(model: ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def said(model: ModelProto, tensor: str) -> tuple[list[float], list[int], str]:
    """Scale, offset and type of the DequantizeLinear that makes a tensor, read back from the file."""
    constants = initializers(model)
    (node,) = (node for node in model.graph.node if tensor in node.output)
    assert node.op_type == "DequantizeLinear", node.op_type
    scale = constants[node.input[1]]
    assert scale.dtype == np.float32
    if len(node.input) == 2:
        return np.ravel(scale).tolist(), [], str(constants[node.input[0]].dtype)
    offset = constants[node.input[2]]
    return np.ravel(scale).tolist(), np.ravel(offset).tolist(), str(offset.dtype)


def read_by(model: ModelProto, name: str, index: int = 0) -> str:
    return str(next(node.input[index] for node in model.graph.node if node.name == name))


CONV = op("Conv", ["x", "w", "b"], "c", pads=[1, 1, 1, 1])
CONV_CONSTANTS: dict[str, Array] = {"w": KERNEL, "b": RNG.uniform(-1, 1, 4).astype("f")}
CONV_SLOTS: Parameters = {
    "graph:in:x": A,
    "c.op:in:0": A,
    "c.op:in:1": kernel(),
    "c.op:in:2": P(tuple(A.scales[0] * s for s in kernel().scales), 0, BIAS, QuantizationState.PASSIVE),
}


class TestChain:
    def test_a_fused_pair_has_no_quantization_inside_and_returns_the_dequantized_output(self) -> None:
        model = model_of([CONV, op("Relu", ["c"], "y")], ["y"], CONV_CONSTANTS)
        exported = export(model, {**CONV_SLOTS, "y.op:out:0": C, "graph:out:y": C})
        assert read_by(exported, "y.op") == "c"
        assert (count(exported, "QuantizeLinear"), count(exported, "DequantizeLinear")) == (2, 4)

    def test_the_file_says_exactly_the_scales_of_the_run(self) -> None:
        model = model_of([CONV], ["c"], CONV_CONSTANTS)
        exported = export(model, {**CONV_SLOTS, "c.op:out:0": B, "graph:out:c": B})
        assert said(exported, read_by(exported, "c.op")) == ([*A.scales], [120], "uint8")
        assert said(exported, read_by(exported, "c.op", 1)) == ([*kernel().scales], [0] * 4, "int8")
        assert said(exported, read_by(exported, "c.op", 2)) == ([*CONV_SLOTS["c.op:in:2"].scales], [], "int32")
        assert said(exported, "c") == ([*B.scales], [100], "uint8")

    def test_weights_and_bias_are_integers_and_their_float_originals_are_gone(self) -> None:
        exported = export(model_of([CONV], ["c"], CONV_CONSTANTS), CONV_SLOTS)
        kept = initializers(exported)
        assert {"w", "b"}.isdisjoint(kept)
        scale = np.array(kernel().scales, "f").reshape(4, 1, 1, 1)
        np.testing.assert_array_equal(kept["w/quantized"], np.clip(np.rint(KERNEL / scale), -127, 127).astype("int8"))
        bias = CONV_CONSTANTS["b"] / np.array(CONV_SLOTS["c.op:in:2"].scales)
        np.testing.assert_array_equal(kept["b/quantized"], np.rint(bias).astype("int32"))

    def test_a_bias_beyond_int32_saturates(self) -> None:
        model = model_of([CONV], ["c"], {**CONV_CONSTANTS, "b": np.array([1e6, -1e6, 0.5, -0.5], "f")})
        exported = export(model, {**CONV_SLOTS, "c.op:in:2": P((1e-4, 1e-4, 1.0, 1.0), 0, BIAS)})
        assert initializers(exported)["b/quantized"].tolist() == [2**31 - 1, -(2**31), 0, 0]

    @pytest.mark.parametrize("scheme", [UINT8, INT8], ids=["uint8", "int8"])
    def test_float_values_stay_float_where_no_slot_is_quantized(self, scheme: Scheme) -> None:
        model = model_of([op("Sigmoid", ["x"], "s"), op("Neg", ["s"], "n")], ["n"])
        exported = export(model, {"s.op:out:0": P(0.004, 5, scheme)})
        assert count(exported, "QuantizeLinear") == 0

    def test_a_degenerate_state_with_a_scale_is_quantized_and_one_without_stays_float(self) -> None:
        model = model_of([op("Neg", ["x"], "n"), op("Abs", ["n"], "y")], ["y"])
        constant = P(0.5, 7, UINT8, QuantizationState.CONSTANT)
        exported = export(model, {"n.op:out:0": constant, "y.op:in:0": constant}, ["y.op"])
        assert said(exported, read_by(exported, "y.op"))[0] == [0.5]


class TestWeights:
    @pytest.mark.parametrize(
        ("kind", "shape", "axis"),
        [("Conv", (4, 3, 3, 3), 0), ("ConvTranspose", (3, 4, 2, 2), 1), ("Conv", (4, 3, 1, 1), None)],
    )
    def test_convolutions_are_quantized_along_their_channel_axis(
        self, kind: str, shape: tuple[int, ...], axis: int | None
    ) -> None:
        model = model_of([op(kind, ["x", "w"], "y")], ["y"], {"w": RNG.uniform(-0.4, 0.4, shape).astype("f")})
        export(model, {"graph:in:x": A, "y.op:in:0": A, "y.op:in:1": kernel(axis), "y.op:out:0": B, "graph:out:y": B})

    @pytest.mark.parametrize("transposed", [0, 1])
    def test_gemm_is_quantized_along_its_output_axis(self, transposed: int) -> None:
        rows = {"x": RNG.uniform(-1, 1, (2, 5)).astype("f")}
        shape = (4, 5) if transposed else (5, 4)
        constants: dict[str, Array] = {
            "w": RNG.uniform(-0.4, 0.4, shape).astype("f"),
            "b": RNG.uniform(-1, 1, 4).astype("f"),
        }
        model = model_of([op("Gemm", ["x", "w", "b"], "y", transB=transposed)], ["y"], constants, rows)
        weights = kernel(0 if transposed else 1)
        bias = P(tuple(0.013 * s for s in weights.scales), 0, BIAS)
        slots = {"graph:in:x": A, "y.op:in:0": A, "y.op:in:1": weights, "y.op:in:2": bias}
        export(model, {**slots, "y.op:out:0": B, "graph:out:y": B}, feed=rows)

    def test_a_constant_that_is_read_with_two_encodings_gets_two_integer_copies_of_its_float_values(self) -> None:
        nodes = [op("Conv", ["x", "w"], "c"), op("Conv", ["x", "w"], "d"), op("Conv", ["x", "w"], "e")]
        slots = {f"{name}.op:in:0": A for name in "cde"} | {"graph:in:x": A, "graph:const:w": kernel()}
        both = {"c.op:in:1": kernel(), "d.op:in:1": kernel(None), "e.op:in:1": kernel(None)}
        exported = export(model_of(nodes, ["c", "d", "e"], {"w": KERNEL}), slots | both)
        assert sum(value.shape == KERNEL.shape for value in initializers(exported).values()) == 2
        assert read_by(exported, "d.op", 1) == read_by(exported, "e.op", 1) != read_by(exported, "c.op", 1)

    def test_a_constant_that_is_also_read_as_float_keeps_its_float_original(self) -> None:
        nodes = [op("Conv", ["x", "w"], "c"), op("Neg", ["w"], "n")]
        slots = {"graph:in:x": A, "c.op:in:0": A, "c.op:in:1": kernel()}
        exported = export(model_of(nodes, ["c", "n"], {"w": KERNEL}), slots)
        assert read_by(exported, "n.op") == "w"

    def test_a_constant_operand_is_integers_too(self) -> None:
        model = model_of(
            [op("Mul", ["x", "k"], "y")], ["y"], {"k": np.array([0.5, 0.25, 2.0], "f").reshape(1, 3, 1, 1)}
        )
        slots = {"graph:in:x": A, "y.op:in:0": A, "graph:const:k": C, "y.op:in:1": C, "y.op:out:0": B, "graph:out:y": B}
        exported = export(model, slots)
        assert initializers(exported)["k/quantized"].ravel().tolist() == [65, 34, 253]

    def test_a_constant_graph_output_keeps_its_name(self) -> None:
        model = model_of([op("Neg", ["k"], "n"), op("Relu", ["x"], "y")], ["k", "n", "y"], {"k": KERNEL})
        export(model, {"graph:const:k": A, "graph:out:k": A})

    def test_scales_that_do_not_fit_the_channels_are_refused(self) -> None:
        model = model_of([op("Conv", ["x", "w"], "y")], ["y"], {"w": KERNEL})
        with pytest.raises(ExportError, match=r"w of shape \(4, 3, 3, 3\) with 3 scales on axis 0"):
            to_qdq(model, run_of(model, {"y.op:in:1": kernel(channels=3)}), {})

    def test_a_double_constant_is_refused_by_name(self) -> None:
        graph_input = helper.make_tensor_value_info("x", TensorProto.DOUBLE, [3])
        constant = numpy_helper.from_array(np.ones(3), "k")
        graph = helper.make_graph([op("Add", ["x", "k"], "y")], "g", [graph_input], [], [constant])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
        with pytest.raises(ExportError, match="k is double"):
            to_qdq(model, run_of(model, {"y.op:in:1": A}), {})


class TestSharing:
    def test_members_of_a_concat_group_have_one_encoding_and_no_requantize(self) -> None:
        nodes = [op("Relu", ["x"], "r"), op("Sigmoid", ["x"], "s"), op("Concat", ["r", "s"], "y", axis=1)]
        shared = ["r.op:out:0", "s.op:out:0", "y.op:in:0", "y.op:in:1", "y.op:out:0", "graph:out:y"]
        slots = {"graph:in:x": A, "r.op:in:0": A, "s.op:in:0": A} | dict.fromkeys(shared, C)
        exported = export(model_of(nodes, ["y"]), slots)
        assert (count(exported, "QuantizeLinear"), count(exported, "DequantizeLinear")) == (4, 4)
        assert said(exported, read_by(exported, "y.op", 0)) == said(exported, read_by(exported, "y.op", 1))

    def test_readers_with_the_producers_encoding_read_one_tensor(self) -> None:
        nodes = [op("Relu", ["x"], "r"), op("Neg", ["r"], "n"), op("Abs", ["r"], "a")]
        slots = {"r.op:out:0": C, "n.op:in:0": C, "a.op:in:0": C}
        exported = export(model_of(nodes, ["n", "a"]), slots)
        assert read_by(exported, "n.op") == read_by(exported, "a.op")
        assert count(exported, "QuantizeLinear") == 1

    def test_a_requantize_behind_a_fan_out_is_a_second_pair_on_the_dequantized_tensor(self) -> None:
        nodes = [op("Relu", ["x"], "r"), op("Neg", ["r"], "n"), op("Abs", ["r"], "a"), op("Exp", ["r"], "e")]
        slots = {"r.op:out:0": A, "n.op:in:0": A, "a.op:in:0": B, "e.op:in:0": B}
        exported = export(model_of(nodes, ["n", "a", "e"]), slots)
        assert count(exported, "QuantizeLinear") == 2
        assert read_by(exported, "a.op") == read_by(exported, "e.op")
        assert said(exported, read_by(exported, "n.op"))[0] == [*A.scales]
        assert said(exported, read_by(exported, "a.op"))[0] == [*B.scales]
        (second,) = (n for n in exported.graph.node if n.op_type == "QuantizeLinear" and n.input[0] != "r")
        assert second.input[0] == read_by(exported, "n.op")

    def test_a_requantize_for_the_only_reader_is_emitted_too(self) -> None:
        model = model_of([op("Relu", ["x"], "r"), op("Neg", ["r"], "n")], ["n"])
        exported = export(model, {"r.op:out:0": A, "n.op:in:0": B})
        assert count(exported, "QuantizeLinear") == 2

    def test_scales_that_are_nearly_equal_are_not_equal(self) -> None:
        model = model_of([op("Relu", ["x"], "r"), op("Neg", ["r"], "n")], ["n"])
        close = float(np.nextafter(np.float32(A.scales[0]), np.float32(1)))
        assert count(export(model, {"r.op:out:0": A, "n.op:in:0": P(close, 120)}), "QuantizeLinear") == 2

    def test_one_op_may_read_a_tensor_twice_with_two_encodings(self) -> None:
        model = model_of([op("Relu", ["x"], "r"), op("Mul", ["r", "r"], "m")], ["m"])
        exported = export(model, {"r.op:out:0": A, "m.op:in:0": A, "m.op:in:1": B})
        assert read_by(exported, "m.op", 0) != read_by(exported, "m.op", 1)

    def test_every_output_of_a_split_is_quantized(self) -> None:
        nodes = [op("Split", ["x", "n"], ["s", "t", "u"], axis=1), op("Add", ["s", "u"], "y")]
        shared = ["graph:in:x", "s.op:in:0", "s.op:out:0", "s.op:out:1", "s.op:out:2", "y.op:in:0", "y.op:in:1"]
        model = model_of(nodes, ["y", "t"], {"n": np.array([1, 1, 1])})
        exported = export(model, dict.fromkeys([*shared, "graph:out:t"], A))
        assert said(exported, "t")[0] == [*A.scales]

    def test_omitted_optional_inputs_stay_omitted(self) -> None:
        nodes = [op("Resize", ["x", "", "k"], "y", mode="nearest", nearest_mode="floor")]
        model = model_of(nodes, ["y"], {"k": np.array([1, 1, 2, 2], "f")})
        exported = export(model, dict.fromkeys(["graph:in:x", "y.op:in:0", "y.op:out:0", "graph:out:y"], A))
        assert read_by(exported, "y.op", 1) == ""


class TestFloatReaders:
    SLOTS: ClassVar[Parameters] = {"graph:in:x": A, "r.op:in:0": A, "r.op:out:0": B}

    def test_behind_a_quantized_op_they_read_the_dequantized_tensor(self) -> None:
        model = model_of([op("Relu", ["x"], "r"), op("Exp", ["r"], "e"), op("Neg", ["r"], "n")], ["e", "n"])
        exported = export(model, {**self.SLOTS, "n.op:in:0": B}, ["r.op"])
        assert said(exported, read_by(exported, "e.op"))[0] == [*B.scales]

    def test_behind_a_fused_pair_they_read_the_dequantized_tensor(self) -> None:
        nodes = [CONV, op("Relu", ["c"], "r"), op("Exp", ["r"], "e"), op("Neg", ["r"], "n")]
        slots = {**CONV_SLOTS, "r.op:out:0": B, "n.op:in:0": B}
        exported = export(model_of(nodes, ["e", "n"], CONV_CONSTANTS), slots, ["r.op"])
        assert said(exported, read_by(exported, "e.op"))[0] == [*B.scales]

    def test_behind_a_float_op_or_a_graph_input_they_read_the_float_tensor(self) -> None:
        nodes = [op("Neg", ["x"], "n"), op("Abs", ["n"], "a"), op("Exp", ["n"], "e"), op("Relu", ["x"], "r")]
        exported = export(
            model_of(nodes, ["a", "e", "r"]), {"n.op:out:0": B, "a.op:in:0": B, "graph:in:x": A, "r.op:in:0": A}
        )
        assert (read_by(exported, "e.op"), read_by(exported, "n.op")) == ("n", "x")

    def test_an_island_of_float_ops_is_left_through_a_quantize_at_its_reader(self) -> None:
        nodes = [op("Relu", ["x"], "r"), op("Exp", ["r"], "e"), op("Neg", ["e"], "y")]
        slots = {**self.SLOTS, "y.op:in:0": C, "y.op:out:0": C, "graph:out:y": C}
        exported = export(model_of(nodes, ["y"]), slots, ["r.op", "y.op"])
        assert said(exported, read_by(exported, "y.op"))[0] == [*C.scales]

    def test_the_bodies_of_control_flow_read_it_under_a_valid_name(self) -> None:
        value = helper.make_tensor_value_info("t", TensorProto.FLOAT, IMAGE.shape)
        then = helper.make_graph([op("Exp", ["r"], "t")], "then", [], [value])
        otherwise = helper.make_graph(
            [op("Identity", ["y"], "u")], "else", [], [helper.make_tensor_value_info("u", 1, IMAGE.shape)]
        )
        nodes = [
            op("Relu", ["x"], "r"),
            op("Neg", ["r"], "y"),
            op("If", ["cond"], "z", then_branch=then, else_branch=otherwise),
        ]
        for cond in (True, False):
            model = model_of(nodes, ["y", "z"], {"cond": np.array(cond)})
            slots = {**self.SLOTS, "y.op:in:0": B, "y.op:out:0": D, "graph:out:y": D}
            exported = to_qdq(model, run_of(model, slots), {})
            onnx.checker.check_model(exported, full_check=True)
            outputs = run_plainly(exported, {"x": IMAGE})
            y = simulate(model_of(nodes[:2], ["y"]), slots, {"x": IMAGE}, ["r.op"])["y"]
            np.testing.assert_allclose(outputs["y"], y, atol=1e-6)
            np.testing.assert_allclose(outputs["z"], np.exp(-y) if cond else y, atol=0.02 if cond else 1e-6)


class TestGraphOutputs:
    NODES = (op("Relu", ["x"], "y"), op("Exp", ["y"], "e"), op("Neg", ["y"], "n"))

    @pytest.mark.parametrize("output", [A, B, None], ids=["shared", "requantized", "float"])
    @pytest.mark.parametrize("reader", [A, B, None], ids=["shared", "requantized", "float"])
    @pytest.mark.parametrize("integer", [True, False])
    def test_an_output_that_is_also_consumed_keeps_its_name(
        self, output: P | None, reader: P | None, integer: bool
    ) -> None:
        chosen = {"y.op:out:0": A, "graph:out:y": output, "n.op:in:0": reader, "y.op:in:0": C if integer else None}
        slots = {slot: p for slot, p in chosen.items() if p is not None}
        exported = export(model_of(self.NODES, ["y", "n", "e"]), slots, ["y.op"] if integer else [])
        if output is not None:
            assert said(exported, "y")[0] == [*output.scales]

    def test_an_input_that_is_also_an_output_passes_through(self) -> None:
        model = model_of(self.NODES[:1], ["x", "y"])
        exported = to_qdq(model, run_of(model, {"graph:in:x": A, "y.op:in:0": A, "graph:out:x": A}), {})
        onnx.checker.check_model(exported, full_check=True)
        outputs = run_plainly(exported, {"x": IMAGE})
        np.testing.assert_array_equal(outputs["x"], IMAGE)
        np.testing.assert_allclose(outputs["y"], np.maximum(fake_quantize(IMAGE, A), 0), atol=1e-6)


class TestRanges:
    def test_a_range_narrower_than_its_type_is_clipped(self) -> None:
        narrow = Scheme(4, signed=True, symmetric=False, quant_min=-8, quant_max=7)
        model = model_of([op("Neg", ["x"], "n")], ["n"])
        exported = export(model, {"graph:in:x": P(0.1, 2, narrow), "n.op:in:0": P(0.1, 2, narrow)})
        assert count(exported, "Clip") == 1

    def test_a_range_that_only_lacks_the_lowest_value_is_left_to_saturation(self) -> None:
        symmetric = Scheme(8, signed=True, symmetric=True, quant_min=-127, quant_max=127)
        model = model_of([op("Neg", ["x"], "n")], ["n"])
        exported = export(model, {"graph:in:x": P(0.01, 0, symmetric), "n.op:in:0": P(0.01, 0, symmetric)})
        assert count(exported, "Clip") == 0

    def test_activations_may_be_quantized_per_channel(self) -> None:
        per_channel = P(
            (0.01, 0.02, 0.005), 128, Scheme(8, signed=False, symmetric=False, quant_min=0, quant_max=255, axis=1)
        )
        model = model_of([op("Neg", ["x"], "n")], ["n"])
        exported = export(model, {"graph:in:x": per_channel, "n.op:in:0": per_channel})
        assert said(exported, read_by(exported, "n.op"))[0] == [*per_channel.scales]

    @pytest.mark.parametrize("op_type", ["Add", "Mul"])
    def test_what_an_integer_op_makes_may_be_quantized_per_channel(self, op_type: str) -> None:
        per_channel = P(
            (0.01, 0.02, 0.005), 128, Scheme(8, signed=False, symmetric=False, quant_min=0, quant_max=255, axis=1)
        )
        model = model_of([op(op_type, ["x", "x"], "a"), op("Neg", ["a"], "n")], ["n"])
        scales = {"graph:in:x": A, "a.op:in:0": A, "a.op:in:1": A, "a.op:out:0": per_channel, "n.op:in:0": per_channel}
        exported = export(model, scales)
        session = onnxruntime.InferenceSession(exported.SerializeToString(), providers=["CPUExecutionProvider"])
        x = np.full([value.dim_value for value in model.graph.input[0].type.tensor_type.shape.dim], 1.0, np.float32)
        assert np.all(session.run(None, {"x": x})[0] < 0)

    @pytest.mark.parametrize("signed", [True, False])
    def test_16_bits_take_the_model_to_opset_21_and_8_bits_leave_it_where_it_is(self, signed: bool) -> None:
        low = -(2**15) if signed else 0
        wide = Scheme(16, signed=signed, symmetric=False, quant_min=low, quant_max=low + 2**16 - 1)
        model = model_of([op("ReduceMean", ["x"], "m", axes=[2, 3], keepdims=1), op("Neg", ["m"], "n")], ["n"])
        p = P(1e-4, 5 + low + 2**15, wide)
        exported = export(model, {"m.op:out:0": p, "n.op:in:0": p})
        assert (exported.opset_import[0].version, exported.ir_version) == (21, 10)
        assert all(node.name for node in exported.graph.node)
        assert export(model, {"m.op:out:0": A, "n.op:in:0": A}).opset_import[0].version == 13

    def test_external_weights_of_a_model_that_is_raised_are_quantized_or_stay_where_they_are(
        self, tmp_path: Path
    ) -> None:
        matrix = RNG.uniform(-1, 1, (6, 300)).astype("f")
        nodes = [op("MatMul", ["x", "w"], "a"), op("MatMul", ["x", "v"], "b"), op("Add", ["a", "b"], "y")]
        model = model_of(nodes, ["y"], {"w": matrix, "v": matrix})
        onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
        light = onnx.load(tmp_path / "m.onnx", load_external_data=False)
        activation = P(1e-4, 0, Scheme(16, signed=True, symmetric=False, quant_min=-(2**15), quant_max=2**15 - 1))
        slots = {"graph:in:x": activation, "a.op:in:0": activation, "a.op:in:1": P(0.01, 0, weight(None))}
        exported = to_qdq(light, run_of(light, slots), {}, tmp_path)
        assert exported.opset_import[0].version == 21
        constants = {tensor.name: tensor for tensor in exported.graph.initializer}
        integers = numpy_helper.to_array(constants["w/quantized"])
        np.testing.assert_array_equal(integers, np.clip(np.rint(matrix / np.float32(0.01)), -127, 127))
        assert [name for name, one in constants.items() if one.data_location == TensorProto.EXTERNAL] == ["v"]

    def test_32_bits_are_for_constants_only(self) -> None:
        model = model_of([op("Neg", ["x"], "n")], ["n"])
        with pytest.raises(ExportError, match="cannot quantize a tensor like this: x"):
            to_qdq(model, run_of(model, {"n.op:in:0": P(0.1, 0, Scheme(32, True, True, -9, 9))}), {})


class TestFile:
    MODEL = model_of([CONV, op("Relu", ["c"], "y")], ["y"], CONV_CONSTANTS)
    SLOTS: ClassVar[Parameters] = {**CONV_SLOTS, "y.op:out:0": C, "graph:out:y": C}

    def test_equal_arguments_give_equal_bytes_and_the_model_is_not_changed(self) -> None:
        before = self.MODEL.SerializeToString(deterministic=True)
        run = run_of(self.MODEL, self.SLOTS)
        first, second = (
            to_qdq(self.MODEL, run, {"b": "1", "a": "2"}).SerializeToString(deterministic=True) for _ in "ab"
        )
        assert first == second
        assert self.MODEL.SerializeToString(deterministic=True) == before

    def test_metadata_keeps_the_models_own_and_names_the_groups(self) -> None:
        model = ModelProto()
        model.CopyFrom(self.MODEL)
        model.metadata_props.add(key="character", value="abc")
        run = run_of(model, self.SLOTS, (Group("g1", ("y.op:out:0",), ("y",), "y.op:out:0", UINT8),))
        props = {one.key: one.value for one in to_qdq(model, run, {"qgraph.run": "r1"}).metadata_props}
        assert props.keys() == {"character", "qgraph.run", "qgraph.groups"}
        assert (props["character"], props["qgraph.run"]) == ("abc", "r1")
        assert json.loads(props["qgraph.groups"]) == {"y": "g1"}

    def test_names_that_the_model_uses_itself_are_not_taken(self) -> None:
        nodes = [op("Relu", ["x"], "x/quantized"), op("Neg", ["x/quantized"], "x/scale"), op("Abs", ["x"], "y")]
        slots = {"graph:in:x": A, "x/quantized.op:in:0": A, "y.op:in:0": B, "y.op:out:0": B, "graph:out:y": B}
        exported = export(model_of(nodes, ["y", "x/scale"]), slots)
        names = [node.name for node in exported.graph.node]
        assert len(set(names)) == len(names)

    def test_a_run_in_which_nothing_is_quantized_is_refused(self) -> None:
        with pytest.raises(ExportError, match="nothing is quantized"):
            to_qdq(self.MODEL, run_of(self.MODEL, {}), {})

    def test_a_run_without_scales_is_refused(self) -> None:
        run = run_of(self.MODEL, {})
        with pytest.raises(ExportError, match="the run has no scales"):
            to_qdq(self.MODEL, replace(run, settings=replace(run.settings, observer=None)), {})

    def test_a_run_of_another_model_is_refused(self) -> None:
        other = model_of([op("Neg", ["x"], "n")], ["n"])
        with pytest.raises(ExportError, match=r"the run is of another model: no slot n\.op:in:0"):
            to_qdq(self.MODEL, run_of(other, {"n.op:in:0": A}), {})
