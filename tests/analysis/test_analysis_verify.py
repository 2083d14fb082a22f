"""Verification says how far two models' outputs are apart."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from qgraph.analysis.sessions import run_once
from qgraph.analysis.verify import verify
from qgraph.analysis.verify_sums import Sums
from qgraph.errors import DataError, ModelError

Samples = list[dict[str, NDArray[np.float32]]]


def samples(count: int = 5, classes: int = 4) -> Samples:
    rng = np.random.default_rng(5)
    return [{"x": rng.normal(size=(2, classes)).astype("f")} for _ in range(count)]


def save(path: Path, offset: list[float], output: str = "y") -> Path:
    """A model that adds a constant, and an output with one class beside it."""
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["x", "offset"], [output], name="add"),
            helper.make_node("ReduceMax", [output], ["top"], name="max", axes=[1], keepdims=1),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", len(offset)])],
        [
            helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", len(offset)]),
            helper.make_tensor_value_info("top", TensorProto.FLOAT, ["batch", 1]),
        ],
        [numpy_helper.from_array(np.array(offset, "float32"), "offset")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


@pytest.mark.parametrize("optimized", [True, False])
def test_figures_are_those_of_all_samples_together(tmp_path: Path, optimized: bool) -> None:
    data = samples()
    a, b = save(tmp_path / "a.onnx", [0, 0, 0, 0]), save(tmp_path / "b.onnx", [0.5, 0, 0, -0.25])
    found = verify(a, b, data, optimized=optimized)
    x = np.concatenate([sample["x"] for sample in data]).astype("float64")
    y = x + np.array([0.5, 0, 0, -0.25])
    assert found.samples == 5
    one = found.outputs["y"]
    assert one.snr_db == pytest.approx(10 * math.log10((x**2).sum() / ((x - y) ** 2).sum()))
    assert one.cosine == pytest.approx((x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum()))
    assert one.top1 == pytest.approx((x.argmax(1) == y.argmax(1)).mean())
    assert one.top1 not in (0.0, 1.0)
    assert one.max_abs_error == pytest.approx(0.5, abs=1e-6)
    assert found.outputs["top"].top1 is None


@pytest.mark.parametrize(("classes", "told"), [(3, 0.75), (1, None)])
def test_the_classes_of_an_image_are_its_second_axis(classes: int, told: float | None) -> None:
    expected = np.zeros((1, classes, 2, 2), "float32")
    expected[0, 0] = 1.0
    actual = expected.copy()
    actual[0, -1, 1, 1] = 5.0
    sums = Sums()
    sums.add(expected, actual, "segments")
    assert sums.agreement().top1 == told


def test_a_model_agrees_with_itself_without_limit(tmp_path: Path) -> None:
    a = save(tmp_path / "a.onnx", [1, 2, 3, 4])
    one = verify(a, a, samples()).outputs["y"]
    assert (one.exact, one.snr_db, one.top1, one.max_abs_error) == (True, math.inf, 1.0, 0.0)
    assert one.cosine == pytest.approx(1.0)


def test_a_silent_output_has_no_cosine(tmp_path: Path) -> None:
    a, b = save(tmp_path / "a.onnx", [0, 0]), save(tmp_path / "b.onnx", [1, 1])
    one = verify(a, b, [{"x": np.zeros((1, 2), "f")}]).outputs["y"]
    assert (one.exact, one.snr_db, one.cosine) == (False, -math.inf, None)


def test_values_that_are_not_finite_are_counted_and_spoil_nothing(tmp_path: Path) -> None:
    a, b = save(tmp_path / "a.onnx", [0, 0, 0]), save(tmp_path / "b.onnx", [0.5, 0, 0])
    one = verify(a, b, [{"x": np.array([[1, math.nan, math.inf]], "f")}]).outputs["y"]
    assert one.nonfinite == 2
    assert one.snr_db == pytest.approx(10 * math.log10(1 / 0.25))


def test_a_value_that_only_the_exported_model_makes_nan_or_infinite_is_no_agreement(tmp_path: Path) -> None:
    a, b = save(tmp_path / "a.onnx", [0, 0, 0]), save(tmp_path / "b.onnx", [math.nan, math.inf, 0])
    found = verify(a, b, [{"x": np.array([[1, 2, math.inf]], "f")}]).outputs
    assert (found["y"].exact, found["y"].snr_db, found["y"].broken, found["y"].nonfinite) == (False, -math.inf, 2, 3)
    assert verify(a, a, [{"x": np.array([[1, 2, math.inf]], "f")}]).outputs["y"].broken == 0


def test_samples_are_read_once_and_not_kept(tmp_path: Path) -> None:
    alive: list[int] = []

    def stream() -> Iterator[dict[str, NDArray[np.float32]]]:
        for index in range(3):
            alive.append(index)
            yield {"x": np.ones((index + 1, 2), "f")}

    a = save(tmp_path / "a.onnx", [0, 0])
    assert verify(a, a, stream()).samples == 3
    assert alive == [0, 1, 2]


def test_models_with_other_outputs_are_refused(tmp_path: Path) -> None:
    a, b = save(tmp_path / "a.onnx", [0, 0]), save(tmp_path / "b.onnx", [0, 0], output="z")
    with pytest.raises(ModelError, match="other outputs"):
        verify(a, b, samples(classes=2))


def test_no_samples_and_wrong_samples_are_refused(tmp_path: Path) -> None:
    a = save(tmp_path / "a.onnx", [0, 0])
    with pytest.raises(DataError, match="no samples"):
        verify(a, a, [])
    with pytest.raises(DataError, match="sample 1"):
        verify(a, a, [{"x": np.zeros((1, 3), "f")}])


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_text("no model")
    with pytest.raises(ModelError, match=r"cannot load the model: .*a\.onnx"):
        verify(tmp_path / "a.onnx", tmp_path / "a.onnx", samples())


def test_a_trial_run_makes_up_zeros_or_takes_a_sample(tmp_path: Path) -> None:
    a = save(tmp_path / "a.onnx", [0, 0])
    run_once(a)
    run_once(a, {"x": (7, 2)})
    with pytest.raises(Exception, match="invalid dimensions"):
        run_once(a, {"x": (7, 3)})


def save_pool(path: Path, kernel: int) -> Path:
    """A model of dynamic size that takes no image smaller than its kernel."""
    graph = helper.make_graph(
        [helper.make_node("MaxPool", ["x"], ["y"], name="pool", kernel_shape=[kernel, kernel])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, "height", "width"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3, "rows", "columns"])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def test_a_trial_run_finds_a_size_that_the_model_takes(tmp_path: Path) -> None:
    run_once(save_pool(tmp_path / "a.onnx", 30))
    with pytest.raises(Exception, match="pool"):
        run_once(save_pool(tmp_path / "b.onnx", 300))


def test_a_trial_run_needs_a_sample_where_zeros_do_not_exist(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"], name="same")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.STRING, [1])],
        [helper.make_tensor_value_info("y", TensorProto.STRING, [1])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "a.onnx")
    with pytest.raises(DataError, match="cannot make up an input: x of type tensor"):
        run_once(tmp_path / "a.onnx")
