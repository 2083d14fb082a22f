"""The minmax observer: the whole range of the values, nothing clipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from qgraph.calib.observers.entry import Parameter
from qgraph.calib.statistics import TensorStatistics
from qgraph.tqc import FLOAT32_TINY, Scheme

FLOAT32_MAX = torch.finfo(torch.float32).max


def minmax(
    statistics: Sequence[TensorStatistics],
    scheme: Scheme,
    parameters: Mapping[str, Parameter],  # noqa: ARG001 - it has none
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Scale and offset of each range: those of `qgraph.tqc.scale_and_offset`, bit for bit.

    Returns:
        Scales, float64 [n], each a float32; offsets, int64 [n].
    """
    minimum = torch.tensor([one.minimum for one in statistics], dtype=torch.float64, device=device)
    maximum = torch.tensor([one.maximum for one in statistics], dtype=torch.float64, device=device)
    scale = range_scale(minimum, maximum, scheme)
    return scale, range_offset(minimum, scale, scheme)


def range_offset(minimum: Tensor, scale: Tensor, scheme: Scheme) -> Tensor:
    """The offset that puts the low end of each range (or zero, if that is lower) on ``quant_min``: int64."""
    if scheme.symmetric:
        return torch.full_like(scale, scheme.symmetric_offset, dtype=torch.int64)
    offset = (scheme.quant_min - minimum.clamp(max=0) / scale).round()
    return offset.clamp(scheme.quant_min, scheme.quant_max).to(torch.int64)


def range_scale(minimum: Tensor, maximum: Tensor, scheme: Scheme) -> Tensor:
    """The scale that just holds each range and zero: float64 tensors of any shape."""
    low, high = minimum.clamp(max=0), maximum.clamp(min=0)
    if scheme.symmetric:
        scale = torch.maximum(-low, high) / scheme.half_range
    else:
        scale = (high - low) / (scheme.quant_max - scheme.quant_min)
    return finish_scales(scale, power_of_two=scheme.power_of_two)


def finish_scales(scale: Tensor, *, power_of_two: bool) -> Tensor:
    """Make positive numbers legal scales, as `qgraph.tqc.finish_scale` does; none exceeds the float32 range."""
    scale = scale.clamp(FLOAT32_TINY, FLOAT32_MAX)
    if power_of_two:
        mantissa, exponent = torch.frexp(scale)
        exponent = torch.where(mantissa == 0.5, exponent - 1, exponent).clamp(max=127)
        return torch.ldexp(torch.ones_like(scale), exponent)
    return scale.to(torch.float32).to(torch.float64)
