from pathlib import Path

import pytest
from conftest import Cli

import qgraph
from qgraph.errors import NotFoundError

CONCAT = "p2o.Concat.0"


def test_overrides_from_a_file_and_from_options_are_kept_with_the_run(cli: Cli, calibrated: Path) -> None:
    Path("mine.toml").write_text('float = ["type:Resize"]\n')
    wished = ["--overrides", "mine.toml", "--force-unshare", CONCAT, "--pin", "x=0.02,0"]
    done = cli("solve", "c1", "--target", "tflite", *wished, "--name", "own", "--json")
    assert done.code == 0, done.stderr
    settings = cli("show", "own", "--json").json["settings"]
    assert settings["overrides"] == ["float type:Resize", "pin x=0.019999999552965164,0", f"force-unshare {CONCAT}"]
    pinned = cli("scales", "own", "--json").json["tensors"]["x"]
    assert (pinned["state"], pinned["offset"]) == ("FIXED", 0)
    assert pinned["scale"] == pytest.approx(0.02)
    differing = cli("diff", "mse", "own", "--json").json
    assert "overrides" in differing["settings"]
    assert cli("solve", "c1", "--target", "tflite", *wished, "--json").json["run"] == done.json["run"]


def test_a_selector_that_means_nothing_is_one_line_with_near_matches(cli: Cli, calibrated: Path) -> None:
    done = cli("solve", "c1", "--target", "tflite", "--float", "type:Rezise")
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr == "qgraph: unknown op type: Rezise; did you mean Resize?\n"


def test_a_required_sharing_needs_insistence(cli: Cli, calibrated: Path) -> None:
    done = cli("solve", "c1", "--target", "tflite", "--unshare", CONCAT)
    assert done.code == 2
    assert "insist with --force-unshare" in done.stderr


def test_python_takes_a_mapping_or_a_path(calibrated: Path, tmp_path: Path) -> None:
    (tmp_path / "o.toml").write_text("[pin]\nx = [0.02, 0]\n")
    with qgraph.open(calibrated) as db:
        first = db.solve("c1", target="tflite", overrides={"pin": {"x": [0.02, 0]}})
        assert db.solve("c1", target="tflite", overrides=tmp_path / "o.toml").id == first.id
        with pytest.raises(NotFoundError):
            db.solve("c1", target="tflite", overrides={"pin": {"no_such": [0.02, 0]}})


def test_a_broken_ratio_is_told_by_solve_and_kept(cli: Cli, calibrated: Path) -> None:
    Path("npu.toml").write_text(
        '[pack]\nname = "npu"\nversion = "1"\ninherits = "tflite"\n'
        '[[ratio]]\nname = "narrow"\nops = ["Conv"]\nnumerator = ["in:0", "in:1"]\ndenominator = ["out:0"]\n'
        'at_most = 1e-9\nsource = "the test"\n'
    )
    done = cli("solve", "c1", "--target", "npu.toml", "--name", "npu")
    assert done.code == 0, done.stderr
    assert "narrow at " in done.stderr
    assert "the test" in done.stderr
    for command in ("show", "coverage"):
        findings = cli(command, "npu", "--json").json["findings"]
        ratios = [finding for finding in findings if finding["kind"] == "ratio"]
        assert ratios
        assert {finding["rule"] for finding in ratios} == {"narrow"}
        assert any(finding["kind"] == "unlisted" and finding["op_type"] == "Div" for finding in findings)


def test_targets_tell_their_status(cli: Cli) -> None:
    found = {target["target"]: target for target in cli("targets", "--json").json["targets"]}
    assert found["qnn"]["status"] == "reported"
    assert found["openvino_npu"]["inherits"] == "openvino"
    assert {"tflite", "onnxruntime", "tensorrt", "ppl_cuda", "openvino", "xnnpack", "espdl"} <= set(found)
