"""The benchmark of accuracy: what a peer cannot do is told, and rows replace those of the same model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import accuracy
import numpy as np
import onnx
import pytest
from inputs import Samples
from onnx import helper, numpy_helper


def write_model(path: Path) -> None:
    value = helper.make_tensor_value_info
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["y"])],
        "small",
        [value("x", onnx.TensorProto.FLOAT, [1, 3, 8, 8])],
        [value("y", onnx.TensorProto.FLOAT, [1, 4, 6, 6])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def photos(count: int, skip: int) -> Samples:
    return {"x": np.random.default_rng(0).normal(size=(skip + count, 3, 8, 8)).astype(np.float32)[skip:]}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    model = replace(accuracy.MODELS["magika"], name="small", write=write_model, samples=photos)
    monkeypatch.setattr(accuracy, "MODELS", {"small": model, "other": model})


def test_a_method_that_fails_has_its_reason_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Path) -> None:
        raise RuntimeError("no | such thing")

    methods = {"qgraph": accuracy.qgraph_method("onnxruntime", "mse"), "peer": fails}
    monkeypatch.setattr(accuracy, "METHODS", methods)
    (good, failed) = accuracy.compared("small", 4, 2)
    assert good[:2] == ("4, 2", "qgraph")
    assert float(good[2]) > 20
    assert failed == ("4, 2", "peer", "no / such thing", "–")


def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Samples, Samples]]:
    """The samples that a method gets from now on, and those that its model is compared on."""
    found: list[tuple[Samples, Samples]] = []

    def make(model: Path, data: Path, int8: Path) -> None:
        found.append((dict(np.load(data)), {}))
        int8.write_bytes(model.read_bytes())

    def snr_db(work: accuracy.Work) -> float:
        found[-1][1]["x"] = np.concatenate([one["x"] for one in work.compared])
        return float(len(found))

    monkeypatch.setattr(accuracy, "METHODS", {"seeing": make})
    monkeypatch.setattr(accuracy.Work, "snr_db", snr_db)
    return found


def test_samples_to_compare_on_come_after_those_of_the_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    found = seen(monkeypatch)
    assert len(list(accuracy.compared("small", 4, 2))) == 1
    ((calibration, compared),) = found
    assert np.array_equal(calibration["x"], photos(4, 0)["x"])
    assert np.array_equal(compared["x"], photos(2, 4)["x"])


def test_each_block_is_calibrated_on_once_and_compared_on_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    found = seen(monkeypatch)
    (line,) = accuracy.crossed("small", 2, 1)
    assert line == ("2, 6", "seeing", "1.00", "2.00", "3.00", "4.00", "2.50")
    every = photos(8, 0)["x"]
    for block, (calibration, compared) in enumerate(found):
        own = slice(2 * block, 2 * block + 2)
        assert np.array_equal(calibration["x"], every[own])
        assert np.array_equal(compared["x"], np.delete(every, own, axis=0))


def test_rows_replace_those_of_the_same_model_and_no_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- accuracy: begin -->\n<!-- accuracy: end -->\nafter\n")
    monkeypatch.setattr(accuracy, "README", readme)
    for name, snr in (("other", "1.00"), ("small", "2.00"), ("other", "3.00")):
        accuracy.record(accuracy.COMPARISON, {name: [accuracy.row((name, "4, 2", "peer", snr, "1"))]})
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert [line for line in text.splitlines() if "peer" in line] == [
        "| small | 4, 2 | peer | 2.00 | 1 |",
        "| other | 4, 2 | peer | 3.00 | 1 |",
    ]
    assert text.count("| model |") == 1
