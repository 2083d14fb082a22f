"""Groups of well-known networks, written out by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
from constraint_graphs import ELEMENTWISE, Sketch, pack_with, requantized, shared, tflite

from qgraph.constraints.grouping import group_id, solve_groups
from qgraph.constraints.model import Constraints, Grouping
from qgraph.constraints.rules import constrain
from qgraph.errors import ConflictError


def elementwise(sketch: Sketch, folder: Path, outputs: str = "") -> Constraints:
    return constrain(sketch.graph(outputs), pack_with(ELEMENTWISE, folder))


def both(constraints: Constraints) -> tuple[Grouping, Grouping]:
    return solve_groups(constraints, force_overlap=False), solve_groups(constraints, force_overlap=True)


def test_the_diamond_of_the_seed(tmp_path: Path) -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "c1")
    sketch.op("Conv", "z", "c2")
    sketch.op("Add", "c1 c2", "a1")
    sketch.op("Conv", "c2", "c3")
    apart, together = both(elementwise(sketch, tmp_path))
    assert shared(apart) == [
        "a1:in:0 a1:in:1 c1:out:0",
        "c1:in:0 graph:in:x",
        "c2:in:0 graph:in:z",
        "c2:out:0 c3:in:0",
    ]
    assert requantized(apart) == ["a1:in:1"]
    assert shared(together) == [
        "a1:in:0 a1:in:1 c1:out:0 c2:out:0 c3:in:0",
        "c1:in:0 graph:in:x",
        "c2:in:0 graph:in:z",
    ]
    assert requantized(together) == []


def test_a_residual_block(tmp_path: Path) -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "stem")
    sketch.op("Conv", "stem", "c1")
    sketch.op("Conv", "c1", "c2")
    sketch.op("Add", "c2 stem", "sum")
    apart, together = both(elementwise(sketch, tmp_path, "sum"))
    assert shared(apart) == [
        "c1:in:0 stem:out:0",
        "c1:out:0 c2:in:0",
        "c2:out:0 sum:in:0 sum:in:1",
        "graph:in:x stem:in:0",
        "graph:out:sum sum:out:0",
    ]
    assert requantized(apart) == ["sum:in:1"]
    assert "c1:in:0 c2:out:0 stem:out:0 sum:in:0 sum:in:1" in shared(together)
    assert requantized(together) == []


def test_a_squeeze_and_excitation_block_needs_no_requantize_without_elementwise_rules() -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "stem")
    sketch.op("GlobalAveragePool", "stem", "pool")
    sketch.op("Conv", "pool", "squeeze")
    sketch.op("Sigmoid", "squeeze", "gate")
    sketch.op("Mul", "stem gate", "scaled")
    apart, together = both(tflite(sketch))
    assert shared(apart) == shared(together)
    assert shared(apart) == [
        "gate:in:0 squeeze:out:0",
        "gate:out:0 scaled:in:1",
        "graph:in:x stem:in:0",
        "pool:in:0 pool:out:0 scaled:in:0 squeeze:in:0 stem:out:0",
    ]
    assert requantized(apart) == []


def test_the_gate_of_an_excitation_block_is_foreign_where_factors_must_agree(tmp_path: Path) -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "stem")
    sketch.op("GlobalAveragePool", "stem", "pool")
    sketch.op("Conv", "pool", "squeeze")
    sketch.op("Sigmoid", "squeeze", "gate")
    sketch.op("Mul", "stem gate", "scaled")
    apart, together = both(elementwise(sketch, tmp_path))
    assert "scaled:in:0 scaled:in:1" in shared(apart)
    assert requantized(apart) == ["scaled:in:0", "scaled:in:1"]
    assert "pool:in:0 pool:out:0 scaled:in:0 scaled:in:1 squeeze:in:0 stem:out:0" in shared(together)
    assert requantized(together) == ["scaled:in:1"]  # the gate is fixed


def test_a_feature_pyramid(tmp_path: Path) -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "top")
    sketch.op("Resize", "top", "up", mode="linear")
    sketch.op("Conv", "y", "lateral")
    sketch.op("Add", "lateral up", "merged")
    sketch.op("Conv", "top", "head1")
    sketch.op("Conv", "merged", "head2")
    plain = tflite(sketch)
    for grouping in both(plain):
        assert "head1:in:0 merged:in:1 top:out:0 up:in:0 up:out:0" in shared(grouping)
        assert requantized(grouping) == []
    apart, _ = both(elementwise(sketch, tmp_path))
    assert "lateral:out:0 merged:in:0 merged:in:1" in shared(apart)
    assert "head1:in:0 top:out:0 up:in:0 up:out:0" in shared(apart)
    assert requantized(apart) == ["merged:in:1"]  # behind the resize, not before it


def test_a_u_net() -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "encoder")
    sketch.op("MaxPool", "encoder", "down")
    sketch.op("Conv", "down", "bottom")
    sketch.op("Resize", "bottom", "up", mode="linear")
    sketch.op("Concat", "encoder up", "skip", axis=1)
    sketch.op("Conv", "skip", "decoder")
    apart, together = both(tflite(sketch, "decoder"))
    assert shared(apart) == [
        "bottom:in:0 down:in:0 down:out:0 encoder:out:0",
        "bottom:out:0 decoder:in:0 skip:in:0 skip:in:1 skip:out:0 up:in:0 up:out:0",
        "decoder:out:0 graph:out:decoder",
        "encoder:in:0 graph:in:x",
    ]
    assert requantized(apart) == ["skip:in:0"]
    assert (
        "bottom:in:0 bottom:out:0 decoder:in:0 down:in:0 down:out:0 encoder:out:0 "
        "skip:in:0 skip:in:1 skip:out:0 up:in:0 up:out:0"
    ) in shared(together)


def test_an_inception_block_shares_one_scale_in_its_concat() -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "stem")
    for branch in ("b1", "b2", "b3"):
        sketch.op("Conv", "stem", branch)
    sketch.op("MaxPool", "stem", "pool")
    sketch.op("Conv", "pool", "b4")
    sketch.op("Concat", "b1 b2 b3 b4", "join", axis=1)
    for grouping in both(tflite(sketch, "join")):
        assert shared(grouping) == [
            "b1:in:0 b2:in:0 b3:in:0 b4:in:0 pool:in:0 pool:out:0 stem:out:0",
            "b1:out:0 b2:out:0 b3:out:0 b4:out:0 graph:out:join join:in:0 join:in:1 join:in:2 join:in:3 join:out:0",
            "graph:in:x stem:in:0",
        ]
        assert requantized(grouping) == []


def test_a_dense_block_is_cut_where_a_value_goes_on_alone() -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "c0")
    sketch.op("Conv", "c0", "c1")
    sketch.op("Concat", "c0 c1", "d1", axis=1)
    sketch.op("Conv", "d1", "c2")
    sketch.op("Concat", "d1 c2", "d2", axis=1)
    apart, together = both(tflite(sketch, "d2"))
    assert shared(apart) == [
        "c0:in:0 graph:in:x",
        "c0:out:0 c1:in:0",
        "c1:out:0 c2:in:0 d1:in:0 d1:in:1 d1:out:0",
        "c2:out:0 d2:in:0 d2:in:1 d2:out:0 graph:out:d2",
    ]
    assert requantized(apart) == ["d1:in:0", "d2:in:0"]
    assert (
        "c0:out:0 c1:in:0 c1:out:0 c2:in:0 c2:out:0 d1:in:0 d1:in:1 d1:out:0 d2:in:0 d2:in:1 d2:out:0 graph:out:d2"
    ) in shared(together)


def test_spatial_pyramid_pooling_is_one_family() -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "stem")
    sketch.op("MaxPool", "stem", "p1")
    sketch.op("MaxPool", "p1", "p2")
    sketch.op("Concat", "stem p1 p2", "pyramid", axis=1)
    sketch.op("Conv", "pyramid", "head")
    for grouping in both(tflite(sketch)):
        assert shared(grouping) == [
            "graph:in:x stem:in:0",
            "head:in:0 p1:in:0 p1:out:0 p2:in:0 p2:out:0 "
            "pyramid:in:0 pyramid:in:1 pyramid:in:2 pyramid:out:0 stem:out:0",
        ]
        assert requantized(grouping) == []


def test_a_split_that_is_joined_again() -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "stem")
    sketch.op("Split", "stem", "left right", axis=1)
    sketch.op("Conv", "right", "c")
    sketch.op("Concat", "left c", "join", axis=1)
    apart, _ = both(tflite(sketch))
    assert "c:in:0 left:in:0 left:out:0 left:out:1 stem:out:0" in shared(apart)
    assert "c:out:0 join:in:0 join:in:1 join:out:0" in shared(apart)
    assert requantized(apart) == ["join:in:0"]


def test_a_concat_of_sigmoids_has_their_parameters() -> None:
    sketch = Sketch()
    sketch.op("Sigmoid", "x", "s1")
    sketch.op("Sigmoid", "y", "s2")
    sketch.op("Concat", "s1 s2", "join", axis=1)
    sketch.op("Reshape", "join", "flat")
    for grouping in both(tflite(sketch, "flat")):
        line = "flat:in:0 flat:out:0 graph:out:flat join:in:0 join:in:1 join:out:0 s1:out:0 s2:out:0"
        assert line in shared(grouping)
        group = next(group for group in grouping.groups if "join:out:0" in group.slots)
        assert group.fixed is not None
        assert (group.fixed.scale, group.fixed.offset) == (1 / 256, -128)
        assert requantized(grouping) == []


def test_a_concat_of_a_sigmoid_and_a_convolution_requantizes_the_sigmoid() -> None:
    sketch = Sketch()
    sketch.op("Sigmoid", "x", "s")
    sketch.op("Conv", "y", "c")
    sketch.op("Concat", "s c", "join", axis=1)
    for grouping in both(tflite(sketch)):
        assert "c:out:0 join:in:0 join:in:1 join:out:0" in shared(grouping)
        assert requantized(grouping) == ["join:in:0"]


def test_a_concat_of_sigmoid_and_tanh_requantizes_both() -> None:
    sketch = Sketch()
    sketch.op("Sigmoid", "x", "s")
    sketch.op("Tanh", "y", "t")
    sketch.op("Concat", "s t", "join", axis=1)
    for grouping in both(tflite(sketch)):
        assert "join:in:0 join:in:1 join:out:0" in shared(grouping)
        assert requantized(grouping) == ["join:in:0", "join:in:1"]


def test_softmax_to_matmul_and_concat() -> None:
    sketch = Sketch()
    sketch.op("Softmax", "x", "p")
    sketch.op("Conv", "y", "c")
    sketch.op("MatMul", "p v", "m")
    sketch.op("Concat", "p c", "join", axis=1)
    for grouping in both(tflite(sketch)):
        assert "m:in:0 p:out:0" in shared(grouping)
        assert "c:out:0 join:in:0 join:in:1 join:out:0" in shared(grouping)
        assert requantized(grouping) == ["join:in:0"]


def test_pass_through_ops_behind_fixed_parameters_keep_them() -> None:
    sketch = Sketch()
    sketch.op("Sigmoid", "x", "s")
    sketch.op("Reshape", "s", "r")
    sketch.op("Transpose", "r", "t")
    sketch.op("Conv", "y", "c")
    sketch.op("Concat", "t c", "join", axis=1)
    for grouping in both(tflite(sketch)):
        assert "r:in:0 r:out:0 s:out:0 t:in:0 t:out:0" in shared(grouping)
        assert requantized(grouping) == ["join:in:0"]


def test_the_same_tensor_twice(tmp_path: Path) -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "c")
    sketch.op("Mul", "c c", "square")
    for grouping in both(elementwise(sketch, tmp_path)):
        assert "c:out:0 square:in:0 square:in:1" in shared(grouping)


def test_an_output_that_is_also_read() -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "c")
    sketch.op("Conv", "y", "d")
    sketch.op("Concat", "c d", "join", axis=1)
    apart, together = both(tflite(sketch, "c join"))
    assert "c:out:0 graph:out:c" in shared(apart)
    assert requantized(apart) == ["join:in:0"]
    assert "c:out:0 d:out:0 graph:out:c graph:out:join join:in:0 join:in:1 join:out:0" in shared(together)


def test_families_whose_readers_end_up_together_are_joined(tmp_path: Path) -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "c")
    sketch.op("Conv", "y", "d")
    sketch.op("Concat", "c c d", "join", axis=1)
    apart, _ = both(tflite(sketch))
    assert "c:out:0 d:out:0 join:in:0 join:in:1 join:in:2 join:out:0" in shared(apart)


def test_bias_and_weight_are_groups_of_their_own() -> None:
    sketch = Sketch()
    sketch.constant("w", (8, 4, 3, 3))
    sketch.constant("b", (8,))
    sketch.op("Conv", "x w b", "c1")
    sketch.op("Conv", "y w b", "c2")
    grouping, _ = both(tflite(sketch))
    groups = {group.master: group for group in grouping.groups}
    assert groups["graph:const:w"].slots == ("c1:in:1", "c2:in:1", "graph:const:w")
    assert groups["graph:const:w"].tensors == ("w",)
    first, second = groups["c1:in:2"], groups["c2:in:2"]
    assert first.derived is not None
    assert (first.derived.activation, first.derived.weight) == ("c1:in:0", "c1:in:1")
    assert (first.tensors, second.tensors) == (("b",), ())


def test_a_constant_read_under_two_schemes_is_never_joined_across_them() -> None:
    sketch = Sketch()
    sketch.constant("k", (4, 4, 1, 1))
    sketch.op("Add", "x k", "a")
    sketch.op("Conv", "y k", "c")
    for grouping in both(tflite(sketch)):
        assert "a:in:1 graph:const:k" in shared(grouping)
        assert requantized(grouping) == ["c:in:1"]


def test_masters_are_producers_and_ids_are_digests_of_members() -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "b")
    sketch.op("Conv", "y", "a")
    sketch.op("Concat", "a b", "join", axis=1)
    grouping, _ = both(tflite(sketch))
    group = next(group for group in grouping.groups if "join:in:0" in group.slots)
    assert group.master == "a:out:0"
    assert group.tensors == ("a", "b", "join")
    assert group.id == group_id(group.slots)
    assert [g.id for g in grouping.groups] == sorted(g.id for g in grouping.groups)


TWO_FIXED = """
[[fixed]]
name = "other_sigmoid"
ops = ["Sigmoid"]
outputs = [0]
scale = "1/128"
offset = 0
source = "the test"
"""

FIXED_CONCAT = """
[[fixed]]
name = "fixed_pool"
ops = ["MaxPool"]
outputs = [0]
scale = "1/64"
offset = 0
source = "the test"
"""


def test_contradictions_are_collected(tmp_path: Path) -> None:
    sketch = Sketch()
    sketch.op("Sigmoid", "x", "s1")
    sketch.op("Sigmoid", "y", "s2")
    sketch.op("Tanh", "z", "t")
    sketch.op("MaxPool", "t", "p")
    constraints = constrain(sketch.graph("s1 s2 p"), pack_with(TWO_FIXED + FIXED_CONCAT, tmp_path))
    with pytest.raises(ConflictError) as caught:
        solve_groups(constraints, force_overlap=False)
    lines = caught.value.conflicts
    assert [line.split()[0] for line in lines] == ["s1:out:0", "s2:out:0", "p:out:0"]
    assert "t:out:0 (fixed to scale 0.0078125, offset 0 by tanh, quantization_spec.md: TANH)" in lines[2]
    # Both chains end where they meet.
    assert "; p:out:0 -[max_pool, quantization_spec.md: MAX_POOL_2D]- p:in:0; t:out:0 -[tensor]- p:in:0;" in lines[2]
    assert lines[2].endswith("cheapest way out: requantize between t:out:0 and p:in:0")


def test_a_target_that_cannot_requantize_reports_every_place(tmp_path: Path) -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "c1")
    sketch.op("Conv", "z", "c2")
    sketch.op("Add", "c1 c2", "a1")
    sketch.op("Conv", "c2", "c3")
    constraints = constrain(sketch.graph(), replace(pack_with(ELEMENTWISE, tmp_path), can_requantize=False))
    with pytest.raises(ConflictError) as caught:
        solve_groups(constraints, force_overlap=False)
    (line,) = caught.value.conflicts
    assert line.startswith("c2:out:0 and a1:in:1 need different parameters for c2, and tflite cannot requantize")
    assert solve_groups(constraints, force_overlap=True).requantizes == ()
