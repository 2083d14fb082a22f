"""Folders as data on the command line, and what a calibration would take, told without making one."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli
from package_file import package_file
from photographs import crops
from PIL import Image

import qgraph

AS_OCR = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225", "--bgr")


@pytest.fixture
def orientation() -> Path:
    """PP-OCR's classifier of a text's orientation: the smallest real model at hand."""
    return package_file("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Five photographs of 96x96 as PNG, a broken one, and a file that is no data."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, crop in zip(range(5), crops(96, 96), strict=False):
        crop.save(folder / f"{index}.png")
    (folder / "broken.jpg").write_text("no image")
    (folder / "labels.csv").write_text("a,b")
    return folder


def as_npz(pictures: Path, path: Path) -> Path:
    pixels = [
        np.asarray(Image.open(file), np.float32)[..., ::-1] / np.float32(255) for file in sorted(pictures.glob("*.png"))
    ]
    mean, std = (np.asarray(text.split(","), np.float32) for text in (AS_OCR[1], AS_OCR[3]))
    np.savez(path, x=np.stack([((image - mean) / std).transpose(2, 0, 1) for image in pixels]))
    return path


def test_a_folder_of_images_gives_what_their_arrays_give(
    cli: Cli, tmp_path: Path, orientation: Path, pictures: Path
) -> None:
    arguments = ("calibrate", orientation, "--target", "tflite", "--observer", "minmax", "--json")
    images = cli(*arguments, "--data", pictures, *AS_OCR, "--name", "images")
    assert images.code == 0, images.stderr
    assert images.json["samples"] == 5
    assert "1 of 6 images cannot be read and are left out: broken.jpg" in images.stderr
    assert "labels.csv" in images.stderr
    assert cli(*arguments, "--data", pictures, *AS_OCR).json["status"] == "reused"
    arrays = cli(*arguments, "--data", as_npz(pictures, tmp_path / "a.npz"), "--name", "arrays")
    assert arrays.json["status"] == "complete"  # another preparation is another calibration
    assert cli("diff", "images", "arrays", "--exit-code").code == 0
    with sqlite3.connect(tmp_path / "qgraph.db") as connection:
        told = [row[0] for row in connection.execute("SELECT preprocessing FROM calibrations ORDER BY id")]
    connection.close()
    assert told == [
        "images size=own resize=stretch channels=BGR mean=0.485,0.456,0.406 std=0.229,0.224,0.225 layout=nchw",
        None,
    ]
    verified = cli("verify", "images", "--data", pictures, *AS_OCR, "--json")
    assert verified.json["samples"] == 5
    assert "broken.jpg" in verified.stderr


def test_a_folder_of_npz_is_verified_on_too(cli: Cli, tmp_path: Path, calibrated: Path, ocr_photos: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    with np.load(ocr_photos) as arrays:
        values = arrays["x"]
    np.savez(folder / "a.npz", x=values[:1])
    np.savez(folder / "b.npz", x=values[1:3, :, :64, :64])
    assert cli("verify", "mse", "--data", folder, "--json").json["samples"] == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--size", "big"), "--size cannot be read: big"),
        (("--size", "x"), "--size cannot be read"),
        (("--mean", "a,b"), "--mean cannot be read"),
        (("--mean", "124,117,104"), "divide numbers for pixels in 0..255 by 255"),
        (("--std", "1,1"), "--std has 2 numbers"),
        (("--broken", "refuse"), "broken.jpg (no known image format)"),
        (("--layout", "nhwc"), "--layout nhwc for an input in nchw"),
    ],
)
def test_image_options_that_cannot_work_are_one_line(
    cli: Cli, tmp_path: Path, orientation: Path, pictures: Path, options: tuple[str, ...], words: str
) -> None:
    result = cli("calibrate", orientation, "--data", pictures, *options)
    assert result.code == 2
    assert words in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "qgraph.db").exists()


def test_a_dry_run_tells_what_the_calibration_then_does(
    cli: Cli, tmp_path: Path, orientation: Path, pictures: Path
) -> None:
    arguments = ("calibrate", orientation, "--data", pictures, *AS_OCR)
    told = cli(*arguments, "--dry-run", "--json")
    assert told.code == 0, told.stderr
    assert "broken.jpg" in told.stderr
    assert not (tmp_path / "qgraph.db").exists()
    found = told.json
    assert found["dry_run"] is True
    assert (found["samples"], found["passes"], found["inferences"]) == (5, 1, 1)
    memory, tensors = found["memory_bytes"], found["tensors"]
    assert memory["peak"] == memory["fixed"] + memory["activations"] + memory["histograms"]
    assert found["seconds"]["total"] > 0
    with qgraph.open(tmp_path / "qgraph.db") as database:
        options = qgraph.ImageOptions(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), bgr=True)
        done = database.calibrate(orientation, pictures, images=options)
        assert done.samples == found["samples"]
        assert len(done.statistics()) == tensors["collected"]
    with sqlite3.connect(tmp_path / "qgraph.db") as connection:
        (stored,) = connection.execute("SELECT sum(length(blob)) FROM statistics").fetchone()
    connection.close()
    assert stored <= found["checkpoint_bytes"] <= 5 * stored


def test_a_dry_run_speaks_to_people_and_refuses_what_calibrate_refuses(
    cli: Cli, ppocr4_det: Path, ocr_photos: Path
) -> None:
    arguments = ("calibrate", ppocr4_det, "--data", ocr_photos, "--dry-run")
    told = cli(*arguments, "--steps", "3")
    assert told.stdout.startswith("dry run: 1 sample run, nothing stored\n3 samples, 1 pass: ")
    for word in ("memory: about", "time: about", "checkpoint: at most about"):
        assert word in told.stdout
    assert cli(*arguments, "--target", "tflight").code == 2
    assert json.loads(cli("calibrate", ppocr4_det, "--data", "gone.npz", "--dry-run", "--json").stdout)["error"]


def test_a_recogniser_takes_images_of_one_height_and_any_width(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "lines"
    folder.mkdir()
    for index, (crop, width) in enumerate(zip(crops(60, 400), (400, 200, 300), strict=False)):
        crop.crop((0, 0, width, 60)).save(folder / f"{index}.jpg")
    model = package_file("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx")
    options = ("--size", "x48", "--mean", "0.5", "--std", "0.5", "--bgr")
    done = cli("calibrate", model, "--data", folder, *options, "--json")
    assert done.code == 0, done.stderr
    assert done.json["samples"] == 3


def test_a_voice_detector_takes_its_state_with_every_sequence(tmp_path: Path) -> None:
    model = package_file("silero_vad", "data/silero_vad_16k_sequence.onnx")
    if not model.exists():
        pytest.skip("the installed silero_vad has no sequence model")
    random = np.random.default_rng(0)
    state = np.zeros((1, 1, 128), np.float32)

    def sequences() -> object:
        for length in (3, 1, 5):
            yield {"input": random.normal(0, 0.1, (length, 576)).astype(np.float32), "h": state, "c": state}

    with qgraph.open(tmp_path / "qgraph.db") as database:
        done = database.calibrate(model, sequences())
        assert done.samples == done.inferences == 3
        assert done.statistics()["input"].elements == 9 * 576
