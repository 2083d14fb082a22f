"""The alignment options on the command line and in Python: solved without the model, stored, shown, compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import qgraph
from qgraph.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from conftest import Cli

OPTIONS = ("--elementwise-merge", "--concat-merge", "--averagepool-merge", "--resize-merge")
SETTINGS = ("elementwise_merge_method", "concat_merge_method", "averagepool_method", "resize_method")


def settings(cli: Cli, run: str) -> list[str | None]:
    shown = cli("show", run, "--json").json["settings"]
    return [shown[name] for name in SETTINGS]


def test_the_options_are_stored_shown_and_compared(cli: Cli, calibrated: Path) -> None:
    del calibrated
    default = cli("solve", "c1", "--target", "ppl_cuda", "--observer", "minmax", "--json").json["run"]
    assert settings(cli, default) == ["Align to Large", "Align to Output", "None", "Align to Output"]
    given = [item for option in OPTIONS for item in (option, "Joint")]
    joint = cli("solve", "c1", "--target", "ppl_cuda", "--observer", "minmax", *given, "--json").json["run"]
    assert settings(cli, joint) == ["Joint"] * 4
    changes = cli("diff", default, joint, "--json").json["settings"]
    assert changes == {
        name: {"a": method, "b": "Joint"} for name, method in zip(SETTINGS, settings(cli, default), strict=True)
    }
    assert "elementwise merge method  Align to Large" in cli("show", default).stdout


def test_the_target_s_choice_said_aloud_is_the_same_run(cli: Cli, calibrated: Path) -> None:
    del calibrated
    arguments = ("solve", "c1", "--target", "ppl_cuda", "--observer", "minmax", "--json")
    default = cli(*arguments).json["run"]
    assert cli(*arguments, "--elementwise-merge", "LARGE", "--averagepool-merge", "none").json["run"] == default
    assert cli(*arguments, "--elementwise-merge", "output").json["run"] != default


def test_why_names_the_option(cli: Cli, ppocr4_det: Path) -> None:
    run = cli("analyze", ppocr4_det, "--target", "onnxruntime", "--elementwise-merge", "large", "--json").json["run"]
    groups = cli("groups", run, "--json").json["groups"]
    sums = [g["slots"] for g in groups if any(".Add." in slot and ":in:0" in slot for slot in g["slots"])]
    left, right = next(
        (slot, slot.replace(":in:0", ":in:1"))
        for slots in sums
        for slot in slots
        if ".Add." in slot and slot.replace(":in:0", ":in:1") in slots and ":in:0" in slot
    )
    (step,) = cli("why", left, right, "--run", run, "--json").json["path"]
    assert (step["kind"], step["rule"]) == ("same", "elementwise_merge_method")
    assert step["source"] == "the option elementwise_merge_method is Align to Large"


def test_none_is_refused_before_anything_runs(cli: Cli, ppocr4_det: Path, ocr_photos: Path, tmp_path: Path) -> None:
    refused = cli(
        "calibrate", ppocr4_det, "--data", ocr_photos, "--target", "tflite", "--concat-merge", "none", "--json"
    )
    assert refused.code == 2
    assert refused.json["error"]["what"] == "the concat merge cannot be none, tflite requires the rule concat"
    assert "CONCATENATION" in refused.json["error"]["which"]
    assert not (tmp_path / "qgraph.db").exists()
    forced = cli("analyze", ppocr4_det, "--target", "tflite", "--concat-merge", "force-none", "--json")
    assert forced.code == 0
    assert settings(cli, forced.json["run"])[1] == "Force None"
    assert "concat merge method       Force None" in cli("show", forced.json["run"]).stdout


def test_targets_tells_what_a_target_chooses(cli: Cli) -> None:
    targets = {entry["target"]: entry["alignment"] for entry in cli("targets", "--json").json["targets"]}
    assert targets["ppl_cuda"]["elementwise_merge_method"] == "Align to Large"
    assert set(targets["tflite"].values()) == {None}


def test_an_unknown_method_is_one_line(cli: Cli, ppocr4_det: Path) -> None:
    bad = cli("analyze", ppocr4_det, "--target", "tflite", "--resize-merge", "lage")
    assert (bad.code, bad.stderr) == (2, "qgraph: unknown method for the resize merge: lage; did you mean large?\n")


def test_python_takes_the_seed_s_spellings(calibrated: Path) -> None:
    with qgraph.open(calibrated) as database:
        a = database.solve(
            "c1", target="ppl_cuda", elementwise_merge_method="Align to Output", concat_merge_method=True
        )
        b = database.calibration("c1").solve(
            target="ppl_cuda", elementwise_merge_method="output", concat_merge_method="joint"
        )
        assert a.id == b.id
        with pytest.raises(UsageError, match="the concat merge cannot be none"):
            database.solve("c1", target="tflite", concat_merge_method=False)
        with pytest.raises(NotFoundError, match="unknown option: elementwise_method; did you mean elementwise_merge_"):
            database.solve("c1", target="tflite", elementwise_method="Joint")  # type: ignore[call-arg]


def test_each_method_gives_other_scales_from_the_same_statistics(calibrated: Path) -> None:
    with qgraph.open(calibrated) as database:
        found = {}
        for method in ("Align to Input", "Align to Output", "Align to Large", "None"):
            run = database.solve("c1", target="ppl_cuda", observer="mse", elementwise_merge_method=method)
            found[method] = {t.slot: t.scale[0] for t in run.data().tqcs if t.role == "activation" and t.scale}
        assert len({tuple(sorted(scales.items())) for scales in found.values()}) == 4
        silenced = database.solve("c1", target="ppl_cuda", elementwise_merge_method="Align to Output").data()
        reasons = [t.reason for t in silenced.tqcs if t.reason is not None and "do not count" in t.reason]
        assert any("Align to Output at" in reason and "(Add)" in reason for reason in reasons)


def test_ppl_cuda_exports_a_model_that_runs(cli: Cli, calibrated: Path, ppocr4_det: Path, ocr_photos: Path) -> None:
    del calibrated, ppocr4_det
    run = cli("solve", "c1", "--target", "ppl_cuda", "--elementwise-merge", "none", "--json").json["run"]
    assert cli("export", run, "--format", "qdq", "-o", "int8.onnx").code == 0
    (output,) = cli("verify", run, "--data", ocr_photos, "--steps", 8, "--json").json["outputs"].values()
    assert output["snr_db"] > 5
