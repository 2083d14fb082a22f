"""Ranges of the groups that cost the outputs most are taken by what is measured at the outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import qgraph
from qgraph.formats.qdq import to_qdq
from qgraph.improve.nearness import noise_of
from qgraph.improve.ranges import Parameters, better_ranges, costly_groups, stretched
from qgraph.improve.simulation import Simulation
from qgraph.ir.onnx_import import load_model
from qgraph.jobs.trials import activations
from qgraph.solve.parameters import GroupParameters
from qgraph.solve.run import RunData
from qgraph.tqc import QuantizationState


def parameters(scale: float) -> GroupParameters:
    return GroupParameters(QuantizationState.ACTIVATED, (scale,), (0,))


def distance(wanted: Parameters) -> float:
    """As if the output's noise were the distance of each group's scale from 1, thrice as much for ``b``."""
    return sum((3 if group == "b" else 1) * abs((one.scale or (0.0,))[0] - 1) for group, one in wanted.items())


def test_the_costly_groups_are_found_without_measuring_all_of_them() -> None:
    cost = {f"g{index}": 0.001 for index in range(64)} | {"g17": 5.0, "g40": 2.0}
    measured = []

    def noise(some: Parameters) -> float:
        measured.append(len(some))
        return sum(cost[group] for group in some)

    groups = list(cost)
    found = costly_groups(groups, dict.fromkeys(groups, parameters(1)), noise, 2, 99)
    assert found == ["g17", "g40"]
    assert len(measured) <= 24
    assert costly_groups(groups, dict.fromkeys(groups, parameters(1)), noise, 2, 3) == []
    assert costly_groups([], {}, noise, 2, 9) == []


def test_a_group_takes_the_range_with_which_the_outputs_are_nearest_and_others_keep_theirs() -> None:
    before = {"a": parameters(1.0), "b": parameters(2.0), "c": parameters(5.0)}
    changed = better_ranges(["b", "a"], before, {"b": [parameters(3.0), parameters(1.1)]}, [distance])
    assert {group: one.scale for group, one in changed.items()} == {"b": (1.1,)}


def test_a_gain_of_less_than_a_hundredth_is_no_reason_to_change() -> None:
    before = {"a": parameters(101.0)}
    proposals = {"a": [parameters(100.5)]}
    assert not better_ranges(["a"], before, proposals, [lambda some: max(99.5, distance(some))])


def test_a_range_that_is_better_on_some_samples_only_is_not_taken() -> None:
    def elsewhere(some: Parameters) -> float:
        return distance({"a": parameters(1.0), "b": parameters(1.0)} | ({"b": some["b"]}))

    before = {"a": parameters(2.0), "b": parameters(2.0)}
    proposals = {group: [parameters(1.1)] for group in before}
    changed = better_ranges(["a", "b"], before, proposals, [distance, elsewhere])
    assert {group: one.scale for group, one in changed.items()} == {"b": (1.1,)}


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_the_simulation_is_what_the_exported_model_computes(tmp_path: Path, target: str) -> None:
    random = np.random.default_rng(0)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["a"], name="first"),
            helper.make_node("Relu", ["a"], ["r"], name="relu"),
            helper.make_node("Conv", ["r", "d"], ["b"], name="depthwise", group=4),
            helper.make_node("Add", ["b", "r"], ["y"], name="around"),
        ],
        "g",
        [value("x", onnx.TensorProto.FLOAT, [1, 3, 6, 6])],
        [value("y", onnx.TensorProto.FLOAT, [1, 4, 6, 6])],
        [
            numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name)
            for name, shape in (("w", (4, 3, 1, 1)), ("d", (4, 1, 1, 1)))
        ],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    samples = random.normal(size=(4, 3, 6, 6)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=samples)
    with qgraph.open(tmp_path / "q.db") as database:
        run: RunData = database.calibrate(path, tmp_path / "d.npz").solve(target=target, observer="mse").data()
    model, feeds = load_model(path), [{"x": one[None]} for one in samples]
    plain = onnxruntime.InferenceSession(model.serialized())
    expected = [plain.run(None, feed) for feed in feeds]
    simulation = Simulation(model, run, feeds, expected)
    own = activations(run)
    assert set(simulation.groups) <= set(own)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    exported = onnxruntime.InferenceSession(to_qdq(model.proto, run, {}, tmp_path).SerializeToString(), options)
    measured = noise_of(expected, [exported.run(None, feed) for feed in feeds])
    assert simulation.noise({group: own[group] for group in simulation.groups}) == pytest.approx(measured, rel=0.02)
    assert simulation.noise({}) < measured / 2
    first = {group: own[group] for group in simulation.groups[:1]}
    assert simulation.noise(first, samples=[1]) == pytest.approx(
        Simulation(model, run, feeds[1:2], expected[1:2]).noise(first)
    )
    wide = {group: stretched(own[group], 8) for group in simulation.groups}
    assert simulation.noise(wide) > 4 * measured
