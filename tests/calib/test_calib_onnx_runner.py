"""The runner returns the planned activations, and its failures are one line."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from small_models import build, small_cnn

from qgraph.calib.plan import plan_collection
from qgraph.calib.runners.onnx_runner import OnnxRunner
from qgraph.errors import DataError, ModelError

X = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)


def test_it_returns_what_is_planned_and_leaves_the_model_alone(tmp_path: Path) -> None:
    model = small_cnn(tmp_path)
    before = model.serialized()
    plan = plan_collection(model.structure)
    values = OnnxRunner(model.proto, plan.exposed).run({"x": X})
    assert sorted(values) == sorted(plan.exposed)
    np.testing.assert_array_equal(values["x"], X)
    np.testing.assert_array_equal(values["p"].max(), np.clip(values["a"], 0, 6).max())
    assert model.serialized() == before


def test_outputs_of_the_model_can_be_among_the_planned(tmp_path: Path) -> None:
    model = small_cnn(tmp_path)
    (expected,) = onnxruntime.InferenceSession(model.serialized()).run(["y"], {"x": X})
    np.testing.assert_allclose(OnnxRunner(model.proto, ["y"]).run({"x": X})["y"], expected, atol=1e-4)


def test_a_session_of_the_same_plan_repeats_bit_for_bit_in_any_order_and_thread(tmp_path: Path) -> None:
    model = small_cnn(tmp_path)
    plan = plan_collection(model.structure)
    samples = [np.random.default_rng(seed).normal(size=(1, 3, 8, 8)).astype(np.float32) for seed in range(6)]
    first = OnnxRunner(model.proto, plan.exposed)
    every = [first.run({"x": sample}) for sample in samples]
    other = OnnxRunner(model.proto, plan.exposed)
    with ThreadPoolExecutor(3) as pool:
        again = list(pool.map(lambda sample: other.run({"x": sample}), samples[::-1]))[::-1]
    for once, twice in zip(every, again, strict=True):
        for name in plan.tensors:
            np.testing.assert_array_equal(twice[name], once[name])


def test_the_environment_says_what_the_bits_depend_on(tmp_path: Path) -> None:
    environment = OnnxRunner(small_cnn(tmp_path).proto, ["y"]).environment
    assert environment["runtime"] == "onnxruntime"
    assert environment["version"] == onnxruntime.__version__
    assert environment["level"] == "all"
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
