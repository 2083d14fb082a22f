"""Every broken rule is found, says what to do, and nothing else is found."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qgraph
from qgraph.analysis.check import check
from qgraph.analysis.violation import Report, Violation
from qgraph.constraints.pack import RulePack, load_pack
from qgraph.formats.quantized_onnx import read_quantized_onnx

HEAD = '<ir_version: 8, opset_import: ["" : 13]>'
PARAMETERS = """
    float a = {0.5}, int8 az = {3}, float b = {0.25}, int8 bz = {-7}, float wide = {4.0}, int8 zero = {0},
    uint8 au = {131}, float unit = {0.00390625}, int8 low = {-128}, uint8 lowu = {0}
"""
"""`a` and `au` mean the same in int8 and uint8."""


def checked(
    tmp_path: Path, signature: str, nodes: str, constants: str = "", target: str | RulePack = "tflite"
) -> Report:
    text = f"{HEAD} g ({signature} <{PARAMETERS}{constants}> {{ {nodes} }}"
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    pack = load_pack(target) if isinstance(target, str) else target
    return check(read_quantized_onnx(tmp_path / "model.onnx"), pack)


def pair(source: str, result: str, scale: str, zero_point: str) -> str:
    return (
        f"{result}_q = QuantizeLinear({source}, {scale}, {zero_point}) "
        f"{result} = DequantizeLinear({result}_q, {scale}, {zero_point}) "
    )


def only(report: Report) -> Violation:
    (violation,) = report.violations
    return violation


POOL = "float[1,4,8,8] x) => (float[1,4,4,4] y)"
MAX_POOL = "p = MaxPool <kernel_shape=[2,2], strides=[2,2]> (xd) "
FOUR = "float[4] x) => (float[4] y)"
CONCAT = "float[1,4] x, float[1,4] z) => (float[1,8] y)"


class TestEqualParameters:
    def test_a_pooling_takes_the_scale_of_its_input(self, tmp_path: Path) -> None:
        nodes = pair("x", "xd", "a", "az") + MAX_POOL + pair("p", "y", "b", "az")
        found = only(checked(tmp_path, POOL, nodes))
        assert (found.rule, found.kind, found.op, found.op_type) == ("max_pool", "same", "MaxPool@p", "MaxPool")
        assert found.source == "quantization_spec.md: MAX_POOL_2D"
        assert [(t.name, t.scale, t.offset) for t in found.tensors] == [("x", (0.5,), (3,)), ("y", (0.25,), (3,))]
        assert found.ratio == 0.5
        assert "differ in scale" in found.message
        assert found.repair.startswith("quantize y with the parameters of x: scale 0.5, zero point 3; where a reader")

    def test_a_zero_point_alone_is_a_difference(self, tmp_path: Path) -> None:
        nodes = pair("x", "xd", "a", "az") + MAX_POOL + pair("p", "y", "a", "bz")
        found = only(checked(tmp_path, POOL, nodes))
        assert "differ in zero point" in found.message
        assert found.ratio == 1.0

    def test_equal_scales_are_no_violation(self, tmp_path: Path) -> None:
        nodes = pair("x", "xd", "a", "az") + MAX_POOL + pair("p", "y", "a", "az")
        assert checked(tmp_path, POOL, nodes).violations == ()

    @pytest.mark.parametrize(("steps", "count"), [(1, 0), (2, 1)])
    def test_one_unit_in_the_last_place_is_tolerated_and_no_more(self, tmp_path: Path, steps: int, count: int) -> None:
        scale = np.float32(0.5)
        for _ in range(steps):
            scale = np.nextafter(scale, np.float32(1))
        nodes = pair("x", "xd", "a", "az") + MAX_POOL + pair("p", "y", "near", "az")
        assert len(checked(tmp_path, POOL, nodes, f", float near = {{{scale!s}}}").violations) == count

    def test_int8_and_uint8_are_compared_with_zero_points_shifted(self, tmp_path: Path) -> None:
        nodes = pair("x", "xd", "a", "az") + MAX_POOL + pair("p", "y", "a", "au")
        assert [entry.rule for entry in checked(tmp_path, POOL, nodes).violations] == ["activation_type"]
        nodes = pair("x", "xd", "b", "az") + MAX_POOL + pair("p", "y", "a", "au")
        found = {entry.rule: entry for entry in checked(tmp_path, POOL, nodes).violations}
        assert "int8 and uint8 compared with zero points shifted" in found["max_pool"].message
        assert "quantize y with the parameters of x: scale 0.25, zero point 131" in found["max_pool"].repair

    def test_a_concat_gives_its_scale_to_the_inputs(self, tmp_path: Path) -> None:
        nodes = (
            pair("x", "xd", "a", "az")
            + pair("z", "zd", "b", "bz")
            + "c = Concat <axis=1> (xd, zd) "
            + pair("c", "y", "a", "az")
        )
        found = only(checked(tmp_path, CONCAT, nodes))
        assert (found.rule, [tensor.name for tensor in found.tensors]) == ("concat", ["z", "y"])
        assert found.repair == "quantize z with the output's parameters: scale 0.5, zero point 3"

    def test_a_concat_that_would_clip_is_given_a_scale_for_all(self, tmp_path: Path) -> None:
        nodes = (
            pair("x", "xd", "a", "az")
            + pair("z", "zd", "wide", "zero")
            + "c = Concat <axis=1> (xd, zd) "
            + pair("c", "y", "a", "az")
        )
        repair = only(checked(tmp_path, CONCAT, nodes)).repair
        assert "clips z, which reaches from -512 to 508: scale 4, zero point 0 (int8) for all" in repair

    def test_where_inputs_agree_the_output_follows_them_rather_than_a_value_with_other_readers(
        self, tmp_path: Path
    ) -> None:
        nodes = (
            pair("x", "xd", "b", "bz")
            + "w = Concat <axis=1> (xd, xd) "
            + pair("w", "y", "a", "az")
            + "z = Sub(xd, xd) "
        )
        report = checked(tmp_path, "float[1,4] x) => (float[1,8] y, float[1,4] z)", nodes)
        assert only(report).repair == "quantize y with scale 0.25, zero point -7"

    def test_what_a_pooling_made_is_requantized_in_front_of_the_concat(self, tmp_path: Path) -> None:
        nodes = pair("x", "xd", "b", "bz") + MAX_POOL + pair("p", "pd", "b", "bz") + pair("z", "zd", "a", "az")
        nodes += "c = Concat <axis=1> (pd, zd) "
        shapes = "float[1,4,8,8] x, float[1,4,4,4] z) => (float[1,8,4,4] y)"
        repair = only(checked(tmp_path, shapes, nodes + pair("c", "y", "a", "az"))).repair
        assert (
            repair
            == "requantize p in front of Concat@c to the output's scale 0.5, zero point 3 (max_pool ties it to x)"
        )

    def test_a_requantize_repairs_it(self, tmp_path: Path) -> None:
        nodes = (
            pair("x", "xd", "b", "bz")
            + pair("xd", "xe", "a", "az")
            + "w = Concat <axis=1> (xe, xe) "
            + pair("w", "y", "a", "az")
        )
        assert checked(tmp_path, "float[1,4] x) => (float[1,8] y)", nodes).violations == ()

    def test_a_float_tensor_that_is_quantized_twice_needs_one_that_fits(self, tmp_path: Path) -> None:
        nodes = (
            pair("x", "xd", "a", "az") + MAX_POOL + pair("p", "pa", "b", "az") + pair("p", "pb", "a", "az")
        ) + "y = Add(pa, pb)"
        assert checked(tmp_path, POOL, nodes).violations == ()


class TestPrescribedParameters:
    def test_a_softmax_has_its_own(self, tmp_path: Path) -> None:
        nodes = pair("x", "xd", "a", "az") + "s = Softmax(xd) " + pair("s", "y", "b", "bz")
        found = only(checked(tmp_path, FOUR, nodes))
        assert (found.rule, found.kind) == ("unit_interval", "fixed")
        assert found.message == "y must have scale 0.00390625, zero point -128, but has scale 0.25, zero point -7"

    def test_in_uint8_its_zero_point_is_0(self, tmp_path: Path) -> None:
        nodes = pair("x", "xd", "a", "az") + "s = Softmax(xd) " + pair("s", "y", "unit", "lowu")
        assert [entry.kind for entry in checked(tmp_path, FOUR, nodes).violations] == ["scheme"]


def convolution(
    tmp_path: Path, *, weight_zero_point: int = 0, bias_scale: float = 0.125, bias_type: str = "int32"
) -> Report:
    constants = f""", int8[2,1,1,1] w = {{5, -6}}, float ws = {{0.25}}, int8 wz = {{{weight_zero_point}}},
        {bias_type}[2] bias = {{100, -100}}, float bs = {{{bias_scale}}}"""
    nodes = (
        pair("x", "xd", "a", "az")
        + "wd = DequantizeLinear(w, ws, wz) bd = DequantizeLinear(bias, bs) c = Conv(xd, wd, bd) "
        + pair("c", "y", "b", "bz")
    )
    return checked(tmp_path, "float[1,1,4,4] x) => (float[1,2,4,4] y)", nodes, constants)


class TestWeightsAndBias:
    def test_a_bias_has_the_scale_of_input_times_weight(self, tmp_path: Path) -> None:
        assert convolution(tmp_path).violations == ()
        found = only(convolution(tmp_path, bias_scale=0.126))
        assert (found.rule, found.kind, found.op) == ("conv", "derived", "Conv@c")
        assert [tensor.name for tensor in found.tensors] == ["bias", "x", "w"]
        assert found.expected == (0.125,)
        assert found.repair == "store bias as int32 with scale 0.125, zero point 0: round(bias / scale)"

    def test_a_bias_is_int32(self, tmp_path: Path) -> None:
        assert "the bias bias is int8, not int32" in only(convolution(tmp_path, bias_type="int8")).message

    def test_a_weight_is_symmetric(self, tmp_path: Path) -> None:
        found = only(convolution(tmp_path, weight_zero_point=4))
        assert (found.rule, found.kind, found.op) == ("weight_symmetry", "scheme", "Conv@c")
        assert found.repair == "quantize symmetrically: zero point 0 in int8"

    def test_a_weight_does_not_use_the_lowest_integer(self, tmp_path: Path) -> None:
        constants = ", int8[2,2] w = {-128, 1, 2, 3}"
        nodes = pair("x", "xd", "a", "az") + "wd = DequantizeLinear(w, b) m = MatMul(xd, wd) "
        nodes += pair("m", "y", "b", "bz")
        found = only(checked(tmp_path, "float[1,2] x) => (float[1,2] y)", nodes, constants))
        assert (found.rule, "[-127, 127]" in found.repair) == ("weight_range", True)

    def test_a_weight_per_channel_where_the_target_has_one_scale(self, tmp_path: Path) -> None:
        constants = ", int8[1,2,2] w = {1, 1, 2, 3}, float[2] ws = {0.5, 0.25}"
        nodes = (pair("x", "xd", "a", "az") + "wd = DequantizeLinear <axis=2> (w, ws) m = MatMul(xd, wd) ") + pair(
            "m", "y", "b", "bz"
        )
        shapes = "float[1,1,2] x) => (float[1,1,2] y)"
        found = only(checked(tmp_path, shapes, nodes, constants))
        assert found.rule == "weight_granularity"
        assert found.source.startswith("kernel batch_matmul.cc: ")
        constants, nodes = constants.replace("[1,2,2]", "[2,2]"), nodes.replace("axis=2", "axis=1")
        assert "weight_granularity" not in {
            entry.rule for entry in checked(tmp_path, shapes, nodes, constants, "onnxruntime").violations
        }

    @pytest.mark.parametrize(
        ("target", "axis", "right"),
        [
            ("openvino", 2, True),
            ("openvino_npu", 2, True),
            ("qnn", 2, True),
            ("qnn@68", 2, False),
            ("openvino", 1, False),
            ("tensorrt", 2, False),
            ("onnxruntime", 2, False),
        ],
    )
    def test_a_scale_for_each_column_of_a_stack_is_right_where_the_targets_own_tool_writes_it(
        self, target: str, axis: int, right: bool, tmp_path: Path
    ) -> None:
        constants = ", int8[2,2,2] w = {1, 1, 2, 3, 4, 5, 6, 7}, float[2] ws = {0.5, 0.25}, int8[2] wz = {0, 0}"
        nodes = pair("x", "xd", "a", "az") + f"wd = DequantizeLinear <axis={axis}> (w, ws, wz) m = MatMul(xd, wd) "
        nodes += pair("m", "y", "b", "bz")
        found = checked(tmp_path, "float[2,1,2] x) => (float[2,1,2] y)", nodes, constants, target).violations
        assert ("weight_granularity" not in {entry.rule for entry in found}) is right

    def test_all_tensors_of_a_wrong_type_are_one_violation(self, tmp_path: Path) -> None:
        nodes = pair("x", "xd", "a", "au") + MAX_POOL + pair("p", "y", "a", "au")
        found = only(checked(tmp_path, POOL, nodes))
        assert (found.rule, [tensor.name for tensor in found.tensors]) == ("activation_type", ["x", "y"])
        assert found.repair.startswith("set the activation type to int8; ")
        assert found.repair.endswith("zero points − 128")


class TestFusedPairs:
    NODES = "wd = DequantizeLinear(w, b) c = Conv(xd, wd) "
    CONSTANTS = ", int8[1,1,1,1] w = {5}"
    SIGNATURE = "float[1,1,4,4] x) => (float[1,1,4,4] y)"

    def test_nothing_is_quantized_inside_a_pair(self, tmp_path: Path) -> None:
        inside = pair("x", "xd", "a", "az") + self.NODES + pair("c", "cd", "b", "bz") + "r = Relu(cd) "
        found = only(checked(tmp_path, self.SIGNATURE, inside + pair("r", "y", "a", "az"), self.CONSTANTS))
        assert (found.rule, found.kind, found.op) == ("fused_relu", "fused", "Relu@r")
        assert "between Conv@c (Conv) and Relu@r (Relu)" in found.message

    def test_a_pair_without_is_right(self, tmp_path: Path) -> None:
        nodes = pair("x", "xd", "a", "az") + self.NODES + "r = Relu(c) " + pair("r", "y", "a", "az")
        assert checked(tmp_path, self.SIGNATURE, nodes, self.CONSTANTS).violations == ()

    def test_a_pooling_reaches_through_a_fused_relu(self, tmp_path: Path) -> None:
        nodes = pair("x", "xd", "a", "az") + MAX_POOL + "r = Relu(p) " + pair("r", "y", "b", "bz")
        assert only(checked(tmp_path, POOL, nodes)).rule == "max_pool"

    def test_a_pooling_is_held_against_what_is_quantized_behind_it(self, tmp_path: Path) -> None:
        nodes = pair("x", "xd", "a", "az") + MAX_POOL + pair("p", "pd", "a", "az") + "r = Relu(pd) "
        assert only(checked(tmp_path, POOL, nodes + pair("r", "y", "b", "bz"))).rule == "fused_relu"


class TestOther:
    def test_a_target_that_cannot_requantize(self, tmp_path: Path) -> None:
        pack = replace(load_pack("tflite"), can_requantize=False)
        nodes = pair("x", "xd", "a", "az") + pair("xd", "xe", "b", "bz") + "s = Sub(xe, xe) "
        nodes += pair("s", "y", "a", "az")
        found = checked(tmp_path, FOUR, nodes, target=pack).violations
        assert {(entry.rule, entry.op, entry.ratio) for entry in found} == {("requantize", "Sub@s", 0.5)}
        assert checked(tmp_path, FOUR, nodes).violations == ()

    def test_a_pair_with_two_scales(self, tmp_path: Path) -> None:
        nodes = "q = QuantizeLinear(x, a, az) d = DequantizeLinear(q, b, az) s = Sub(d, d) " + pair("s", "y", "a", "az")
        found = only(checked(tmp_path, FOUR, nodes))
        assert (found.rule, found.op, found.ratio) == ("pair", "DequantizeLinear@d", 0.5)

    def test_a_symmetric_target(self, tmp_path: Path) -> None:
        pack = load_pack("tflite")
        symmetric = replace(pack, activation=replace(pack.activation, symmetric=True, power_of_two=True))
        nodes = pair("x", "xd", "near", "az") + "s = Sub(xd, xd) " + pair("s", "y", "a", "zero")
        found = checked(tmp_path, FOUR, nodes, ", float near = {0.3}", symmetric).violations
        assert {(entry.rule, *(tensor.name for tensor in entry.tensors)) for entry in found} == {
            ("activation_symmetry", "x"),
            ("activation_power_of_two", "x"),
        }

    def test_what_is_left_float_is_counted_not_blamed(self, tmp_path: Path) -> None:
        nodes = pair("x", "xd", "a", "az") + MAX_POOL + "y = Sub(p, p)"
        report = checked(tmp_path, POOL, nodes)
        assert report.violations == ()
        assert (report.summary.quantized, report.summary.left_float) == (1, ("p", "y"))

    def test_what_the_target_runs_in_float_is_counted(self, tmp_path: Path) -> None:
        nodes = pair("x", "xd", "a", "az") + "s = Erf(xd) " + pair("s", "y", "b", "bz")
        assert checked(tmp_path, FOUR, nodes).summary.not_wanted == ("x", "y")


def own_model(path: Path) -> None:
    """Two convolutions, the second on a pooling of the first, their concat, and a sigmoid."""
    random = np.random.default_rng(0)
    kernels = {"w1": (4, 3, 3, 3), "w2": (4, 4, 3, 3)}
    constants = [numpy_helper.from_array(random.normal(size=s).astype("f"), name) for name, s in kernels.items()]
    constants += [numpy_helper.from_array(random.normal(size=4).astype("f"), name) for name in ("b1", "b2")]
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("MaxPool", ["c1"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p", "w2", "b2"], ["c2"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Concat", ["p", "c2"], ["cat"], "concat", axis=1),
        helper.make_node("Sigmoid", ["cat"], ["y"], "sigmoid"),
    ]
    graph = helper.make_graph(
        nodes,
        "own",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 4, 4])],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)


@pytest.fixture(scope="module")
def own_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    own_model(folder / "float.onnx")
    data = np.random.default_rng(1).normal(size=(8, 3, 8, 8)).astype("f")
    with qgraph.open(str(folder / "q.db")) as db:
        run = db.calibrate(folder / "float.onnx", data).solve(target="tflite", observer="minmax", force_overlap=True)
        run.export(folder / "int8.onnx")
    return folder / "int8.onnx"


BREAKS = {
    "x": {("conv", "conv1")},
    "w1": {("conv", "conv1")},
    "b1": {("conv", "conv1")},
    "c1": {("max_pool", "pool")},
    "p": {("max_pool", "pool"), ("conv", "conv2"), ("concat", "concat")},
    "w2": {("conv", "conv2")},
    "b2": {("conv", "conv2")},
    "c2": {("concat", "concat")},
    "cat": {("concat", "concat")},
    "y": {("unit_interval", "sigmoid")},
}
"""By tensor, what another scale of it breaks, reasoned by hand from the model."""


class TestOwnExports:
    def test_they_have_no_violation(self, own_export: Path) -> None:
        report = check(read_quantized_onnx(own_export), load_pack("tflite"))
        assert report.violations == ()
        assert report.summary.left_float == report.summary.not_wanted == ()
        assert report.summary.quantized == len(BREAKS)

    @pytest.mark.parametrize("tensor", BREAKS)
    def test_every_broken_scale_is_found_and_nothing_else(self, own_export: Path, tmp_path: Path, tensor: str) -> None:
        model = onnx.load(own_export)
        (scale,) = (entry for entry in model.graph.initializer if entry.name == f"{tensor}/scale")
        values = np.array(numpy_helper.to_array(scale))
        values.reshape(-1)[0] *= np.float32(1.01)
        scale.CopyFrom(numpy_helper.from_array(values, scale.name))
        onnx.save(model, tmp_path / "broken.onnx")
        report = check(read_quantized_onnx(tmp_path / "broken.onnx"), load_pack("tflite"))
        assert {(entry.rule, entry.op) for entry in report.violations} == BREAKS[tensor]
        for entry in report.violations:
            assert any(t.name.startswith(tensor) for t in entry.tensors)
            if entry.kind == "same":
                assert entry.ratio is not None
                assert math.isclose(max(entry.ratio, 1 / entry.ratio), 1.01, rel_tol=1e-6)
