"""A diff names what differs between two runs, and nothing else."""

import dataclasses
import math
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from qgraph.analysis.diff import (
    Change,
    Coverage,
    Diff,
    Renaming,
    RequantizeChange,
    ScaleAndOffset,
    ScaleChange,
    StateChange,
    as_json,
    diff,
)
from qgraph.constraints.model import Group, Grouping, Requantize
from qgraph.solve.run import RunData, RunSettings
from qgraph.tqc import QuantizationState, Scheme, TqcRecord

UINT8 = Scheme(8, signed=False, symmetric=False, quant_min=0, quant_max=255)
WEIGHT = Scheme(8, signed=True, symmetric=True, quant_min=-127, quant_max=127, axis=0)
MINMAX = RunSettings("onnxruntime", "1", force_overlap=False, observer="minmax")


def record(
    slot: str,
    tensor: str,
    scale: tuple[float, ...] | None = (0.5,),
    offset: int = 0,
    noise: float | None = None,
    state: QuantizationState = QuantizationState.ACTIVATED,
    scheme: Scheme = UINT8,
) -> TqcRecord:
    offsets = None if scale is None else (offset,) * len(scale)
    kept = None if state == QuantizationState.FP32 else scheme
    return TqcRecord(slot, tensor, "activation", state, kept, scale, offsets, noise_db=noise)


def run(
    *records: TqcRecord,
    groups: tuple[Group, ...] = (),
    cuts: tuple[Requantize, ...] = (),
    settings: RunSettings = MINMAX,
) -> RunData:
    return RunData(settings, tuple(sorted(records, key=lambda r: r.slot)), Grouping(groups, cuts, ()))


def group(name: str, *slots: str) -> Group:
    return Group(name, slots, tuple(f"t{slot}" for slot in slots), slots[0], UINT8)


def test_settings_that_differ_are_named_with_both_values_and_parameters_one_by_one() -> None:
    a = dataclasses.replace(MINMAX, observer="percentile", observer_parameters={"percentile": 99.9, "bins": 5})
    b = dataclasses.replace(a, force_overlap=True, observer_parameters={"percentile": 99.99, "bins": 5})
    assert diff(run(settings=a), run(settings=b)).settings == {
        "force_overlap": Change(False, True),
        "observer_parameters.percentile": Change(99.9, 99.99),
    }
    assert diff(run(settings=MINMAX), run(settings=a)).settings["observer_parameters.bins"] == Change(None, 5)


def test_scales_come_with_both_sides_their_ratio_and_the_difference_of_stored_noises_worst_first() -> None:
    a = run(record("A:out:0", "x", (0.5,), 3, -40.0), record("B:out:0", "y", (1.0,), 0, -30.0), record("C:out:0", "z"))
    b = run(record("A:out:0", "x", (1.0,), 4, -38.0), record("B:out:0", "y", (0.5,), 0, -20.0), record("C:out:0", "z"))
    assert diff(a, b).scales == (
        ScaleChange("y", ScaleAndOffset(1.0, 0), ScaleAndOffset(0.5, 0), 0.5, 10.0),
        ScaleChange("x", ScaleAndOffset(0.5, 3), ScaleAndOffset(1.0, 4), 2.0, 2.0),
    )


def test_a_change_of_unknown_damage_is_listed_after_the_improvements() -> None:
    a = run(record("A:out:0", "better", (1.0,), 0, -30.0), record("B:out:0", "a_unknown", (1.0,)))
    b = run(record("A:out:0", "better", (0.5,), 0, -36.0), record("B:out:0", "a_unknown", (0.5,)))
    assert [(c.tensor, c.damage_db) for c in diff(a, b).scales] == [("better", -6.0), ("a_unknown", None)]


def test_an_offset_alone_is_a_change() -> None:
    (change,) = diff(run(record("A:out:0", "x", offset=3)), run(record("A:out:0", "x", offset=4))).scales
    assert (change.ratio, change.damage_db) == (1.0, None)


def test_per_channel_parameters_are_compared_channel_by_channel() -> None:
    a = run(record("A:in:1", "w", (0.5, 1.0), scheme=WEIGHT))
    b = run(record("A:in:1", "w", (0.5, 4.0), scheme=WEIGHT))
    (change,) = diff(a, b).scales
    assert change.a == ScaleAndOffset((0.5, 1.0), (0, 0))
    assert change.ratio == (1.0, 4.0)


def test_per_tensor_and_per_channel_have_no_ratio() -> None:
    a = run(record("A:in:1", "w", (0.5, 1.0), scheme=WEIGHT))
    b = run(record("A:in:1", "w", (0.5,)))
    assert diff(a, b).scales[0].ratio is None


def test_a_tensor_means_the_slot_of_its_producer_and_no_other() -> None:
    a = run(record("A:out:0", "x"), record("B:in:0", "x", (0.1,)), record("graph:out:x", "x", (0.1,)))
    b = run(record("A:out:0", "x"), record("B:in:0", "x", (0.2,)), record("graph:out:x", "x", (0.3,)))
    assert diff(a, b).scales == ()


def test_a_tensor_of_a_float_producer_means_its_first_quantized_reader() -> None:
    float_producer = record("Z:out:0", "x", None, state=QuantizationState.FP32)
    float_reader = record("A:in:0", "x", None, state=QuantizationState.FP32)
    a = run(float_producer, float_reader, record("B:in:0", "x", (0.5,)))
    b = run(float_producer, float_reader, record("B:in:0", "x", (1.0,)))
    assert [change.tensor for change in diff(a, b).scales] == ["x"]


def test_tensors_of_another_model_are_listed_with_one_side_only() -> None:
    found = diff(run(record("A:out:0", "x")), run(record("B:out:0", "y")))
    assert found.scales == (
        ScaleChange("x", ScaleAndOffset(0.5, 0), None, None, None),
        ScaleChange("y", None, ScaleAndOffset(0.5, 0), None, None),
    )
    assert found.states == (StateChange("x", "ACTIVATED", None), StateChange("y", None, "ACTIVATED"))


def test_states_that_differ_are_listed() -> None:
    a = run(record("A:out:0", "x"), record("B:out:0", "y"))
    b = run(record("A:out:0", "x", state=QuantizationState.CONSTANT), record("B:out:0", "y"))
    assert diff(a, b).states == (StateChange("x", "ACTIVATED", "CONSTANT"),)


def test_groups_are_split_where_their_slots_part_and_merged_where_they_meet() -> None:
    a = run(groups=(group("g12", "1", "2"), group("g3", "3"), group("g45", "4", "5")))
    b = run(groups=(group("g1", "1"), group("g2", "2"), group("g345", "3", "4", "5")))
    found = diff(a, b).groups
    assert [(one.group, one.tensors, one.others) for one in found.split] == [("g12", ("t1", "t2"), ("g1", "g2"))]
    assert [(one.group, one.others) for one in found.merged] == [("g345", ("g3", "g45"))]


def test_a_group_that_only_loses_members_to_float_is_not_split() -> None:
    assert diff(run(groups=(group("g", "1", "2"),)), run(groups=(group("h", "1"),))).is_empty


def test_requantizes_of_one_run_and_with_other_parameters_are_listed() -> None:
    cut = {name: Requantize("x", f"{name}:in:0", "P:out:0") for name in "ABC"}
    a = run(record("A:in:0", "x"), record("B:in:0", "x"), cuts=(cut["A"], cut["B"]))
    b = run(record("B:in:0", "x", (1.0,)), record("C:in:0", "x"), cuts=(cut["B"], cut["C"]))
    half, one = ScaleAndOffset(0.5, 0), ScaleAndOffset(1.0, 0)
    assert diff(a, b).requantize == (
        RequantizeChange("x", "A:in:0", half, None),
        RequantizeChange("x", "B:in:0", half, one),
        RequantizeChange("x", "C:in:0", None, half),
    )


def test_a_requantize_without_parameters_yet_is_told_from_none() -> None:
    unsolved = record("A:in:0", "x", None, state=QuantizationState.INITIAL)
    a, b = run(unsolved, cuts=(Requantize("x", "A:in:0", "P:out:0"),)), run(unsolved)
    assert diff(a, b).requantize == (RequantizeChange("x", "A:in:0", ScaleAndOffset(None, None), None),)


def test_noises_without_limit_do_not_make_a_damage_of_nan() -> None:
    a = run(record("A:out:0", "x", (0.5,), 0, -math.inf), record("B:out:0", "y", (0.5,), 0, -math.inf))
    b = run(record("A:out:0", "x", (1.0,), 0, -math.inf), record("B:out:0", "y", (1.0,), 0, -9.0))
    assert [(c.tensor, c.damage_db) for c in diff(a, b).scales] == [("y", math.inf), ("x", 0.0)]


def test_as_json_a_diff_has_the_documented_shape_and_no_number_that_json_lacks() -> None:
    a = run(record("A:out:0", "x", (0.5,), 3, -math.inf), record("B:in:1", "w", (0.5, 1.0), scheme=WEIGHT))
    b = run(record("A:out:0", "x", (1.0,), 4, -9.0), record("B:in:1", "w", (0.5, 2.0), scheme=WEIGHT))
    assert as_json(diff(a, b)) == {
        "settings": {},
        "provenance": {},
        "scales": [
            {
                "tensor": "x",
                "a": {"scale": 0.5, "offset": 3},
                "b": {"scale": 1.0, "offset": 4},
                "ratio": 2.0,
                "damage_db": None,
            },
            {
                "tensor": "w",
                "a": {"scale": [0.5, 1.0], "offset": [0, 0]},
                "b": {"scale": [0.5, 2.0], "offset": [0, 0]},
                "ratio": [1.0, 2.0],
                "damage_db": None,
            },
        ],
        "groups": {"split": [], "merged": []},
        "states": [],
        "requantize": [],
        "coverage": {"a": {}, "b": {}},
        "renamed": [],
        "added": [],
        "removed": [],
    }


STATES = st.sampled_from([QuantizationState.ACTIVATED, QuantizationState.SLAVE, QuantizationState.FP32])


@st.composite
def runs(draw: st.DrawFn) -> RunData:
    """Runs over few slots, so that two of them have much in common."""
    records = []
    for slot, tensor in [("P:out:0", "x"), ("A:in:0", "x"), ("B:in:0", "x"), ("A:out:0", "y"), ("graph:in:i", "i")]:
        state = draw(STATES)
        scale = None if state == QuantizationState.FP32 else (draw(st.sampled_from([0.25, 0.5, 0.75])),)
        if draw(st.booleans()):
            records.append(
                record(slot, tensor, scale, draw(st.integers(0, 1)), draw(st.none() | st.floats(-60, 0)), state)
            )
    slots = sorted(one.slot for one in records if one.scale)
    labels = [draw(st.integers(0, 2)) for _ in slots]
    members = {label: [s for s, own in zip(slots, labels, strict=True) if own == label] for label in sorted({*labels})}
    groups = tuple(group("+".join(found), *found) for found in members.values())
    cuts = tuple(
        Requantize("x", slot, "P:out:0") for slot in ("A:in:0", "B:in:0") if slot in slots and draw(st.booleans())
    )
    settings = dataclasses.replace(MINMAX, observer=draw(st.sampled_from(["minmax", "kl"])))
    return run(*records, groups=groups, cuts=cuts, settings=settings)


@given(runs())
def test_a_run_does_not_differ_from_itself(a: RunData) -> None:
    assert diff(a, a).is_empty


def swapped(found: Diff) -> Diff:
    """The diff seen from the other side, written out."""
    scales = [
        dataclasses.replace(
            one,
            a=one.b,
            b=one.a,
            ratio=None if one.a is None or one.b is None else one.a.scale / one.b.scale,  # type: ignore[operator]
            damage_db=None if one.damage_db is None else -one.damage_db,
        )
        for one in found.scales
    ]
    return Diff(
        settings={name: Change(change.b, change.a) for name, change in found.settings.items()},
        scales=tuple(sorted(scales, key=lambda one: one.tensor)),
        groups=dataclasses.replace(found.groups, split=found.groups.merged, merged=found.groups.split),
        states=tuple(dataclasses.replace(one, a=one.b, b=one.a) for one in found.states),
        requantize=tuple(dataclasses.replace(one, a=one.b, b=one.a) for one in found.requantize),
        provenance={name: Change(change.b, change.a) for name, change in found.provenance.items()},
        coverage=Coverage(found.coverage.b, found.coverage.a),
        renamed=tuple(sorted((Renaming(one.b, one.a) for one in found.renamed), key=lambda one: one.a)),
        added=found.removed,
        removed=found.added,
    )


@given(runs(), runs())
def test_the_diff_the_other_way_round_is_the_mirror_image(a: RunData, b: RunData) -> None:
    found = diff(b, a)
    by_tensor = dataclasses.replace(found, scales=tuple(sorted(found.scales, key=lambda one: one.tensor)))
    assert by_tensor == swapped(diff(a, b))


def test_a_diff_loads_no_heavy_library() -> None:
    code = "import sys, qgraph.analysis.diff; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "qgraph.analysis.diff" in loaded
    assert not {"numpy", "torch", "onnx", "onnxruntime", "networkx", "numba", "sqlalchemy"} & set(loaded)
