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
from qgraph.calib.runners.onnx_runner import OnnxRunner
from qgraph.errors import QgraphError
from qgraph.passes.graph import QuantizedGraph
from qgraph.passes.torch_model import device_of
from qgraph.store import calibrations
from qgraph.tqc import QuantizationState


@pytest.fixture(scope="module")
def graph() -> QuantizedGraph:
    return quantized()


def test_a_run_outlives_its_graph_in_a_temporary_database() -> None:
    run = quantized().run
    gc.collect()
    assert Path(run.database.location).exists()
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


def test_the_methods_of_an_analysis_belong_together(graph: QuantizedGraph) -> None:
    methods = ("SNR", "mse", "cosine")
    snr, mse, cosine = (qgraph.graphwise_error_analyse(graph, DATA, method=method) for method in methods)
    runner = OnnxRunner(graph.workplace.imported.proto, ["c1", "c2", "c3"])
    made = [runner.run({"x": batch}) for batch in DATA]
    assert snr.keys() == mse.keys() == cosine.keys()
    for op in snr:
        values = np.concatenate([one[op.replace("conv", "c")] for one in made]).astype("f8")
        assert mse[op] == pytest.approx(snr[op] * np.mean(values**2), rel=1e-3)
        assert cosine[op] == pytest.approx(1 - snr[op] / 2, abs=snr[op] / 4)
    assert qgraph.graphwise_error_analyse(graph, DATA, steps=1) != snr
    assert qgraph.graphwise_error_analyse(graph, DATA, steps=None) == snr


def test_an_analysis_of_some_operations_tells_the_worst_first(
    graph: QuantizedGraph, capsys: pytest.CaptureFixture[str]
) -> None:
    labelled = [(batch, 0) for batch in DATA]
    every = qgraph.graphwise_error_analyse(graph, DATA, method="mse")
    found = qgraph.graphwise_error_analyse(
        graph, labelled, lambda item: item[0], "mse", interested_operations=["conv3", "conv1"], verbose=True
    )
    assert found == {name: every[name] for name in ("conv1", "conv3")}
    told = [line.split()[-1] for line in capsys.readouterr().err.splitlines()]
    assert told == sorted(found, key=lambda name: -found[name])
    alone = qgraph.layerwise_error_analyse(graph, DATA, method="mse", interested_operations="conv2")
    assert list(alone) == ["conv2"]


@pytest.mark.parametrize(
    "options",
    [
        {"method": "snrr"},
        {"method": None},
        {"interested_outputs": "q"},
        {"interested_operations": "conv4"},
        {"interested_operations": ["pool"]},
        {"running_device": "cuda"},
    ],
)
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
    module = Sum().eval()
    graph = qgraph.quantize_torch_model(
        module, data, 4, None, "tflite", inputs={name: torch.as_tensor(one) for name, one in data[0].items()}
    )
    assert {op.name: op.type for op in graph.operations.values()} == {"first": "Conv", "Add": "Add"}
    assert list(tmp_path.iterdir()) == []


def nested() -> tuple[torch.nn.Module, list[tuple[torch.Tensor, dict[str, torch.Tensor]]]]:
    """A module that takes a dict beside a tensor, and calls of it."""

    class Masked(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Conv2d(2, 4, 1)

        def forward(self, image: torch.Tensor, more: dict[str, torch.Tensor]) -> torch.Tensor:
            found: torch.Tensor = self.first(image) * more["mask"]
            return found

    torch.manual_seed(0)
    calls = [(torch.randn(1, 2, 4, 4), {"mask": torch.rand(1, 4, 4, 4)}) for _ in range(4)]
    return Masked().eval(), calls


def test_torch_runs_a_module_and_a_calibration_of_it_is_the_databases(tmp_path: Path) -> None:
    module, calls = nested()
    with qgraph.open(tmp_path / "q.db") as db:
        graph = qgraph.quantize_torch_model(module, calls, 4, inputs=calls[0], platform="tflite", db=db)
        with db.store().reading() as connection:
            record = calibrations.load_calibration(connection, graph.calibration or "")
        assert json.loads(record.identity.runner or "{}")["runtime"] == "torch"
        again = db.calibrate(module, calls, example_inputs=calls[0], dynamic_shapes="batch")
        assert (again.id, again.status, again.inferences) == (graph.calibration, "reused", 0)
        settings = graph.data().settings
        run = again.solve(target="tflite", observer=settings.observer or "", weights=settings.weights)
        assert run.id == graph.run.id
        (kept,) = tmp_path.glob("*.onnx")
        graph.run.export(tmp_path / "out.onnx")
    assert kept.name.startswith("q.Masked-")
    noise = qgraph.graphwise_error_analyse(graph, calls)  # items in the module's own form
    assert list(noise) == ["first"]


class Pairs(torch.nn.Module):
    """Takes samples in pairs, whatever the batch is said to be."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x.reshape(1, 2, 4)).sum(1)


def test_a_batch_that_the_modules_code_fixes_stays_fixed(tmp_path: Path) -> None:
    data = [torch.randn(2, 4) for _ in range(3)]
    graph = qgraph.quantize_torch_model(Pairs().eval(), data, 3, [2, 4], "tflite", db=tmp_path / "q.db")
    assert graph.variables["x"].shape == (2, 4)
    with pytest.raises(QgraphError, match=r"cannot export the module: Pairs.* pass inputs that it takes, or change"):
        qgraph.quantize_torch_model(Pairs().eval(), data, 3, [3, 4], "tflite", db=tmp_path / "q.db")
    assert len(list(tmp_path.glob("*.onnx"))) == 1


def test_an_exported_program_has_its_inputs_already() -> None:
    module, calls = nested()
    program = torch.export.export(module, calls[0])
    graph = qgraph.quantize_torch_model(program, calls, 4, platform="tflite")
    assert [op.type for op in graph.operations.values()] == ["Conv", "Mul"]
    with pytest.raises(QgraphError, match="has its inputs already"):
        qgraph.quantize_torch_model(program, calls, 4, [1, 2, 4, 4])


def test_a_module_is_quantized_in_evaluation_mode_and_keeps_its_own_mode() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(0.9), torch.nn.Linear(4, 2).eval())
    data = [torch.rand(2, 3) for _ in range(4)]
    graph = qgraph.quantize_torch_model(module, data, 4, [2, 3], platform="tflite")
    assert [op.type for op in graph.operations.values()] == ["Gemm", "Gemm"]
    assert [part.training for part in module.modules()] == [True, True, True, False]
    with pytest.raises(QgraphError, match="neither input_shape nor inputs"):
        qgraph.quantize_torch_model(module, data, 4)
    assert module.training


def test_a_module_runs_where_it_is_unless_the_caller_says_otherwise() -> None:
    module = torch.nn.Linear(2, 2)
    assert device_of(module, None) == "cpu"
    assert device_of(torch.nn.ReLU(), None) == "cpu"
    assert device_of(module.to("meta"), "cpu") == "cpu"
    with pytest.raises(QgraphError, match="cpu or cuda only: meta"):
        device_of(module, None)
    with pytest.raises(QgraphError, match="unknown device"):
        qgraph.quantize_torch_model(module, DATA, 4, [1, 2], device="tpu")


def test_a_torch_module_needs_a_shape() -> None:
    with pytest.raises(QgraphError, match="neither input_shape nor inputs"):
        qgraph.quantize_torch_model(Sum().eval(), DATA, 4)
    for shape in ("x", [1, "3"], [-1, 3]):
        with pytest.raises(QgraphError, match=r"input_shape is no shape.* or inputs="):
            qgraph.quantize_torch_model(Sum().eval(), DATA, 4, shape)  # type: ignore[arg-type]
    with pytest.raises(QgraphError, match="not a torch module"):
        qgraph.quantize_torch_model(3, DATA, 4)  # type: ignore[arg-type]
