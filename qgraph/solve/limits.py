"""Ranges within the bounds of the Clip that makes a tensor: no value lies beyond, and the Clip itself becomes needless.

An observer may set the end of a range a little beyond the largest value, where the steps then meet the values better.
Behind a Clip that costs more than it gains: a runtime leaves out a Clip whose bounds the integers cannot pass
(onnxruntime, core/optimizer/qdq_transformer/clip_quantizelinear.cc), and runs what comes before it in float otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from qgraph.calib.clipping import clip_bounds
from qgraph.calib.observers.observe import ScaleAndOffset
from qgraph.ir.elements import Structure
from qgraph.tqc import Scheme, to_float32

Limits = tuple[float, float]

FLOAT32_ULP = 2.0**29
"""Of the distance to the next float64: that to the next float32."""


def limits_of(structure: Structure) -> Mapping[str, Limits]:
    """The bounds of the tensors that a Clip makes, where they are known before it runs."""
    tensors = {tensor.name: tensor for tensor in structure.tensors}
    found = {op.outputs[0]: clip_bounds(op, tensors) for op in structure.ops if op.type == "Clip"}
    return {tensor: bounds for tensor, bounds in found.items() if tensor is not None and bounds is not None}


def within(answer: ScaleAndOffset, limits: Limits, scheme: Scheme) -> ScaleAndOffset:
    """The parameters with a smaller scale, where the range begins within the limits and ends beyond the upper one.

    Symmetric ranges and powers of two stay: there the ends cannot be chosen.

    >>> scheme = Scheme(8, False, False, 0, 255, None, False)
    >>> scale, offset = within((0.0238, 0), (0.0, 6.0), scheme)
    >>> to_float32(scale * 255) <= 6, round(scale * 255, 5), offset
    (True, 6.0, 0)
    >>> within((0.02, 0), (0.0, 6.0), scheme), within((0.02, 9), (0.0, 1.0), scheme)
    ((0.02, 0), (0.02, 9))
    """
    scale, offset = answer
    low, high = limits
    above = scheme.quant_max - offset
    if scheme.symmetric or scheme.power_of_two or (scheme.quant_min - offset) * scale < low or above <= 0:
        return answer
    high = to_float32(high) if math.isfinite(high) else high
    if not 0 < high < to_float32(above * scale):
        return answer
    smaller = to_float32(high / above)
    while to_float32(smaller * above) > high:  # as a runtime multiplies
        smaller = to_float32(smaller - math.ulp(smaller) * FLOAT32_ULP)
    return smaller, offset
