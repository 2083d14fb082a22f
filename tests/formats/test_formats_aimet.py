"""Encodings that AIMET wrote: they are read, and what is written of them is what AIMET wrote.

The files in ``aimet/`` are of aimet_onnx 2.42.0: a convolution with two channels and a Relu behind it, an Add and a
Sigmoid, calibrated with its configuration ``htp_v81`` on random numbers, and exported in each version.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Cli

from qgraph.errors import ModelError
from qgraph.formats.scale_files import format_named, read_scales
from qgraph.formats.scale_table import ScaleTable, TensorScale
from qgraph.tqc import to_float32

FOLDER = Path(__file__).parent / "aimet"
VERSIONS = ("0.6.1", "1.0.0", "2.0.0")
MODEL = """
<ir_version: 8, opset_import: ["" : 17]> small (float[1,2,4,4] x) => (float[1,2,4,4] y)
<float[2,2,1,1] weight = {0.5, -0.25, 0.75, 1.5}, float[2] bias = {0.1, -0.2}>
{ h = Conv (x, weight, bias)  r = Relu (h)  s = Add (x, r)  y = Sigmoid (s) }
"""


def read(version: str) -> ScaleTable:
    table, found = read_scales((FOLDER / f"{version}.json").read_bytes(), "FILE")
    assert found == f"aimet-{version}", "the version of the producer is not that of the file"
    return table


def entries(text: str) -> dict[str, Any]:
    """A file's encodings by tensor, numbers as floats, so that ``-128`` and ``-128.0`` are one."""
    body = json.loads(text, parse_int=float)
    found: dict[str, Any] = {}
    for section in ("activation_encodings", "param_encodings", "encodings"):
        own = body.get(section, {})
        found |= own if isinstance(own, dict) else {one["name"]: one for one in own}
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_what_aimet_wrote_is_read(version: str) -> None:
    tensors = read(version).tensors
    assert tensors.keys() - {"bias"} == {"weight", "x", "r", "s", "y"}
    unsigned = {name: one.unsigned_offset for name, one in tensors.items() if name != "bias"}
    assert unsigned == {"weight": (128, 128), "x": (137,), "r": (0,), "s": (78,), "y": (0,)}
    assert tensors["x"].scale == (to_float32(0.016970287584790997),)
    assert len(tensors["weight"].scale) == 2


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_written_is_what_aimet_writes(version: str) -> None:
    table = read(version)
    written = entries(format_named(f"aimet-{version}").write(table).text)
    theirs = entries((FOLDER / f"{version}.json").read_text())
    assert written.keys() == theirs.keys()
    for name, one in theirs.items():
        for own, other in zip(written[name], one, strict=True) if isinstance(one, list) else [(written[name], one)]:
            assert own == {key: close(value) for key, value in other.items()}


def close(value: Any) -> Any:
    """A value as it may differ by rounding to float32."""
    if isinstance(value, str | bool):
        return value
    return pytest.approx(value, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("version", VERSIONS)
def test_aimets_scales_become_a_run_of_the_model(cli: Cli, tmp_path: Path, version: str) -> None:
    onnx.save(onnx.parser.parse_model(MODEL), tmp_path / "small.onnx")
    file = FOLDER / f"{version}.json"
    done = cli("import", file, "--model", "small.onnx", "--target", "qnn", "--json").json
    assert (done["format"], done["violations"]) == (f"aimet-{version}", [])
    assert done["tensors"] == (6 if version == "2.0.0" else 5)


def test_a_bias_that_is_added_to_a_matrix_product_is_priced_with_a_scale_per_channel(cli: Cli, tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]> g (float[1,2] x) => (float[1,2] y)
    <float[2,2] w = {1, 2, 3, 4}, float[2] b = {0.5, -3}> { h = MatMul (x, w)  y = Add (h, b) }
    """
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32))
    bias = {"name": "b", "output_dtype": "int32", "y_scale": [1e-5, 2e-5], "axis": 0}
    body = {"version": "2.0.0", "encodings": [bias, {"name": "y", "output_dtype": "uint8", "y_scale": 0.1}]}
    (tmp_path / "theirs.json").write_text(json.dumps(body))
    assert cli("calibrate", "m.onnx", "--data", "data.npz", "--target", "qnn").code == 0
    imported = ("import", "theirs.json", "--model", "m.onnx", "--target", "qnn", "--calibration", "c1")
    assert cli(*imported, "--name", "theirs", "--json").json["format"] == "aimet-2.0.0"
    found = cli("scales", "theirs", "--json").json["tensors"]["b"]
    assert (found["state"], found["scale"]) == ("ACTIVATED", [to_float32(1e-5), to_float32(2e-5)])
    assert cli("show", "theirs", "--tensor", "b", "--json").json["slots"][0]["noise_db"] < -90


@pytest.mark.parametrize(
    ("offset", "more", "words"),
    [
        (["-1.5"], {}, "not a list of whole numbers"),
        ([-1.5], {}, "not a list of whole numbers"),
        ([-1], {"zero_point_shift": [0.5]}, "between two integers"),
    ],
)
def test_a_zero_point_that_is_no_integer_is_refused(offset: list[Any], more: dict[str, Any], words: str) -> None:
    one = {"name": "a", "dtype": "INT", "bw": 8, "enc_type": "PER_TENSOR", "is_sym": False, "scale": [1.0]}
    body = {"version": "1.0.0", "activation_encodings": [{**one, "offset": offset, **more}], "param_encodings": []}
    with pytest.raises(ModelError) as error:
        read_scales(json.dumps(body).encode(), "FILE")
    assert words in str(error.value)


def test_a_shift_of_zero_is_none() -> None:
    one = {"name": "a", "dtype": "INT", "bw": 8, "enc_type": "PER_TENSOR", "is_sym": False, "scale": [1.0]}
    encoding = {**one, "offset": [-1.0], "zero_point_shift": [0.0]}
    body = {"version": "1.0.0", "activation_encodings": [encoding], "param_encodings": []}
    table, _ = read_scales(json.dumps(body).encode(), "FILE")
    assert table.tensors == {"a": TensorScale(8, (1.0,), (1,), symmetric=False)}
