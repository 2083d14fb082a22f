"""A rule pack of the user's own that quantizes more activations per channel: what it needs is collected for it."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Cli
from onnx import numpy_helper, parser


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a model of two convolutions, data, and a pack that reads all convolutions' inputs per channel."""
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        two (float[n, 3, 6, 6] x) => (float[n, 4, 2, 2] y)
        {
            a = Conv <kernel_shape: ints = [3, 3]> (x, w0)
            r = Relu (a)
            y = Conv <kernel_shape: ints = [3, 3]> (r, w1)
        }
    """
    model = parser.parse_model(text)
    random = np.random.default_rng(0)
    for name, channels in (("w0", 3), ("w1", 4)):
        weight = random.normal(size=(4, channels, 3, 3)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
    onnx.save(model, tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=random.normal(size=(4, 3, 6, 6)).astype(np.float32))
    shipped = (resources.files("qgraph.constraints") / "packs" / "openvino.toml").read_text(encoding="utf-8")
    rule = 'name = "conv"\nops = ["Conv"]\nweight = 1\n'
    assert rule in shipped
    (tmp_path / "mine.toml").write_text(shipped.replace(rule, rule + "input_axis = 1\n"), encoding="utf-8")
    return tmp_path


@pytest.mark.usefixtures("project")
def test_calibrate_with_the_pack_collects_what_it_needs(cli: Cli) -> None:
    cli("calibrate", "model.onnx", "--data", "data.npz")
    refused = cli("solve", "c1", "--target", "mine.toml")
    assert refused.code == 2
    assert "no statistics per channel" in refused.stderr
    assert "calibrate again, naming this target" in refused.stderr
    done = cli("calibrate", "model.onnx", "--data", "data.npz", "--target", "mine.toml", "--json")
    assert done.json["calibration"] == "c2"
    scale = cli("scales", done.json["run"], "--json").json["tensors"]["r"]["scale"]
    assert len(scale) == 4
    assert len(set(scale)) == 4
    again = cli("calibrate", "model.onnx", "--data", "data.npz", "--target", "mine.toml", "--json").json
    assert (again["calibration"], again["status"]) == ("c2", "reused")
    shipped = cli("calibrate", "model.onnx", "--data", "data.npz", "--target", "openvino", "--json").json
    assert (shipped["calibration"], shipped["status"]) == ("c1", "reused")


def test_an_axis_that_cannot_be_is_refused_before_anything_runs(cli: Cli, project: Path) -> None:
    text = (project / "mine.toml").read_text(encoding="utf-8").replace("input_axis = 1\n", "input_axis = 9\n")
    (project / "wrong.toml").write_text(text, encoding="utf-8")
    told = cli("calibrate", "model.onnx", "--data", "data.npz", "--target", "wrong.toml")
    assert told.code == 2
    assert "wrong.toml: line " in told.stderr
    assert "Conv has no axis 9" in told.stderr
    assert not (project / "qgraph.db").exists()
