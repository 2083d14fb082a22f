"""The benchmark's program works: what it times is there, and what it measured gets into the README."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import openvino_check
import pytest
from breakdown import STAGES, Stopwatch, seam
from contenders import BASE, CONTENDERS
from inputs import MODELS, load, rows, write_samples
from plot import plot
from report import BEGIN, END, markdown, record
from results import ModelResult, Results, Round


@pytest.mark.parametrize("function", [function for functions in STAGES.values() for function in functions])
def test_every_function_that_is_timed_is_there(function: str) -> None:
    owner, name = seam(function)
    assert callable(getattr(owner, name))


def test_time_inside_another_stage_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 4.0, 10.0])  # outer begins, inner begins, inner ends, outer ends
    monkeypatch.setattr("breakdown.time.perf_counter", lambda: next(clock))
    watch = Stopwatch()
    inner = watch.timed("store", lambda: None)
    watch.timed("inference and count", inner)()
    assert (watch.seconds["store"], watch.seconds["inference and count"]) == (3.0, 7.0)
    assert watch.read(12.0, 0.5)["the rest"] == 1.5
    assert set(watch.seconds.values()) == {0.0}


def test_samples_written_in_parts_are_the_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inputs.CHUNK", 2)
    found = load(write_samples("ppocr_cls_v2", tmp_path, 5))
    assert {name: array.tolist() for name, array in found.items()} == {
        name: array.tolist() for name, array in MODELS["ppocr_cls_v2"].samples(5, 0).items()
    }
    assert [feed["x"].shape[0] for feed in rows(found)] == [1] * 5


def test_contenders_do_the_same_samples(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    MODELS["ppocr_cls_v2"].write(model)
    data = write_samples("ppocr_cls_v2", tmp_path, 2)
    assert len(np.asarray(CONTENDERS[BASE](model, data)(), dtype=object)) == 2
    assert CONTENDERS["ORT MinMax"](model, data)() is None
    activations = np.asarray(CONTENDERS["qgraph, nothing recorded"](model, data)())
    assert activations.shape == (2,)
    assert activations[0] == activations[1] > 1


@pytest.fixture
def measured() -> Results:
    rounds = {BASE: (Round(1.0, 100.0), Round(2.0, 100.0)), "qgraph": (Round(2.0, 500.0), Round(6.0, 600.0))}
    stages = {"first": {"import": 2.0, "count": 1.0}, "again": {"import": 0.0, "count": 0.5}}
    failed = {"ORT Entropy": "out of memory"}
    model = ModelResult("a_model", 64, rounds, failed, {32: 400.0, 512: 420.0}, stages, {"mse": 0.25}, 0.6)
    return Results("2026-01-01", "2 cores", 0.1, {"onnxruntime": "1.0"}, (model,))


def test_ratios_are_taken_within_a_round(measured: Results) -> None:
    assert measured.models[0].ratio("qgraph") == 2.5  # of 2 and 3


def test_results_replace_the_last_ones_in_the_readme(tmp_path: Path, measured: Results) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    record(measured, readme)
    record(measured, readme)
    text = readme.read_text()
    assert text == f"before\n{BEGIN}\n{markdown(measured)}\n{END}\nafter\n"
    for row in (
        "| a_model | qgraph | 4.00 s | 2.50 | 600 MiB |",
        "| a_model | ORT Entropy | out of memory | – | – |",
        "| a_model | 32 and 512 | 400 MiB and 420 MiB | 1.050 |",
        "| all | 3.00 / 0.50 |",
        "| mse | 0.250 |",
    ):
        assert row in text.splitlines()


def test_the_picture_is_the_same_for_the_same_results(tmp_path: Path, measured: Results) -> None:
    pytest.importorskip("matplotlib")
    for name in ("one.svg", "other.svg"):
        plot(measured, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "other.svg").read_bytes()
    assert "a_model" in "".join(ElementTree.parse(tmp_path / "one.svg").getroot().itertext())


def test_the_comparison_with_nncf_says_what_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("openvino_check.importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("sys.argv", ["openvino_check.py"])
    openvino_check.main()
    assert capsys.readouterr().out == "skipped: openvino and nncf not installed; pip install openvino nncf\n"
