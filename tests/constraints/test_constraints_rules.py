import math

import pytest
from constraint_graphs import Sketch, shared, tflite, tied

from qgraph.constraints.grouping import solve_groups
from qgraph.constraints.model import Constraints, Strength
from qgraph.constraints.pack import load_pack
from qgraph.constraints.rules import constrain
from qgraph.ir.elements import Tensor
from qgraph.tqc import Scheme


def onnxruntime(sketch: Sketch, outputs: str = "") -> Constraints:
    return constrain(sketch.graph(outputs), load_pack("onnxruntime"))


def scheme(constraints: Constraints, slot: str) -> Scheme:
    found = constraints.slots[slot].scheme
    assert found is not None
    return found


def reason(constraints: Constraints, slot: str) -> str:
    plan = constraints.slots[slot]
    assert plan.scheme is None
    assert plan.reason is not None
    return plan.reason


# Roles and schemes


@pytest.mark.parametrize(
    ("kind", "shape", "transposed", "axis"),
    [
        ("Conv", (8, 4, 3, 3), 0, 0),
        ("ConvTranspose", (4, 8, 3, 3), 0, 1),
        ("Gemm", (4, 8), 0, 1),
        ("Gemm", (8, 4), 1, 0),
    ],
)
def test_weights_have_their_channels_where_the_op_has_them(
    kind: str, shape: tuple[int, ...], transposed: int, axis: int
) -> None:
    sketch = Sketch()
    sketch.constant("w", shape)
    sketch.constant("b", (8,))
    sketch.op(kind, "x w b", "y", transB=transposed)
    constraints = onnxruntime(sketch, "y")
    assert (
        scheme(constraints, "y:in:1") == scheme(constraints, "graph:const:w") == Scheme(8, True, True, -127, 127, axis)
    )
    assert scheme(constraints, "y:in:2").axis == 0
    assert scheme(constraints, "y:in:2").bits == 32
    assert [constraints.slots[f"y:in:{i}"].role for i in range(3)] == ["activation", "weight", "bias"]
    (derived,) = constraints.derived
    assert (derived.slot, derived.activation, derived.weight) == ("y:in:2", "y:in:0", "y:in:1")


def test_a_constant_factor_has_its_channels_on_its_last_axis_and_a_vector_has_none() -> None:
    sketch = Sketch()
    sketch.constant("m", (4, 8))
    sketch.constant("v", (4,))
    sketch.op("MatMul", "x m", "y")
    sketch.op("MatMul", "x v", "z")
    constraints = onnxruntime(sketch)
    assert scheme(constraints, "y:in:1").axis == 1
    assert scheme(constraints, "z:in:1").axis is None


def test_a_computed_weight_is_an_activation() -> None:
    sketch = Sketch()
    sketch.op("MatMul", "x k", "y")
    constraints = tflite(sketch)
    assert scheme(constraints, "y:in:1") == load_pack("tflite").activation
    assert constraints.slots["y:in:1"].role == "activation"


def test_a_bias_that_does_not_fit_its_channels_stays_float() -> None:
    sketch = Sketch()
    sketch.constant("w", (8, 4, 3, 3))
    sketch.constant("b", ())
    sketch.op("Conv", "x w b", "y")
    sketch.op("Conv", "x w computed", "z")
    constraints = tflite(sketch)
    assert "one element per output channel" in reason(constraints, "y:in:2")
    assert "computed" in reason(constraints, "z:in:2")
    assert constraints.derived == ()


@pytest.mark.parametrize(
    ("shape", "bias"), [((8,), True), ((1, 8), True), ((8, 8), False), ((8, 1), False), ((2, 4), False)]
)
def test_a_matrix_that_a_gemm_adds_is_no_bias(shape: tuple[int, ...], bias: bool) -> None:
    sketch = Sketch()
    sketch.constant("w", (4, 8))
    sketch.constant("c", shape)
    sketch.op("Gemm", "x w c", "y")
    for constraints in (tflite(sketch), onnxruntime(sketch)):
        assert [derived.slot for derived in constraints.derived] == (["y:in:2"] if bias else [])
        if not bias:
            assert "one element per output channel" in reason(constraints, "y:in:2")


def test_a_bias_has_no_slot_as_a_constant_unless_it_is_also_a_value() -> None:
    sketch = Sketch()
    sketch.constant("w", (8, 4, 3, 3))
    for name in ("b", "c"):
        sketch.constant(name, (8,))
    sketch.op("Conv", "x w b", "y")
    sketch.op("Conv", "x w c", "z")
    sketch.op("Add", "z c", "sum")
    constraints = tflite(sketch)
    assert "graph:const:b" not in constraints.slots
    assert scheme(constraints, "graph:const:c") == load_pack("tflite").activation
    assert [edge.consumer for edge in constraints.tensors if edge.tensor in ("b", "c")] == ["sum:in:1"]


def test_a_grouped_transposed_convolution_has_no_scale_per_channel() -> None:
    sketch = Sketch()
    sketch.constant("w", (4, 2, 3, 3))
    sketch.constant("b", (8,))
    sketch.op("ConvTranspose", "x w b", "y", group=4)
    assert scheme(tflite(sketch), "y:in:1").axis is None
    assert scheme(tflite(sketch), "y:in:2").axis is None


# Fused pairs


def test_nothing_is_quantized_inside_a_fused_pair() -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "c")
    sketch.op("Relu", "c", "r")
    constraints = tflite(sketch, "r")
    for slot in ("c:out:0", "r:in:0"):
        assert reason(constraints, slot).startswith("c (Conv) and r (Relu) run as one")
    assert scheme(constraints, "r:out:0") == load_pack("tflite").activation
    (pair,) = constraints.fused
    assert (pair.producer, pair.consumer, pair.origin.rule) == ("c:out:0", "r:in:0", "fused_relu")
    assert "c" not in {edge.tensor for edge in constraints.tensors}


def test_the_outer_slot_stands_for_the_producer_in_other_rules() -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "c")
    sketch.op("MaxPool", "c", "m")
    sketch.op("Relu", "m", "r")
    constraints = tflite(sketch)
    assert tied(constraints) == {("m:in:0", "r:out:0")}
    assert constraints.same[0].strength is Strength.REQUIRED  # a Relu between makes sharing cost something
    assert constraints.same[0].pass_through


def test_a_chain_of_fused_ops_has_one_outer_slot() -> None:
    sketch = Sketch()
    sketch.op("Softmax", "x", "s")
    sketch.op("Relu", "s", "r")
    sketch.op("Clip", "r", "c")
    constraints = onnxruntime(sketch, "c")
    assert [fixed.slot for fixed in constraints.fixed] == ["c:out:0"]
    assert len(constraints.fused) == 2


@pytest.mark.parametrize(
    ("low", "high", "fused"),
    [((0.0,), (6.0,), True), ((-1.0,), (1.0,), True), ((0.0,), (4.0,), False), ((0.0,), (math.inf,), False)],
)
def test_tflite_fuses_only_the_clips_that_its_kernels_have(low: tuple[float], high: tuple[float], fused: bool) -> None:
    sketch = Sketch()
    sketch.constant("low", (), low)
    sketch.constant("high", (), high)
    sketch.op("Conv", "x", "c")
    sketch.op("Clip", "c low high", "y")
    constraints = tflite(sketch, "y")
    assert bool(constraints.fused) is fused
    assert "bound" in reason(constraints, "y:in:1")
    assert "bound" in reason(constraints, "graph:const:low")


def test_old_clips_have_their_bounds_as_attributes() -> None:
    sketch = Sketch(opset=6)
    sketch.op("Conv", "x", "c")
    sketch.op("Clip", "c", "y", min=0.0, max=6.0)
    assert tflite(sketch).fused


def test_hard_swish_and_tensors_with_other_uses_are_not_fused() -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "c1")
    sketch.op("HardSwish", "c1", "h")
    sketch.op("Conv", "x", "c2")
    sketch.op("Relu", "c2", "r2")
    sketch.op("Conv", "c2", "c3")
    sketch.op("Relu", "c3", "r3")
    constraints = tflite(sketch, "c3 r3")
    assert constraints.fused == ()
    assert ("c2:out:0", "r2:in:0") in {(edge.producer, edge.consumer) for edge in constraints.tensors}
    assert ("c3:out:0", "graph:out:c3") in {(edge.producer, edge.consumer) for edge in constraints.tensors}


def test_only_a_matmul_with_constant_weights_fuses_on_tflite() -> None:
    sketch = Sketch()
    sketch.constant("w", (4, 8))
    sketch.op("MatMul", "x w", "a")
    sketch.op("Relu", "a", "b")
    sketch.op("MatMul", "x y", "c")
    sketch.op("Relu", "c", "d")
    assert [pair.producer for pair in tflite(sketch).fused] == ["a:out:0"]


# Conditions of `same` rules


@pytest.mark.parametrize(
    ("fill", "mode", "on_the_grid"),
    [
        ((0.0,), "constant", True),
        ((1.5,), "constant", False),
        (None, "reflect", True),
        ((1.5,), "edge", True),
        (None, "constant", True),
    ],
)
def test_pad_keeps_parameters_at_no_cost_only_if_its_fill_is_on_the_grid(
    fill: tuple[float] | None, mode: str, on_the_grid: bool
) -> None:
    sketch = Sketch()
    sketch.constant("pads", (8,), dtype="int64")
    if fill is not None:
        sketch.constant("fill", (), fill)
    sketch.op("Pad", "x pads" + (" fill" if fill is not None else ""), "p", mode=mode)
    sketch.op("Conv", "p", "c")
    strengths = [[tie.strength for tie in pack(sketch).same] for pack in (tflite, onnxruntime)]
    assert strengths == ([[Strength.EXACT]] * 2 if on_the_grid else [[Strength.REQUIRED], []])


@pytest.mark.parametrize("computed", [True, False])
def test_a_pad_with_any_other_fill_has_one_scale_on_tflite_and_two_on_onnxruntime(computed: bool) -> None:
    sketch = Sketch()
    sketch.constant("pads", (8,), dtype="int64")
    if not computed:
        sketch.constant("fill", (), (1.5,))
    sketch.op("Conv", "x", "c")
    sketch.op("Pad", "c pads fill", "p")
    sketch.op("Conv", "p", "d")
    assert "c:out:0 d:in:0 p:in:0 p:out:0" in shared(solve_groups(tflite(sketch), force_overlap=False))
    assert "c:out:0 p:in:0" in shared(solve_groups(onnxruntime(sketch), force_overlap=False))
    assert "d:in:0 p:out:0" in shared(solve_groups(onnxruntime(sketch), force_overlap=False))


def test_a_select_of_two_values_is_quantized_and_one_with_a_constant_stays_float() -> None:
    sketch = Sketch()
    sketch.constant("mask", (), (-1e9,))
    for name in ("a", "b", "c"):
        sketch.op("Conv", "x", name)
    sketch.op("Where", "#condition a b", "w")
    sketch.op("Where", "#condition c mask", "m")
    sketch.op("Where", "#condition mask c", "n")
    for name in ("w", "m", "n"):
        sketch.op("Conv", name, f"{name}{name}")
    sketch.tensors["condition"] = Tensor("condition", "bool", (1, 4, 8, 8))
    for constraints in (tflite(sketch), onnxruntime(sketch)):
        assert "not quantized with this constant input 2" in reason(constraints, "m:in:1")
        assert "not quantized with this constant input 1" in reason(constraints, "n:in:1")
        assert reason(constraints, "graph:const:mask").startswith("float op m (Where)")
        groups = shared(solve_groups(constraints, force_overlap=False))
        assert {"m:out:0 mm:in:0", "n:out:0 nn:in:0"} <= set(groups)
        assert ("a:out:0 b:out:0 w:in:1 w:in:2 w:out:0 ww:in:0" in groups) is (constraints.target == "tflite")


@pytest.mark.parametrize(
    ("low", "high", "shares"),
    [
        (0.0, 6.0, False),  # RELU6
        (0.0, None, False),  # RELU
        (0.0, math.inf, False),
        (-1.0, 1.0, False),  # RELU_N1_TO_1
        (0.0, 4.0, True),
        (-1.0, 6.0, True),
        (-1.0, None, True),
        (-2.0, 2.0, True),
        (None, 6.0, True),
        ("computed", 6.0, True),
        (0.0, "computed", True),
    ],
)
def test_a_clip_that_is_no_relu_is_a_maximum_and_a_minimum_on_tflite(
    low: float | str | None, high: float | str | None, shares: bool
) -> None:
    sketch = Sketch()
    bounds = []
    for name, bound in (("low", low), ("high", high)):
        if isinstance(bound, float):
            sketch.constant(name, (), (bound,))
        bounds.append("-" if bound is None else name)
    sketch.op("Conv", "x", "c")
    sketch.op("HardSwish", "c", "h")
    sketch.op("Clip", " ".join(("h", *bounds)), "y")
    sketch.op("Conv", "y", "d")
    constraints = tflite(sketch)
    assert [tie.strength for tie in constraints.same] == ([Strength.REQUIRED] if shares else [])
    groups = shared(solve_groups(constraints, force_overlap=False))
    assert ("d:in:0 h:out:0 y:in:0 y:out:0" in groups) is shares
    assert ({"h:out:0 y:in:0", "d:in:0 y:out:0"} <= set(groups)) is not shares


def test_a_global_average_prefers_one_scale_on_tflite_and_a_window_needs_it() -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "c")
    sketch.op("AveragePool", "c", "a")
    sketch.op("GlobalAveragePool", "a", "g")
    constraints = tflite(sketch, "g")
    assert {tie.origin.rule: tie.strength for tie in constraints.same} == {
        "average_pool": Strength.REQUIRED,
        "global_average_pool": Strength.PREFERRED,
    }
    (group,) = [group for group in shared(solve_groups(constraints, force_overlap=False)) if "g:out:0" in group]
    assert group == "a:in:0 a:out:0 c:out:0 g:in:0 g:out:0 graph:out:g"


def test_tflite_has_a_kernel_for_the_l2_norm_only() -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "c")
    sketch.op("LpNormalization", "c", "one", p=1)
    sketch.op("LpNormalization", "c", "two", p=2)
    sketch.op("LpNormalization", "c", "default")
    constraints = tflite(sketch, "one two default")
    assert "not quantized with this p" in reason(constraints, "one:in:0")
    assert [fixed.slot for fixed in constraints.fixed] == ["default:out:0", "two:out:0"]


@pytest.mark.parametrize(("mode", "strength"), [("nearest", Strength.EXACT), ("linear", Strength.REQUIRED)])
def test_only_nearest_resize_is_exact(mode: str, strength: Strength) -> None:
    sketch = Sketch()
    sketch.constant("roi", (0,))
    sketch.constant("scales", (4,), (1.0, 1.0, 2.0, 2.0))
    sketch.op("Conv", "x", "c")
    sketch.op("Resize", "c roi scales", "r", mode=mode)
    constraints = tflite(sketch)
    assert [(tie.strength, tie.pass_through) for tie in constraints.same] == [(strength, True)]
    assert "scale factor" in reason(constraints, "r:in:2")


def test_every_output_of_split_is_tied_and_integer_outputs_are_no_slots() -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "c")
    sketch.op("Split", "c", "s1 s2 s3")
    sketch.op("MaxPool", "s1", "m #indices")
    sketch.op("TopK", "s2 #k", "t #positions")
    constraints = tflite(sketch, "m t s3")
    assert tied(constraints) == {
        ("m:in:0", "m:out:0"),
        ("s1:in:0", "s1:out:0"),
        ("s1:in:0", "s1:out:1"),
        ("s1:in:0", "s1:out:2"),
        ("t:in:0", "t:out:0"),
    }
    assert "m:out:1" not in constraints.slots


def test_a_constant_bound_of_max_is_no_value_so_that_max_passes_its_input_on() -> None:
    sketch = Sketch()
    sketch.constant("floor", (), (0.0,))
    sketch.op("Conv", "x", "c")
    sketch.op("Max", "c floor", "m")
    sketch.op("Max", "c y", "n")
    constraints = tflite(sketch)
    assert "bound" in reason(constraints, "m:in:1")
    assert {tie.a: tie.pass_through for tie in constraints.same} == {"m:in:0": True, "n:in:0": False, "n:in:1": False}


# Float ops


def test_a_value_that_leaves_a_float_op_is_quantized_if_a_quantized_op_reads_it() -> None:
    sketch = Sketch()
    sketch.op("Div", "x y", "d")
    sketch.op("Conv", "d", "c")
    sketch.op("Div", "c z", "e")
    constraints = tflite(sketch, "d e")
    assert scheme(constraints, "d:out:0") == scheme(constraints, "c:in:0")
    assert "TensorFlow Lite has no 8-bit kernel" in reason(constraints, "d:in:0")
    assert reason(constraints, "graph:in:x") == "read by float ops only"
    assert scheme(constraints, "c:out:0")
    assert "float op e (Div)" in reason(constraints, "e:in:0")
    assert "float op e (Div)" in reason(constraints, "e:out:0")
    assert "float op d (Div)" in reason(constraints, "graph:out:d")


def test_moving_values_between_float_ops_stays_float() -> None:
    sketch = Sketch()
    sketch.op("Div", "x y", "d")
    sketch.op("Reshape", "d", "r")
    sketch.op("Transpose", "r", "t")
    sketch.op("Div", "t y", "e")
    sketch.op("Transpose", "r", "u")
    sketch.op("Conv", "u", "c")
    constraints = tflite(sketch)
    assert "between float ops only" in reason(constraints, "t:in:0")
    assert scheme(constraints, "r:out:0") == scheme(constraints, "d:out:0") == scheme(constraints, "u:in:0")


def test_moving_a_quantized_value_is_quantized_even_towards_a_float_op() -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "c")
    sketch.op("Reshape", "c", "r")
    sketch.op("Div", "r y", "d")
    assert scheme(tflite(sketch), "r:out:0")


def test_onnxruntime_keeps_a_relu_behind_a_float_op_in_float() -> None:
    sketch = Sketch()
    sketch.op("Div", "x y", "d")
    sketch.op("Relu", "d", "r")
    sketch.op("Conv", "r", "c")
    constraints = onnxruntime(sketch)
    assert "not quantized" in reason(constraints, "r:in:0")
    assert scheme(constraints, "r:out:0")
    assert reason(constraints, "d:out:0")


def test_excluded_ops_foreign_domains_old_opsets_and_unmet_conditions_say_why() -> None:
    sketch = Sketch(opset=9)
    sketch.op("If", "x", "i", excluded="control flow")
    sketch.op("Conv", "x", "n", domain="com.example")
    sketch.op("Conv", "x", "c")
    sketch.op("MaxPool", "c", "m")
    sketch.op("Gemm", "x y", "g", alpha=0.5)
    assert "control flow" in reason(tflite(sketch), "i:in:0")
    assert "com.example" in reason(tflite(sketch), "n:in:0")
    assert "from opset 12 on, the model has 9" in reason(onnxruntime(sketch), "m:in:0")
    assert "alpha" in reason(tflite(sketch), "g:in:0")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("target", ["tflite", "onnxruntime", "ppl_cuda"])
def test_only_float32_is_quantized_and_other_float_types_say_so(target: str, dtype: str) -> None:
    sketch = Sketch()
    sketch.constant("w", (4, 4, 3, 3), dtype=dtype)
    sketch.constant("b", (4,), dtype=dtype)
    sketch.op("Conv", "x w b", "c")
    sketch.op("Relu", "c", "r")
    sketch.op("Cast", "r", "f")
    sketch.op("Conv", "f", "d")
    for name in ("x", "c", "r"):
        sketch.tensors[name] = Tensor(name, dtype, (1, 4, 8, 8))
    constraints = constrain(sketch.graph("d"), load_pack(target))
    unquantized = ("graph:in:x", "graph:const:w", "c:in:0", "c:in:1", "c:in:2", "c:out:0", "r:in:0", "r:out:0")
    assert all(f"is {dtype}, and only float32" in reason(constraints, slot) for slot in unquantized)
    assert (constraints.derived, constraints.fused) == ((), ())
    assert scheme(constraints, "f:out:0") == scheme(constraints, "d:in:0") == load_pack(target).activation


def test_every_float_slot_has_either_a_scheme_or_a_reason() -> None:
    sketch = Sketch()
    sketch.constant("w", (8, 4, 3, 3))
    sketch.constant("b", (8,))
    sketch.constant("unused", (8,))
    sketch.constant("low", (), (0.0,))
    sketch.op("Conv", "x w b", "c")
    sketch.op("Clip", "c low", "k")
    sketch.op("Div", "k y", "d")
    sketch.op("Shape", "d", "#s")
    for constraints in (tflite(sketch, "d x"), onnxruntime(sketch, "d x")):
        assert all((plan.scheme is None) != (plan.reason is None) for plan in constraints.slots.values())
        assert {"c:in:0", "c:out:0", "graph:in:x", "graph:out:x", "graph:const:unused", "d:out:0"} <= set(
            constraints.slots
        )
        quantized = {slot for slot, plan in constraints.slots.items() if plan.scheme is not None}
        assert all({edge.producer, edge.consumer} <= quantized for edge in constraints.tensors)
