"""Whose statistics count under the alignment options, by the numbers."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qgraph.calib.statistics import TensorStatistics, statistics_of
from qgraph.constraints.merge_methods import MergeMethod
from qgraph.constraints.model import Alignment, Constraints, Fixed, Group, Grouping, Origin, SlotPlan
from qgraph.ir.elements import Op, Structure
from qgraph.solve.run import RunData, RunSettings
from qgraph.solve.solver import solve
from qgraph.tqc import QuantizationState, Scheme, TqcRecord, scale_and_offset, to_float32

SYMMETRIC = Scheme(8, signed=True, symmetric=True, quant_min=-128, quant_max=127)
ASYMMETRIC = Scheme(8, signed=True, symmetric=False, quant_min=-128, quant_max=127)
POWER = Scheme(8, signed=True, symmetric=True, quant_min=-128, quant_max=127, power_of_two=True)
INPUT, OUTPUT, LARGE = MergeMethod.INPUT, MergeMethod.OUTPUT, MergeMethod.LARGE
ORIGIN = Origin("rule", "op", "Op", "source")

Sketched = tuple[str, str, tuple[str, ...]]
"""Op type, output tensor (also the op's name), input tensors."""


def run_of(
    ops: Sequence[Sketched],
    methods: Mapping[str, MergeMethod],
    statistics: Mapping[str, TensorStatistics],
    *,
    scheme: Scheme = SYMMETRIC,
    observer: str = "minmax",
    fixed: Fixed | None = None,
) -> RunData:
    """One group of all slots; a method for some of the ops."""
    built = [Op(output, kind, "", inputs, (output,)) for kind, output, inputs in ops]
    plans: dict[str, SlotPlan] = {}
    alignments = []
    for op in built:
        places = {f"{op.name}:in:{i}": name for i, name in enumerate(op.inputs)} | {f"{op.name}:out:0": op.name}
        plans |= {
            slot: SlotPlan(slot, str(tensor), "activation", scheme, None)
            for slot, tensor in places.items()
            if op.type != "Conv" or slot.endswith("out:0")
        }
        if op.name in methods:
            slots = sorted(places)
            alignments.append(Alignment(op.name, op.type, methods[op.name], tuple(slots[:-1]), tuple(slots[-1:])))
    group = Group("g", tuple(sorted(plans)), tuple(sorted({p.tensor for p in plans.values()})), min(plans), scheme)
    if fixed is not None:
        group = Group(group.id, group.slots, group.tensors, group.master, scheme, fixed)
    constraints = Constraints("t", "1", True, plans, (), (), (), (), (), tuple(alignments))
    settings = RunSettings("t", "1", False, observer)
    return solve(
        Structure("m", "f", 18, tuple(built), (), (), ()),
        constraints,
        Grouping((group,), (), ()),
        statistics,
        (),
        (),
        settings,
    )


def scale(run: RunData) -> float:
    ((answer,),) = {record.scale for record in run.tqcs if record.scale is not None}
    return answer


def reasons(run: RunData) -> dict[str, str | None]:
    return {record.tensor: record.reason for record in run.tqcs}


def extremes(low: float, high: float) -> TensorStatistics:
    return statistics_of([low, 0.1, high])


def spread(width: float, seed: int, count: int = 4000) -> TensorStatistics:
    return statistics_of(np.random.default_rng(seed).standard_normal(count).astype(np.float32) * width)


ADD: list[Sketched] = [("Conv", "a", ()), ("Conv", "b", ()), ("Add", "s", ("a", "b"))]
ADDED = {"a": extremes(-1, 2), "b": extremes(-4, 3), "s": extremes(-5, 4)}


@pytest.mark.parametrize(("methods", "largest"), [({}, 5), ({"s": INPUT}, 4), ({"s": OUTPUT}, 5), ({"s": LARGE}, 4)])
def test_the_sides_of_an_add(methods: Mapping[str, MergeMethod], largest: float) -> None:
    assert scale(run_of(ADD, methods, ADDED)) == to_float32(largest / 127)


def test_align_to_output_may_be_the_narrower_range() -> None:
    cancelled = {**ADDED, "s": extremes(-0.5, 0.25)}
    run = run_of(ADD, {"s": OUTPUT}, cancelled)
    assert scale(run) == to_float32(0.5 / 127)
    assert reasons(run) == {
        "a": "its statistics do not count: Align to Output at s (Add)",
        "b": "its statistics do not count: Align to Output at s (Add)",
        "s": None,
    }


def test_large_solves_each_input_alone_and_joint_all_together() -> None:
    statistics = {"a": spread(1, 1), "b": spread(2, 2, 400), "s": extremes(0, 0.2)}
    alone = [scale(run_of(ops[:1], {}, statistics, observer="mse")) for ops in ([ADD[0]], [ADD[1]])]
    large = run_of(ADD, {"s": LARGE}, statistics, observer="mse")
    joint = run_of(ADD, {}, statistics, observer="mse")
    assert scale(large) == max(alone)
    assert scale(joint) != scale(large)
    assert reasons(large)["a"] == "each of 2 values solved alone, the ranges united: Align to Large at s (Add)"


def test_large_unites_asymmetric_ranges() -> None:
    statistics = {"a": extremes(0, 6), "b": extremes(-2, 0.5)}
    run = run_of(ADD, {"s": LARGE}, statistics, scheme=ASYMMETRIC)
    (record,) = {(record.scale, record.offset) for record in run.tqcs}
    expected = scale_and_offset(-2, 6, ASYMMETRIC)
    assert record[0] == pytest.approx([expected[0]], rel=1e-2)
    assert record[1] == (expected[1],)


@pytest.mark.parametrize("scheme", [SYMMETRIC, POWER])
@pytest.mark.parametrize("observer", ["minmax", "mse"])
def test_large_over_equal_inputs_keeps_their_scale(scheme: Scheme, observer: str) -> None:
    statistics = {name: spread(1, 3) for name in "abs"}
    own = scale(run_of(ADD[:1], {}, statistics, scheme=scheme, observer=observer))
    chain: list[Sketched] = [*ADD, ("Add", "u", ("s", "a")), ("Add", "v", ("u", "b"))]
    statistics |= {"u": spread(1, 3), "v": spread(1, 3)}
    assert scale(run_of(ADD, {"s": LARGE}, statistics, scheme=scheme, observer=observer)) == own
    every = {"s": LARGE, "u": LARGE, "v": LARGE}
    assert scale(run_of(chain, every, statistics, scheme=scheme, observer=observer)) == own


@pytest.mark.parametrize(("method", "largest"), [(INPUT, 3), (OUTPUT, 1), (LARGE, 3)])
@pytest.mark.parametrize("kind", ["AveragePool", "Resize"])
def test_the_sides_of_a_pool_or_resize(kind: str, method: MergeMethod, largest: float) -> None:
    ops: list[Sketched] = [("Conv", "a", ()), (kind, "p", ("a",))]
    statistics = {"a": extremes(-3, 2), "p": extremes(-1, 1)}
    assert scale(run_of(ops, {"p": method}, statistics)) == to_float32(largest / 127)
    wider = {**statistics, "p": extremes(-9, 1)}
    assert scale(run_of(ops, {"p": method}, wider)) == to_float32((9 if method == OUTPUT else 3) / 127)


@pytest.mark.parametrize("method", [INPUT, OUTPUT])
def test_a_concat_has_the_same_values_on_both_sides(method: MergeMethod) -> None:
    ops: list[Sketched] = [("Conv", "a", ()), ("Conv", "b", ()), ("Concat", "c", ("a", "b")), ("Conv", "d", ())]
    statistics = {"a": spread(1, 1), "b": spread(5, 2), "d": spread(3, 5)}
    statistics["c"] = spread(99, 3)  # never looked at: it is what a and b are
    joint, aligned = (run_of(ops, methods, statistics, observer="mse") for methods in ({}, {"c": method}))
    assert aligned.tqcs == joint.tqcs


def test_a_silenced_tensor_is_silenced_with_the_values_that_it_repeats() -> None:
    ops: list[Sketched] = [
        ("Conv", "a", ()),
        ("Reshape", "r", ("a",)),
        ("Conv", "b", ()),
        ("Conv", "d", ()),
        ("Concat", "c", ("b", "d")),
        ("Add", "s", ("r", "c")),
        ("MaxPool", "m", ("a",)),
    ]
    statistics = {name: extremes(-9, 9) for name in "arbdcm"} | {"s": extremes(-1, 1)}
    run = run_of(ops, {"s": OUTPUT}, statistics)
    assert scale(run) == to_float32(1 / 127)
    assert {name for name, why in reasons(run).items() if why is not None} == {"a", "r", "b", "d", "c"}


def test_one_op_is_enough_to_silence_and_one_large_is_enough_for_a_group() -> None:
    ops: list[Sketched] = [*ADD, ("Conv", "c", ()), ("Add", "t", ("a", "c"))]
    statistics = ADDED | {"a": extremes(-9, 9), "c": extremes(-7, 1), "t": extremes(-2, 2), "b": extremes(-8, 2)}
    # At s the inputs a, b do not count; t is silenced by Large at its own op, so s (5) and c (7) are left.
    assert scale(run_of(ops, {"s": OUTPUT, "t": LARGE}, statistics)) == to_float32(7 / 127)
    # a and b fall silent at s, a and c at t: s and t are left.
    assert scale(run_of(ops, {"s": OUTPUT, "t": OUTPUT}, statistics)) == to_float32(5 / 127)


def test_all_count_where_nobody_would_be_left() -> None:
    ops: list[Sketched] = [("Conv", "a", ()), ("AveragePool", "p", ("a",)), ("Resize", "r", ("p",))]
    statistics = {"a": extremes(-3, 2), "p": extremes(-1, 1), "r": extremes(-2, 1)}
    # p is silenced at r and a at p; r is silenced at nothing but is all zero in the second case.
    assert scale(run_of(ops, {"p": OUTPUT, "r": OUTPUT}, statistics)) == to_float32(2 / 127)
    run = run_of(ops, {"p": OUTPUT, "r": OUTPUT}, {**statistics, "r": statistics_of([0.0, 0.0])})
    assert scale(run) == to_float32(3 / 127)
    assert reasons(run)["a"] is None


def test_degenerate_inputs_do_not_poison_large() -> None:
    statistics = {"a": extremes(-0.25, 0.125), "b": statistics_of([0.0, 0.0])}
    run = run_of(ADD, {"s": LARGE}, statistics)
    assert scale(run) == to_float32(0.25 / 127)
    assert {record.state for record in run.tqcs} == {QuantizationState.ACTIVATED, QuantizationState.SLAVE}
    nothing = run_of(ADD, {"s": LARGE}, {"a": statistics_of([0.0]), "b": statistics_of([0.0])})
    assert scale(nothing) == 1.0
    assert QuantizationState.ALL_ZERO in {record.state for record in nothing.tqcs}


def test_a_prescribed_group_hears_nobody() -> None:
    run = run_of(ADD, {"s": OUTPUT}, ADDED, fixed=Fixed("s:out:0", 0.5, 0, ORIGIN))
    assert scale(run) == 0.5
    assert all("do not count" not in (why or "") for why in reasons(run).values())


@given(
    st.randoms(use_true_random=False), st.lists(st.sampled_from([None, INPUT, OUTPUT, LARGE]), min_size=4, max_size=4)
)
def test_no_order_matters(shuffle: random.Random, chosen: list[MergeMethod | None]) -> None:
    ops: list[Sketched] = [
        *ADD,
        ("MaxPool", "m", ("s",)),
        ("AveragePool", "p", ("m",)),
        ("Concat", "c", ("p", "b")),
        ("Add", "t", ("c", "a")),
    ]
    methods = {name: method for name, method in zip("spct", chosen, strict=True) if method is not None}
    statistics = {name: extremes(-number, number + 1) for number, name in enumerate("absmpct", start=1)}

    def records(mixed: Sequence[Sketched], order: Sequence[str]) -> tuple[TqcRecord, ...]:
        return run_of(mixed, methods, {name: statistics[name] for name in order}).tqcs

    first = records(ops, list(statistics))
    assert records(shuffle.sample(ops, len(ops)), shuffle.sample(list(statistics), len(statistics))) == first
