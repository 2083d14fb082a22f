"""The main job on real networks: calibrate once, then everything from the database."""

from __future__ import annotations

import shutil
import sqlite3
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import Cli

MODELS = [("ppocr4_det", "ocr_photos", 32), ("mobilenet_v2", "imagenet_photos", 8)]
TARGETS = ["tflite", "onnxruntime"]
OBSERVERS = ["minmax", "mse"]

SAME_ON_TFLITE = {"Concat", "AveragePool", "GlobalAveragePool", "MaxPool", "Slice", "Reshape", "Resize", "Flatten"}


@pytest.mark.parametrize(("model_name", "data_name", "count"), MODELS)
def test_one_pass_serves_every_target_and_observer_without_the_model(
    cli: Cli, tmp_path: Path, request: pytest.FixtureRequest, model_name: str, data_name: str, count: int
) -> None:
    original: Path = request.getfixturevalue(model_name)
    data: Path = request.getfixturevalue(data_name)
    model = Path(shutil.copyfile(original, tmp_path / "model.onnx"))
    calibrated = cli("calibrate", model, "--data", data, "--json").json
    assert calibrated == {
        "schema": 1,
        "calibration": "c1",
        "run": None,
        "status": "complete",
        "samples": count,
        "resumed_from": 0,
        "inferences": count,
    }
    hidden = model.rename(tmp_path / "elsewhere")
    runs = {
        (target, observer): cli("solve", "c1", "--target", target, "--observer", observer, "--json").json["run"]
        for target in TARGETS
        for observer in OBSERVERS
    }
    assert sorted(runs.values()) == ["r1", "r2", "r3", "r4"]
    for (target, _), run in runs.items():
        scales = cli("scales", run, "--json").json
        quantized = {name: t for name, t in scales["tensors"].items() if t["scale"] is not None}
        assert len(quantized) > 80
        assert {t["bits"] for t in quantized.values()} <= {8, 32}
        assert all(np.all(np.asarray(t["scale"]) > 0) for t in quantized.values())
        coverage = cli("show", run, "--json").json
        assert coverage["settings"]["target"] == target
    hidden.rename(model)
    samples = np.load(data)
    for target in TARGETS:
        output = tmp_path / f"{target}.onnx"
        assert cli("export", runs[target, "mse"], "--format", "qdq", "-o", output).code == 0
        session = onnxruntime.InferenceSession(output, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        (result,) = session.run(None, {name: samples[name][:1]})
        assert np.isfinite(result).all()
        verified = cli("verify", runs[target, "mse"], "--data", data, "--steps", "4", "--json").json
        assert all(answer["snr_db"] > 0 for answer in verified["outputs"].values())


def scales_in(model: onnx.ModelProto) -> dict[str, tuple[float, int]]:
    """Scale and zero point of every dequantized tensor of a QDQ file, read without qgraph."""
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    return {
        node.output[0]: (float(constants[node.input[1]]), int(constants[node.input[2]]))
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and constants[node.input[1]].ndim == 0
    }


def quantized_readers(model: onnx.ModelProto) -> dict[str, str]:
    """For each tensor that only QuantizeLinear and float ops read, what it becomes after Q and DQ."""
    quantized = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    dequantized = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return {source: dequantized[target] for source, target in quantized.items()}


def test_tied_ops_of_an_exported_tflite_model_have_one_scale_over_inputs_and_output(
    cli: Cli, calibrated: Path, ppocr4_det: Path
) -> None:
    assert calibrated.exists()
    assert cli("export", "mse", "--format", "qdq", "-o", "out.onnx").code == 0
    model = onnx.load(calibrated.parent / "out.onnx")
    scales, after = scales_in(model), quantized_readers(model)
    checked = 0
    for node in model.graph.node:
        if node.op_type in SAME_ON_TFLITE:
            inputs = node.input if node.op_type == "Concat" else node.input[:1]
            parameters = {scales[name] for name in inputs} | {scales[after[name]] for name in node.output}
            assert len(parameters) == 1, f"{node.name}: {parameters}"
            checked += 1
    assert checked == 17  # 10 pools, 6 resizes, 1 concat


def test_calibrating_again_reuses_without_inference_and_another_identity_does_not(
    cli: Cli, calibrated: Path, ppocr4_det: Path, ocr_photos: Path
) -> None:
    again = cli("calibrate", ppocr4_det, "--data", ocr_photos, "--target", "tflite", "--observer", "mse", "--json").json
    assert (again["status"], again["inferences"], again["calibration"], again["run"]) == ("reused", 0, "c1", "r1")
    assert again["samples"] == 32
    other = cli("calibrate", ppocr4_det, "--data", ocr_photos, "--steps", "2", "--json").json
    assert (other["status"], other["inferences"], other["calibration"]) == ("complete", 2, "c2")


def test_moved_data_and_model_are_recognised_by_content(
    cli: Cli, calibrated: Path, ppocr4_det: Path, ocr_photos: Path, tmp_path: Path
) -> None:
    model = shutil.copyfile(ppocr4_det, tmp_path / "renamed.onnx")
    data = shutil.copyfile(ocr_photos, tmp_path / "renamed.npz")
    assert cli("calibrate", model, "--data", data, "--json").json["status"] == "reused"


def statistics_of(database: Path) -> dict[str, bytes]:
    with sqlite3.connect(database) as connection:
        rows = dict(connection.execute("SELECT tensor, blob FROM statistics").fetchall())
    connection.close()
    return rows


def test_shuffled_samples_and_other_batches_give_the_same_statistics_bit_for_bit(
    cli: Cli, calibrated: Path, ppocr4_det: Path, ocr_photos: Path, tmp_path: Path
) -> None:
    samples = np.load(ocr_photos)["x"]
    np.savez(tmp_path / "shuffled.npz", x=np.random.default_rng(1).permutation(samples))
    arguments = ["calibrate", ppocr4_det, "--data", "shuffled.npz", "--db", "other.db"]
    assert cli(*arguments, "--batch-size", 3, "--target", "tflite").code == 0
    assert statistics_of(tmp_path / "other.db") == statistics_of(calibrated)
    assert (
        cli("scales", "latest", "--db", "other.db", "--json").json["tensors"]
        == (cli("scales", "latest", "--json").json["tensors"])
    )


def test_a_pack_of_the_users_own_gets_what_it_lacks_without_inference(
    cli: Cli, calibrated: Path, ppocr4_det: Path, ocr_photos: Path, tmp_path: Path
) -> None:
    shipped = files("qgraph.constraints").joinpath("packs/tflite.toml").read_text()
    pack = shipped.replace('name = "tflite"', 'name = "four"', 1)
    pack = pack.replace("[weight]\nbits = 8", "[weight]\nbits = 4").replace(
        "quant_min = -127\nquant_max = 127", "quant_min = -7\nquant_max = 7"
    )
    (tmp_path / "four.toml").write_text(pack.replace("reduced_range = [-63, 63]", "reduced_range = [-3, 3]"))
    refused = cli("solve", "c1", "--target", "four.toml")
    assert (refused.code, "--target four.toml" in refused.stderr) == (2, True), refused
    answer = cli("calibrate", ppocr4_det, "--data", ocr_photos, "--target", "four.toml", "--json").json
    assert (answer["status"], answer["inferences"]) == ("reused", 0)
    tensors = cli("scales", answer["run"], "--json").json["tensors"]
    assert (tensors["conv2d_96.w_0"]["bits"], tensors["p2o.Concat.1"]["bits"]) == (4, 8)
    assert cli("scales", "mse", "--json").json["tensors"]["conv2d_96.w_0"]["bits"] == 8
    (tmp_path / "four.toml").write_text((tmp_path / "four.toml").read_text() + "# edited\n")
    edited = cli("solve", "c1", "--target", "four.toml", "--json").json["run"]
    assert edited != answer["run"]
    assert cli("solve", "c1", "--target", "four.toml", "--json").json["run"] == edited
