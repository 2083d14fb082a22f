"""The range of a tensor that a Clip makes ends where the Clip does."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import qgraph
from qgraph.ir.onnx_import import load_model
from qgraph.solve.limits import limits_of, within
from qgraph.tqc import Scheme, to_float32

UINT8 = Scheme(8, False, False, 0, 255, None, False)


@given(st.floats(2.0**-10, 1024, width=32), st.floats(1.0, 1.5), st.integers(0, 254))
def test_the_integers_never_pass_the_upper_bound_and_come_as_near_as_they_can(
    high: float, beyond: float, offset: int
) -> None:
    """As onnxruntime computes it: in float32."""
    given_scale = to_float32(high * beyond / (255 - offset))
    scale, kept = within((given_scale, offset), (-np.inf, high), UINT8)
    top = np.float32(255 - offset) * np.float32(scale)
    assert kept == offset
    assert top <= np.float32(high)
    if np.float32(255 - offset) * np.float32(given_scale) > np.float32(high):
        assert np.float32(255 - offset) * np.nextafter(np.float32(scale), np.float32(1e9)) >= np.float32(high)
    else:
        assert scale == given_scale


@pytest.mark.parametrize(
    "scheme", [Scheme(8, True, True, -127, 127, None, False), Scheme(8, False, False, 0, 255, None, True)]
)
def test_ends_that_cannot_be_chosen_stay(scheme: Scheme) -> None:
    assert within((0.5, 0), (0.0, 6.0), scheme) == (0.5, 0)


def test_a_range_that_begins_below_the_lower_bound_stays() -> None:
    """The Clip stays then, and a smaller scale would only clip values."""
    assert within((0.05, 128), (-1.0, 6.0), UINT8) == (0.05, 128)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("observer", ["mse", "minmax", "percentile", "kl"])
def test_onnxruntime_leaves_out_the_clip_and_runs_both_convolutions_on_integers(
    tmp_path: Path, seed: int, observer: str
) -> None:
    """x ─ Conv ─▶ a ─ Clip to [0, 6] ─▶ b ─ Conv ─▶ y. Left alone, `mse` ends b's range at 6.03 with these values."""
    rng = np.random.default_rng(seed)
    constants = {
        "v": rng.normal(0, 2 if seed == 1 else 1.5, (4, 2, 1, 1)),
        "w": rng.normal(0, 0.3, (2, 4, 1, 1)),
        "low": np.array(0),
        "high": np.array(6),
    }
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["a"], "first"),
        helper.make_node("Clip", ["a", "low", "high"], ["b"], "clip"),
        helper.make_node("Conv", ["b", "w"], ["y"], "last"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2, 8, 8]) for name in "xy"]
    initializers = [numpy_helper.from_array(array.astype("f"), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "clipped", ends[:1], ends[1:], initializers)
    file = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)
    assert limits_of(load_model(file).structure) == {"b": (0.0, 6.0)}
    with qgraph.open(tmp_path / "q.db") as db:
        calibration = db.calibrate(file, {"x": rng.normal(size=(8, 2, 8, 8)).astype("f")})
        run = calibration.solve(target="onnxruntime", observer=observer)
        run.export(tmp_path / "int8.onnx")
        scale = run.scales()["tensors"]["b"]["scale"]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(tmp_path / "int8.onnx", options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert scale * 255 == pytest.approx(6, abs=1e-6)
    assert (kinds["QLinearConv"], kinds["QuantizeLinear"], kinds["DequantizeLinear"]) == (2, 1, 1), kinds
    assert {"Conv", "FusedConv", "Clip"}.isdisjoint(kinds), kinds
