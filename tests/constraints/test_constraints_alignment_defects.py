"""Defects that alignment passes are known for, each as the behaviour that rules it out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from constraint_graphs import ELEMENTWISE, Sketch, pack_with, requantized

from qgraph.constraints.grouping import solve_groups
from qgraph.constraints.merge_methods import merge_methods
from qgraph.constraints.model import Grouping
from qgraph.constraints.pack import load_pack
from qgraph.constraints.rules import constrain
from qgraph.errors import TransitionError
from qgraph.ir.elements import Op, Tensor
from qgraph.solve.unite import unite
from qgraph.tqc import Scheme, TensorQuantizationConfig

INT8 = Scheme(8, signed=True, symmetric=True, quant_min=-128, quant_max=127)


def home(grouping: Grouping, slot: str) -> tuple[str, ...]:
    return next((group.slots for group in grouping.groups if slot in group.slots), ())


def residual() -> Sketch:
    """y = c1(x); add(y, c2(y))."""
    sketch = Sketch()
    sketch.op("Conv", "x", "y")
    sketch.op("Conv", "y", "z")
    sketch.op("Add", "y z", "a")
    return sketch


@pytest.mark.parametrize("force_overlap", [False, True])
def test_the_other_reader_of_a_residual_reads_with_the_scale_that_its_tensor_was_made_with(
    tmp_path: Path, *, force_overlap: bool
) -> None:
    constraints = constrain(residual().graph("a"), pack_with(ELEMENTWISE, tmp_path))
    grouping = solve_groups(constraints, force_overlap=force_overlap)
    assert "z:in:0" in home(grouping, "y:out:0")
    assert requantized(grouping) == ([] if force_overlap else ["a:in:0"])


@pytest.mark.parametrize("left_out", ["p", "q", "r"])
def test_inputs_are_aligned_whichever_of_them_stays_float(left_out: str, tmp_path: Path) -> None:
    sketch = Sketch()
    for name in "pqr":
        sketch.op("Conv", f"x{name}", name)
    sketch.tensors[left_out] = Tensor(left_out, "float64", (1, 4, 8, 8))
    sketch.op("Sum", "p q r", "s")
    constraints = constrain(sketch.graph("s"), load_pack("ppl_cuda"))
    grouping = solve_groups(constraints, force_overlap=True)
    assert all(plan.scheme is None for plan in constraints.slots.values() if plan.tensor == left_out)
    quantized = [f"s:in:{i}" for i, name in enumerate("pqr") if constraints.slots[f"s:in:{i}"].scheme is not None]
    assert len({home(grouping, slot) for slot in quantized}) <= 1


@pytest.mark.parametrize("power_of_two", [False, True])
def test_aligning_again_does_not_widen_a_scale(*, power_of_two: bool) -> None:
    scheme = replace(INT8, power_of_two=power_of_two)
    once = unite([(0.0625, 0), (0.0625, 0)], scheme)
    assert once == (0.0625, 0)
    assert unite([once, once, (0.03125, 0)], scheme) == once


def test_a_tensor_that_two_adds_read_has_one_scale_with_both_under_overlap(tmp_path: Path) -> None:
    sketch = Sketch()
    for name in "pqr":
        sketch.op("Conv", f"x{name}", name)
    sketch.op("Add", "p q", "a")
    sketch.op("Add", "q r", "b")
    constraints = constrain(sketch.graph("a b"), pack_with(ELEMENTWISE, tmp_path))
    grouping = solve_groups(constraints, force_overlap=True)
    assert {"p:out:0", "q:out:0", "r:out:0", "a:in:0", "a:in:1", "b:in:0", "b:in:1"} <= set(home(grouping, "q:out:0"))
    swapped = replace(sketch.graph("a b").structure, ops=tuple(_swapped(sketch.ops)))
    again = constrain(type(sketch.graph())(swapped), pack_with(ELEMENTWISE, tmp_path))
    assert solve_groups(again, force_overlap=True) == grouping


def _swapped(ops: list[Op]) -> list[Op]:
    """The two adds the other way round."""
    return [*ops[:3], ops[4], ops[3]]


def test_alignment_quantizes_nothing_that_is_float(tmp_path: Path) -> None:
    sketch = residual()
    sketch.op("Div", "a w", "d")
    sketch.op("Concat", "d a", "j", axis=1)
    constraints = constrain(sketch.graph("j"), pack_with(ELEMENTWISE, tmp_path))
    grouping = solve_groups(constraints, force_overlap=True)
    grouped = {slot for group in grouping.groups for slot in group.slots}
    assert grouped == {slot for slot, plan in constraints.slots.items() if plan.scheme is not None}
    assert home(grouping, "d:in:0") == ()


def test_configs_of_other_bits_are_never_joined_in_silence() -> None:
    a = TensorQuantizationConfig("a", INT8)
    b = TensorQuantizationConfig("b", replace(INT8, bits=16, quant_min=-(2**15), quant_max=2**15 - 1))
    with pytest.raises(TransitionError, match="cannot share"):
        a.set_master(master=b)


def test_a_fused_pair_behind_an_aligned_pool_is_quantized_once() -> None:
    sketch = Sketch()
    sketch.op("Conv", "x", "c")
    sketch.op("AveragePool", "c", "p", kernel_shape=(2, 2))
    sketch.op("Relu", "p", "r")
    methods = merge_methods(averagepool_method="Align to Input")
    constraints = constrain(sketch.graph("r"), load_pack("tflite"), methods)
    grouping = solve_groups(constraints, force_overlap=False)
    inner = [slot for slot in ("p:out:0", "r:in:0") if constraints.slots[slot].scheme is not None]
    assert not inner or {home(grouping, slot) for slot in inner} == {home(grouping, "r:out:0")}
    assert "r:out:0" in home(grouping, "c:out:0")


def test_an_op_can_be_aligned_otherwise_than_its_type() -> None:
    sketch = residual()
    sketch.op("Add", "a y", "b")
    methods = merge_methods(elementwise_merge_method="Joint")
    constraints = constrain(sketch.graph("b"), load_pack("tflite"), methods)
    without = replace(constraints, same=tuple(tie for tie in constraints.same if tie.origin.op != "b"))
    grouping = solve_groups(without, force_overlap=False)
    assert "a:in:1" in home(grouping, "a:in:0")
    assert "b:in:1" not in home(grouping, "b:in:0")


def test_the_order_of_inputs_does_not_decide_whose_scale_is_taken(tmp_path: Path) -> None:
    groupings = []
    for inputs in ("y z", "z y"):
        sketch = Sketch()
        sketch.op("Conv", "x", "y")
        sketch.op("Conv", "y", "z")
        sketch.op("Add", inputs, "a")
        constraints = constrain(sketch.graph("a"), pack_with(ELEMENTWISE, tmp_path))
        groupings.append(solve_groups(constraints, force_overlap=True))
    assert len({group.master for group in groupings[0].groups} ^ {group.master for group in groupings[1].groups}) == 0


def test_each_second_scale_of_a_tensor_is_reported_at_the_slot_that_reads_with_it(tmp_path: Path) -> None:
    constraints = constrain(residual().graph("a"), pack_with(ELEMENTWISE, tmp_path))
    grouping = solve_groups(constraints, force_overlap=False)
    readers = {"a:in:0", "z:in:0"}
    apart = {slot for slot in readers if home(grouping, slot) != home(grouping, "y:out:0")}
    assert apart == {cut.slot for cut in grouping.requantizes if cut.producer == "y:out:0"}


def test_no_cycle_of_masters_can_be_made() -> None:
    a, b = TensorQuantizationConfig("a", INT8), TensorQuantizationConfig("b", INT8)
    a.set_master(master=b)
    with pytest.raises(TransitionError, match="cycle"):
        b.set_master(master=a)
