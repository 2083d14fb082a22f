"""The seed's entry points, what they refuse, the export and the error analyses."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from seed_models import DATA, makes, quantized, reads, seed_model

import qgraph
from qgraph.errors import QgraphError
from qgraph.passes.graph import QuantizedGraph
from qgraph.tqc import QuantizationState


@pytest.fixture(scope="module")
def graph() -> QuantizedGraph:
    return quantized()


def test_a_run_outlives_its_graph_in_a_temporary_database() -> None:
    run = quantized().run
    gc.collect()
    assert Path(run._database.location).exists()
    assert run.share("s")["state"] == "ACTIVATED"


def test_db_says_where(tmp_path: Path) -> None:
    graph = quantized(db=tmp_path / "mine.db")
    with qgraph.open(tmp_path / "mine.db") as database:
        assert database.run("latest").id == graph.run.id
        database.run("latest").export(tmp_path / "later.onnx")
    onnx.checker.check_model(tmp_path / "later.onnx")


def test_a_model_may_be_a_file(tmp_path: Path, graph: QuantizedGraph) -> None:
    onnx.save(seed_model(), tmp_path / "m.onnx")
    found = qgraph.quantize_onnx_model(str(tmp_path / "m.onnx"), DATA, 8, [1, 4, 8, 8], "ppl_cuda")
    assert found.data().tqcs == graph.data().tqcs


def test_without_activations_they_wait() -> None:
    setting = qgraph.QuantizationSettingFactory.default_setting()
    setting.quantize_activation = False
    graph = quantized(setting=setting)
    assert makes(graph, "add1").state == QuantizationState.INITIAL
    assert reads(graph, "conv1", 1).root.state == QuantizationState.ACTIVATED
    qgraph.RuntimeCalibrationPass().optimize(graph, dataloader=DATA, calib_steps=8)
    assert makes(graph, "add1").state == QuantizationState.ACTIVATED


@pytest.mark.parametrize("platform", qgraph.TargetPlatform)
def test_every_platform_quantizes_the_seeds_model(platform: qgraph.TargetPlatform) -> None:
    graph = quantized(platform=platform)
    states = {config.state for config in graph.configs.values()}
    assert QuantizationState.INITIAL not in states
    assert QuantizationState.ACTIVATED in states
    assert graph.data().settings.overrides == ()


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "shape": ({"input_shape": [1, 3, 8, 8]}, "a shape that the model's input does not have"),
    "dtype": ({"input_dtype": torch.float16}, "input_dtype is not the model's"),
    "inputs": ({"inputs": {"y": DATA[0]}}, "it has x"),
    "many inputs": ({"inputs": [DATA[0], DATA[0]]}, "2 inputs for a model of 1"),
    "platform": ({"platform": "ppl_cudda"}, "did you mean ppl_cuda"),
    "setting": ({"setting": {}}, "must be a QuantizationSetting"),
    "device": ({"device": "tpu"}, "unknown device"),
    "steps": ({"calib_steps": 0}, "calib_steps must be a whole number"),
    "collate": ({"collate_fn": 3}, "collate_fn must be a function"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_work_is_refused(case: str) -> None:
    options, message = WRONG[case]
    call: dict[str, Any] = {
        "onnx_import_file": seed_model(), "calib_dataloader": DATA, "calib_steps": 8, "input_shape": [1, 4, 8, 8],
        "platform": "ppl_cuda", "setting": None,
    }  # fmt: skip
    if case == "setting":
        options = {"setting": 3}
    if case in ("inputs", "many inputs"):
        call["input_shape"] = None
    with pytest.raises(QgraphError, match=message):
        qgraph.quantize_onnx_model(**{**call, **options})


def test_export_writes_a_model_and_its_scales(graph: QuantizedGraph, tmp_path: Path) -> None:
    qgraph.export_ppq_graph(graph, qgraph.TargetPlatform.PPL_CUDA_INT8, tmp_path / "q", tmp_path / "q.json")
    written = onnx.load(tmp_path / "q.onnx")
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in written.graph.node}
    scales = json.loads((tmp_path / "q.json").read_text())["tensors"]
    (scale,) = makes(graph, "add1").scale or ()
    assert scales["s"]["scale"] == scale
    with pytest.raises(QgraphError, match="another platform"):
        qgraph.export_ppq_graph(graph, qgraph.TargetPlatform.TFLITE_INT8, tmp_path / "q")


def test_what_was_left_float_by_hand_is_float_in_the_export(graph: QuantizedGraph, tmp_path: Path) -> None:
    changed = graph.copy()
    for op in ("conv3", "pool"):
        for config in (*changed.operations[op].config.input_quantization_config, makes(changed, op)):
            config.state = QuantizationState.FP32
    for name, one in (("before", graph), ("after", changed)):
        qgraph.export_ppq_graph(one, graph_save_to=tmp_path / f"{name}.onnx")
    counts = [
        sum(node.op_type == "QuantizeLinear" for node in onnx.load(tmp_path / f"{name}.onnx").graph.node)
        for name in ("before", "after")
    ]
    assert counts[1] < counts[0]


def test_graphwise_errors_grow_with_coarser_scales(graph: QuantizedGraph) -> None:
    noise = qgraph.graphwise_error_analyse(graph, DATA)
    assert list(noise) == ["conv1", "conv2", "conv3"]
    assert all(0 < one < 0.01 for one in noise.values())
    coarse = graph.copy()
    reads(coarse, "conv3").root.scale = 1.5
    worse = qgraph.graphwise_error_analyse(coarse, DATA)
    assert worse["conv3"] > 2 * noise["conv3"]
    assert worse["conv1"] == noise["conv1"]


def test_layerwise_errors_are_those_of_one_operation_alone(graph: QuantizedGraph) -> None:
    alone = qgraph.layerwise_error_analyse(graph, iter(DATA), interested_outputs="p")
    assert list(alone) == ["conv1", "conv2", "conv3"]
    assert alone["conv1"] == 0  # not on the way to p
    assert alone["conv3"] > 0
    cosine = qgraph.layerwise_error_analyse(graph, DATA, method="cosine", steps=2)
    assert all(0.99 < one < 1 for one in cosine.values())


@pytest.mark.parametrize("options", [{"method": "snrr"}, {"interested_outputs": "q"}, {"running_device": "cuda"}])
def test_an_analysis_that_cannot_be_is_refused(graph: QuantizedGraph, options: dict[str, Any]) -> None:
    with pytest.raises(QgraphError):
        qgraph.layerwise_error_analyse(graph, DATA, **options)


class Sum(torch.nn.Module):
    """Two inputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(2, 4, 1)
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.drop(self.first(image)) + mask
        return found


def test_a_torch_module_with_several_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    data = [
        {"image": random.normal(size=(1, 2, 4, 4)).astype("f4"), "mask": random.normal(size=(1, 4, 4, 4)).astype("f4")}
        for _ in range(4)
    ]
    module = Sum()
    graph = qgraph.quantize_torch_model(
        module, data, 4, None, "tflite", inputs={name: torch.as_tensor(one) for name, one in data[0].items()}
    )
    assert [op.type for op in graph.operations.values()] == ["Conv", "Add"]
    assert module.training
    assert module.drop.training
    assert list(tmp_path.iterdir()) == []


def test_a_torch_module_needs_a_shape() -> None:
    with pytest.raises(QgraphError, match="neither input_shape nor inputs"):
        qgraph.quantize_torch_model(Sum(), DATA, 4)
    for shape in ("x", [1, "3"], [-1, 3]):
        with pytest.raises(QgraphError, match="input_shape is no shape"):
            qgraph.quantize_torch_model(Sum(), DATA, 4, shape)  # type: ignore[arg-type]
    with pytest.raises(QgraphError, match="not a torch module"):
        qgraph.quantize_torch_model(3, DATA, 4)  # type: ignore[arg-type]
