"""Bias scales: derived from input and weight, once the weight's scale is large enough to let the bias fit.

A bias is stored as round(b / (s_in · s_w)) in an int32. A channel of tiny weights makes s_w tiny, and a bias of
ordinary size overflows; so s_w is raised to the least float32 with which it fits::

    s_in = 0.02, s_w = 1e-13, b = 5      b / (s_in · s_w) = 2.5e15  > 2^31 − 1
                 s_w ↑ 1.2e-7            b / (s_in · s_w) = 2^31 − 1
"""

from __future__ import annotations

import math

import torch

from qgraph.calib.observers.minmax import finish_scales
from qgraph.errors import StatisticsError
from qgraph.tqc import FLOAT32_TINY, Scheme, to_float32


def weight_floor(
    magnitude: tuple[float, ...], activation: tuple[float, ...], bias: Scheme, weight: Scheme
) -> list[float]:
    """The least weight scale of each bias channel for which the bias fits and its own scale is a normal float32.

    Args:
        magnitude: |bias| of each channel.
        activation: input scales, one in all or one per bias channel, see `input_scales`.
        bias, weight: their schemes.
    """
    values = torch.tensor(magnitude, dtype=torch.float64)
    activation_scale = torch.tensor(activation, dtype=torch.float64)
    limit = float(bias.half_range)
    least = torch.maximum(values / limit, torch.full_like(values, FLOAT32_TINY)) / activation_scale
    scale = finish_scales(least, power_of_two=weight.power_of_two)
    if not weight.power_of_two:
        # The division and both roundings may be off by some units in the last place: walk up from below.
        down, up = torch.tensor(0.0), torch.tensor(math.inf)
        floor = torch.nextafter(torch.nextafter(scale.float(), down), down).clamp(min=FLOAT32_TINY)
        while bool((poor := ~_fits(values, floor.double(), activation_scale, limit)).any()):
            floor = torch.where(poor, torch.nextafter(floor, up), floor)
        scale = floor.double()
    return [float(s) for s in scale.tolist()]


def _fits(values: torch.Tensor, weight: torch.Tensor, activation: torch.Tensor, limit: float) -> torch.Tensor:
    product = (weight * activation).float().double()
    return (product >= FLOAT32_TINY) & (values <= product * limit)


def fold_channels(channels: list[float], count: int, slot: str) -> list[float]:
    """The largest of the bias channels that belong to each of `count` weight scales.

    Weight scales are one in all, one per bias channel, or, for a grouped transposed convolution, one for every
    `count`-th bias channel. One bias for all channels belongs to each.

    Raises:
        StatisticsError: the numbers of channels do not go together.
    """
    if len(channels) == 1:
        return channels * count
    if len(channels) % count:
        raise StatisticsError(
            "bias and weight have channels that do not go together",
            f"{slot}: {len(channels)} and {count}",
            "check the weight's axis in the rule pack",
        )
    return [max(channels[first::count]) for first in range(count)]


def input_scales(activation: tuple[float, ...], channels: int, slot: str) -> tuple[float, ...]:
    """The scale of the input that each of `channels` output channels reads: one in all, or one for each.

    An input with one scale per channel is that of a depthwise convolution; each of its channels makes as many output
    channels, one after the other.

    >>> input_scales((0.5, 0.25), 4, "conv:bias")
    (0.5, 0.5, 0.25, 0.25)

    Raises:
        StatisticsError: the numbers of channels do not go together.
    """
    if len(activation) == 1:
        return activation
    if channels % len(activation):
        raise StatisticsError(
            "input and bias have channels that do not go together",
            f"{slot}: {len(activation)} and {channels}",
            "check the input's granularity in the rule pack",
        )
    return tuple(scale for scale in activation for _ in range(channels // len(activation)))


def bias_scale(weight: tuple[float, ...], activation: tuple[float, ...], channels: int, slot: str) -> tuple[float, ...]:
    """Scale of each bias channel, s_in · s_w rounded to float32; one in all where input and weight have one.

    Raises:
        StatisticsError: the numbers of channels do not go together.
    """
    repeats = max(1, channels // len(weight)) if len(weight) > 1 else 1
    weights = weight * repeats
    inputs = input_scales(activation, max(channels, len(weights), len(activation)), slot)
    count = max(len(weights), len(inputs))
    weights, inputs = (scales * count if len(scales) == 1 else scales for scales in (weights, inputs))
    return tuple(to_float32(a * b) for a, b in zip(inputs, weights, strict=True))
