"""Passes by hand: any order ends in the same scales, and nothing is run twice."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from seed_models import DATA, makes, quantized, reads

import qgraph
from qgraph.calib.observers.registry import REGISTRY
from qgraph.errors import ConflictError, QgraphError, TransitionError, UsageError
from qgraph.passes.graph import QuantizedGraph
from qgraph.passes.passes import (
    ParameterQuantizePass,
    PassiveParameterQuantizePass,
    QuantAlignmentPass,
    QuantizeFusionPass,
    RuntimeCalibrationPass,
)
from qgraph.tqc import QuantizationState

S = QuantizationState

PASSES: dict[str, Any] = {
    "fusion": QuantizeFusionPass(),
    "parameters": ParameterQuantizePass(),
    "calibration": RuntimeCalibrationPass(),
    "alignment": QuantAlignmentPass(),
}


@pytest.fixture(scope="module")
def whole() -> QuantizedGraph:
    """A graph that went through all passes; not to be changed."""
    return quantized()


@pytest.fixture
def graph(whole: QuantizedGraph) -> QuantizedGraph:
    """A copy of it, to be changed."""
    return whole.copy()


@pytest.fixture
def untouched(whole: QuantizedGraph) -> QuantizedGraph:
    """The same model, and no pass has been run."""
    return quantized(db=whole.workplace.database, do_quantize=False)


def test_the_pipeline_is_the_run_of_the_main_door(whole: QuantizedGraph) -> None:
    database = whole.workplace.database
    run = database.solve("c1", target="ppl_cuda", observer="percentile", weights="minmax")
    assert run.id == whole.run.id
    assert whole.data() == run.data()


@pytest.mark.parametrize("order", list(permutations(PASSES)), ids="-".join)
def test_every_order_ends_in_the_same_scales(
    order: tuple[str, ...], whole: QuantizedGraph, untouched: QuantizedGraph
) -> None:
    for name in order:
        PASSES[name].optimize(untouched, dataloader=DATA, calib_steps=8)
    PassiveParameterQuantizePass().optimize(untouched)
    assert untouched.data() == whole.data()
    assert untouched.calibration == whole.calibration


def test_biases_cannot_come_first(untouched: QuantizedGraph) -> None:
    with pytest.raises(UsageError, match="RuntimeCalibrationPass, QuantAlignmentPass, PassiveParameterQuantizePass"):
        PassiveParameterQuantizePass().optimize(untouched)
    assert reads(untouched, "conv1", 2).state == S.INITIAL


def test_calibration_needs_data_once(untouched: QuantizedGraph) -> None:
    with pytest.raises(UsageError, match="dataloader="):
        RuntimeCalibrationPass().optimize(untouched)
    RuntimeCalibrationPass().optimize(untouched, dataloader=DATA, calib_steps=8)
    RuntimeCalibrationPass(method="kl", override=True).optimize(untouched)


def test_before_any_pass_everything_waits(untouched: QuantizedGraph) -> None:
    found = {
        config.state for op in ("conv1", "add1") for config in untouched.operations[op].config.input_quantization_config
    }
    assert found == {S.INITIAL}
    assert untouched.operations["erf"].config.input_quantization_config == []
    assert untouched.operations["shape"].config.output_quantization_config == []


def test_operations_have_names_types_and_configs(whole: QuantizedGraph) -> None:
    assert {op.name: op.type for op in whole.operations.values()}["add1"] == "Add"
    conv = whole.operations["conv1"].config
    assert len(conv.input_quantization_config) == 3
    assert [config.state for config in conv.output_quantization_config] == [S.FP32]  # inside Conv → Relu
    assert makes(whole, "relu1").state == S.ACTIVATED
    assert reads(whole, "conv1", 2).state == S.PASSIVE
    assert reads(whole, "pool").root is makes(whole, "conv3").root is makes(whole, "pool").root
    assert whole.variables["c2"].dest_ops == ("add1", "conv3")
    assert whole.variables["w1"].is_parameter


def test_the_seeds_table_of_force_overlap(whole: QuantizedGraph) -> None:
    both = quantized(db=whole.workplace.database, do_quantize=False)
    for force_overlap, graph in ((False, whole), (True, both)):
        if force_overlap:
            for one in (*PASSES.values(), QuantAlignmentPass(force_overlap=True)):
                one.optimize(graph, dataloader=DATA, calib_steps=8)
        aligned = reads(graph, "add1").root
        assert reads(graph, "add1", 1).root is aligned is makes(graph, "relu1").root
        assert (makes(graph, "conv2").root is aligned) == force_overlap
        assert reads(graph, "conv3").root is makes(graph, "conv2").root
    assert [one.slot for one in whole.data().grouping.requantizes] == ["add1:in:1"]
    assert both.data().grouping.requantizes == ()


def test_only_initial_is_calibrated(graph: QuantizedGraph) -> None:
    before = {slot: config.scale for slot, config in graph.configs.items()}
    opened = makes(graph, "conv3")
    opened.state = S.INITIAL
    assert opened.scale is None
    RuntimeCalibrationPass(method="kl").optimize(graph)
    changed = {slot for slot, config in graph.configs.items() if config.scale != before[slot]}
    group = {slot for slot, config in graph.configs.items() if config.root is opened}
    assert changed == group
    assert opened.state == S.ACTIVATED


def test_override_calibrates_whole_groups_again_and_biases_follow(graph: QuantizedGraph) -> None:
    bias = reads(graph, "conv3", 2).scale
    RuntimeCalibrationPass(method="kl", override=True).optimize(graph, dataloader=DATA, calib_steps=8)
    expected = graph.workplace.database.solve("c1", target="ppl_cuda", observer="kl", weights="minmax").data()
    assert graph.data().tqcs == expected.tqcs
    assert reads(graph, "conv3", 2).scale != bias


def test_without_override_nothing_that_is_activated_changes(graph: QuantizedGraph) -> None:
    before = graph.data()
    RuntimeCalibrationPass(method="minmax").optimize(graph, dataloader=DATA, calib_steps=8)
    assert graph.data() == before


def test_the_same_data_is_not_run_again(whole: QuantizedGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    database = whole.workplace.database
    calibrate = type(database).calibrate

    def counting(*arguments: Any, **options: Any) -> qgraph.Calibration:
        done.append(calibrate(*arguments, **options))
        return done[-1]

    monkeypatch.setattr(type(database), "calibrate", counting)
    graph = whole.copy()
    for method in ("minmax", "MSE", "kl", "isotone", "Precentile"):
        RuntimeCalibrationPass(method, override=True).optimize(graph, dataloader=iter(DATA), calib_steps=8)
    assert [(one.status, one.inferences) for one in done] == [("reused", 0)] * 5


def test_steps_count_what_the_loader_yields(untouched: QuantizedGraph) -> None:
    RuntimeCalibrationPass().optimize(untouched, dataloader=DATA, calib_steps=3)
    assert untouched.calibration is not None
    assert untouched.workplace.database.calibration(untouched.calibration).samples == 6


def test_a_registered_observer_is_known_by_name(graph: QuantizedGraph) -> None:
    qgraph.register_calibration_observer(
        "halves", lambda statistics, _: (statistics.minimum / 2, statistics.maximum / 2)
    )
    try:
        whole_range = graph.copy()
        RuntimeCalibrationPass("minmax", override=True).optimize(whole_range)
        RuntimeCalibrationPass("Halves", override=True).optimize(graph)
    finally:
        REGISTRY.remove("halves")
    whole_scale, half = makes(whole_range, "conv3").scale, makes(graph, "conv3").scale
    assert whole_scale is not None
    assert half == (whole_scale[0] / 2,)


def test_auto_needs_prices(untouched: QuantizedGraph, graph: QuantizedGraph) -> None:
    alignment = QuantAlignmentPass(force_overlap="auto")
    with pytest.raises(UsageError, match="weighs noise"):
        alignment.optimize(untouched)
    alignment.optimize(graph)
    run = graph.workplace.database.solve(
        "c1", target="ppl_cuda", observer="percentile", weights="minmax", force_overlap="auto"
    )
    assert graph.data().tqcs == run.data().tqcs
    assert graph.data().settings == run.data().settings


@pytest.mark.parametrize("method", ["None", "Align to Output", "Align to Large", "Joint", "Align to Input"])
def test_alignment_methods_are_those_of_the_main_door(graph: QuantizedGraph, method: str) -> None:
    QuantAlignmentPass(elementwise_merge_method=method).optimize(graph)
    run = graph.workplace.database.solve(
        "c1", target="ppl_cuda", observer="percentile", weights="minmax", elementwise_merge_method=method
    )
    assert graph.data() == run.data()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RuntimeCalibrationPass(method="kll"), "did you mean kl"),
        (lambda: RuntimeCalibrationPass(parameters={"x": 1}, method="kl"), "unknown"),
        (lambda: ParameterQuantizePass("kl"), "minmax or mse"),
        (lambda: QuantAlignmentPass(concat_merge_method="Align to Lrge"), "unknown method"),
        (lambda: QuantAlignmentPass(force_overlap="false"), "bool"),  # type: ignore[arg-type]
        (lambda: QuantizeFusionPass().optimize("model.onnx"), "works on a graph"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_work_is_refused_at_once(make: Any, message: str) -> None:
    with pytest.raises(QgraphError, match=message):
        make()


# --- What is written by hand --------------------------------------------------------------------------------------


def test_a_copy_is_a_graph_of_its_own(whole: QuantizedGraph, graph: QuantizedGraph) -> None:
    before = whole.data()
    own = {id(config) for config in graph.configs.values()}
    assert all(id(config.root) in own for config in graph.configs.values())
    RuntimeCalibrationPass("minmax", override=True).optimize(graph)
    makes(graph, "conv3").state = S.FP32
    assert whole.data() == before
    assert graph.run.id != whole.run.id


def test_a_scale_that_was_written_stays_and_reaches_the_run(graph: QuantizedGraph) -> None:
    written = makes(graph, "conv3")
    written.scale = 0.75
    QuantAlignmentPass(force_overlap=True).optimize(graph)
    RuntimeCalibrationPass("kl").optimize(graph)
    assert written.scale == (0.75,)
    assert graph.run.scales()["tensors"]["c3"]["scale"] == 0.75
    assert makes(graph, "pool").scale == (0.75,)


def test_a_written_scale_stays_where_a_reader_has_to_share_with_others(untouched: QuantizedGraph) -> None:
    for name in ("fusion", "parameters", "calibration"):
        PASSES[name].optimize(untouched, dataloader=DATA, calib_steps=8)
    makes(untouched, "relu1").scale = 0.5
    QuantAlignmentPass().optimize(untouched)
    assert makes(untouched, "relu1").scale == (0.5,)
    assert reads(untouched, "add1", 1).root is reads(untouched, "add1").root is not makes(untouched, "relu1")
    assert {one.slot for one in untouched.data().grouping.requantizes} == {"add1:in:0", "add1:in:1"}


def test_activated_without_parameters_is_no_run(graph: QuantizedGraph) -> None:
    pool = makes(graph, "pool")
    pool.state = S.INITIAL
    pool.state = S.ACTIVATED
    with pytest.raises(UsageError, match="ACTIVATED without parameters"):
        graph.data()


def test_written_scales_that_contradict_each_other_are_a_conflict(graph: QuantizedGraph) -> None:
    before = graph.stage
    makes(graph, "conv3").scale = 0.5
    pool = makes(graph, "pool")
    pool.set_master(master=makes(graph, "relu1"))
    makes(graph, "relu1").scale = 0.25
    with pytest.raises(ConflictError, match=r"0\.5.*0\.25|0\.25.*0\.5"):
        QuantAlignmentPass(force_overlap=True).optimize(graph)
    assert graph.stage == before


def test_a_float_slot_stays_float(graph: QuantizedGraph) -> None:
    makes(graph, "add1").state = S.FP32
    QuantAlignmentPass().optimize(graph)
    RuntimeCalibrationPass(override=True).optimize(graph)
    assert makes(graph, "add1").state == S.FP32
    record = next(one for one in graph.data().tqcs if one.slot == "add1:out:0")
    assert (record.state, record.reason) == (S.FP32, "left in float by hand")
    assert graph.run.coverage()["missing"] == []


def test_a_link_stays_and_draws_its_group_along(graph: QuantizedGraph) -> None:
    a, b = makes(graph, "add1"), makes(graph, "conv3")
    a.set_master(master=b)
    QuantAlignmentPass(force_overlap=True).optimize(graph)
    assert a.root is b.root
    assert graph.run.why("s", "c3")["shared"] is True


def test_a_slave_that_was_released_stays_on_its_own(graph: QuantizedGraph) -> None:
    own = reads(graph, "conv3")
    own.state = S.INITIAL
    RuntimeCalibrationPass("kl").optimize(graph)
    QuantAlignmentPass(force_overlap=True).optimize(graph)
    assert own.state == S.ACTIVATED
    assert own.root is own
    assert "conv3:in:0" in {one.slot for one in graph.data().grouping.requantizes}
    assert reads(graph, "conv3", 2).state == S.PASSIVE


def test_links_to_another_graph_are_refused(graph: QuantizedGraph, whole: QuantizedGraph) -> None:
    makes(graph, "add1").set_master(master=makes(whole, "conv3"))
    with pytest.raises(UsageError, match="another graph"):
        graph.data()


def test_weights_written_too_fine_for_their_bias_are_refused(untouched: QuantizedGraph) -> None:
    for one in PASSES.values():
        one.optimize(untouched, dataloader=DATA, calib_steps=8)
    weight = reads(untouched, "conv1", 1).root
    assert weight.scale is not None
    weight.scale = np.full(len(weight.scale), 2.0**-60)
    with pytest.raises(UsageError, match="too fine for the bias"):
        PassiveParameterQuantizePass().optimize(untouched)


def test_biases_follow_a_written_scale_into_the_run(graph: QuantizedGraph) -> None:
    reads(graph, "conv3").root.scale = 0.5
    weight = reads(graph, "conv3", 1).scale
    assert weight is not None
    told = graph.run.tensor("b3")["slots"]
    assert told
    record = next(one for one in graph.run.data().tqcs if one.slot == "conv3:in:2")
    assert record.scale == tuple(float(np.float32(0.5 * one)) for one in weight)


def test_a_prescribed_config_cannot_be_written(graph: QuantizedGraph) -> None:
    with pytest.raises(TransitionError, match="derived from other configs"):
        reads(graph, "conv1", 2).scale = 1.0
