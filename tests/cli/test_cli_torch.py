"""What the command line says of torch's own files and of devices."""

from pathlib import Path

import pytest
from conftest import Cli


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
