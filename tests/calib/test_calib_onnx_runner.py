"""The runner returns the planned activations, and its failures are one line."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from small_models import build, small_cnn

from qgraph.calib.onnx_runner import OnnxRunner
from qgraph.calib.plan import plan_collection
from qgraph.errors import DataError, ModelError

X = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)


def test_it_returns_what_is_planned_and_leaves_the_model_alone(tmp_path: Path) -> None:
    model = small_cnn(tmp_path)
    before = model.serialized()
    plan = plan_collection(model.structure)
    values = OnnxRunner(model.proto, plan.tensors).run({"x": X})
    assert sorted(values) == sorted(plan.tensors)
    np.testing.assert_array_equal(values["x"], X)
    np.testing.assert_array_equal(values["c6"], np.clip(values["a"], 0, 6))
    assert model.serialized() == before


def test_outputs_of_the_model_can_be_among_the_planned(tmp_path: Path) -> None:
    model = small_cnn(tmp_path)
    (expected,) = onnxruntime.InferenceSession(model.serialized()).run(["y"], {"x": X})
    np.testing.assert_allclose(OnnxRunner(model.proto, ["y"]).run({"x": X})["y"], expected, atol=1e-4)


def test_results_do_not_depend_on_what_else_is_exposed(tmp_path: Path) -> None:
    model = small_cnn(tmp_path)
    plan = plan_collection(model.structure)
    every = OnnxRunner(model.proto, plan.tensors).run({"x": X})
    again = OnnxRunner(model.proto, plan.tensors).run({"x": X})
    for name in plan.tensors:
        np.testing.assert_array_equal(again[name], every[name])
        np.testing.assert_array_equal(OnnxRunner(model.proto, [name]).run({"x": X})[name], every[name])


def test_the_environment_says_what_the_bits_depend_on(tmp_path: Path) -> None:
    environment = OnnxRunner(small_cnn(tmp_path).proto, ["y"]).environment
    assert environment["runtime"] == "onnxruntime"
    assert environment["version"] == onnxruntime.__version__
    assert environment["level"] == "basic"
    assert sorted(environment) == ["cpu", "level", "provider", "runtime", "threads", "version"]


def test_data_that_the_model_cannot_take_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError) as caught:
        OnnxRunner(small_cnn(tmp_path).proto, ["y"]).run({"x": X[:, :, 0]})
    assert "[1, 3, 8]" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_an_op_that_the_runtime_does_not_know_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = build(
        tmp_path,
        """
        <ir_version: 8, opset_import: ["" : 13, "home.made" : 1]>
        custom (float[n, 3] x) => (float[n, 3] y)
        { y = home.made.Spell (x) }
        """,
    )
    with pytest.raises(ModelError, match="Spell"):
        OnnxRunner(model.proto, ["y"])
    assert capfd.readouterr().err == ""
