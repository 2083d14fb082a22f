"""`--device` reaches the jobs; a device that is not there is refused before anything is computed."""

from pathlib import Path
from typing import Any

import pytest
import torch


def test_cpu_is_what_no_device_means(cli: Any, calibrated: Path) -> None:
    plain = cli("solve", "c1", "--target", "tflite", "--observer", "minmax", "--db", str(calibrated), "--json")
    given = cli(
        *("solve", "c1", "--target", "tflite", "--observer", "minmax", "--device", "cpu"),
        *("--db", str(calibrated), "--json"),
    )
    assert plain.json == given.json


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("command", ["calibrate", "solve"])
@pytest.mark.parametrize(("device", "what"), [("cuda", "torch finds no CUDA device here"), ("tpu", "unknown device")])
def test_a_device_that_is_not_there_is_refused(
    cli: Any, calibrated: Path, ppocr4_det: Path, command: str, device: str, what: str
) -> None:
    job = (
        ("solve", "c1", "--target", "tflite") if command == "solve" else ("calibrate", str(ppocr4_det), "--data", "no")
    )
    done = cli(*job, "--device", device, "--db", str(calibrated), "--json")
    assert done.code == 2
    assert done.json["error"]["what"] == what
