"""The alignment options: what each method ties, unties and silences, and what it is refused."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from constraint_graphs import ELEMENTWISE, Sketch, pack_with, requantized, shared, shipped_text, tied
from hypothesis import given
from hypothesis import strategies as st
from literal_solver import literal_groups

from qgraph.constraints.grouping import solve_groups
from qgraph.constraints.merge_methods import (
    FAMILIES,
    Given,
    MergeMethod,
    MergeMethods,
    MergeOptions,
    merge_methods,
    parse_method,
)
from qgraph.constraints.model import Constraints, Grouping, Strength
from qgraph.constraints.pack import load_pack
from qgraph.constraints.rules import constrain
from qgraph.errors import NotFoundError, PackError, UsageError

TYING = ["Align to Input", "Align to Large", "Align to Output", "Joint", True]


def rules(sketch: Sketch, options: MergeOptions, outputs: str = "", target: str = "ppl_cuda") -> Constraints:
    return constrain(sketch.graph(outputs), load_pack(target), merge_methods(**options))


def both(constraints: Constraints) -> tuple[Grouping, Grouping]:
    return solve_groups(constraints, force_overlap=False), solve_groups(constraints, force_overlap=True)


def figure() -> Sketch:
    """The seed's: Conv1 and Conv2 enter Add1, and Conv2 enters Conv3, too."""
    sketch = Sketch()
    sketch.op("Conv", "x", "c1")
    sketch.op("Conv", "z", "c2")
    sketch.op("Add", "c1 c2", "a1")
    sketch.op("Conv", "c2", "c3")
    return sketch


INPUTS_OF_THE_FIGURE = ["c1:in:0 graph:in:x", "c2:in:0 graph:in:z"]


@pytest.mark.parametrize(
    ("given", "method"),
    [
        ("Align to Large", MergeMethod.LARGE),
        ("align to large", MergeMethod.LARGE),
        ("LARGE", MergeMethod.LARGE),
        ("Align_to_Output", MergeMethod.OUTPUT),
        ("input", MergeMethod.INPUT),
        ("joint", MergeMethod.JOINT),
        (True, MergeMethod.JOINT),
        (False, MergeMethod.NONE),
        ("None", MergeMethod.NONE),
        ("force-none", MergeMethod.FORCE_NONE),
        ("Force None", MergeMethod.FORCE_NONE),
        (MergeMethod.INPUT, MergeMethod.INPUT),
        (None, None),
    ],
)
def test_a_method_has_many_spellings(given: Given, method: MergeMethod | None) -> None:
    assert parse_method("resize_method", given) == method


def test_an_unknown_method_or_option_suggests_a_near_one() -> None:
    with pytest.raises(NotFoundError, match=r"unknown method for the resize merge: lage; did you mean large"):
        merge_methods(resize_method="lage")
    with pytest.raises(NotFoundError, match=r"unknown option: resize_methods; did you mean resize_method"):
        merge_methods(resize_methods="large")


@pytest.mark.parametrize("method", ["Align to Input", "Align to Large", "Joint", True, None])
def test_the_inputs_of_an_add_agree_and_its_output_is_its_own(method: Given) -> None:
    apart, together = both(rules(figure(), {"elementwise_merge_method": method}, "a1"))
    assert shared(apart) == [
        "a1:in:0 a1:in:1 c1:out:0",
        "a1:out:0 graph:out:a1",
        *INPUTS_OF_THE_FIGURE,
        "c2:out:0 c3:in:0",
    ]
    assert requantized(apart) == ["a1:in:1"]
    assert shared(together) == [
        "a1:in:0 a1:in:1 c1:out:0 c2:out:0 c3:in:0",
        "a1:out:0 graph:out:a1",
        *INPUTS_OF_THE_FIGURE,
    ]


def test_align_to_output_ties_the_output_of_an_add_too() -> None:
    apart, together = both(rules(figure(), {"elementwise_merge_method": "Align to Output"}, "a1"))
    assert shared(apart) == [
        "a1:in:0 a1:in:1 a1:out:0 c1:out:0 graph:out:a1",
        *INPUTS_OF_THE_FIGURE,
        "c2:out:0 c3:in:0",
    ]
    assert requantized(apart) == ["a1:in:1"]
    assert shared(together) == [
        "a1:in:0 a1:in:1 a1:out:0 c1:out:0 c2:out:0 c3:in:0 graph:out:a1",
        *INPUTS_OF_THE_FIGURE,
    ]


@pytest.mark.parametrize("method", ["None", False, "Force None"])
def test_without_a_method_the_inputs_of_an_add_have_their_own_scales(method: Given) -> None:
    for grouping in both(rules(figure(), {"elementwise_merge_method": method})):
        assert shared(grouping) == [
            "a1:in:0 c1:out:0",
            "a1:in:1 c2:out:0 c3:in:0",
            *INPUTS_OF_THE_FIGURE,
        ]
        assert requantized(grouping) == []


@pytest.mark.parametrize("method", TYING)
def test_the_sides_of_a_concat_agree(method: Given) -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "c1")
    sketch.op("Conv", "x", "c2")
    sketch.op("Concat", "c1 c2", "cat", axis=1)
    sketch.op("Conv", "c2", "c3")
    apart, together = both(rules(sketch, {"concat_merge_method": method}))
    assert "c1:out:0 cat:in:0 cat:in:1 cat:out:0" in shared(apart)
    assert requantized(apart) == ["cat:in:1"]
    assert "c1:out:0 c2:out:0 c3:in:0 cat:in:0 cat:in:1 cat:out:0" in shared(together)
    free = solve_groups(rules(sketch, {"concat_merge_method": False}), force_overlap=True)
    assert "cat:out:0" not in " ".join(shared(free)).split()


@pytest.mark.parametrize("method", TYING)
@pytest.mark.parametrize(
    ("option", "kind"),
    [("averagepool_method", "AveragePool"), ("averagepool_method", "GlobalAveragePool"), ("resize_method", "Resize")],
)
def test_a_tied_pool_or_resize_passes_its_value_on(option: str, kind: str, method: Given) -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "c1")
    sketch.op(kind, "c1", "p", mode="linear")
    sketch.op("Conv", "p", "c2")
    sketch.op("Conv", "c1", "c3")
    constraints = rules(sketch, {option: method})  # type: ignore[misc]
    for grouping in both(constraints):
        assert shared(grouping) == [
            "c1:in:0 graph:in:x",
            "c1:out:0 c2:in:0 c3:in:0 p:in:0 p:out:0",
        ]
    (tie,) = constraints.same
    assert (tie.strength, tie.pass_through) == (Strength.PREFERRED, True)
    assert tie.origin.source == f"the option {option} is {parse_method(option, method)}"
    free = rules(sketch, {option: False})  # type: ignore[misc]
    assert free.same == ()
    for grouping in both(free):
        assert shared(grouping) == ["c1:in:0 graph:in:x", "c1:out:0 c3:in:0 p:in:0", "c2:in:0 p:out:0"]


def test_a_target_chooses_where_the_user_does_not() -> None:
    assert load_pack("ppl_cuda").merge_methods == MergeMethods(
        MergeMethod.LARGE, MergeMethod.OUTPUT, MergeMethod.NONE, MergeMethod.OUTPUT
    )
    assert load_pack("tflite").merge_methods == load_pack("onnxruntime").merge_methods == MergeMethods()
    sketch = figure()
    sketch.op("AveragePool", "c3", "p")
    sketch.op("Resize", "p", "r", mode="linear")
    chosen = rules(sketch, {})
    assert tied(chosen) == {("a1:in:0", "a1:in:1"), ("r:in:0", "r:out:0")}
    assert [(one.op, one.method) for one in chosen.alignments] == [
        ("a1", MergeMethod.LARGE),
        ("r", MergeMethod.OUTPUT),
    ]


def test_a_method_does_not_repeat_what_the_target_ties_already(tmp_path: Path) -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "c1")
    sketch.op("Concat", "c1 y", "cat", axis=1)
    sketch.op("Add", "cat z", "sum")
    plain = constrain(sketch.graph(), pack_with(ELEMENTWISE, tmp_path))
    joint = merge_methods(elementwise_merge_method=True, concat_merge_method=True)
    assert constrain(sketch.graph(), pack_with(ELEMENTWISE, tmp_path), joint).same == plain.same
    output = merge_methods(elementwise_merge_method="output")
    more = constrain(sketch.graph(), pack_with(ELEMENTWISE, tmp_path), output)
    assert tied(more) - tied(plain) == {("sum:in:0", "sum:out:0"), ("sum:in:1", "sum:out:0")}


def test_none_removes_what_the_target_only_prefers() -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "c1")
    sketch.op("AveragePool", "c1", "p")
    sketch.op("Conv", "p", "c2")
    assert tied(rules(sketch, {}, target="onnxruntime")) == {("p:in:0", "p:out:0")}
    free = rules(sketch, {"averagepool_method": "None"}, target="onnxruntime")
    assert free.same == ()
    assert free.slots["p:out:0"].scheme is not None


@pytest.mark.parametrize(
    ("kind", "option", "rule"),
    [
        ("Concat", "concat_merge_method", "concat: cat .*quantization_spec.md: CONCATENATION"),
        ("AveragePool", "averagepool_method", "average_pool: cat .*quantization_spec.md: AVERAGE_POOL_2D"),
        ("Resize", "resize_method", "resize_interpolated: cat .*quantization_spec.md: RESIZE_BILINEAR"),
    ],
)
def test_none_is_refused_where_the_target_requires_the_rule_unless_forced(kind: str, option: str, rule: str) -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "c1")
    sketch.op(kind, "c1 y" if kind == "Concat" else "c1", "cat", mode="linear")
    with pytest.raises(UsageError, match=rf"merge cannot be none, tflite requires the rule {rule}.*force-none"):
        rules(sketch, {option: False}, target="tflite")  # type: ignore[misc]
    assert rules(sketch, {option: "Force None"}, target="tflite").same == ()  # type: ignore[misc]


def test_none_is_not_refused_where_nothing_requires_it() -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "c1")
    sketch.op("Resize", "c1", "r", mode="nearest")
    nearest = rules(sketch, {"resize_method": False, "concat_merge_method": False}, target="tflite")
    # Only moving values costs nothing, so this tie stays.
    assert [(tie.a, tie.strength) for tie in nearest.same] == [("r:in:0", Strength.EXACT)]
    assert rules(sketch, {"resize_method": "Force None"}, target="tflite").same == nearest.same


def test_a_rule_for_several_ops_is_removed_from_those_of_the_option_only(tmp_path: Path) -> None:
    sketch = Sketch()
    sketch.op("Add", "x y", "sum")
    sketch.op("Mul", "x y", "product")
    pack = pack_with(ELEMENTWISE, tmp_path)
    assert tied(constrain(sketch.graph(), pack, merge_methods(elementwise_merge_method=False))) == {
        ("product:in:0", "product:in:1")
    }


def test_behind_a_fused_activation_the_outer_slot_is_aligned() -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "c1")
    sketch.op("AveragePool", "c1", "p")
    sketch.op("Relu", "p", "r")
    sketch.op("Conv", "r", "c2")
    constraints = rules(sketch, {"averagepool_method": "Align to Input"})
    assert tied(constraints) == {("p:in:0", "r:out:0")}
    assert [(one.inputs, one.outputs) for one in constraints.alignments] == [(("p:in:0",), ("r:out:0",))]
    assert constraints.slots["p:out:0"].scheme is None
    for grouping in both(constraints):
        assert "c1:out:0 c2:in:0 p:in:0 r:out:0" in shared(grouping)


def test_aligning_a_residual_sum_leaves_the_other_reader_of_its_input_alone() -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "y")
    sketch.op("Conv", "y", "c2")
    sketch.op("Add", "y c2", "sum")
    apart, _ = both(rules(sketch, {}))
    assert "c2:in:0 y:out:0" in shared(apart)
    assert "c2:out:0 sum:in:0 sum:in:1" in shared(apart)
    assert requantized(apart) == ["sum:in:0"]


def test_one_tensor_in_two_sums_keeps_both_promises() -> None:
    sketch = Sketch()
    for name in ("c1", "c2", "c3"):
        sketch.op("Conv", "x", name)
    sketch.op("Add", "c1 c2", "s1")
    sketch.op("Add", "c2 c3", "s2")
    _, together = both(rules(sketch, {}))
    assert "c1:out:0 c2:out:0 c3:out:0 s1:in:0 s1:in:1 s2:in:0 s2:in:1" in shared(together)
    assert requantized(together) == []


def test_an_input_that_is_not_quantized_is_left_out_of_a_sum() -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "c1")
    sketch.op("Conv", "x", "c2")
    sketch.op("ArgMax", "x", "#k")
    sketch.op("Sum", "c1 k c2", "sum")
    constraints = rules(sketch, {"elementwise_merge_method": "output"}, target="tflite")
    assert tied(constraints) == {("sum:in:0", "sum:out:0"), ("sum:in:2", "sum:out:0")}
    assert constraints.alignments[0].inputs == ("sum:in:0", "sum:in:2")


def test_the_schemes_and_the_fusions_of_ppl_cuda() -> None:
    pack = load_pack("ppl_cuda")
    assert str(pack.activation) == "int8 [-128, 127] symmetric per tensor"
    assert str(pack.weight.with_axis(0)) == "int8 [-128, 127] symmetric per channel (axis 0)"
    assert pack.bias.bits == 32
    sketch = Sketch()
    sketch.constant("w", (8, 4, 1, 1))
    sketch.constant("v", (4, 8, 1, 1))
    sketch.constant("u", (10, 4))
    sketch.constant("b", (8,))
    sketch.op("Conv", "x w b", "c")
    sketch.op("Sigmoid", "c", "s")
    sketch.op("ConvTranspose", "s v", "t")
    sketch.op("Gemm", "t u", "g", transB=1)
    sketch.op("Add", "g y", "a")
    sketch.op("Clip", "a", "clipped")
    sketch.op("Sigmoid", "clipped", "z")
    constraints = rules(sketch, {})
    axes = {slot: plan.scheme.axis for slot, plan in constraints.slots.items() if plan.role == "weight" and plan.scheme}
    assert {slot: axis for slot, axis in axes.items() if not slot.startswith("graph")} == {
        "c:in:1": 0,
        "t:in:1": 1,
        "g:in:1": 0,
    }
    assert [one.slot for one in constraints.derived] == ["c:in:2"]
    assert [(one.producer, one.consumer) for one in constraints.fused] == [
        ("a:out:0", "clipped:in:0"),
        ("c:out:0", "s:in:0"),
    ]


def test_a_pack_with_a_wrong_default_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pack.toml"
    text = shipped_text("ppl_cuda").replace('"Align to Large"', '"Align to Larg"').replace("resize_method", "resise")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PackError, match=r"'Align to Larg' is not one of.*merge_methods\.resise: unknown field"):
        load_pack(str(path))


KINDS = ("Conv", "Relu", "MaxPool", "AveragePool", "Resize", "Add", "Sub", "Concat")


@st.composite
def sketches(draw: st.DrawFn) -> Sketch:
    sketch, tensors = Sketch(), ["x", "y"]
    for number in range(draw(st.integers(1, 12))):
        kind = draw(st.sampled_from(KINDS))
        count = 2 if kind in ("Add", "Sub", "Concat") else 1
        inputs = [tensors[-1 - draw(st.integers(0, min(3, len(tensors) - 1)))] for _ in range(count)]
        sketch.op(kind, " ".join(inputs), f"t{number}", mode="linear")
        tensors.append(f"t{number}")
    return sketch


METHODS = st.fixed_dictionaries({option: st.sampled_from([None, *MergeMethod]) for option in FAMILIES})


@given(sketches(), METHODS, st.sampled_from(["ppl_cuda", "onnxruntime"]), st.booleans(), st.integers())
def test_no_order_of_ops_matters_under_any_methods(
    sketch: Sketch, options: MergeOptions, target: str, force_overlap: bool, seed: int
) -> None:
    constraints = rules(sketch, options, target=target)
    shuffled = Sketch()
    shuffled.tensors, shuffled.inputs = sketch.tensors, sketch.inputs
    shuffled.ops = [replace(op) for op in sketch.ops]
    random.Random(seed).shuffle(shuffled.ops)
    placed: list[str | None] = list(sketch.inputs)
    waiting, shuffled.ops = shuffled.ops, []
    while waiting:
        op = next(op for op in waiting if set(op.inputs) <= set(placed))
        waiting.remove(op)
        shuffled.ops.append(op)
        placed += op.outputs
    assert rules(shuffled, options, target=target) == constraints
    grouping = solve_groups(constraints, force_overlap=force_overlap)
    home = {slot: group.id for group in grouping.groups for slot in group.slots}
    assert all(home[tie.a] == home[tie.b] for tie in constraints.same)
    assert {frozenset(group.slots) for group in grouping.groups} == literal_groups(
        constraints, force_overlap=force_overlap
    )
