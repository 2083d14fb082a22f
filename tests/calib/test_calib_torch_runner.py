"""The torch runner gives what onnxruntime gives, up to rounding, for every tensor of the IR."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import qgraph
from qgraph.calib.cpu.recorder import on_host
from qgraph.calib.plan import plan_collection
from qgraph.calib.runners.onnx_runner import OnnxRunner
from qgraph.calib.runners.torch_ops import OPS
from qgraph.calib.runners.torch_runner import TorchRunner
from qgraph.errors import DataError, UsageError
from qgraph.ir.torch_import import TorchModel, import_torch

BOUND = 1e-5
"""Largest difference of an element between the two runtimes, relative to the tensor's largest magnitude."""


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu", norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y.mean(1)


class Recurrent(nn.Module):
    """Its GRU is one op of torch's and one of ONNX's, but they do not give the same tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.gru(nn.functional.silu(x))[0]
        return y


def exported(module: nn.Module, folder: Path, *shape: int) -> TorchModel:
    torch.manual_seed(0)
    return import_torch(module.eval(), folder, example_inputs=torch.zeros(2, *shape), dynamic_shapes="batch")


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Hardswish(), nn.Flatten(), nn.Linear(288, 4)),
            (3, 8, 8),
        ),
        (Encoder(), (5, 16)),
        (Recurrent(), (5, 4)),
    ],
    ids=["convolutions", "attention", "recurrent"],
)
def test_every_planned_tensor_agrees_with_onnxruntime(
    module: nn.Module, shape: tuple[int, ...], tmp_path: Path
) -> None:
    model = exported(module, tmp_path, *shape)
    wanted = plan_collection(model.imported.structure).exposed
    (name,) = model.imported.structure.inputs
    inputs = {name: np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)}
    ours = TorchRunner(model, wanted).run(inputs)
    theirs = OnnxRunner(model.imported.proto, wanted, folder=tmp_path).run(inputs)
    assert set(ours) == set(wanted)
    for tensor in wanted:
        assert ours[tensor].shape == theirs[tensor].shape
        assert ours[tensor].dtype == theirs[tensor].dtype
        assert np.abs(ours[tensor] - theirs[tensor]).max() <= BOUND * np.abs(theirs[tensor]).max()


def test_inside_of_attention_is_computed_by_torch_and_a_gru_by_onnxruntime(tmp_path: Path) -> None:
    for module, shape, beside in ((Encoder(), (5, 16), 0), (Recurrent(), (5, 4), 1)):
        model = exported(module, tmp_path, *shape)
        runner = TorchRunner(model, plan_collection(model.imported.structure).exposed)
        assert len(runner.on_cpu) >= beside
        assert bool(runner.on_cpu) == bool(beside)


class Inside(nn.Module):
    """Computes in another type than that of its input and output."""

    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        return (-x.to(self.kind)).float()


class Positions(nn.Module):
    """Makes tensors of its own, on the device of its input, and masks with a constant."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(8, 4)
        self.register_buffer("mask", torch.tensor([True, False, True, True]))

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[1], device=x.device)
        found = x + self.table(places) + torch.full((1,), 0.5, device=x.device)
        return torch.where(self.mask, found, torch.zeros_like(found))


def test_a_program_runs_on_another_device_than_it_was_exported_on(tmp_path: Path) -> None:
    model = exported(Positions(), tmp_path, 5, 4)
    wanted = plan_collection(model.imported.structure).exposed
    (name,) = model.imported.structure.inputs
    inputs = {name: np.random.default_rng(0).normal(size=(1, 5, 4)).astype(np.float32)}
    expected = TorchRunner(model, wanted).run(inputs)
    written = [node for node in model.program.graph.nodes if node.kwargs.get("device") is not None]
    assert written
    for node in written:
        node.update_kwarg("device", torch.device("meta"))
    model.program.graph_module.recompile()
    found = TorchRunner(model, wanted).run(inputs)
    assert all(np.array_equal(found[tensor], expected[tensor]) for tensor in wanted)


def test_constants_on_the_cpu_are_brought_to_what_they_are_computed_with() -> None:
    mask, there = torch.tensor([True, False, True]), torch.zeros(2, 3, device="meta")
    assert OPS["Where"]([mask, there, torch.zeros(3)], {}).shape == (2, 3)
    assert OPS["Add"]([there, torch.ones(3)], {}).device.type == "meta"
    assert OPS["Concat"]([torch.ones(1, 3), there], {"axis": 0}).shape == (3, 3)
    assert OPS["Clip"]([there, torch.tensor(0.0), None], {}).device.type == "meta"


@pytest.mark.parametrize(
    ("module", "shape"), [(Encoder(), (5, 16)), (Positions(), (5, 4))], ids=["encoder", "positions"]
)
def test_nothing_is_made_on_whatever_device_is_the_default(
    module: nn.Module, shape: tuple[int, ...], tmp_path: Path
) -> None:
    model = exported(module, tmp_path, *shape)
    wanted = plan_collection(model.imported.structure).exposed
    (name,) = model.imported.structure.inputs
    inputs = {name: np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)}
    expected = TorchRunner(model, wanted).run(inputs)
    with torch.device("meta"):  # what is made without saying where would be there, and hold nothing
        found = TorchRunner(model, wanted, device="cpu").run(inputs)
    assert all(np.array_equal(found[tensor], expected[tensor]) for tensor in wanted)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_are_run_and_counted(kind: torch.dtype, tmp_path: Path) -> None:
    module = Inside(kind).eval()
    items = [torch.full((1, 3), 2.0**power) for power in (-3, 1, 4)]
    with qgraph.open(tmp_path / "q.db") as db:
        calibration = db.calibrate(module, items, example_inputs=items[0])
        counted = calibration.statistics()
    assert {(one.minimum, one.maximum) for one in counted.values()} == {(0.125, 16.0), (-16.0, -0.125)}


def test_threads_share_a_runner_and_keep_their_number_of_threads(tmp_path: Path) -> None:
    model = exported(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), tmp_path, 3, 8, 8)
    runner = TorchRunner(model, plan_collection(model.imported.structure).exposed)
    (name,) = model.imported.structure.inputs
    inputs = {name: np.ones((1, 3, 8, 8), np.float32)}
    before = torch.get_num_threads()
    with ThreadPoolExecutor(2) as pool:
        results: list[dict[str, Any]] = list(pool.map(runner.run, [inputs] * 4))
    assert torch.get_num_threads() == before
    assert all(np.array_equal(one[key], results[0][key]) for one in results for key in one)


ON_A_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@ON_A_GPU
@pytest.mark.parametrize(("module", "shape"), [(Encoder(), (5, 16)), (Recurrent(), (5, 4)), (Positions(), (5, 4))])
def test_on_a_gpu_every_planned_tensor_repeats_and_is_the_cpus_up_to_rounding(
    module: nn.Module, shape: tuple[int, ...], tmp_path: Path
) -> None:
    model = exported(module, tmp_path, *shape)
    wanted = plan_collection(model.imported.structure).exposed
    (name,) = model.imported.structure.inputs
    inputs = {name: np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)}
    expected, there = TorchRunner(model, wanted).run(inputs), TorchRunner(model, wanted, device="cuda")
    found, again = there.run(inputs), there.run(inputs)
    for tensor in wanted:
        one = on_host(found[tensor])
        assert np.array_equal(one, on_host(again[tensor]))
        assert np.abs(one - expected[tensor]).max() <= 10 * BOUND * np.abs(expected[tensor]).max()


@ON_A_GPU
def test_on_a_gpu_a_module_is_calibrated_and_solved_as_on_the_cpu(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Encoder().eval()
    data = np.random.default_rng(0).normal(size=(8, 5, 16)).astype(np.float32)
    with qgraph.open(tmp_path / "q.db") as db:
        runs = [
            db.calibrate(module, data, input_shapes=[1, 5, 16], device=device).solve(target="tflite", device=device)
            for device in ("cpu", "cuda")
        ]
        here, there = (run.scales()["tensors"] for run in runs)
        assert runs[0].groups()["groups"] != []
        assert {name: one["group"] for name, one in here.items()} == {name: one["group"] for name, one in there.items()}
        for name, one in here.items():
            assert there[name]["scale"] == (None if one["scale"] is None else pytest.approx(one["scale"], rel=2**-7))


def test_its_environment_tells_it_from_onnxruntime(tmp_path: Path) -> None:
    model = exported(nn.Sequential(nn.ReLU()), tmp_path, 3)
    environment = TorchRunner(model, ()).environment
    assert environment["runtime"] == "torch"
    assert environment["version"] == torch.__version__
    assert environment["device"] == "cpu"


def test_data_that_the_module_cannot_take_is_named(tmp_path: Path) -> None:
    model = exported(nn.Sequential(nn.Linear(3, 3)), tmp_path, 3)
    (name,) = model.imported.structure.inputs
    with pytest.raises(DataError, match=r"\[1, 7\]"):
        TorchRunner(model, model.imported.structure.outputs).run({name: np.ones((1, 7), np.float32)})


@pytest.mark.parametrize("device", ["tpu", "meta", *(() if torch.cuda.is_available() else ("cuda",))])
def test_a_device_that_is_not_here_is_refused(device: str, tmp_path: Path) -> None:
    model = exported(nn.Sequential(nn.ReLU()), tmp_path, 3)
    with pytest.raises(UsageError, match="cpu"):
        TorchRunner(model, (), device=device)


def test_onnxruntime_without_cuda_says_what_to_install(tmp_path: Path) -> None:
    model = exported(nn.Sequential(nn.ReLU()), tmp_path, 3)
    with pytest.raises(UsageError, match="onnxruntime-gpu"):
        OnnxRunner(model.imported.proto, (), device="cuda")
