"""Scales that were made elsewhere become runs: the same questions are answered about them."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Cli
from onnx import TensorProto, helper, numpy_helper

import qgraph
from qgraph.cli.main import run
from qgraph.formats.scale_files import FORMATS

TARGET_OF = {"tensorrt-cache": "tensorrt"}
"""Other formats can say all that the target onnxruntime has."""


def copied(database: Path, target: Path) -> Path:
    """A copy of a database that other tests read, too."""
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(target)) as copy:
        source.backup(copy)
    return target


@pytest.fixture(scope="module")
def solved_session(calibrated_session: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database, with a run for each target that an export is for, of its name."""
    path = copied(calibrated_session, tmp_path_factory.mktemp("solved") / "q.db")
    with qgraph.open(path) as database:
        for target in ("onnxruntime", *TARGET_OF.values()):
            database.solve("c1", target=target, observer="minmax", name=target)
    return path


@pytest.mark.parametrize("name", [*sorted(FORMATS), "qdq"])
def test_what_is_exported_and_imported_is_the_same_run(
    cli: Cli, solved_session: Path, ppocr4_det: Path, tmp_path: Path, name: str
) -> None:
    database = copied(solved_session, tmp_path / "qgraph.db")
    target = TARGET_OF.get(name, "onnxruntime")
    run = cli("show", target, "--json").json["run"]
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
    with qgraph.open(database) as db:
        ours, theirs = ({one.slot: one for one in db.run(name).data().tqcs} for name in (run, imported.json["run"]))
    priced = [one for one in ours.values() if one.noise_db is not None and one.scale == theirs[one.slot].scale]
    assert {one.role for one in priced} >= {"activation", "weight"}
    assert {one.slot: theirs[one.slot].noise_db for one in priced} == {one.slot: one.noise_db for one in priced}


def test_a_requantize_between_equal_scales_is_none_once_it_was_exported(cli: Cli, tmp_path: Path) -> None:
    """ppl_cuda aligns Add to its larger input and gives the group its range; another reader keeps that input apart."""
    nodes = [
        helper.make_node("Mul", ["x", "ten"], ["large"], "scale"),
        helper.make_node("Relu", ["x"], ["small"], "relu"),
        helper.make_node("Add", ["large", "small"], ["sum"], "add"),
        helper.make_node("Sigmoid", ["large"], ["other"], "sigmoid"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8]) for name in ("x", "sum", "other")]
    ten = numpy_helper.from_array(np.array([10], np.float32), "ten")
    graph = helper.make_graph(nodes, "aligned", ends[:1], ends[1:], [ten])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "aligned.onnx")
    np.savez("data.npz", x=np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32))
    of_model = ("aligned.onnx", "--target", "ppl_cuda")
    assert cli("calibrate", *of_model, "--data", "data.npz", "--observer", "minmax", "--name", "ours").code == 0
    assert cli("export", "ours", "--format", "json", "-o", "ours.json").code == 0
    imported = cli("import", "ours.json", "--model", *of_model, "--calibration", "c1", "--name", "theirs")
    assert imported.code == 0, imported.stderr
    (requantize,) = cli("scales", "ours", "--json").json["requantize"]
    assert requantize["slot"] == "add:in:0"
    large = cli("scales", "ours", "--json").json["tensors"]["large"]
    assert (requantize["scale"], requantize["offset"]) == (large["scale"], large["offset"])
    found = cli("diff", "ours", "theirs", "--json").json
    assert found["scales"] == []
    assert len(found["groups"]["merged"]) == 1
    assert [one["slot"] for one in found["requantize"]] == ["add:in:0"]
    assert cli("scales", "theirs", "--json").json["requantize"] == []


@pytest.fixture(scope="module")
def imported_session(
    calibrated_session: Path, ppocr4_det: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A folder with a file in which one input of a concat has twice its scale, imported as run `theirs`; its answer."""
    folder = tmp_path_factory.mktemp("imported")
    database, path = copied(calibrated_session, folder / "qgraph.db"), folder / "theirs.json"
    with qgraph.open(database) as opened:
        ours = opened.solve("c1", target="tflite", observer="minmax", name="ours")
        ours.export(path, format="json")
        group = max(ours.groups()["groups"], key=lambda one: len(one["tensors"]))
    file: dict[str, Any] = json.loads(path.read_text())
    tensor = next(name for name in group["tensors"] if file["tensors"][name]["kind"] == "activation")
    file["tensors"][tensor]["scale"][0] *= 2
    path.write_text(json.dumps(file))
    options = ["--target", "tflite", "--calibration", "c1", "--name", "theirs", "--db", str(database), "--json"]
    with redirect_stdout(StringIO()) as told:
        assert run(["import", str(path), "--model", str(ppocr4_det), *options]) == 0
    return folder, {**json.loads(told.getvalue()), "tensor": tensor, "group": group}


@pytest.fixture
def imported(imported_session: tuple[Path, dict[str, Any]], tmp_path: Path) -> dict[str, Any]:
    """A copy of that, in the current folder of `cli`."""
    folder, answer = imported_session
    copied(folder / "qgraph.db", tmp_path / "qgraph.db")
    shutil.copy(folder / "theirs.json", tmp_path)
    return answer


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


SHARED_WEIGHT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[1,2,4,4] x, bool c) => (float[1,2,4,4] y) <float[2,2,1,1] w = {0.5, -1.0, 0.25, 2.0}>
{ a = Conv (x, w)
  y = If (c) <then_branch = then () => (float[1,2,4,4] t) { t = Conv (a, w) },
              else_branch = other () => (float[1,2,4,4] e) { e = Sqrt (a) }> }
"""


def test_a_weight_that_a_body_reads_too_comes_back_from_the_exported_model(cli: Cli, tmp_path: Path) -> None:
    onnx.save(onnx.parser.parse_model(SHARED_WEIGHT), tmp_path / "m.onnx")
    x = np.random.default_rng(0).normal(size=(4, 2, 4, 4)).astype("f")
    np.savez(tmp_path / "data.npz", x=x[:, None], c=np.ones((4, 1), bool)[:, 0])
    command = ("--target", "onnxruntime", "--json")
    done = cli("calibrate", "m.onnx", "--data", "data.npz", *command)
    assert done.code == 0, done.stderr
    assert cli("export", "latest", "-o", "q.onnx").code == 0
    imported = cli("import", "q.onnx", "--model", "m.onnx", "--calibration", "c1", *command)
    assert imported.code == 0, imported.stderr
    ours, theirs = (cli("scales", run, "--json").json["tensors"]["w"] for run in (done.json["run"], "latest"))
    assert theirs["scale"] == ours["scale"] is not None


def test_scales_per_channel_without_such_statistics_are_imported_without_prices(cli: Cli, tmp_path: Path) -> None:
    onnx.save(onnx.parser.parse_model(SHARED_WEIGHT), tmp_path / "m.onnx")
    x = np.random.default_rng(0).normal(size=(4, 1, 2, 4, 4)).astype("f")
    np.savez(tmp_path / "data.npz", x=x, c=np.ones(4, bool))
    command = ("--target", "onnxruntime", "--json")
    assert cli("calibrate", "m.onnx", "--data", "data.npz", *command).code == 0
    assert cli("export", "latest", "--format", "aimet-2.0.0", "-o", "s.json").code == 0
    file = json.loads(Path("s.json").read_text())
    (entry,) = (one for one in file["encodings"] if one["name"] == "a")
    entry |= {"y_scale": [0.5, 0.25], "y_zero_point": [128, 128], "axis": 1}
    Path("s.json").write_text(json.dumps(file))
    refused = cli("import", "s.json", "--model", "m.onnx", "--calibration", "c1", *command)
    assert refused.code == 2
    assert "a, axis 1" in refused.stderr
    assert "or import without --calibration" in refused.stderr
    assert cli("import", "s.json", "--model", "m.onnx", *command).code == 0
    assert cli("scales", "latest", "--json").json["tensors"]["a"]["scale"] == [0.5, 0.25]


def test_a_file_of_which_nothing_is_left_is_no_run(cli: Cli, ppocr4_det: Path) -> None:
    Path("odd.cache").write_text("TRT-8601-EntropyCalibration2\nnothing: 3c92aa10\n")
    refused = cli("import", "odd.cache", "--model", ppocr4_det, "--target", "tensorrt", "--ignore-unknown")
    assert (refused.code, len(refused.stderr.splitlines())) == (2, 1)
    assert "no tensor of the file" in refused.stderr
    assert not Path("qgraph.db").exists()


def test_only_constants_that_got_a_scale_are_called_solved(cli: Cli, tmp_path: Path) -> None:
    model = onnx.parser.parse_model(SHARED_WEIGHT.split("y = If")[0] + "y = Max (a, k) }")
    model.graph.initializer.append(numpy_helper.from_array(np.full((1, 2, 4, 4), -np.inf, "f"), "k"))
    onnx.save(model, tmp_path / "m.onnx")
    x = np.random.default_rng(0).normal(size=(4, 1, 2, 4, 4)).astype("f")
    np.savez(tmp_path / "data.npz", x=x, c=np.ones(4, bool))
    command = ("--target", "qnn", "--json")
    assert cli("calibrate", "m.onnx", "--data", "data.npz", *command).code == 0
    assert cli("export", "latest", "--format", "json", "-o", "s.json").code == 0
    imported = cli("import", "s.json", "--model", "m.onnx", "--calibration", "c1", *command)
    assert (imported.code, imported.json["notes"]) == (0, [])
    assert cli("scales", "latest", "--json").json["tensors"]["k"]["scale"] is None


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


@pytest.mark.parametrize(("kind", "code"), [("INT4", 0), ("UINT4", 0), ("FLOAT8E4M3FN", 2), ("FLOAT8E5M2", 2)])
def test_weights_of_four_bits_are_imported_and_floats_of_eight_refused(
    cli: Cli, tmp_path: Path, kind: str, code: int
) -> None:
    head = '<ir_version: 10, opset_import: ["" : 21]> g (float[1,2] x) => (float[1,2] y)'
    onnx.save(onnx.parser.parse_model(f"{head} <float[2,2] w = {{1, 2, 3, 4}}> {{ y = MatMul(x, w) }}"), "m.onnx")
    nodes = "{ wd = DequantizeLinear (w, s, z) y = MatMul(x, wd) }"
    file = onnx.parser.parse_model(f"{head} <float s = {{0.5}}> {nodes}")
    element = getattr(TensorProto, kind)
    file.graph.initializer.append(helper.make_tensor("w", element, [2, 2], [1, 2, 3, 4]))
    file.graph.initializer.append(helper.make_tensor("z", element, [], [0]))
    onnx.save(file, "q.onnx")
    done = cli("import", "q.onnx", "--model", "m.onnx", "--target", "onnxruntime", "--json")
    assert done.code == code, done.stderr
    if code == 0:
        weight = cli("scales", "latest", "--json").json["tensors"]["w"]
        assert (weight["bits"], weight["scale"], weight["offset"]) == (4, 0.5, 0)
    else:
        assert done.json["error"]["which"] == f"w: {kind.lower()}"
    told = cli("check", "q.onnx", "--target", "onnxruntime", "--json").json["violations"]
    assert ("weight_type", "quantize with 8 bits" if code == 0 else "quantize to int8") in {
        (one["rule"], one["repair"]) for one in told
    }


def test_a_file_of_another_model_is_refused(cli: Cli, calibrated: Path, ppocr_cls: Path) -> None:
    assert calibrated
    assert cli("export", "latest", "--format", "aimet-2.0.0", "-o", "det.json").code == 0
    refused = cli("import", "det.json", "--model", ppocr_cls, "--target", "tflite")
    assert (refused.code, "unknown tensor" in refused.stderr) == (2, True)
    Path("x.cache").write_text("TRT-8601-X\nx: 3c92aa10\n")
    other = cli(
        "import", "x.cache", "--model", ppocr_cls, "--target", "tensorrt", "--calibration", "c1", "--ignore-unknown"
    )
    assert other.code == 2
    assert len(other.stderr.splitlines()) == 1
