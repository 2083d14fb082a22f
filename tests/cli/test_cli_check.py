"""`qgraph check`: findings as text, JSON and SARIF, exit codes for CI, and nothing heavy loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from conftest import Cli

MODEL = """
<ir_version: 8, opset_import: ["" : 13]>
g (float[1,4,8,8] x) => (float[1,4,4,4] y)
<float a = {0.5}, int8 az = {3}, float b = {0.25}, int8 bz = {-7}>
{
    xq = QuantizeLinear(x, a, az)  xd = DequantizeLinear(xq, a, az)
    [pool1] p = MaxPool <kernel_shape=[2,2], strides=[2,2]> (xd)
    pq = QuantizeLinear(p, SCALE)  y = DequantizeLinear(pq, SCALE)
}
"""


def write(path: Path, text: str) -> Path:
    onnx.save(onnx.parser.parse_model(text), path)
    return path


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    return write(tmp_path / "broken model.onnx", MODEL.replace("SCALE", "b, bz"))


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    return write(tmp_path / "sound.onnx", MODEL.replace("SCALE", "a, az"))


class TestText:
    def test_a_finding_names_rule_op_both_tensors_ratio_repair_and_source(self, cli: Cli, broken: Path) -> None:
        result = cli("check", broken, "--target", "tflite")
        assert result.code == 1
        assert "max_pool (MaxPool pool1): x and y must have equal parameters" in result.stdout
        assert "x  int8  scale 0.5, zero point 3" in result.stdout
        assert "y  int8  scale 0.25, zero point -7  (× 0.5)" in result.stdout
        assert "repair: quantize y with the parameters of x" in result.stdout
        assert "source: quantization_spec.md: MAX_POOL_2D" in result.stdout
        assert "1 violation of tflite" in result.stdout
        assert result.stderr == ""

    def test_a_sound_model_is_told_in_one_line(self, cli: Cli, sound: Path) -> None:
        result = cli("check", sound, "--target", "tflite")
        assert (result.code, result.stdout) == (0, f"{sound}: no violations of tflite; 2 tensors are quantized\n")


class TestJson:
    @pytest.mark.parametrize("option", [("--json",), ("--format", "json")])
    def test_it_has_the_documented_shape(self, cli: Cli, broken: Path, option: tuple[str, ...]) -> None:
        result = cli("check", broken, "--target", "tflite", *option)
        assert result.code == 1
        assert result.json["schema"] == 1
        (violation,) = result.json["violations"]
        assert {key: violation[key] for key in ("rule", "op", "source", "ratio")} == {
            "rule": "max_pool",
            "op": "pool1",
            "source": "quantization_spec.md: MAX_POOL_2D",
            "ratio": 0.5,
        }
        assert violation["tensors"] == [
            {"name": "x", "dtype": "int8", "scale": 0.5, "offset": 3},
            {"name": "y", "dtype": "int8", "scale": 0.25, "offset": -7},
        ]
        assert "quantize y" in violation["repair"]

    def test_without_violations_the_list_is_empty(self, cli: Cli, sound: Path) -> None:
        result = cli("check", sound, "--target", "tflite", "--json")
        assert (result.code, result.json["violations"], result.json["summary"]["quantized_tensors"]) == (0, [], 2)


def sarif(cli: Cli, path: Path, code: int) -> dict[str, Any]:
    result = cli("check", path, "--target", "tflite", "--format", "sarif")
    assert result.code == code
    log = result.json
    assert isinstance(log, dict)
    return log


class TestSarif:
    def test_the_log_is_a_sarif_2_1_0_document(self, cli: Cli, broken: Path) -> None:
        log = sarif(cli, broken, 1)
        assert set(log) == {"$schema", "version", "runs"}
        assert log["version"] == "2.1.0"
        assert log["$schema"].endswith("sarif-schema-2.1.0.json")
        (run,) = log["runs"]
        driver = run["tool"]["driver"]
        assert driver["name"] == "qgraph"
        identifiers = [rule["id"] for rule in driver["rules"]]
        assert identifiers == sorted(set(identifiers))
        for rule in driver["rules"]:
            assert rule["shortDescription"]["text"]
            assert rule["fullDescription"]["text"]
            assert rule["defaultConfiguration"]["level"] in {"none", "note", "warning", "error"}

    def test_a_result_points_at_its_rule_the_file_the_op_and_the_tensors(self, cli: Cli, broken: Path) -> None:
        (run,) = sarif(cli, broken, 1)["runs"]
        (result,) = run["results"]
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"] == "tflite/max_pool"
        assert result["level"] == "error"
        assert "x: scale 0.5" in result["message"]["text"]
        (location,) = result["locations"]
        physical = location["physicalLocation"]
        assert physical["artifactLocation"] == {"uri": "broken%20model.onnx", "index": 0}
        assert physical["region"]["startLine"] >= 1
        assert run["artifacts"][0]["location"]["uri"] == "broken%20model.onnx"
        assert [entry["name"] for entry in location["logicalLocations"]] == ["pool1", "x", "y"]
        assert all(isinstance(value, str) for value in result["partialFingerprints"].values())

    def test_rules_of_the_pack_are_listed_where_nothing_is_wrong(self, cli: Cli, sound: Path) -> None:
        (run,) = sarif(cli, sound, 0)["runs"]
        assert run["results"] == []
        assert {"tflite/concat", "tflite/unit_interval", "tflite/fused_relu", "tflite/conv"} <= {
            rule["id"] for rule in run["tool"]["driver"]["rules"]
        }

    def test_the_same_violation_has_the_same_fingerprint_in_another_file(self, cli: Cli, broken: Path) -> None:
        first = sarif(cli, broken, 1)["runs"][0]["results"][0]["partialFingerprints"]
        moved = broken.rename(broken.with_name("moved.onnx"))
        assert sarif(cli, moved, 1)["runs"][0]["results"][0]["partialFingerprints"] == first


class TestRefusals:
    def test_an_unknown_target_is_suggested(self, cli: Cli, sound: Path) -> None:
        result = cli("check", sound, "--target", "tflight")
        assert (result.code, result.stdout) == (2, "")
        assert result.stderr == "qgraph: unknown target: tflight; did you mean tflite?\n"

    def test_a_float_model_is_one_line(self, cli: Cli, tmp_path: Path) -> None:
        text = '<ir_version: 8, opset_import: ["" : 13]> g (float[4] x) => (float[4] y) { y = Sqrt(x) }'
        result = cli("check", write(tmp_path / "float.onnx", text), "--target", "tflite")
        assert (result.code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
        assert "nothing in the model is quantized" in result.stderr

    @pytest.mark.parametrize(
        ("name", "what"), [("model.tflite", "only ONNX models"), ("absent.onnx", "no such model file")]
    )
    def test_other_files_are_refused(self, cli: Cli, name: str, what: str) -> None:
        result = cli("check", name, "--target", "tflite", "--json")
        assert result.code == 2
        assert what in result.json["error"]["what"]


def test_nothing_heavy_is_loaded(broken: Path) -> None:
    code = f"""
import sys
for name in ("torch", "onnxruntime", "numba", "sqlalchemy", "alembic"):
    sys.modules[name] = None
from qgraph.cli.main import run
sys.exit(run(["check", {str(broken)!r}, "--target", "tflite", "--json"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert json.loads(done.stdout)["violations"]


class TestRealModel:
    def test_the_export_of_a_run_has_no_violation_of_its_target(self, cli: Cli, calibrated: Path) -> None:
        assert cli("export", "mse", "-o", "det.int8.onnx").code == 0
        result = cli("check", "det.int8.onnx", "--target", "tflite", "--json")
        assert (result.code, result.json["violations"], result.json["summary"]["left_float"]) == (0, [], [])

    def test_another_target_finds_what_differs(self, cli: Cli, calibrated: Path) -> None:
        assert cli("export", "mse", "-o", "det.int8.onnx").code == 0
        result = cli("check", "det.int8.onnx", "--target", "onnxruntime", "--json")
        assert result.code == 1
        assert {violation["rule"] for violation in result.json["violations"]} == {"activation_type"}
