"""Golden values: what a device is compared with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import Cli
from numpy.typing import NDArray
from test_analysis_sensitivity import data as data  # the calibrated branches

import qgraph

Arrays = dict[str, NDArray[Any]]


@pytest.fixture
def golden(cli: Cli, data: Path) -> Path:
    done = cli("golden", "r1", "--data", data, "--steps", 2, "-o", "golden")
    assert done.code == 0, done.stderr
    return data.parent / "golden"


def device(golden: Path, change: Callable[[Arrays], Arrays] = lambda arrays: arrays) -> Path:
    """What a device wrote: the golden values, changed."""
    folder = golden.parent / "device"
    folder.mkdir(exist_ok=True)
    for file in (golden / "0000.npz", golden / "0001.npz"):
        np.savez(folder / file.name, allow_pickle=False, **change(dict(np.load(file))))
    return folder


def test_the_folder_has_the_model_the_inputs_and_all_that_comes_of_them(golden: Path, data: Path) -> None:
    manifest = json.loads((golden / "manifest.json").read_text())
    assert (manifest["samples"], manifest["run"], manifest["target"]) == (2, "r1", "tflite")
    assert manifest["inputs"] == {"x": [1, 2, 4, 4]}
    names = [one["name"] for one in manifest["tensors"]]
    assert names[0] == "x"
    assert {"a", "b", "c", "y", "z"} <= set(names)
    assert sorted(manifest["outputs"]) == ["y", "z"]
    first = dict(np.load(golden / "0000.inputs.npz"))
    assert np.array_equal(first["x"], np.load(data)["x"][:1])
    session = onnxruntime.InferenceSession(golden / "model.onnx")
    found = dict(zip(("y", "z"), session.run(["y", "z"], first), strict=True))
    (y,) = (one for one in manifest["tensors"] if one["name"] == "y")
    integers = np.load(golden / "0000.npz")["y"]
    assert integers.dtype == y["dtype"] == "int8"
    told = (integers.astype("f") - y["zero_point"][0]) * np.float32(y["scale"][0])
    assert np.abs(told - found["y"]).max() <= 1.01 * y["scale"][0]  # integer kernels may round otherwise
    expected = onnxruntime.InferenceSession(data.parent / "m.onnx").run(["z"], first)[0]
    assert np.load(golden / "0000.float.npz")["z"] == pytest.approx(expected, abs=1e-6)


def test_a_device_that_does_the_same_is_told_so(cli: Cli, golden: Path) -> None:
    done = cli("compare", golden, device(golden))
    assert done.code == 0
    assert "all quantized tensors are equal" in done.stdout


def test_only_what_a_device_wrote_is_said_to_be_equal(cli: Cli, golden: Path) -> None:
    done = cli("compare", golden, device(golden, lambda arrays: {"a": arrays["a"]}))
    assert done.code == 0
    assert done.stdout.splitlines()[-1] == "1 quantized tensor of the device: all are equal"
    assert "not written by the device" in done.stderr


def test_a_device_is_told_how_many_steps_off_it_is_and_where_first(cli: Cli, golden: Path) -> None:
    def off(arrays: Arrays) -> Arrays:
        arrays["c"] = np.where(arrays["c"] > 0, arrays["c"] - 2, arrays["c"]).astype("int8")
        arrays["y"] = np.where(arrays["y"] > 0, arrays["y"] - 3, arrays["y"]).astype("int8")
        del arrays["b"]
        return {**arrays, "strange": np.zeros(2)}

    done = cli("compare", golden, device(golden, off), "--json")
    found = done.json
    assert done.code == 1
    assert found["first"] == "c"
    assert {one["name"]: one["largest"] for one in found["tensors"] if one["different"]} == {"c": 2, "y": 3}
    assert (found["missing"], found["unknown"]) == (["b"], ["strange"])
    assert cli("compare", golden, golden.parent / "device", "--tolerance", 2, "--json").json["first"] == "y"
    within = cli("compare", golden, golden.parent / "device", "--tolerance", 3)
    assert (within.code, "are within 3 steps" in within.stdout) == (0, True)


def test_floats_of_a_device_are_put_into_steps(golden: Path) -> None:
    tensors = {one["name"]: one for one in json.loads((golden / "manifest.json").read_text())["tensors"]}

    def floats(arrays: Arrays) -> Arrays:
        return {
            name: ((array.astype("f") - tensors[name]["zero_point"][0]) * tensors[name]["scale"][0]).astype("f")
            for name, array in arrays.items()
        }

    assert qgraph.compare_golden(golden, device(golden, floats)).first is None
    nan = qgraph.compare_golden(golden, device(golden, lambda arrays: {"a": np.full_like(arrays["a"], np.nan, "f")}))
    assert nan.first == "a"


def test_an_output_that_is_not_quantized_is_compared_as_floats(cli: Cli, data: Path) -> None:
    run = cli("solve", "r1", "--target", "tflite", "--observer", "mse", "--float", "op:side", "--json").json["run"]
    assert cli("golden", run, "--data", data, "-o", "golden", "--json").json["samples"] == 4
    folder = data.parent / "golden"
    found = qgraph.compare_golden(folder, device(folder, lambda arrays: {**arrays, "z": arrays["z"] + np.float32(0.5)}))
    (z,) = (one for one in found.tensors if one.name == "z")
    assert z.largest is None
    assert z.largest_error == pytest.approx(0.5)
    assert found.first is None


def test_what_cannot_be_compared_is_refused(cli: Cli, data: Path, golden: Path) -> None:
    taken = cli("golden", "r1", "--data", data, "-o", "golden")
    assert (taken.code, "there is something of that name" in taken.stderr) == (2, True)
    (data.parent / "empty").mkdir()
    nothing = cli("compare", golden, "empty")
    assert (nothing.code, "no values of a device" in nothing.stderr) == (2, True)
    none = cli("compare", "empty", golden)
    assert (none.code, "write them with qgraph golden" in none.stderr) == (2, True)
    turned = cli("compare", golden, device(golden, lambda arrays: {"a": np.moveaxis(arrays["a"], 1, -1)}))
    assert (turned.code, "layout of the ONNX model" in turned.stderr) == (2, True)
    other = cli("compare", golden, device(golden, lambda _: {"q": np.zeros(1)}))
    assert (other.code, "use the names of manifest.json" in other.stderr) == (2, True)
    (golden.parent / "device" / "0000.npz").write_bytes(b"no zip")
    broken = cli("compare", golden, golden.parent / "device")
    assert (broken.code, "not an .npz of plain arrays" in broken.stderr) == (2, True)


def test_a_model_with_a_float_weight_is_imported_under_the_names_of_the_float_model(cli: Cli, data: Path) -> None:
    """A Sum of one stands behind such an op, so that onnxruntime leaves the weight alone."""
    asked = ("solve", "r1", "--target", "onnxruntime", "--observer", "mse", "--float", "tensor:wa", "--json")
    run = cli(*asked).json["run"]
    assert cli("export", run, "-o", "q.onnx").code == 0
    assert [node.op_type for node in onnx.load(data.parent / "q.onnx").graph.node].count("Sum") == 1
    theirs = cli("import", "q.onnx", "--model", "m.onnx", "--target", "onnxruntime", "--json")
    assert theirs.code == 0, theirs.stderr
    ours, found = (cli("scales", one, "--json").json["tensors"] for one in (run, theirs.json["run"]))
    assert {name: one["scale"] for name, one in found.items()} == {name: one["scale"] for name, one in ours.items()}
    assert ours["wa"]["scale"] is None
