"""The scales of weights, computed on the whole weight at once: slow and large, but plain.

What `qgraph.calib.weights.scales` must give, bit for bit.

Every sum runs over blocks of `BLOCK` values in order, so that scales are the same for any number of threads::

    weight [c, …]  ─▶  rows [channels, blocks, BLOCK]  ─▶  error of a scale per channel  ─▶  search
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from qgraph.calib.decibels import decibels
from qgraph.calib.evidence import METHODS, BiasMagnitude, WeightSolution
from qgraph.calib.observers.error import row_sums, working_elements
from qgraph.calib.observers.minmax import finish_scales
from qgraph.calib.observers.mse import ladder, rounded_cost
from qgraph.calib.observers.threads import one_thread
from qgraph.calib.statistics import as_float32
from qgraph.errors import ModelError, NotFoundError, UsageError
from qgraph.tqc import FLOAT32_TINY, Scheme

BLOCK = 4096
"""Values that are summed in one run."""

LADDERS = ((2, -16, 0), (8, -3, 3), (32, -3, 3), (128, -3, 3))
"""The mse search, as (rungs per octave, first rung, last rung): eight octaves, then around the best, thrice."""


@dataclass(frozen=True, eq=False)
class _Rows:
    """A weight as float32 [channels, blocks, block], padded with zeros, which every scheme represents exactly."""

    blocks: Tensor
    magnitude: Tensor


@one_thread()
def solve_weight(
    tensor: str,
    values: ArrayLike,
    schemes: Sequence[Scheme],
    *,
    methods: Sequence[str] = METHODS,
    device: str = "cpu",
) -> tuple[WeightSolution, ...]:
    """The scales of one weight for each scheme and method, schemes first.

    A channel of nothing but zeros and denormals has no scale of its own. It gets the largest of the other channels',
    as if it had the range of the whole weight: a tiny one would cost the bias that is derived from it its range, a
    huge one its precision. If all channels are like that, their scale is 1.

    Args:
        tensor: its name, for the solutions and for errors.
        values: float16, float32 or float64 of any shape; rounded to float32.
        schemes: symmetric ones.

    Raises:
        ModelError: the weight has NaN or Inf.
        NotFoundError: no such method.
        UsageError: a scheme is asymmetric, or its axis does not exist.
    """
    raw = torch.tensor(as_float32(values), device=device)
    if not bool(torch.isfinite(raw).all()):
        raise ModelError("weight has NaN, Inf or values beyond float32", tensor, "repair the model")
    rows = {axis: _rows(tensor, raw, axis) for axis in dict.fromkeys(scheme.axis for scheme in schemes)}
    return tuple(
        _solution(tensor, rows[scheme.axis], scheme, method) for scheme in schemes for method in map(str.lower, methods)
    )


def bias_magnitude(tensor: str, values: ArrayLike) -> BiasMagnitude:
    """Largest |bias| of each channel; a bias has one value per channel.

    Raises:
        ModelError: the bias has NaN or Inf.
    """
    magnitude = np.abs(as_float32(values)).ravel()
    if not np.isfinite(magnitude).all():
        raise ModelError("bias has NaN, Inf or values beyond float32", tensor, "repair the model")
    return BiasMagnitude(tensor, tuple(magnitude.tolist()))


def _rows(tensor: str, raw: Tensor, axis: int | None) -> _Rows:
    """Bring the channels to the front and cut each into blocks."""
    if axis is None:
        channels = raw.reshape(1, -1)
    elif -raw.ndim <= axis < raw.ndim:
        channels = raw.movedim(axis, 0).reshape(raw.shape[axis], -1)
    else:
        raise UsageError(
            "no such axis", f"axis {axis} of {tensor} with shape {tuple(raw.shape)}", "check the rule pack"
        )
    count, length = channels.shape
    block = max(1, min(BLOCK, length))
    blocks = -(-length // block)
    if blocks * block != length:
        channels = torch.nn.functional.pad(channels, (0, blocks * block - length))
    channels = channels.reshape(count, blocks, block)
    magnitude = channels.abs().amax(dim=(1, 2)) if channels.numel() else channels.new_zeros(count)
    return _Rows(channels, magnitude.to(torch.float64))


def _solution(tensor: str, rows: _Rows, scheme: Scheme, method: str) -> WeightSolution:
    if not scheme.symmetric:
        raise UsageError(
            "weights have no offset, so their scheme must be symmetric", f"{tensor}: {scheme}", "check the rule pack"
        )
    if method not in METHODS:
        raise NotFoundError.among("method for weights", method, METHODS, f"choose one of {', '.join(METHODS)}")
    scale = finish_scales(rows.magnitude / scheme.half_range, power_of_two=scheme.power_of_two)
    if method == "mse":
        scale = _search(rows, scale[:, None], scheme)[:, 0]
    live = rows.magnitude >= FLOAT32_TINY
    stand_in = scale[live].amax() if bool(live.any()) else scale.new_tensor(1.0)
    scale = torch.where(live, scale, stand_in)
    noise = float(row_sums(_energies(rows, scale[:, None], scheme)[:, 0]))
    signal = float(row_sums(_signal(rows)))
    return WeightSolution(tensor, scheme, method, tuple(scale.tolist()), decibels(noise, signal))


def _search(rows: _Rows, whole: Tensor, scheme: Scheme) -> Tensor:
    """The scale of least squared error of each channel, the smallest among ties: float64 [channels, 1]."""
    best = whole
    for rungs, first, last in LADDERS:
        if scheme.power_of_two and rungs > LADDERS[0][0]:
            break
        scale = finish_scales(ladder(best, rungs, first, last), power_of_two=scheme.power_of_two)
        cost = rounded_cost(_energies(rows, scale, scheme))
        best = torch.where(cost == cost.amin(dim=1, keepdim=True), scale, torch.inf).amin(dim=1, keepdim=True)
    return best


def _energies(rows: _Rows, scale: Tensor, scheme: Scheme) -> Tensor:
    """Σ (x − Q(x))² for k scales of each channel: float64 [channels, k]."""
    low, high = scheme.quant_min - scheme.symmetric_offset, scheme.quant_max - scheme.symmetric_offset
    flat = rows.blocks.flatten(0, 1)
    owner = torch.arange(rows.blocks.shape[0], device=flat.device).repeat_interleave(rows.blocks.shape[1])
    result = torch.empty(flat.shape[0], scale.shape[1], dtype=torch.float64, device=flat.device)
    step = max(1, working_elements(flat.device) // max(1, flat.shape[1]))
    for start in range(0, flat.shape[0], step):
        x = flat[start : start + step].to(torch.float64)
        for column, s in enumerate(scale[owner[start : start + step]].unbind(1)):
            u = x / s[:, None]
            u -= u.round().clamp_(low, high)
            result[start : start + step, column] = row_sums(u.square_()) * s.square()
    return row_sums(result.reshape(*rows.blocks.shape[:2], -1).movedim(1, 2))


def _signal(rows: _Rows) -> Tensor:
    """Σ x² of each channel: float64 [channels]."""
    flat = rows.blocks.flatten(0, 1)
    result = torch.empty(flat.shape[0], dtype=torch.float64, device=flat.device)
    step = max(1, working_elements(flat.device) // max(1, flat.shape[1]))
    for start in range(0, flat.shape[0], step):
        result[start : start + step] = row_sums(flat[start : start + step].to(torch.float64).square_())
    return row_sums(result.reshape(rows.blocks.shape[:2]))
