"""What the command line says of torch's own files and of devices."""

from pathlib import Path

import pytest
import torch
from conftest import Cli
from torch import nn

import qgraph


@pytest.mark.parametrize("suffix", ["pt2", "pt", "pth"])
def test_an_archive_of_torch_is_refused_without_being_loaded(cli: Cli, tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"model.{suffix}").write_bytes(b"PK\x03\x04")
    result = cli("analyze", f"model.{suffix}", "--target", "tflite")
    assert (result.code, result.stdout) == (2, "")
    assert "may run code" in result.stderr
    assert not (tmp_path / "qgraph.db").exists()


def test_a_device_that_is_unknown_is_one_line(cli: Cli, tmp_path: Path) -> None:
    result = cli("calibrate", "model.onnx", "--data", "data.npz", "--device", "tpu")
    assert result.code == 2
    assert "use cpu or cuda" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_paths_of_a_module_are_names_and_selectors(cli: Cli, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), nn.Conv2d(4, 2, 3)).eval()
    with qgraph.open(tmp_path / "qgraph.db") as db:
        db.calibrate(module, torch.randn(4, 3, 8, 8), input_shapes=[1, 3, 8, 8], dynamic_shapes="batch")
    assert cli("solve", "c1", "--target", "tflite", "--name", "all").code == 0
    assert cli("share", "0", "--run", "all", "--json").json["tensor"] == "relu"
    for selector in ("path:0", "0.1"):  # a module's ops; and a BatchNorm that was folded into its convolution
        assert cli("solve", "c1", "--target", "tflite", "--float", selector, "--name", f"without {selector}").code == 0
        weight = cli("scales", f"without {selector}", "--json").json["tensors"]["0.0.weight"]
        assert weight["state"] == "FP32"
    wrong = cli("solve", "c1", "--target", "tflite", "--float", "path:0.3")
    assert wrong.code == 2
    assert "unknown module path: 0.3" in wrong.stderr
