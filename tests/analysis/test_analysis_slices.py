"""Slices of an output that the SNR of the whole hides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Cli
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from qgraph.analysis.verify_slices import MOST_SLICES, HiddenSlices, SliceSums

RNG = np.random.default_rng(3)


def hidden(*pairs: tuple[NDArray[np.float64], NDArray[np.float64]]) -> HiddenSlices | None:
    sums = SliceSums()
    for expected, actual in pairs:
        sums.add(expected, actual)
    return sums.hidden()


def test_small_figures_that_are_lost_beside_large_ones_are_told() -> None:
    boxes = RNG.normal(size=(2, 3, 40)) * np.array([100.0, 100.0, 0.1]).reshape(1, 3, 1)
    found = hidden((boxes, np.round(boxes)))
    assert found is not None
    assert (found.axis, found.slices, found.worst, list(found.snr_db)) == (1, 3, 2, [2])
    assert found.snr_db[2] == pytest.approx(0.0, abs=0.01)


def test_equal_slices_and_those_without_signal_or_error_are_not_told() -> None:
    even = RNG.normal(size=(4, 3, 40))
    assert hidden((even, even + 0.01 * RNG.normal(size=even.shape))) is None
    silent, exact = even.copy(), even + 0.01
    silent[:, 1], exact[:, 2] = 0, even[:, 2]
    assert hidden((silent, silent + 0.01)) is None
    assert hidden((even, exact)) is None


def test_samples_add_up_and_an_axis_that_changes_or_counts_places_is_left_out() -> None:
    x = np.array([[100.0, 0.1], [100.0, 0.1]])
    assert hidden((x, np.round(x) + 1)) == hidden((x[:1], np.round(x[:1]) + 1), (x[1:], np.round(x[1:]) + 1))
    assert hidden((x, np.round(x)), (np.ones((1, 3)), np.ones((1, 3)))) is None
    long = np.r_[100.0 * np.ones(MOST_SLICES), 0.1][None]
    assert hidden((long, np.round(long))) is None
    assert hidden((x[0], np.round(x[0]))) is None  # the first axis counts samples


def test_verify_tells_of_scores_that_are_lost_in_the_tensor_of_the_boxes(cli: Cli, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["boxes"], "boxes_of"),
        helper.make_node("Sigmoid", ["x"], ["scores"], "scores_of"),
        helper.make_node("Concat", ["boxes", "scores"], ["y"], "join", axis=1),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", c, 8, 8]) for n, c in (("x", 2), ("y", 4)))
    weight = numpy_helper.from_array((np.eye(2) * 1000).reshape(2, 2, 1, 1).astype("f"), "w")
    graph = helper.make_graph(nodes, "detector", [x], [y], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=RNG.normal(size=(6, 2, 8, 8)).astype("f"))
    assert cli("calibrate", "m.onnx", "--data", "d.npz", "--target", "tflite").code == 0
    found = cli("verify", "latest", "--data", "d.npz", "--json").json["hidden"]["y"]
    assert (found["axis"], found["slices"], sorted(found["snr_db"])) == (1, 4, ["2", "3"])
    shown = cli("verify", "latest", "--data", "d.npz").stdout
    assert "y along axis 1: 2 of 4 slices are more than 20 dB worse than the whole" in shown
