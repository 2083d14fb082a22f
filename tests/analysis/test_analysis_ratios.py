"""Bounds on ratios of scales, in every channel."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from qgraph.analysis.check import check
from qgraph.analysis.violation import Report
from qgraph.constraints.pack import load_pack
from qgraph.formats.quantized_onnx import read_quantized_onnx

PACK = """
[pack]
inherits = "tflite"
name = "bounded"
version = "1"

[[ratio]]
name = "gain"
ops = ["Conv"]
numerator = ["in:0", "in:1"]
denominator = ["out:0"]
{bounds}
source = "a data sheet"
"""

MODEL = """
<ir_version: 8, opset_import: ["" : 13]> g (float[1,1,4,4] x) => (float[1,2,4,4] y)
<float a = {0.5}, float b = {0.25}, float[2] s = {0.5, 1.5}, int8 z = {0}, int8[2] zs = {0, 0},
 int8[2,1,1,1] w_q = {1, 2}>
{
    xq = QuantizeLinear(x, a, z)  xd = DequantizeLinear(xq, a, z)
    w = DequantizeLinear <axis = 0> (w_q, s, zs)
    [conv] c = Conv(xd, w)
    cq = QuantizeLinear(c, b, z)  y = DequantizeLinear(cq, b, z)
}
"""


def checked(tmp_path: Path, bounds: str) -> Report:
    """The ratios are 0.5 · 0.5 / 0.25 = 1 and 0.5 · 1.5 / 0.25 = 3."""
    (tmp_path / "bounded.toml").write_text(PACK.replace("{bounds}", bounds))
    onnx.save(onnx.parser.parse_model(MODEL), tmp_path / "m.onnx")
    return check(read_quantized_onnx(tmp_path / "m.onnx"), load_pack(str(tmp_path / "bounded.toml")))


@pytest.mark.parametrize("bounds", ["below = 3.5", "at_most = 3.0", "at_least = 1.0", "above = 0.9\nbelow = 4"])
def test_ratios_inside_are_no_violation(tmp_path: Path, bounds: str) -> None:
    assert checked(tmp_path, bounds).violations == ()


@pytest.mark.parametrize(
    ("bounds", "worst", "said"),
    [
        ("below = 3.0", "3", "below 3"),
        ("at_most = 2.5", "3", "at most 2.5"),
        ("above = 1.0", "1", "above 1"),
        ("at_least = 1.5\nat_most = 10", "1", "at least 1.5 and at most 10"),
    ],
)
def test_one_channel_outside_is_a_violation(tmp_path: Path, bounds: str, worst: str, said: str) -> None:
    (found,) = checked(tmp_path, bounds).violations
    assert (found.rule, found.kind, found.op, found.source) == ("gain", "ratio", "conv", "a data sheet")
    assert [tensor.name for tensor in found.tensors] == ["x", "w_q", "y"]
    assert found.message == f"the scale of x times w_q over y is {worst}, and must be {said}"
    assert said in found.repair
