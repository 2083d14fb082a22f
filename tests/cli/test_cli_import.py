"""Scales that were made elsewhere become runs: the same questions are answered about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli

import qgraph
from qgraph.formats.scale_files import FORMATS

TARGET_OF = {"tensorrt-cache": "tensorrt"}
"""Other formats can say all that the target onnxruntime has."""


@pytest.mark.parametrize("name", [*sorted(FORMATS), "qdq"])
def test_what_is_exported_and_imported_is_the_same_run(cli: Cli, calibrated: Path, ppocr4_det: Path, name: str) -> None:
    target = TARGET_OF.get(name, "onnxruntime")
    solved = ("solve", "c1", "--target", target, "--observer", "minmax", "--json")
    run = cli(*solved).json["run"]
    file = "scales.onnx" if name == "qdq" else "scales"
    exported = cli("export", run, "--format", name, "-o", file, "--json")
    assert (exported.code, exported.json["format"]) == (0, name)
    assert all(line in exported.stderr for line in exported.json["losses"])
    imported = cli("import", file, "--model", ppocr4_det, "--target", target, "--calibration", "c1", "--json")
    assert (imported.code, imported.json["format"], imported.json["violations"]) == (0, name, [])
    assert imported.json["tensors"] > 200
    found = cli("diff", run, imported.json["run"], "--json").json
    assert found["scales"] == []
    assert (found["groups"], found["states"]) == ({"split": [], "merged": []}, [])
    with qgraph.open(calibrated) as db:
        ours, theirs = ({one.slot: one for one in db.run(name).data().tqcs} for name in (run, imported.json["run"]))
    priced = [one for one in ours.values() if one.noise_db is not None and one.scale == theirs[one.slot].scale]
    assert {one.role for one in priced} >= {"activation", "weight"}
    assert {one.slot: theirs[one.slot].noise_db for one in priced} == {one.slot: one.noise_db for one in priced}


@pytest.fixture
def imported(cli: Cli, calibrated: Path, ppocr4_det: Path) -> dict[str, Any]:
    """A file in which one input of a concat has twice its scale, imported as run `theirs`; it is returned."""
    assert cli("solve", "c1", "--target", "tflite", "--observer", "minmax", "--name", "ours").code == 0
    assert cli("export", "ours", "--format", "json", "-o", "scales.json").code == 0
    file: dict[str, Any] = json.loads(Path("scales.json").read_text())
    groups = cli("groups", "ours", "--json").json["groups"]
    group = max(groups, key=lambda one: len(one["tensors"]))
    tensor = next(name for name in group["tensors"] if file["tensors"][name]["kind"] == "activation")
    file["tensors"][tensor]["scale"][0] *= 2
    Path("theirs.json").write_text(json.dumps(file))
    options = ("--target", "tflite", "--calibration", "c1", "--name", "theirs", "--json")
    answer = cli("import", "theirs.json", "--model", ppocr4_det, *options)
    assert answer.code == 0
    return {**answer.json, "tensor": tensor, "group": group}


def test_an_imported_run_is_explained_checked_priced_and_diffed(cli: Cli, imported: dict[str, Any]) -> None:
    tensor = imported["tensor"]
    assert imported["violations"], "its neighbours must have its scale"
    assert any(tensor in [one["name"] for one in entry["tensors"]] for entry in imported["violations"])
    findings = cli("coverage", "theirs", "--json").json["findings"]
    assert {one["message"] for one in imported["violations"]} <= {one["message"] for one in findings}
    shared = cli("share", tensor, "--run", "theirs", "--json").json
    assert 0 < len(shared["tensors"]) < len(imported["group"]["tensors"])
    found = cli("diff", "ours", "theirs", "--json").json
    (scale,) = [one for one in found["scales"] if one["tensor"] == tensor]
    assert scale["ratio"] == pytest.approx(2)
    assert scale["damage_db"] > 3
    assert found["groups"]["split"]


def test_an_imported_run_is_exported_as_a_model_that_runs(cli: Cli, imported: dict[str, Any]) -> None:
    assert imported["run"] == "r3"
    assert cli("export", "theirs", "-o", "theirs.onnx").code == 0
    assert cli("check", "theirs.onnx", "--target", "tflite", "--json").json["violations"]


def test_imported_scales_cannot_be_solved_anew(cli: Cli, imported: dict[str, Any], ocr_photos: Path) -> None:
    assert imported
    for command in (("improve", "theirs"), ("advise", "theirs", "--target-snr", 20)):
        refused = cli(*command, "--data", ocr_photos)
        assert (refused.code, "the scales of this run were imported, not solved: r3" in refused.stderr) == (2, True)


def test_a_file_is_imported_without_any_calibration(cli: Cli, imported: dict[str, Any], ppocr4_det: Path) -> None:
    assert imported
    command = ("import", "theirs.json", "--model", ppocr4_det, "--target", "tflite", "--db", "other.db", "--json")
    assert cli(*command).json["run"] == "r1"
    assert cli(*command).json["run"] == "r1", "the same file is the same run"
    assert cli("export", "r1", "-o", "theirs.onnx", "--db", "other.db").code == 0


def test_tensors_without_a_scale_are_told_and_not_covered(cli: Cli, calibrated: Path, ppocr4_det: Path) -> None:
    assert calibrated
    Path("few.cache").write_text("TRT-8601-EntropyCalibration2\nx: 3c92aa10\n")
    done = cli("import", "few.cache", "--model", ppocr4_det, "--target", "tensorrt", "--calibration", "c1", "--json")
    assert (done.code, done.json["tensors"]) == (0, 1)
    assert "without a scale in few.cache" in done.stderr
    missing = {one["tensor"] for one in cli("coverage", "latest", "--json").json["missing"]}
    assert missing
    assert "x" not in missing
    assert not any(name.endswith(".w_0") for name in missing), "weights get scales of their own"


def test_a_tensor_that_the_model_does_not_have_is_refused_or_left_out(cli: Cli, ppocr4_det: Path) -> None:
    Path("odd.cache").write_text("TRT-8601-EntropyCalibration2\nx: 3c92aa10\nrelu_9.tmp_00: 3c92aa10\n")
    command = ("import", "odd.cache", "--model", ppocr4_det, "--target", "tensorrt")
    refused = cli(*command)
    assert (refused.code, len(refused.stderr.splitlines())) == (2, 1)
    assert "relu_9.tmp_0" in refused.stderr
    assert "--ignore-unknown" in refused.stderr
    assert not Path("qgraph.db").exists()
    told = cli(*command, "--ignore-unknown", "--json")
    assert (told.code, told.json["tensors"]) == (0, 1)
    assert any("relu_9.tmp_00" in note for note in told.json["notes"])


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (b"\x00\x01", (), "no known format"),
        (b'{"a": [{"quant_type": "QInt8", "scale": 1, "zero_point": 0}]}', ("--format", "csw"), "csv"),
        (b'{"version": "1.0.0", "activation_encodings": [{}]}', (), "no name"),
        (b"TRT-8601-X\nx: 00000000\n", (), "positive float32"),
        (b"TRT-8601-X\nx: 3c92aa10\n", ("--calibration", "c9"), "c9"),
        (b"TRT-8601-X\nx: 3c92aa10\n", ("--name", "r1"), "cannot have this name"),
    ],
)
def test_what_cannot_be_imported_ends_in_one_line(
    cli: Cli, ppocr4_det: Path, content: bytes, options: tuple[str, ...], words: str
) -> None:
    Path("file").write_bytes(content)
    refused = cli("import", "file", "--model", ppocr4_det, "--target", "tensorrt", *options)
    assert (refused.code, len(refused.stderr.splitlines())) == (2, 1), refused.stderr
    assert words in refused.stderr
    assert "unexpected" not in refused.stderr


def test_a_file_of_another_model_is_refused(cli: Cli, calibrated: Path, mobilenet_v2: Path) -> None:
    assert calibrated
    assert cli("export", "latest", "--format", "aimet-2.0.0", "-o", "det.json").code == 0
    refused = cli("import", "det.json", "--model", mobilenet_v2, "--target", "tflite")
    assert (refused.code, "unknown tensor" in refused.stderr) == (2, True)
    Path("x.cache").write_text("TRT-8601-X\nx: 3c92aa10\n")
    other = cli(
        "import", "x.cache", "--model", mobilenet_v2, "--target", "tensorrt", "--calibration", "c1", "--ignore-unknown"
    )
    assert other.code == 2
    assert len(other.stderr.splitlines()) == 1
