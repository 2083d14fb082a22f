"""Verification tensor by tensor, and accuracy on labelled samples."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Cli
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import qgraph
from qgraph.analysis.verify_labels import Hits, read_labels, rows_of_classes
from qgraph.analysis.verify_layers import Layer, fake_quantized, predictions
from qgraph.analysis.verify_sums import OutputAgreement
from qgraph.errors import DataError
from qgraph.formats.encoding import Encoding

Array = NDArray[np.float32]


def write_chain(path: Path, *, gain: float = 1.0) -> Path:
    """x (n, 2, 4, 4) ─ Conv ─▶ h ─ Relu ─▶ r ─ Conv ─▶ y; `gain` scales one channel of h."""
    rng = np.random.default_rng(3)
    weights = [rng.normal(size=(2, 2, 1, 1)).astype("f") for _ in range(2)]
    weights[0][1] *= gain
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "w1"], ["y"], "second"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2, 4, 4]) for name in "xy"]
    constants = [numpy_helper.from_array(one, f"w{index}") for index, one in enumerate(weights)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def chain(cli: Cli, tmp_path: Path) -> Path:
    """The chain, calibrated; returns its data."""
    write_chain(tmp_path / "chain.onnx")
    data = tmp_path / "data.npz"
    np.savez(data, x=np.random.default_rng(0).normal(size=(12, 2, 4, 4)).astype("f"))
    done = cli("calibrate", "chain.onnx", "--data", data, "--target", "onnxruntime", "--observer", "minmax")
    assert done.code == 0
    return data


def test_each_quantized_tensor_is_compared_in_the_order_of_the_model(cli: Cli, chain: Path) -> None:
    layers = cli("verify", "latest", "--data", chain, "--layers", "--json").json["layers"]
    assert [one["tensor"] for one in layers["tensors"]] == ["x", "r", "y"]
    assert all(one["agreement"]["snr_db"] > 20 for one in layers["tensors"])
    assert layers["first"] is None


def test_noise_is_predicted_as_it_is_measured_on_the_samples_that_were_calibrated(cli: Cli, chain: Path) -> None:
    layers = cli("verify", "latest", "--data", chain, "--layers", "--json").json["layers"]
    for one in layers["tensors"]:
        assert one["measured_db"] == pytest.approx(one["predicted_db"], abs=0.3)
    assert abs(layers["worst_deviation_db"]) < 0.3
    assert {tensor for group in layers["groups"] for tensor in group["tensors"]} == {"x", "r", "y"}


def test_samples_unlike_those_that_were_calibrated_are_worse_than_predicted(
    cli: Cli, chain: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "wild.npz", x=np.load(chain)["x"] * 4)
    layers = cli("verify", "latest", "--data", "wild.npz", "--layers", "--json").json["layers"]
    assert layers["worst_deviation_db"] > 10
    assert layers["first"] == "x"
    told = cli("verify", "latest", "--data", "wild.npz", "--layers").stdout
    assert "first that diverges: x is the first tensor below 20 dB" in told
    assert cli("verify", "latest", "--data", "wild.npz", "--layers", "--below", "1").stdout.count("diverges: none") == 1


def test_outputs_are_told_optimised_and_as_written(cli: Cli, chain: Path) -> None:
    both = cli("verify", "latest", "--data", chain, "--json").json
    optimized = cli("verify", "latest", "--data", chain, "--optimized", "--json").json
    written = cli("verify", "latest", "--data", chain, "--unoptimized", "--json").json
    assert both["outputs"] == optimized["outputs"]
    assert both["unoptimized"]["y"]["snr_db"] == pytest.approx(written["outputs"]["y"]["snr_db"], abs=0.001)
    assert optimized["unoptimized"] is written["unoptimized"] is None
    rows = [line.split()[:3] for line in cli("verify", "latest", "--data", chain).stdout.splitlines()]
    assert ["y", "optimized"] in [row[:2] for row in rows]
    assert ["y", "as", "written"] in rows


def test_the_noise_of_a_real_model_is_what_its_statistics_predict(cli: Cli, calibrated: Path, ocr_photos: Path) -> None:
    layers = cli("verify", "mse", "--data", ocr_photos, "--layers", "--json", "--db", calibrated).json["layers"]
    assert len(layers["groups"]) > 20
    assert layers["median_deviation_db"] < 0.05
    assert abs(layers["worst_deviation_db"]) < 1
    assert layers["first"] in {one["tensor"] for one in layers["tensors"]}


def test_values_are_quantized_with_the_parameters_of_their_channel() -> None:
    code = Encoding("uint8", 0, 255, 1, (0.5, 1.0), (0, 128))
    values = np.array([[-1.0, 0.4], [200.0, -200.0]], "f")
    assert fake_quantized(values, code).tolist() == [[0.0, 0.0], [127.5, -128.0]]


def test_the_noise_of_a_group_is_the_sum_over_its_tensors() -> None:
    fine = OutputAgreement(exact=True, snr_db=0, cosine=1, top1=None, mse=0, max_abs_error=0, nonfinite=0)
    layers = [
        Layer("a", "op", "g1", fine, 0, predicted_db=-20.0, measured_db=-20.0),
        Layer("b", "op", "g1", fine, 0, predicted_db=-20.0, measured_db=-10.0),
        Layer("c", "op", "g2", fine, 0, predicted_db=-30.0, measured_db=-31.0),
        Layer("d", "op", "g3", fine, 0, predicted_db=None, measured_db=-31.0),
    ]
    first, second = predictions(layers)
    assert (first.group, first.tensors, second.group) == ("g1", ("a", "b"), "g2")
    assert first.predicted_db == pytest.approx(10 * np.log10(0.02))
    assert first.deviation_db == pytest.approx(10 * np.log10(0.11 / 0.02))
    assert second.deviation_db == pytest.approx(-1.0)


def test_the_ops_that_make_most_of_small_errors_are_named(cli: Cli, tmp_path: Path) -> None:
    """x ─ Mul ─▶ power ─ Neg ─ Abs ─ Log ─▶ level ─ MatMul ─▶ y: a logarithm makes two decades of power even."""
    nodes = [
        helper.make_node("Mul", ["x", "one"], ["power"], "scaled"),
        helper.make_node("Neg", ["power"], ["minus"], "minus"),
        helper.make_node("Abs", ["minus"], ["plus"], "plus"),
        helper.make_node("Log", ["plus"], ["level"], "log"),
        helper.make_node("MatMul", ["level", "w"], ["y"], "last"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 16]) for name in "xy"]
    constants = [
        numpy_helper.from_array(one, name) for name, one in (("one", np.ones(1, "f")), ("w", np.eye(16, dtype="f")))
    ]
    graph = helper.make_graph(nodes, "levels", ends[:1], ends[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    spread = 10 ** np.random.default_rng(0).uniform(-2, 0, size=(64, 16))
    np.savez(tmp_path / "d.npz", x=spread.astype("f"))
    assert cli("calibrate", "m.onnx", "--data", "d.npz", "--target", "onnxruntime").code == 0
    drop = cli("verify", "latest", "--data", "d.npz", "--layers", "--json").json["layers"]["drop"]
    assert (drop["reads"], drop["tensor"], drop["through"]) == ("power", "level", ["Neg", "Abs", "Log"])
    assert 10 < drop["loss_db"] < drop["reads_db"] - drop["snr_db"]
    told = next(
        line
        for line in cli("verify", "latest", "--data", "d.npz", "--layers").stdout.splitlines()
        if "largest drop" in line
    )
    assert "dB at power to" in told
    assert "through Neg, Abs, Log: what these read needs finer steps" in told


# --- Labels --------------------------------------------------------------------------------------------------------


def test_labels_are_read_in_order_or_by_file(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([2, 0, 1]))
    (tmp_path / "order.csv").write_text("label\n2\n0\n1\n")
    (tmp_path / "files.csv").write_text("file,label\nb/1.png,1\na/1.png, 2\n")
    for name in ("a.npy", "order.csv"):
        label_of = read_labels(tmp_path / name, "data.npz")
        assert [label_of(index, "") for index in range(3)] == [2, 0, 1]
        with pytest.raises(DataError, match="fewer labels than samples"):
            label_of(3, "")
    by_file = read_labels(tmp_path / "files.csv", "photos")
    assert [by_file(9, "/photos/a/1.png"), by_file(9, "/photos/b/1.png")] == [2, 1]
    with pytest.raises(DataError, match="without a label"):
        by_file(0, "/photos/c/1.png")


def test_folders_name_classes_in_order_or_as_numbers(tmp_path: Path) -> None:
    for name in ("words/dog", "words/cat", "numbers/7", "numbers/10"):
        (tmp_path / name).mkdir(parents=True)
    words = read_labels("folders", tmp_path / "words")
    assert [words(0, str(tmp_path / "words" / name / "deep/1.png")) for name in ("cat", "dog")] == [0, 1]
    numbers = read_labels("folders", tmp_path / "numbers")
    assert [numbers(0, str(tmp_path / "numbers" / name / "1.png")) for name in ("7", "10")] == [7, 10]
    with pytest.raises(DataError, match="no class's folder"):
        words(0, str(tmp_path / "words/1.png"))
    with pytest.raises(DataError, match="no folders that name classes"):
        read_labels("folders", "data.npz")


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.txt", b"1", "unknown kind"),
        ("a.npy", b"1", "cannot read the labels"),
        ("a.csv", b"a,1,2\n3,4,5\n", "no label"),
        ("empty.npy", b"", "save them with numpy.save"),
        ("b.csv", b"1\nx\n", "no label"),
        ("c.csv", b"\xff\xfe", "cannot read the labels"),
    ],
)
def test_files_that_are_no_labels_end_in_one_line(tmp_path: Path, name: str, content: bytes, match: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=match):
        read_labels(tmp_path / name, "data.npz")


def test_labels_that_cannot_be_read_or_are_below_zero_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.npy \(No such file or directory\); check the path"):
        read_labels(tmp_path / "absent.npy", "data.npz")
    np.save(tmp_path / "a.npy", np.array([2, -1]))
    with pytest.raises(DataError, match=r"below 0.*: -1"):
        read_labels(tmp_path / "a.npy", "data.npz")


def test_where_the_exported_model_has_no_room_is_told_with_what_helps(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (4, 4), (200, 9, 9)).save(tmp_path / "a.png")
    write_classifier(tmp_path / "m.onnx")
    assert cli("calibrate", "m.onnx", "--data", tmp_path, "--target", "onnxruntime").code == 0

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("qgraph.formats.onnx_file._write", full)
    refused = cli("verify", "latest", "--data", tmp_path)
    assert (refused.code, len(refused.stderr.splitlines())) == (2, 1)
    assert "No space left on device" in refused.stderr
    assert "set TMPDIR" in refused.stderr
    assert cli("verify", "latest", "--data", tmp_path, "--layers", "--below", "nan").code == 2


def test_accuracy_counts_the_best_and_the_five_best() -> None:
    hits = Hits()
    expected: Array = np.eye(8, dtype="f")[[0, 1, 2, 3]]
    actual = expected.copy()
    actual[3] = [9, 8, 7, 6, 5, 4, 3, 2]  # class 3 is the fourth best
    actual[2] = [9, 8, 0, 6, 5, 4, 3, 2]  # class 2 is the last
    hits.add(expected, actual, np.array([0, 1, 2, 3]))
    found = hits.accuracy()
    assert (found.samples, found.float_top1, found.quantized_top1) == (4, 1.0, 0.5)
    assert (found.float_top5, found.quantized_top5) == (1.0, 0.75)
    with pytest.raises(DataError, match="8 of 8"):
        hits.add(expected, actual, np.array([0, 1, 2, 8]))


def test_rows_of_classes_are_found_whatever_surrounds_them() -> None:
    assert rows_of_classes(np.zeros((2, 5, 1, 1), "f"), (2,)).shape == (2, 5)  # type: ignore[union-attr]
    assert rows_of_classes(np.zeros((1, 5), "f"), (2,)) is None
    assert rows_of_classes(np.zeros((2, 5, 3), "f"), (2,)) is None
    assert rows_of_classes(np.zeros((2, 5, 3, 4), "f"), (2, 3, 4)).shape == (24, 5)  # type: ignore[union-attr]
    assert rows_of_classes(np.zeros((2, 3, 4, 5), "f"), (2, 3, 4)).shape == (24, 5)  # type: ignore[union-attr]
    assert rows_of_classes(np.zeros((2, 1, 3, 4), "f"), (2, 3, 4)) is None
    assert rows_of_classes(np.zeros((2, 5, 6, 8), "f"), (2, 3, 4)) is None


def test_accuracy_of_masks_counts_pixels_but_void_ones_and_the_overlap_of_classes() -> None:
    masks = np.array([[[0, 1], [2, 255]]], "uint8")
    expected = np.moveaxis(np.eye(4, dtype="f")[[[[0, 1], [2, 3]]]], -1, 1)
    actual = np.moveaxis(np.eye(4, dtype="f")[[[[0, 0], [2, 3]]]], -1, 1)
    rows = [rows_of_classes(one, masks.shape) for one in (expected, actual)]
    hits = Hits()
    hits.add(rows[0], rows[1], masks)  # type: ignore[arg-type]
    hits.add(rows[0], rows[1], masks)  # type: ignore[arg-type]
    found = hits.accuracy()
    assert (found.samples, found.float_top1, found.quantized_top1) == (6, 1.0, 2 / 3)
    assert found.float_iou == 1.0
    assert found.quantized_iou == pytest.approx((1 / 2 + 0 + 1) / 3)  # class 3 is in no mask
    with pytest.raises(DataError, match="4 of 4"):
        hits.add(rows[0], rows[1], masks // 255 * 4)  # type: ignore[arg-type]


def write_classifier(path: Path) -> Path:
    """Red images are class 0, green ones 1, blue ones 2."""
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["p"], "pool"), helper.make_node("Flatten", ["p"], ["y"])]
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 4, 4]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3]),
    ]
    graph = helper.make_graph(nodes, "colours", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_accuracy_of_a_folder_of_classes_is_told(cli: Cli, tmp_path: Path) -> None:
    colours = {"a_red": (200, 9, 9), "b_green": (9, 200, 9), "c_blue": (9, 9, 200)}
    for index, (name, colour) in enumerate(colours.items()):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for count in range(2):
            shown = colours["a_red"] if (index, count) == (2, 0) else colour  # one image is in the wrong folder
            Image.new("RGB", (4, 4), shown).save(tmp_path / "photos" / name / f"{count}.png")
    (tmp_path / "photos/b_green/broken.png").write_text("none")
    write_classifier(tmp_path / "m.onnx")
    assert cli("calibrate", "m.onnx", "--data", "photos", "--target", "onnxruntime").code == 0
    found = cli("verify", "latest", "--data", "photos", "--labels", "folders", "--json").json["accuracy"]["y"]
    assert found["samples"] == 6
    assert found["float_top1"] == found["quantized_top1"] == pytest.approx(5 / 6)
    assert found["float_top5"] is None
    assert "quantized" in cli("verify", "latest", "--data", "photos", "--labels", "folders").stdout
    np.save(tmp_path / "long.npy", np.array([0, 0, 1, 1, 1, 2, 2]))  # one for the broken image, too
    refused = cli("verify", "latest", "--data", "photos", "--labels", "long.npy")
    assert (refused.code, "more labels than samples: 6 samples" in refused.stderr) == (2, True)
    assert cli("verify", "latest", "--data", "photos", "--labels", "long.npy", "--steps", "2").code == 0
    np.save(tmp_path / "short.npy", np.array([0, 1]))
    refused = cli("verify", "latest", "--data", "photos", "--labels", "short.npy")
    assert (refused.code, "fewer labels than samples" in refused.stderr) == (2, True)


def write_segmenter(path: Path) -> Path:
    """The class of a pixel is its largest colour."""
    weight = numpy_helper.from_array(np.eye(3, dtype="f").reshape(3, 3, 1, 1), "w")
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], "mix")]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, 4, 6]) for name in "xy"]
    graph = helper.make_graph(nodes, "pixels", ends[:1], ends[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_masks_are_labels_of_a_segmentation(cli: Cli, tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((5, 3, 4, 6), "float32")
    masks = images.argmax(axis=1)
    masks[0, 0] = 255  # of no class
    write_segmenter(tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=images)
    np.save(tmp_path / "masks.npy", masks.astype("uint8"))
    assert cli("calibrate", "m.onnx", "--data", "d.npz", "--target", "tflite").code == 0
    verify = ("verify", "latest", "--data", "d.npz", "--labels")
    found = cli(*verify, "masks.npy", "--json").json["accuracy"]["y"]
    assert (found["samples"], found["float_top1"], found["float_iou"]) == (5 * 24 - 6, 1.0, 1.0)
    assert 0.9 < found["quantized_iou"] <= found["quantized_top1"] <= 1.0
    assert "mean IoU" in cli(*verify, "masks.npy").stdout
    np.save(tmp_path / "small.npy", masks[:, ::2, ::2])
    refused = cli(*verify, "small.npy")
    assert (refused.code, refused.stderr.count("\n")) == (2, 1)
    assert "y [1, 3, 4, 6]; labels [1, 2, 3]; make the masks of the output's size" in refused.stderr
    with qgraph.open(tmp_path / "qgraph.db") as database:
        accuracy = database.run("latest").verify({"x": images}, labels=masks).accuracy
        assert accuracy is not None
        assert accuracy["y"].quantized_iou == found["quantized_iou"]
        with pytest.raises(DataError, match="one integer, or a mask of them"):
            database.run("latest").verify({"x": images}, labels=images)
        with pytest.raises(DataError, match="numpy makes no array of"):
            database.run("latest").verify({"x": images}, labels=[[0], [1, 2]])


def test_a_poor_result_tells_what_to_ask_next(cli: Cli, tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((5, 3, 4, 6), "float32")
    write_segmenter(tmp_path / "m.onnx")
    np.savez(tmp_path / "dark.npz", x=images / 50)
    np.savez(tmp_path / "light.npz", x=images)
    assert cli("calibrate", "m.onnx", "--data", "dark.npz", "--target", "tflite").code == 0
    assert "below 10 dB" not in cli("verify", "latest", "--data", "dark.npz").stdout
    _, told = cli("verify", "latest", "--data", "light.npz").stdout.split("below 10 dB\n")
    assert [" ".join(line.split(":  ")[1].split()) for line in told.splitlines()] == [
        "qgraph verify r1 --data light.npz --layers",
        "qgraph sensitivity r1 --data light.npz",
        "qgraph advise r1 --data light.npz --target-snr 20",
    ]
    _, told = cli("verify", "latest", "--data", "light.npz", "--layers").stdout.split("below 10 dB\n")
    assert "--layers" not in told
    assert "sensitivity" in told
    assert "below" not in cli("verify", "latest", "--data", "light.npz", "--json").stdout
