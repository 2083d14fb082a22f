"""What each shipped target makes of small graphs and of real models."""

from pathlib import Path

import pytest
from constraint_graphs import Sketch, shared

from qgraph.constraints.grouping import solve_groups
from qgraph.constraints.model import Constraints, Direction, Strength
from qgraph.constraints.pack import load_pack, pack_names
from qgraph.constraints.rules import constrain
from qgraph.ir.graph import Graph
from qgraph.ir.onnx_import import load_model

REPORTED = {"artpec9", "espdl", "qnn"}


def on(target: str, sketch: Sketch, outputs: str = "") -> Constraints:
    return constrain(sketch.graph(outputs), load_pack(target))


def branches(*joins: str) -> Sketch:
    """Two convolutions, and ops that join what they make."""
    sketch = Sketch()
    for name in ("a", "b"):
        sketch.op("Conv", "x", name)
    for kind in joins:
        sketch.op(kind, "a b", kind.lower())
    return sketch


def strengths(constraints: Constraints) -> dict[str, Strength]:
    return {tie.origin.op_type: tie.strength for tie in constraints.same}


@pytest.fixture(scope="session")
def graphs(mobilenet_v2: Path, ppocr4_det: Path) -> dict[str, Graph]:
    return {path.stem: Graph(load_model(path).structure) for path in (mobilenet_v2, ppocr4_det)}


@pytest.mark.parametrize("name", ["mobilenet_v2", "ppocr4_det"])
@pytest.mark.parametrize("target", pack_names())
def test_every_target_accounts_for_every_tensor_of_a_real_model(
    target: str, name: str, graphs: dict[str, Graph]
) -> None:
    constraints = constrain(graphs[name], load_pack(target))
    assert all((plan.scheme is None) != (plan.reason is None) for plan in constraints.slots.values())
    grouping = solve_groups(constraints, force_overlap=False)
    assert grouping.groups
    assert solve_groups(constraints, force_overlap=True).requantizes == () or "openvino" in target


def test_only_targets_known_from_reports_are_marked() -> None:
    assert {name for name in pack_names() if load_pack(name).status == "reported"} == REPORTED
    assert all(rule.source.startswith("reported: ") for rule in load_pack("qnn").same)


@pytest.mark.parametrize(
    ("target", "strength"),
    [
        ("tflite", Strength.REQUIRED),
        ("tensorrt", Strength.PREFERRED),
        ("openvino", Strength.REQUIRED),
        ("openvino_npu", Strength.REQUIRED),
        ("xnnpack", Strength.REQUIRED),
        ("onnxruntime", None),
        ("qnn", Strength.PREFERRED),
    ],
)
def test_concat_is_as_binding_as_the_target_says(target: str, strength: Strength | None) -> None:
    sketch = branches("Concat")
    sketch.op("Conv", "concat", "next")
    constraints = on(target, sketch, "next")
    assert strengths(constraints).get("Concat") == strength
    groups = shared(solve_groups(constraints, force_overlap=False))
    together = "a:out:0 b:out:0 concat:in:0 concat:in:1 concat:out:0 next:in:0" in groups
    assert together is (strength is not None)


class TestOpenVinoUnifiesConcat:
    """Where a convolution or a matrix product with one scale for its input follows, and nowhere else."""

    @staticmethod
    def behind(*kinds: str, target: str = "openvino") -> list[str]:
        """The rules of a Concat that is read by a chain of ops."""
        sketch = branches("Concat")
        made = "concat"
        for number, kind in enumerate(kinds):
            sketch.op(kind, made, f"t{number}")
            made = f"t{number}"
        return [tie.origin.rule for tie in on(target, sketch, made).same if tie.origin.op == "concat"]

    @pytest.mark.parametrize(
        "kinds", [("Conv",), ("MatMul",), ("Reshape", "MaxPool", "Gemm"), ("Split", "ConvTranspose")]
    )
    def test_in_front_of_them_and_of_what_passes_their_quantizer_on(self, kinds: tuple[str, ...]) -> None:
        assert self.behind(*kinds) == ["concat", "concat"]

    @pytest.mark.parametrize("kinds", [(), ("Add",), ("Relu", "Conv"), ("AveragePool", "Conv"), ("Softmax", "MatMul")])
    def test_not_in_front_of_anything_else(self, kinds: tuple[str, ...]) -> None:
        assert self.behind(*kinds) == []

    def test_not_in_front_of_a_depthwise_convolution_whose_input_has_a_scale_per_channel(self) -> None:
        sketch = branches("Concat")
        sketch.constant("w", (4, 1, 3, 3))
        sketch.op("Conv", "concat w", "d", group=4)
        assert on("openvino", sketch, "d").same == ()

    def test_through_another_concat(self) -> None:
        sketch = branches("Concat")
        sketch.op("Concat", "concat a", "outer")
        assert on("openvino", sketch, "outer").same == ()
        sketch.op("Conv", "outer", "c")
        assert {tie.origin.op for tie in on("openvino", sketch, "c").same} == {"concat", "outer"}

    def test_through_an_addition_on_the_npu_only(self) -> None:
        assert self.behind("Add", "Conv") == []
        assert self.behind("Add", "Conv", target="openvino_npu") == ["concat", "concat"]


def test_only_the_npu_unifies_the_inputs_of_elementwise_ops() -> None:
    sketch = branches("Add")
    assert strengths(on("openvino", sketch, "add")) == {}
    npu = on("openvino_npu", sketch, "add")
    assert [(tie.a, tie.b, tie.strength) for tie in npu.same] == [("add:in:0", "add:in:1", Strength.REQUIRED)]


@pytest.mark.parametrize("target", ["openvino", "openvino_npu", "tensorrt"])
def test_a_constant_operand_stays_float_and_runs_in_the_convolution_before_it(target: str) -> None:
    sketch = Sketch()
    sketch.constant("k", (1, 4, 1, 1))
    sketch.op("Conv", "x", "c")
    sketch.op("Add", "c k", "y")
    sketch.op("Conv", "y", "z")
    constraints = on(target, sketch, "z")
    assert [slot for slot in ("c:out:0", "y:in:0", "y:in:1") if constraints.slots[slot].scheme] == []
    assert constraints.slots["y:out:0"].scheme is not None
    assert constraints.same == ()


def test_openvino_quantizes_what_reads_an_activation_not_what_the_activation_reads() -> None:
    for kind in ("Sigmoid", "HardSwish", "LeakyRelu", "Elu"):
        sketch = Sketch()
        sketch.op("Conv", "x", "c")
        sketch.op(kind, "c", "a")
        sketch.op("Conv", "a", "z")
        constraints = on("openvino", sketch, "z")
        assert [pair.producer for pair in constraints.fused] == ["c:out:0"], kind
        assert constraints.slots["a:out:0"].scheme is not None


def gated(*factor: str, last: str = "Mul") -> Sketch:
    """A convolution, x · clip(x + 3, 0, 6) behind it, and perhaps a factor; two convolutions read the result."""
    sketch = Sketch()
    for constant in ("three", "sixth"):
        sketch.constant(constant, ())
    sketch.op("Conv", "x", "c")
    sketch.op("Add", "three c", "shifted")
    sketch.op("Clip", "shifted", "clipped")
    sketch.op(last, "clipped c", "made")
    if factor:
        sketch.op("Mul", "sixth made", "scaled")
    sketch.op("Conv", "scaled" if factor else "made", "z")
    return sketch


def quantized(constraints: Constraints, *tensors: str) -> list[str]:
    return [one for one in tensors if any(p.scheme and p.tensor == one for p in constraints.slots.values())]


@pytest.mark.parametrize("factor", [(), ("sixth",)])
def test_openvino_quantizes_what_a_hard_swish_of_several_ops_makes_and_nothing_inside(factor: tuple[str, ...]) -> None:
    tensors = ["c", "shifted", "clipped", "made", "scaled"]
    constraints = on("openvino", gated(*factor), "z")
    assert quantized(constraints, *tensors) == ["scaled" if factor else "made"]
    assert [p.slot for p in constraints.slots.values() if p.tensor == "c" and p.scheme] == []
    told = constraints.slots["c:out:0"].reason
    assert told is not None
    assert "c (Conv) and made (Mul) run as one" in told


def test_openvino_quantizes_both_where_an_op_reads_a_value_and_a_function_of_it_but_is_no_product() -> None:
    assert quantized(on("openvino", gated(last="Max"), "z"), "c", "clipped") == ["c", "clipped"]


def test_openvino_takes_no_third_reader_into_a_hard_swish() -> None:
    sketch = gated()
    sketch.op("Conv", "clipped", "other")
    assert quantized(on("openvino", sketch, "z other"), "c", "clipped") == ["c", "clipped"]


def test_openvino_quantizes_nothing_that_float_ops_read_only() -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "c")
    sketch.op("Reshape", "c", "r")
    sketch.op("Softmax", "r", "s")
    constraints = on("openvino", sketch, "s")
    assert quantized(constraints, "x", "c", "r", "s") == ["x"]
    assert constraints.slots["c:out:0"].reason == "made by a quantized op in float, since no quantized op reads it"
    assert quantized(on("tensorrt", sketch, "s"), "c") == ["c"]


def test_openvino_returns_what_a_quantized_op_makes_in_float_unless_a_quantized_op_reads_it_as_well() -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "c")
    sketch.op("Conv", "c", "z")
    constraints = on("openvino", sketch, "c z")
    assert {name: constraints.slots[f"graph:out:{name}"].scheme is not None for name in ("c", "z")} == {
        "c": True,
        "z": False,
    }


@pytest.mark.parametrize("operands", ["k c", "c k"])
def test_openvino_quantizes_nothing_between_a_chain_of_constant_operands(operands: str) -> None:
    sketch = Sketch()
    sketch.constant("k", (1, 4, 1, 1))
    sketch.op("Conv", "x", "c")
    sketch.op("Mul", operands, "m")
    sketch.op("Add", operands.replace("c", "m"), "y")
    sketch.op("Conv", "y", "z")
    assert quantized(on("openvino", sketch, "z"), "c", "m", "y") == ["y"]


def test_openvino_interpolates_between_two_scales_and_repeats_with_one() -> None:
    ties = {}
    for target in ("openvino", "openvino_npu"):
        for mode in ("nearest", "linear"):
            sketch = Sketch()
            sketch.op("Conv", "x", "c")
            sketch.op("Resize", "c", "r", mode=mode)
            sketch.op("Conv", "r", "z")
            constraints = on(target, sketch, "z")
            assert constraints.slots["r:in:0"].scheme is not None
            ties[target, mode] = [tie.strength for tie in constraints.same]
    assert ties == {
        ("openvino", "nearest"): [Strength.PREFERRED],
        ("openvino", "linear"): [],
        ("openvino_npu", "nearest"): [Strength.EXACT],
        ("openvino_npu", "linear"): [],
    }


@pytest.mark.parametrize("kind", ["Gather", "DepthToSpace", "GlobalMaxPool"])
def test_openvino_passes_quantizers_through_what_only_moves_or_selects(kind: str) -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "c")
    sketch.op(kind, "c #i" if kind == "Gather" else "c", "y")
    sketch.op("Conv", "y", "z")
    assert strengths(on("openvino", sketch, "z")) == {kind: Strength.EXACT}


def test_tensorrt_leaves_the_product_of_two_values_in_float() -> None:
    assert on("tensorrt", branches("Mul"), "mul").slots["mul:out:0"].scheme is None


def test_tensorrt_runs_activations_in_the_convolution_before_them() -> None:
    for kind in ("Relu", "LeakyRelu", "Sigmoid", "HardSwish", "Gelu"):
        sketch = Sketch()
        sketch.op("Conv", "x", "c")
        sketch.op(kind, "c", "a")
        assert [pair.producer for pair in on("tensorrt", sketch, "a").fused] == ["c:out:0"], kind


def linear() -> Sketch:
    """A matrix product in each of its forms."""
    sketch = Sketch()
    sketch.constant("w", (4, 8))
    sketch.constant("b", (8,))
    sketch.constant("v", (3, 4, 8))
    sketch.op("Gemm", "x w b", "gemm")
    sketch.op("Gemm", "x w b", "transposed", transB=1)
    sketch.op("MatMul", "x w", "matmul")
    sketch.op("MatMul", "x v", "batched")
    return sketch


def channels(constraints: Constraints) -> dict[str, int | None]:
    plans = (constraints.slots[f"{op}:in:1"] for op in ("gemm", "transposed", "matmul", "batched"))
    return {plan.slot.split(":")[0]: plan.scheme.axis if plan.scheme else None for plan in plans}


def test_tflite_has_a_scale_for_each_output_of_fully_connected_and_one_for_a_stack_of_matrices() -> None:
    expected = {"gemm": 1, "transposed": 0, "matmul": 1, "batched": None}
    assert channels(on("tflite", linear(), "gemm")) == expected


def test_htp_v68_has_one_scale_for_a_matrix_and_later_ones_have_one_per_output() -> None:
    assert channels(on("qnn", linear(), "gemm")) == {"gemm": 1, "transposed": 0, "matmul": 1, "batched": None}
    assert set(channels(on("qnn@68", linear(), "gemm")).values()) == {None}


def test_qnn_prefers_what_its_runtime_wants_and_requires_only_interpolation() -> None:
    sketch = branches("Concat")
    sketch.op("AveragePool", "concat", "p")
    sketch.op("Resize", "p", "r", mode="linear")
    found = strengths(on("qnn", sketch, "r"))
    wanted = {"Concat": Strength.PREFERRED, "AveragePool": Strength.PREFERRED, "Resize": Strength.REQUIRED}
    assert found == wanted


def test_qnn_fuses_its_supergroups_only() -> None:
    fused = {}
    for kind in ("Add", "Mul"):
        sketch = branches(kind)
        sketch.op("Relu", kind.lower(), "r")
        fused[kind] = [pair.producer for pair in on("qnn", sketch, "r").fused]
    assert fused == {"Add": ["add:out:0"], "Mul": []}


def test_espdl_fuses_a_relu_with_whatever_makes_what_it_reads() -> None:
    sketch = branches("Add")
    sketch.op("Relu", "add", "r")
    assert [pair.producer for pair in on("espdl", sketch, "r").fused] == ["add:out:0"]


def test_espdl_gives_the_addends_the_scale_of_their_sum() -> None:
    constraints = on("espdl", branches("Add"), "add")
    assert {(one.a, one.b) for one in constraints.same} == {("add:in:0", "add:out:0"), ("add:in:1", "add:out:0")}
    (alignment,) = constraints.alignments
    assert (alignment.op, str(alignment.method)) == ("add", "Align to Output")


def test_xnnpack_does_not_annotate_the_product_of_two_values() -> None:
    sketch = Sketch()
    sketch.constant("w", (4, 8))
    sketch.op("MatMul", "x w", "y")
    sketch.op("MatMul", "y k", "z")
    constraints = on("xnnpack", sketch, "z")
    assert constraints.slots["y:out:0"].scheme is not None
    assert constraints.slots["z:in:1"].scheme is None


def test_xnnpack_bounds_the_scale_by_which_a_sum_of_products_is_multiplied() -> None:
    sketch = Sketch()
    sketch.constant("w", (8, 4, 3, 3))
    sketch.op("Conv", "x w", "c")
    (bound,) = on("xnnpack", sketch, "c").ratios
    assert (bound.numerator, bound.denominator) == (("c:in:0", "c:in:1"), ("c:out:0",))
    assert (bound.above, bound.below) == (0, 256)


def test_xnnpack_fuses_what_its_delegate_fuses() -> None:
    for kind in ("Conv", "Add", "Mul"):
        for activation in ("Relu", "Clip"):
            sketch = Sketch()
            sketch.op(kind, "x k", "c")
            sketch.op(activation, "c", "a")
            assert [pair.producer for pair in on("xnnpack", sketch, "a").fused] == ["c:out:0"]


def test_tensorrt_and_openvino_leave_the_bias_in_float() -> None:
    sketch = Sketch()
    sketch.constant("w", (8, 4, 3, 3))
    sketch.constant("b", (8,))
    sketch.op("Conv", "x w b", "c")
    for target in ("tensorrt", "openvino"):
        constraints = on(target, sketch, "c")
        assert constraints.derived == ()
        assert "bias" in (constraints.slots["c:in:2"].reason or "")
        assert constraints.slots["c:in:1"].scheme is not None


def test_tensorrt_is_symmetric_and_espdl_has_powers_of_two_everywhere() -> None:
    pack = load_pack("tensorrt")
    assert pack.activation.symmetric
    assert pack.weight.scheme.symmetric
    espdl = load_pack("espdl")
    assert espdl.activation.power_of_two
    assert espdl.weight.scheme.power_of_two
    assert espdl.bias.power_of_two


def depthwise(*others: str) -> Sketch:
    sketch = Sketch()
    sketch.constant("w", (4, 1, 3, 3))
    sketch.constant("v", (4, 2, 3, 3))
    sketch.op("Conv", "x", "c")
    sketch.op("Relu", "c", "r")
    sketch.op("Conv", "r w", "d", group=4)
    sketch.op("Conv", "d v", "grouped", group=2)
    for kind in others:
        sketch.op(kind, "r", kind.lower())
    return sketch


def axes(constraints: Constraints) -> dict[str, int]:
    plans = constraints.slots.values()
    return {p.slot: p.scheme.axis for p in plans if p.role == "activation" and p.scheme and p.scheme.axis is not None}


def test_openvino_has_a_scale_per_channel_from_where_a_depthwise_input_is_made() -> None:
    constraints = on("openvino", depthwise(), "grouped")
    assert axes(constraints) == {"r:out:0": 1, "d:in:0": 1}
    assert solve_groups(constraints, force_overlap=False).requantizes == ()
    assert axes(on("openvino_npu", depthwise(), "grouped")) == {"r:out:0": 1, "d:in:0": 1}


def test_a_depthwise_input_with_another_reader_is_made_with_one_scale() -> None:
    for constraints in (
        on("openvino", depthwise("AveragePool"), "grouped averagepool"),
        on("openvino", depthwise(), "grouped r"),
    ):
        assert axes(constraints) == {"d:in:0": 1}
        assert [cut.slot for cut in solve_groups(constraints, force_overlap=False).requantizes] == ["d:in:0"]


def test_a_tied_tensor_keeps_one_scale_in_front_of_a_depthwise_convolution() -> None:
    sketch = Sketch()
    sketch.constant("w", (4, 1, 3, 3))
    sketch.op("Conv", "x", "c")
    sketch.op("MaxPool", "c", "m")
    sketch.op("Conv", "m w", "d", group=4)
    assert axes(on("openvino", sketch, "d")) == {"d:in:0": 1}


def test_all_17_depthwise_inputs_of_mobilenet_v2_have_a_scale_per_channel(graphs: dict[str, Graph]) -> None:
    graph = graphs["mobilenet_v2"]
    constraints = constrain(graph, load_pack("openvino"))
    inputs = {f"{op.name}:in:0" for op in graph.ops() if op.type == "Conv" and op.attributes.get("group", 1) != 1}
    assert len(inputs) == 17
    assert {slot for slot in axes(constraints) if ":in:" in slot} == inputs
    assert solve_groups(constraints, force_overlap=False).requantizes == ()


def test_xnnpack_shares_through_what_changes_values() -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "c")
    sketch.op("MaxPool", "c", "m")
    sketch.op("Relu", "m", "r")
    sketch.op("ReduceMean", "r", "g")
    assert strengths(on("xnnpack", sketch, "g")) == {
        "MaxPool": Strength.EXACT,
        "Relu": Strength.REQUIRED,
        "ReduceMean": Strength.REQUIRED,
    }


def test_tflite_knows_the_direction_of_its_converter() -> None:
    directions = {rule.name: rule.direction for rule in load_pack("tflite").same}
    outputs = {name for name, direction in directions.items() if direction is Direction.OUTPUT}
    assert outputs == {"concat", "max_min", "select", "pad_fill"}
    assert directions["max_pool"] is directions["average_pool"] is directions["split"] is Direction.INPUT
    constraints = on("tflite", branches("Concat"), "concat")
    assert {tie.direction for tie in constraints.same} == {Direction.OUTPUT}


def test_what_a_pack_does_not_name_is_counted_with_what_becomes_of_it() -> None:
    sketch = Sketch()
    sketch.op("Erf", "x", "e")
    sketch.op("Erf", "e", "f")
    sketch.op("Conv", "f", "c")
    (unlisted,) = on("tflite", sketch, "c").unlisted
    assert (unlisted.op_type, unlisted.ops) == ("Erf", 2)
    assert unlisted.reason == "TensorFlow Lite has no 8-bit kernel for it"


def test_ratios_bound_each_input_of_a_concat_and_the_product_at_a_convolution() -> None:
    sketch = branches("Concat")
    sketch.constant("w", (4, 4, 3, 3))
    sketch.op("Conv", "concat w", "c")
    sketch.op("Relu", "c", "r")
    ratios = {(ratio.numerator, ratio.denominator) for ratio in on("artpec9", sketch, "r").ratios}
    assert {
        (("concat:in:0",), ("concat:out:0",)),
        (("concat:in:1",), ("concat:out:0",)),
        (("c:in:0", "c:in:1"), ("r:out:0",)),
    } <= ratios


def test_onnxruntime_bounds_the_scale_of_a_max_pool_from_below() -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "c")
    sketch.op("MaxPool", "c", "m #indices")
    (ratio,) = on("onnxruntime", sketch, "m").ratios
    assert (ratio.numerator, ratio.denominator, ratio.above) == (("m:in:0",), (), 0)


@pytest.mark.parametrize("target", ["tflite", "onnxruntime", "openvino", "qnn"])
def test_an_index_is_no_value_and_a_gather_passes_its_data_on(target: str) -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "c")
    sketch.constant("index", (2,), dtype="int64")
    sketch.op("Gather", "c index", "g")
    sketch.op("Conv", "g", "d")
    constraints = on(target, sketch, "d")
    assert "g:in:1" not in constraints.slots
    listed = any("Gather" in rule.ops for rule in load_pack(target).quantizable)
    assert [(tie.a, tie.b, tie.strength) for tie in constraints.same] == (
        [("g:in:0", "g:out:0", Strength.EXACT)] if listed else []
    )


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "openvino_npu", "qnn", "tensorrt", "tflite", "xnnpack"])
def test_a_matrix_has_a_scale_for_each_column_and_a_stack_of_matrices_one(target: str) -> None:
    sketch = Sketch()
    sketch.constant("matrix", (4, 5))
    sketch.constant("stack", (3, 4, 5))
    sketch.op("MatMul", "x matrix", "y")
    sketch.op("MatMul", "x stack", "z")
    slots = on(target, sketch, "y z").slots
    schemes = [slots[slot].scheme for slot in ("y:in:1", "z:in:1")]
    assert [scheme.axis for scheme in schemes if scheme] == [1, None]
