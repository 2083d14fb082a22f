"""Biases are corrected op after op, so that the means of a quantized model are those of the float model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import qgraph
from qgraph.improve.bias import analytic_corrections, bias_corrections, channel_means, with_corrections
from qgraph.improve.pieces import Values, cut
from qgraph.improve.weighted import constants_of, weighted_ops, with_biases, with_constants
from qgraph.ir.onnx_import import ImportedModel, load_model

RANDOM = np.random.default_rng(1)


@pytest.fixture
def model(tmp_path: Path) -> ImportedModel:
    """Two convolutions, the first without a bias, and a way around the second."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w0"], ["a"], name="first"),
            helper.make_node("Relu", ["a"], ["r"], name="relu"),
            helper.make_node("Conv", ["r", "w1", "b1"], ["b"], name="second"),
            helper.make_node("Add", ["b", "r"], ["y"], name="around"),
        ],
        "g",
        [value("x", onnx.TensorProto.FLOAT, [1, 3, 6, 6])],
        [value("y", onnx.TensorProto.FLOAT, [1, 4, 6, 6])],
        [
            numpy_helper.from_array(RANDOM.normal(size=shape).astype(np.float32), name)
            for name, shape in (("w0", (4, 3, 1, 1)), ("w1", (4, 4, 1, 1)), ("b1", (4,)))
        ],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return load_model(path)


@pytest.fixture
def samples() -> list[Values]:
    return [{"x": RANDOM.normal(1, 1, (1, 3, 6, 6)).astype(np.float32)} for _ in range(5)]


def damaged(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """The model with coarse weights."""
    weights = constants_of(model, {"w0", "w1"}, folder)
    return with_constants(model, {name: np.round(array * 2) / 2 for name, array in weights.items()})


def test_a_model_is_cut_behind_the_tensors_and_every_node_is_in_one_piece(model: ImportedModel) -> None:
    pieces = cut(model.proto, ["a", "b"])
    assert [[node.name for node in one.model.graph.node] for one in pieces] == [
        ["first"],
        ["relu", "second"],
        ["around"],
    ]
    assert [(one.end, one.inputs, one.outputs) for one in pieces] == [
        ("a", ("x",), ("a",)),
        ("b", ("a",), ("r", "b")),
        (None, ("b", "r"), ("y",)),
    ]


def test_corrected_biases_restore_the_means_of_every_op(model: ImportedModel, samples: list[Values]) -> None:
    proto, folder = with_biases(model.proto), model.folder
    ops = weighted_ops(proto.graph)
    assert [op.op for op in ops] == ["first", "second"]
    wanted = channel_means(proto, ops, samples, folder)
    coarse = damaged(proto, folder)
    found = bias_corrections(coarse, ops, wanted, samples, folder)
    better = channel_means(with_corrections(coarse, found, folder), ops, samples, folder)
    for op in ops:
        assert np.abs(channel_means(coarse, ops, samples, folder)[op.op] - wanted[op.op]).max() > 0.01
        np.testing.assert_allclose(np.median(better[op.op] - wanted[op.op], axis=0), 0, atol=1e-5)


def test_one_sample_unlike_all_others_does_not_shift_what_is_corrected(
    model: ImportedModel, samples: list[Values]
) -> None:
    proto, folder = with_biases(model.proto), model.folder
    ops = weighted_ops(proto.graph)
    strange = [*samples, {"x": np.full((1, 3, 6, 6), 1e4, np.float32)}]
    coarse = damaged(proto, folder)
    found, among = (
        bias_corrections(coarse, ops, channel_means(proto, ops, some, folder), some, folder)
        for some in (samples, strange)
    )
    assert np.abs(found["first"] - among["first"]).max() < 1


def test_what_the_rounding_of_weights_shifts_follows_from_the_means_of_the_inputs(
    model: ImportedModel, samples: list[Values], tmp_path: Path
) -> None:
    np.savez(tmp_path / "d.npz", x=np.concatenate([one["x"] for one in samples]))
    with qgraph.open(tmp_path / "q.db") as database:
        run = database.calibrate(model.path, tmp_path / "d.npz").solve(target="onnxruntime", observer="mse").data()
    proto, folder = with_biases(model.proto), model.folder
    first = [op for op in weighted_ops(proto.graph) if op.op == "first"]
    means = {"x": np.asarray(np.concatenate([one["x"] for one in samples]).mean(axis=(0, 2, 3)), np.float64)}
    found = analytic_corrections(proto, first, run, means, folder)["first"]
    weight = constants_of(proto, {"w0"}, folder)["w0"][:, :, 0, 0].astype(np.float64)
    scale = np.array(next(one.scale for one in run.tqcs if one.slot == "first:in:1"))[:, None]
    wanted = (weight - np.clip(np.round(weight / scale), -127, 127) * scale) @ means["x"]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-9)
    assert np.abs(wanted).max() > 0


def test_half_of_the_correction_can_be_asked_for(model: ImportedModel, samples: list[Values]) -> None:
    proto, folder = with_biases(model.proto), model.folder
    ops = weighted_ops(proto.graph)
    wanted = channel_means(proto, ops, samples, folder)
    coarse = damaged(proto, folder)
    whole = bias_corrections(coarse, ops, wanted, samples, folder)
    half = bias_corrections(coarse, ops, wanted, samples, folder, share=0.5)
    np.testing.assert_allclose(half["first"], whole["first"] / 2)


def test_an_equal_model_needs_no_correction(model: ImportedModel, samples: list[Values]) -> None:
    proto = with_biases(model.proto)
    ops = weighted_ops(proto.graph)
    wanted = channel_means(proto, ops, samples, model.folder)
    for one in bias_corrections(proto, ops, wanted, samples, model.folder).values():
        assert np.abs(one).max() == 0
