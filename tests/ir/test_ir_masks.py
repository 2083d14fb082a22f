"""A mask of attention scores and what works on it stay in float; all else is as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx_models import build, save_and_load

from qgraph.ir.onnx_import import load_model

node = helper.make_node
SHAPES = {"q": (1, 4, 8), "k": (1, 8, 4)}
MASK = np.triu(np.full((4, 4), -3.4e38, np.float32), 1)


def attention(*hide: onnx.NodeProto, **constants: object) -> onnx.ModelProto:
    """Scores `s`, hidden by nodes that end in `h`, their Softmax `w`, and one more sum behind it."""
    nodes = [node("MatMul", ["q", "k"], ["s"], "score"), *hide, node("Softmax", ["h"], ["w"], "weigh")]
    nodes.append(node("Add", ["w", "more"], ["y"], "behind"))
    return build(nodes, SHAPES, {"y": (1, 4, 4)}, {"more": np.full((4, 4), -5e3, np.float32), **constants})


def masked(folder: Path, model: onnx.ModelProto) -> list[str]:
    ops = save_and_load(folder, model).structure.ops
    return [op.name for op in ops if op.excluded is not None and "beside its mask of" in op.excluded]


@pytest.mark.parametrize("least", [-3.4e38, -np.inf, -1e9, -1e4, -1e3])
def test_a_causal_mask_that_is_added_keeps_the_sum_and_its_softmax_in_float(least: float, tmp_path: Path) -> None:
    mask = np.triu(np.full((70, 70), least), 1).astype(np.float32)[:4, :4]
    assert masked(tmp_path, attention(node("Add", ["s", "m"], ["h"], "hide"), m=mask)) == ["hide", "weigh"]


def test_a_large_mask_is_read_from_a_file_beside_the_model(tmp_path: Path) -> None:
    shapes = {"q": (1, 80, 8), "k": (1, 8, 80)}
    nodes = [node("MatMul", ["q", "k"], ["s"]), node("Add", ["s", "m"], ["h"], "hide"), node("Softmax", ["h"], ["w"])]
    mask = np.triu(np.full((80, 80), -1e9, np.float32), 1)
    model = build(nodes, shapes, {"w": (1, 80, 80)}, {"m": mask})
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights")
    assert "hide" in [op.name for op in load_model(path).structure.ops if op.excluded is not None]


def test_a_mask_of_the_data_is_followed_through_what_brings_it_into_shape(tmp_path: Path) -> None:
    hide = [
        node("Cast", ["keep"], ["f"], "cast", to=onnx.TensorProto.FLOAT),
        node("Sub", ["one", "f"], ["hidden"], "sub"),
        node("Mul", ["hidden", "low"], ["m"], "low_where_hidden"),
        node("Unsqueeze", ["m", "axis"], ["mm"], "unsqueeze"),
        node("Add", ["s", "mm"], ["h"], "hide"),
    ]
    model = attention(*hide, one=np.float32(1), low=np.float32(-1e4), axis=np.array([0]))
    model.graph.input.append(helper.make_tensor_value_info("keep", onnx.TensorProto.BOOL, (4, 4)))
    assert sorted(masked(tmp_path, model)) == ["hide", "low_where_hidden", "unsqueeze", "weigh"]


def test_a_select_of_scores_or_a_low_number_is_a_mask(tmp_path: Path) -> None:
    model = attention(node("Where", ["keep", "s", "low"], ["h"], "hide"), low=np.float32(-1e9))
    model.graph.input.append(helper.make_tensor_value_info("keep", onnx.TensorProto.BOOL, (4, 4)))
    assert masked(tmp_path, model) == ["hide", "weigh"]


def test_a_bias_of_scores_is_no_mask_and_neither_are_low_integers(tmp_path: Path) -> None:
    bias = np.linspace(-900, 50, 16, dtype=np.float32).reshape(4, 4)
    assert masked(tmp_path, attention(node("Add", ["s", "b"], ["h"], "hide"), b=bias)) == []
    shape = np.array([1, 4, -1])
    assert masked(tmp_path, attention(node("Reshape", ["s", "shape"], ["h"], "hide"), shape=shape)) == []


def test_a_low_constant_without_a_softmax_behind_it_is_quantized_as_ever(tmp_path: Path) -> None:
    nodes = [node("MatMul", ["q", "k"], ["s"]), node("Add", ["s", "m"], ["h"], "hide"), node("Relu", ["h"], ["y"])]
    assert masked(tmp_path, build(nodes, SHAPES, {"y": (1, 4, 4)}, {"m": MASK})) == []


def test_nan_in_a_mask_hides_nothing_and_an_empty_one_is_none(tmp_path: Path) -> None:
    mask = MASK.copy()
    mask[0, 0] = np.nan
    assert masked(tmp_path, attention(node("Add", ["s", "m"], ["h"], "hide"), m=mask)) == ["hide", "weigh"]
    model = attention(node("Concat", ["s", "e"], ["h"], "hide", axis=2), e=np.zeros((1, 4, 0), np.float32))
    assert numpy_helper.to_array(model.graph.initializer[1]).size == 0
    assert masked(tmp_path, model) == []


def test_a_second_softmax_behind_the_hidden_one_is_quantized_as_ever(tmp_path: Path) -> None:
    hide = [node("Add", ["s", "m"], ["a"], "hide"), node("Softmax", ["a"], ["b"], "first")]
    model = attention(*hide, node("Mul", ["b", "two"], ["h"], "double"), m=MASK, two=np.float32(2))
    assert masked(tmp_path, model) == ["hide", "first"]
