"""`qgraph check`: findings as text, JSON and SARIF, exit codes for CI, and nothing heavy loaded."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Cli

import qgraph

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
        ("name", "what"), [("model.tflite", "no such model file"), ("absent.onnx", "no such model file")]
    )
    def test_other_files_are_refused(self, cli: Cli, name: str, what: str) -> None:
        result = cli("check", name, "--target", "tflite", "--json")
        assert result.code == 2
        assert what in result.json["error"]["what"]


class TestTflite:
    def model(self, name: str) -> Path:
        spec = importlib.util.find_spec("pymicro_wakeword")
        assert spec is not None
        assert spec.origin is not None
        return Path(spec.origin).parent / "models" / f"{name}.tflite"

    def test_a_model_of_the_converter_is_sound(self, cli: Cli) -> None:
        path = self.model("alexa")
        result = cli("check", path, "--target", "tflite")
        assert (result.code, result.stderr) == (0, "")
        assert result.stdout == f"{path}: no violations of tflite; 59 tensors are quantized\n"

    def test_a_broken_scale_is_found_under_the_names_of_the_file(self, cli: Cli, tmp_path: Path) -> None:
        content = bytearray(self.model("alexa").read_bytes())
        place = content.rindex(np.float32(1 / 256).tobytes())  # of LOGISTIC, as the specification prescribes it
        content[place : place + 4] = np.float32(1 / 255).tobytes()
        (tmp_path / "broken.tflite").write_bytes(content)
        result = cli("check", "broken.tflite", "--target", "tflite", "--json")
        assert result.code == 1
        (violation,) = result.json["violations"]
        assert violation["op"].startswith("LOGISTIC@StatefulPartitionedCall")
        assert (violation["rule"], violation["op_type"]) == ("unit_interval", "Sigmoid")
        assert result.json["repairs"] == [
            {
                "violations": [0],
                "changes": [
                    {
                        "kind": "parameters",
                        "tensor": violation["tensors"][0]["name"],
                        "op": None,
                        "scale": 1 / 256,
                        "offset": -128,
                        "price_db": None,
                    }
                ],
                "text": f"quantize {violation['tensors'][0]['name']} with scale 0.00390625, zero point -128",
            }
        ]

    def test_its_groups_can_be_asked_and_it_cannot_be_run(self, cli: Cli) -> None:
        path = self.model("okay_nabu")
        assert cli("analyze", path, "--target", "tflite").code == 0
        shared = cli("share", "model_1/tf.concat_3/concat", "--run", "latest", "--json").json["tensors"]
        assert len(shared) == 3
        why = cli(
            "why", "model_1/stream_9/concat/ReadVariableOp", "tfl.pseudo_qconst", "--run", "latest", "--json"
        ).json
        assert {step["rule"] for step in why["path"]} == {"variable", None}
        refused = cli("calibrate", path, "--data", "none.npz", "--target", "tflite")
        assert (refused.code, refused.stderr.count("\n")) == (2, 1)
        assert "a TensorFlow Lite model, which qgraph does not run" in refused.stderr

    def test_a_damaged_file_is_one_line(self, cli: Cli, tmp_path: Path) -> None:
        (tmp_path / "cut.tflite").write_bytes(self.model("alexa").read_bytes()[:5000])
        result = cli("check", "cut.tflite", "--target", "tflite")
        assert (result.code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
        assert "a damaged TensorFlow Lite model" in result.stderr


class TestPrices:
    @pytest.fixture
    def run(self, cli: Cli, tmp_path: Path) -> None:
        text = """<ir_version: 8, opset_import: ["" : 13]> g (float[1,4,8,8] x) => (float[1,4,4,4] y)
        { [pool1] y = MaxPool <kernel_shape=[2,2], strides=[2,2]> (x) }"""
        write(tmp_path / "float.onnx", text)
        np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).normal(0, 20, (4, 4, 8, 8)).astype(np.float32))
        result = cli("calibrate", "float.onnx", "--data", "d.npz", "--target", "tflite")
        assert result.code == 0, result.stderr

    @pytest.mark.usefixtures("run")
    def test_repairs_have_prices_where_a_run_has_statistics(self, cli: Cli, broken: Path) -> None:
        result = cli("check", broken, "--target", "tflite", "--run", "latest", "--json")
        assert result.code == 1
        (violation,) = result.json["violations"]
        prices = {(way["kind"], way["tensor"]): way["price_db"] for way in violation["alternatives"]}
        assert set(prices) == {("parameters", "x"), ("parameters", "y"), ("requantize", "x")}
        (change,) = result.json["repairs"][0]["changes"]
        both = prices["parameters", "x"], prices["parameters", "y"]
        assert change["price_db"] == min(both) == violation["alternatives"][0]["price_db"]
        assert " dB)" in cli("check", broken, "--target", "tflite", "--run", "latest").stdout
        with qgraph.open("qgraph.db") as database:
            assert qgraph.check(broken, "tflite", run=database.run("latest"))["repairs"] == result.json["repairs"]

    def test_a_run_of_another_model_is_refused(self, cli: Cli, run: None, tmp_path: Path) -> None:
        text = MODEL.replace("SCALE", "b, bz").replace(" x)", " other)").replace("(x,", "(other,").replace("y", "z")
        path = write(tmp_path / "other.onnx", text)
        result = cli("check", path, "--target", "tflite", "--run", "latest")
        assert result.code == 2
        assert "no tensor has a name in both models" in result.stderr

    def test_a_database_is_not_created(self, cli: Cli, broken: Path, tmp_path: Path) -> None:
        assert cli("check", broken, "--target", "tflite", "--run", "latest").code == 2
        assert not (tmp_path / "qgraph.db").exists()


def test_a_broken_preference_is_a_note_and_no_violation(cli: Cli, tmp_path: Path) -> None:
    text = MODEL.replace("MaxPool <kernel_shape=[2,2], strides=[2,2]>", "GlobalAveragePool").replace("4,4,4", "4,1,1")
    path = write(tmp_path / "pool.onnx", text.replace("SCALE", "b, bz"))
    result = cli("check", path, "--target", "tflite")
    assert result.code == 0
    note = "note: global_average_pool (GlobalAveragePool pool1): x and y must have equal parameters"
    assert result.stdout.startswith(note.replace("must have", "would have"))
    answer = cli("check", path, "--target", "tflite", "--json").json
    assert (answer["violations"], [note["rule"] for note in answer["notes"]]) == ([], ["global_average_pool"])
    wording = "x and y would have equal parameters, but differ in scale; tflite only prefers it"
    assert answer["notes"][0]["message"] == wording
    (found,) = sarif(cli, path, 0)["runs"][0]["results"]
    assert found["level"] == "note"
    assert found["message"]["text"].startswith(wording)
    (rule,) = (one for one in sarif(cli, path, 0)["runs"][0]["tool"]["driver"]["rules"] if one["id"] == found["ruleId"])
    assert rule["defaultConfiguration"]["level"] == "note"
    assert "must" not in rule["shortDescription"]["text"] + rule["fullDescription"]["text"]


def test_python_has_what_the_command_prints(cli: Cli, broken: Path) -> None:
    printed = cli("check", broken, "--target", "tflite", "--json").json
    assert {"schema": printed["schema"], **qgraph.check(broken, "tflite")} == printed


def test_two_formats_at_once_are_refused(cli: Cli, tmp_path: Path) -> None:
    done = cli("check", tmp_path / "no.onnx", "--target", "tflite", "--json", "--format", "sarif")
    assert done.code == 2
    assert done.stderr == "qgraph: two formats at once: --json and --format sarif; leave one of them out\n"


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
