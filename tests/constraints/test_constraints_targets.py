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
        ("qnn", None),
    ],
)
def test_concat_is_as_binding_as_the_target_says(target: str, strength: Strength | None) -> None:
    constraints = on(target, branches("Concat"), "concat")
    assert strengths(constraints).get("Concat") == strength
    groups = shared(solve_groups(constraints, force_overlap=False))
    together = "a:out:0 b:out:0 concat:in:0 concat:in:1 concat:out:0 graph:out:concat" in groups
    assert together is (strength is not None)


def test_only_the_npu_unifies_the_inputs_of_elementwise_ops() -> None:
    sketch = branches("Add")
    assert strengths(on("openvino", sketch, "add")) == {}
    npu = on("openvino_npu", sketch, "add")
    assert [(tie.a, tie.b, tie.strength) for tie in npu.same] == [("add:in:0", "add:in:1", Strength.REQUIRED)]


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
    assert axes(on("openvino_npu", depthwise(), "grouped")) == {}


def test_a_depthwise_input_with_another_reader_is_made_with_one_scale() -> None:
    for constraints in (
        on("openvino", depthwise("MaxPool"), "grouped maxpool"),
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
