"""A lean calibration collects what its target needs, and says so to what needs more."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli


@pytest.fixture
def job(cli: Cli, ppocr_cls: Path, cls_photos: Path) -> list[object]:
    return ["calibrate", ppocr_cls, "--data", cls_photos, "--steps", 4, "--json"]


def scales(cli: Cli, run: str) -> Any:
    return cli("scales", run, "--json").json["tensors"]


def capability(database: Path, calibration: str) -> Any:
    connection = sqlite3.connect(database)
    (text,) = connection.execute("SELECT capability FROM calibrations WHERE id = ?", [int(calibration[1:])]).fetchone()
    connection.close()
    return json.loads(text)


def test_it_gives_its_target_the_scales_that_a_whole_one_gives(cli: Cli, job: list[object], tmp_path: Path) -> None:
    lean = cli(*job, "--lean", "--target", "tflite", "--name", "lean")
    assert lean.code == 0, lean.stderr
    whole = cli(*job, "--target", "tflite", "--name", "whole").json
    assert whole["status"] == "complete"
    assert scales(cli, "lean") == scales(cli, "whole")
    found = capability(tmp_path / "qgraph.db", lean.json["calibration"])
    assert (found["channel_sums"], found["channel_histograms"]) == (0, 0)
    assert cli("solve", "lean", "--target", "onnxruntime", "--observer", "isotone").code == 0


def test_a_target_per_channel_gets_its_channels_and_no_more(cli: Cli, job: list[object], tmp_path: Path) -> None:
    lean = cli(*job, "--lean", "--target", "openvino", "--name", "lean").json
    cli(*job, "--target", "openvino", "--name", "whole")
    assert scales(cli, "lean") == scales(cli, "whole")
    found = capability(tmp_path / "qgraph.db", lean["calibration"])
    assert found["channel_histograms"] == capability(tmp_path / "qgraph.db", "c2")["channel_histograms"]
    assert found["channel_sums"] < capability(tmp_path / "qgraph.db", "c2")["channel_sums"]


def test_a_complete_one_of_everything_is_reused(cli: Cli, job: list[object]) -> None:
    whole = cli(*job).json
    lean = cli(*job, "--lean", "--target", "tflite").json
    assert (lean["calibration"], lean["status"], lean["inferences"]) == (whole["calibration"], "reused", 0)


def test_what_needs_more_is_refused_with_the_cure(cli: Cli, job: list[object], cls_photos: Path) -> None:
    cli(*job, "--lean", "--target", "tflite", "--name", "lean")
    solved = cli("solve", "lean", "--target", "openvino")
    assert solved.code == 2
    assert "no statistics per channel were collected" in solved.stderr
    improved = cli("improve", "lean", "--data", cls_photos, "--steps", 4)
    assert improved.code == 2
    assert "without --lean" in improved.stderr
    extended = cli(*job[:2], "--data", cls_photos, "--extend", "c1")
    assert extended.code == 2
    assert "--lean" in extended.stderr
    assert len(extended.stderr.splitlines()) == 1
    assert cli(*job[:2], "--data", cls_photos, "--extend", "c1", "--lean").code == 0


def test_a_dry_run_tells_what_it_saves(cli: Cli, job: list[object]) -> None:
    lean, whole = (cli(*job, "--dry-run", *more).json["memory_bytes"] for more in (["--lean"], []))
    assert lean["histograms"] < whole["histograms"]
