"""Two versions of a model: tensors are matched by name, then by structure; conditions tell when a diff is too much."""

from __future__ import annotations

import dataclasses

import pytest

from qgraph.analysis.diff import diff
from qgraph.analysis.diff_match import match
from qgraph.analysis.diff_rename import IN_B, renamed
from qgraph.analysis.diff_thresholds import MEASURES, condition, conditions, failures, measures
from qgraph.constraints.model import Group, Grouping
from qgraph.errors import NotFoundError, UsageError
from qgraph.ir.elements import Op, Structure, Tensor
from qgraph.solve.run import RunData, RunSettings
from qgraph.tqc import QuantizationState, Scheme, TqcRecord

UINT8 = Scheme(8, signed=False, symmetric=False, quant_min=0, quant_max=255)


def model(
    *ops: tuple[str, str, str, str], inputs: tuple[str, ...] = ("x",), outputs: tuple[str, ...] = ()
) -> Structure:
    """Ops as ``(name, type, "inputs", output)``."""
    made = tuple(Op(name, kind, "", tuple(reads.split()), (out,)) for name, kind, reads, out in ops)
    names = sorted({"x", *(out for *_, out in ops)})
    return Structure("m", "", 17, made, tuple(Tensor(n, "float32", None) for n in names), ("x",), outputs)


OLD = model(("c1", "Conv", "x", "u"), ("r", "Relu", "u", "v"), ("c2", "Conv", "v", "y"), outputs=("y",))


def test_a_model_matches_itself_by_name() -> None:
    assert match(OLD, OLD).tensors == {name: name for name in "xuvy"}


def test_tensors_and_ops_with_other_names_are_matched_by_what_stands_around_them() -> None:
    new = model(("a", "Conv", "x", "1"), ("b", "Relu", "1", "2"), ("c", "Conv", "2", "3"), outputs=("3",))
    found = match(OLD, new)
    assert found.tensors == {"x": "x", "1": "u", "2": "v", "3": "y"}
    assert found.ops == {"a": "c1", "b": "r", "c": "c2"}


def test_a_layer_that_one_version_lacks_has_no_counterpart_and_what_follows_is_matched_from_the_end() -> None:
    new = model(("a", "Conv", "x", "1"), ("c", "Conv", "1", "3"), outputs=("3",))
    assert match(OLD, new).tensors == {"x": "x", "1": "u", "3": "y"}


def test_branches_alike_are_matched_in_order_and_only_if_there_are_as_many() -> None:
    old = model(("p", "Conv", "x", "a"), ("q", "Conv", "x", "b"))
    new = model(("s", "Conv", "x", "c"), ("t", "Conv", "x", "d"))
    assert match(old, new).tensors == {"x": "x", "c": "a", "d": "b"}
    assert match(old, model(("s", "Conv", "x", "c"))).tensors == {"x": "x"}


def test_one_name_for_two_things_is_no_match() -> None:
    old, new = model(("p", "Conv", "x", "a")), model(("p", "Relu", "x", "a"))
    assert match(old, new).tensors == {"x": "x"}
    assert match(old, new).ops == {}


def test_the_match_the_other_way_round_is_the_inverse() -> None:
    new = model(("a", "Conv", "x", "1"), ("b", "Relu", "1", "v"), ("z", "Relu", "v", "w"), ("c", "Conv", "w", "3"))
    there, back = match(OLD, new), match(new, OLD)
    assert {a: b for b, a in there.tensors.items()} == back.tensors


def solved(structure: Structure, scale: float = 0.5, state: QuantizationState = QuantizationState.ACTIVATED) -> RunData:
    records, groups = [], []
    for op in structure.ops:
        slot, tensor = f"{op.name}:out:0", str(op.outputs[0])
        one = TqcRecord(slot, tensor, "activation", state, noise_db=-40.0 + scale)
        is_float = state == QuantizationState.FP32
        records.append(one if is_float else dataclasses.replace(one, scheme=UINT8, scale=(scale,), offset=(0,)))
        groups.append(Group(slot, (slot,), (tensor,), slot, UINT8))
    return RunData(RunSettings("t", "1", force_overlap=False), tuple(records), Grouping(tuple(groups), (), ()))


def test_renamed_models_with_equal_scales_differ_in_names_only() -> None:
    new = model(("a", "Conv", "x", "1"), ("b", "Relu", "1", "2"), ("c", "Conv", "2", "3"), outputs=("3",))
    matching = match(OLD, new)
    names = {a: b for b, a in matching.tensors.items() if a != b}
    found = diff(solved(OLD), renamed(solved(new), matching, OLD, new), renamed=names)
    assert [(one.a, one.b) for one in found.renamed] == [("u", "1"), ("v", "2"), ("y", "3")]
    assert (found.scales, found.states, found.added, found.removed) == ((), (), (), ())


def test_a_name_that_means_something_else_in_b_is_marked() -> None:
    new = model(("c1", "Relu", "x", "u"))
    changed = renamed(solved(new), match(OLD, new), OLD, new)
    assert [(one.slot, one.tensor) for one in changed.tqcs] == [(f"c1{IN_B}:out:0", f"u{IN_B}")]
    found = diff(solved(OLD), changed)
    assert (found.added, found.removed) == ((f"u{IN_B}",), ("u", "v", "y"))


def test_conditions_that_hold_are_told_with_their_values() -> None:
    found = diff(solved(OLD), solved(OLD, 1.5))
    assert measures(found) == {**dict.fromkeys(MEASURES, 0), "damage_db": 1.0, "scales": 3, "ratio": 3.0}
    held = failures(found, conditions(["damage_db>=1, splits>0", "ratio > 2.5"]))
    assert [(one.condition, one.value) for one in held] == [("damage_db>=1", 1.0), ("ratio > 2.5", 3.0)]


def test_tensors_left_float_are_counted() -> None:
    found = diff(solved(OLD), solved(OLD, state=QuantizationState.FP32))
    assert (measures(found)["floats"], measures(found)["damage_db"]) == (3, 0.0)
    assert found.coverage.b == {"FP32": 3}


@pytest.mark.parametrize("text", ["", "damage_db", "damage_db>", ">1", "damage_db>x", "damage_db=>1", "damage_db>nan"])
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        condition(text)


def test_a_measure_that_is_not_known_is_refused_with_the_nearest() -> None:
    with pytest.raises(NotFoundError, match="did you mean damage_db"):
        condition("damage>1")
