"""What is tried costs no more where samples are large, and is the same at each call."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli
from onnx import TensorProto, helper, numpy_helper, save

import qgraph
from qgraph.improve.effort import FULL, LEAST, LIGHT, effort_for
from qgraph.improve.pieces import footprint
from qgraph.ir.onnx_import import load_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A convolution of 4 channels, a Relu, and another convolution, on 8 × 8 places."""
    random = np.random.default_rng(0)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w0"], ["a"]),
            helper.make_node("Relu", ["a"], ["r"]),
            helper.make_node("Conv", ["r", "w1"], ["y"]),
        ],
        "g",
        [value("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [value("y", TensorProto.FLOAT, [1, 2, 8, 8])],
        [
            numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name)
            for name, shape in (("w0", (4, 3, 1, 1)), ("w1", (2, 4, 1, 1)))
        ],
    )
    path = tmp_path / "model.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    np.savez(tmp_path / "data.npz", x=random.normal(size=(40, 3, 8, 8)).astype(np.float32))
    return path


def test_small_samples_are_compared_in_full() -> None:
    assert effort_for(0) == effort_for(LIGHT) == FULL


@pytest.mark.parametrize("times", [1.01, 2, 3.5, 1000])
def test_of_larger_samples_fewer_are_measured_but_never_less_than_the_least(times: float) -> None:
    found, full, least = (asdict(one) for one in (effort_for(int(times * LIGHT)), FULL, LEAST))
    assert all(least[name] <= value <= full[name] for name, value in found.items() if name != "equalized")
    assert found["judged"] == max(least["judged"], int(full["judged"] / times))
    assert not found["all_ways"]


def test_few_tensors_are_not_worth_another_calibration_where_samples_are_large(
    cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with qgraph.open("qgraph.db") as database:
        database.calibrate(model, "data.npz").solve(target="onnxruntime", observer="mse", name="plain")
    monkeypatch.setattr("qgraph.jobs.improving.effort_for", lambda made: replace(LEAST, equalized=2.0))
    done = cli("improve", "plain", "--data", "data.npz", "--json")
    assert done.code == 0, done.stderr
    assert "equalize: 2 tensors can be, too few to try" in done.json["done"]


def test_the_footprint_is_what_the_pieces_make_for_others(model: Path) -> None:
    sample = {"x": np.zeros((1, 3, 8, 8), np.float32)}
    found = footprint(load_model(model).proto, ["a", "y"], sample, model.parent)
    places = 8 * 8 * 4
    assert found.made == places * (4 + 2)  # a, and y behind the Relu that nobody else reads
    assert found.peak == places * (3 + 4)


def test_large_samples_say_that_less_is_tried_and_thorough_tries_all(
    cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with qgraph.open("qgraph.db") as database:
        database.calibrate(model, "data.npz").solve(target="onnxruntime", observer="minmax", name="plain")
    monkeypatch.setattr("qgraph.improve.effort.LIGHT", 1)
    lines, runs = {}, {}
    for name, extra in (("less", ()), ("again", ()), ("thorough", ("--thorough",))):
        done = cli("improve", "plain", "--data", "data.npz", "-o", f"{name}.onnx", *extra, "--json")
        assert done.code == 0, done.stderr
        lines[name], runs[name] = done.stderr, done.json["run"]
    assert runs["less"] == runs["again"]
    assert Path("less.onnx").read_bytes() == Path("again.onnx").read_bytes()
    assert "outputs are compared on 16; --thorough is slower" in lines["less"]
    assert "--thorough" not in lines["thorough"]
    tried = {name: [line for line in one.splitlines() if ", weights " in line] for name, one in lines.items()}
    assert len(tried["less"]) < len(tried["thorough"])


def test_an_effort_that_follows_one_way_still_improves(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qgraph.jobs.improving.effort_for", lambda made: replace(LEAST, judged=40))
    with qgraph.open("qgraph.db") as database:
        run = database.calibrate(model, "data.npz").solve(target="onnxruntime", observer="mse")
        done = run.improve("data.npz")["done"]
    assert any(line.startswith("ranges: ") for line in done)
    after, before = map(float, re.findall(r"(-?[\d.]+) dB", done[-1]))
    assert after >= before
