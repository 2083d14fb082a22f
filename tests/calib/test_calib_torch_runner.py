"""The torch runner gives what onnxruntime gives, up to rounding, for every tensor of the IR."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qgraph.calib.onnx_runner import OnnxRunner
from qgraph.calib.plan import plan_collection
from qgraph.calib.torch_runner import TorchRunner
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
