import re
from pathlib import Path

import onnx
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
    assert settings["overrides"] == ["float type:Resize", "pin x=0.02,0", f"force-unshare {CONCAT}"]
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


def test_a_contradiction_with_data_says_what_the_way_out_costs(cli: Cli, calibrated: Path, ppocr4_det: Path) -> None:
    pool = next(node for node in onnx.load(ppocr4_det).graph.node if node.op_type == "GlobalAveragePool")
    pins = ["--pin", f"{pool.input[0]}=0.5,0", "--pin", f"{pool.output[0]}=0.25,0"]
    done = cli("solve", "c1", "--target", "tflite", *pins)
    assert done.code == 2
    found = re.search(r"cheapest way out: .*, which adds noise of (\S+) of the signal's power", done.stderr)
    assert found is not None, done.stderr
    assert 0 < float(found[1]) < 1
    assert "adds noise" not in cli("analyze", str(ppocr4_det), "--target", "tflite", *pins).stderr


def test_ops_that_run_in_float_in_the_asked_bits_are_told_by_solve(cli: Cli, calibrated: Path) -> None:
    done = cli("solve", "c1", "--target", "onnxruntime", "--bits", "tensor:x=16")
    assert done.code == 0, done.stderr
    assert "onnxruntime has no integer kernels with 16 bits for 1 Conv: they run in float" in done.stderr


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


def test_why_not_names_the_override_that_dropped_a_rule(cli: Cli, calibrated: Path) -> None:
    done = cli("solve", "c1", "--target", "tflite", "--force-unshare", CONCAT, "--name", "apart")
    assert done.code == 0, done.stderr
    answer = cli("why-not", f"{CONCAT}:in:0", f"{CONCAT}:out:0", "--run", "apart", "--json").json
    assert not answer["shared"]
    (needed,) = answer["needed"]
    assert needed["need"] == f"a run without the override force-unshare {CONCAT}"
    (step,) = answer["path"]
    dropped = f"the override force-unshare {CONCAT} drops the rule concat at {CONCAT} (Concat), "
    assert step["barrier"].startswith(dropped)


def test_why_not_names_the_option_that_dropped_a_rule(cli: Cli, calibrated: Path) -> None:
    done = cli("solve", "c1", "--target", "tensorrt", "--concat-merge", "none", "--name", "apart")
    assert done.code == 0, done.stderr
    answer = cli("why-not", f"{CONCAT}:in:0", f"{CONCAT}:out:0", "--run", "apart", "--json").json
    (step,) = answer["path"]
    assert step["barrier"].startswith(f"the concat merge none drops the rule concat at {CONCAT} (Concat), ")
    assert [one["need"] for one in answer["needed"]] == ["a run without the concat merge none"]


def test_what_a_user_asked_for_is_told_as_such_and_not_as_the_rule_of_an_op(cli: Cli, calibrated: Path) -> None:
    a, b = "conv2d_491.tmp_0", "conv2d_494.tmp_0"
    wished = ["--share", f"{a}={b}", "--pin", "x=0.02,0", "--name", "wished"]
    done = cli("solve", "c1", "--target", "tflite", *wished)
    assert done.code == 0, done.stderr
    assert f": override: share {a}={b}" in cli("blame", a, "--run", "wished").stdout
    slots = cli("show", "wished", "--tensor", "x", "--json").json["slots"]
    assert {slot["reason"] for slot in slots} == {"prescribed by override: pin x=0.02,0"}


def test_an_override_that_changes_nothing_is_told(cli: Cli, calibrated: Path) -> None:
    wished = ["--bits", "tensor:x=8", "--pin", "x=0.02,0", "--pin", "x=0.03,0", "--force-unshare", CONCAT]
    done = cli("solve", "c1", "--target", "tflite", *wished)
    assert done.code == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if "changes nothing" in line] == [
        "qgraph: the override bits tensor:x=8 changes nothing",
        "qgraph: the override pin x=0.02,0 changes nothing",
    ]


@pytest.mark.parametrize(
    ("wished", "told"),
    [
        (["--share", "x=x"], "a tensor shares with itself anyway: share x=x; name two tensors"),
        (
            ["--float", "type:Resize", "--bits", "type:Resize=16"],
            "left in float, and given bits: bits type:Resize=16: left in float (float type:Resize); "
            "keep one of the two",
        ),
    ],
)
def test_overrides_that_make_no_sense_are_refused(cli: Cli, calibrated: Path, wished: list[str], told: str) -> None:
    done = cli("solve", "c1", "--target", "tflite", *wished)
    assert (done.code, done.stdout, done.stderr) == (2, "", f"qgraph: {told}\n")


def test_contradicting_pins_are_told_once_with_a_cure_about_them(cli: Cli, calibrated: Path) -> None:
    pins = ["--pin", "p2o.GlobalAveragePool.17=0.02,0", "--pin", "conv2d_491.tmp_0=0.03,0"]
    done = cli("solve", "c1", "--target", "tflite", *pins)
    assert done.code == 2
    (line,) = done.stderr.splitlines()
    assert line.endswith("; change these overrides")
