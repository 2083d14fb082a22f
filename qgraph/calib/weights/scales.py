"""Scales of weights and magnitudes of biases, from their raw values.

What the channels of a slab need is all found before the next slab is looked at::

    slab  ─▶  range of each channel  ─▶  minmax scale  ─▶  ladders of scales around the best one  ─▶  mse scale
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from qgraph.calib.decibels import decibels
from qgraph.calib.evidence import METHODS, BiasMagnitude, WeightSolution
from qgraph.calib.statistics import as_float32
from qgraph.calib.weights.candidates import finish_scales, ladder, rounded_cost
from qgraph.calib.weights.slabs import Floats, Slab, Weight, slabs, total
from qgraph.errors import ModelError, NotFoundError, UsageError
from qgraph.tqc import FLOAT32_TINY, Scheme

LADDERS = ((2, -16, 0), (8, -3, 3), (32, -3, 3), (128, -3, 3))
"""The mse search, as (rungs per octave, first rung, last rung): eight octaves, then around the best, thrice."""


@dataclass(frozen=True, eq=False)
class _Channels:
    """What is known of some channels: float64 [channels] each. `noise` is the energy of the rounding error."""

    magnitude: Floats
    signal: Floats
    scale: Floats
    noise: Floats


def solve_weight(
    tensor: str, values: ArrayLike, schemes: Sequence[Scheme], *, methods: Sequence[str] = METHODS
) -> tuple[WeightSolution, ...]:
    """The scales of one weight for each scheme and method, schemes first.

    A channel of nothing but zeros and denormals has no scale of its own. It gets the largest of the other channels',
    as if it had the range of the whole weight: a tiny one would cost the bias that is derived from it its range, a
    huge one its precision. If all channels are like that, their scale is 1.

    Args:
        tensor: its name, for the solutions and for errors.
        values: float16, float32 or float64 of any shape, rounded to float32; may be mapped from a file.
        schemes: symmetric ones.

    Raises:
        ModelError: the weight has NaN or Inf.
        NotFoundError: no such method.
        UsageError: a scheme is asymmetric, or its axis does not exist.
    """
    weight = np.asarray(values)
    wanted = [(scheme, method) for scheme in schemes for method in map(str.lower, methods)]
    _check(tensor, weight, wanted)
    solved: dict[tuple[Scheme, str], WeightSolution] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for axis in dict.fromkeys(scheme.axis for scheme in schemes):
            own = [(scheme, method) for scheme, method in wanted if scheme.axis == axis]
            solved |= zip(own, _solve_axis(tensor, weight, axis, own, pool), strict=True)
    return tuple(solved[key] for key in wanted)


def weight_noise_db(tensor: str, values: ArrayLike, scheme: Scheme, scale: Sequence[float]) -> float:
    """The noise of a weight with scales that are known, in dB; args and errors as `solve_weight`."""
    weight = np.asarray(values)
    _check(tensor, weight, [(scheme, METHODS[0])])
    given, first, noise, signal = np.asarray(scale, "float64"), 0, [], []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for slab in slabs(weight, scheme.axis, pool):
            own = slice(first, first := first + slab.magnitude.size)
            noise.append(_noise(slab, given[own], scheme))
            signal.append(slab.energies(np.ones((slab.magnitude.size, 1)), 0, 0)[:, 0])
    return decibels(total(np.concatenate(noise)), total(np.concatenate(signal)))


def bias_magnitude(tensor: str, values: ArrayLike) -> BiasMagnitude:
    """Largest |bias| of each channel; a bias has one value per channel.

    Raises:
        ModelError: the bias has NaN or Inf.
    """
    magnitude = np.abs(as_float32(values)).ravel()
    if not np.isfinite(magnitude).all():
        raise ModelError("bias has NaN, Inf or values beyond float32", tensor, "repair the model")
    return BiasMagnitude(tensor, tuple(magnitude.tolist()))


def _check(tensor: str, weight: Weight, wanted: Sequence[tuple[Scheme, str]]) -> None:
    for scheme, method in wanted:
        if scheme.axis is not None and not -weight.ndim <= scheme.axis < weight.ndim:
            which = f"axis {scheme.axis} of {tensor} with shape {weight.shape}"
            raise UsageError("no such axis", which, "check the rule pack")
        if not scheme.symmetric:
            what = "weights have no offset, so their scheme must be symmetric"
            raise UsageError(what, f"{tensor}: {scheme}", "check the rule pack")
        if method not in METHODS:
            raise NotFoundError.among("method for weights", method, METHODS, f"choose one of {', '.join(METHODS)}")


def _solve_axis(
    tensor: str, weight: Weight, axis: int | None, wanted: Sequence[tuple[Scheme, str]], pool: ThreadPoolExecutor
) -> Iterator[WeightSolution]:
    """Solve all schemes and methods of one axis in one walk over the weight."""
    found: list[list[_Channels]] = [[] for _ in wanted]
    for slab in slabs(weight, axis, pool):
        magnitude = slab.magnitude
        if not np.isfinite(magnitude).all():
            raise ModelError("weight has NaN, Inf or values beyond float32", tensor, "repair the model")
        # The error of a quantizer that knows nothing but zero is the signal.
        signal = slab.energies(np.ones((magnitude.size, 1)), 0, 0)[:, 0]
        for (scheme, method), parts in zip(wanted, found, strict=True):
            scale = _scale(slab, magnitude, scheme, method)
            parts.append(_Channels(magnitude, signal, scale, _noise(slab, scale, scheme)))
    for (scheme, method), parts in zip(wanted, found, strict=True):
        channels = _with_stand_ins(_joined(parts), weight, scheme, pool)
        noise_db = decibels(total(channels.noise), total(channels.signal))
        yield WeightSolution(tensor, scheme, method, tuple(channels.scale.tolist()), noise_db)


def _joined(parts: Sequence[_Channels]) -> _Channels:
    columns = ("magnitude", "signal", "scale", "noise")
    return _Channels(*(np.concatenate([np.zeros(0), *(getattr(part, one) for part in parts)]) for one in columns))


def _with_stand_ins(channels: _Channels, weight: Weight, scheme: Scheme, pool: ThreadPoolExecutor) -> _Channels:
    """The channels with another scale where one has none of its own."""
    live = channels.magnitude >= FLOAT32_TINY
    scale = np.where(live, channels.scale, channels.scale[live].max() if live.any() else 1.0)
    noise = channels.noise
    if (~live & (channels.magnitude > 0)).any():  # denormals; zeros have no noise anyway
        noise = np.empty_like(scale)
        first = 0
        for slab in slabs(weight, scheme.axis, pool):
            own = slice(first, first := first + len(slab.rows))
            noise[own] = _noise(slab, scale[own], scheme)
    return _Channels(channels.magnitude, channels.signal, scale, noise)


def _scale(slab: Slab, magnitude: Floats, scheme: Scheme, method: str) -> Floats:
    """The scale of each channel of a slab by one method: float64 [channels]."""
    whole = finish_scales(magnitude / scheme.half_range, power_of_two=scheme.power_of_two)
    return whole if method == "minmax" else _search(slab, whole[:, None], scheme)[:, 0]


def _search(slab: Slab, whole: Floats, scheme: Scheme) -> Floats:
    """The scale of least squared error of each channel, the smallest among ties: float64 [channels, 1]."""
    best = whole
    for rungs, first, last in LADDERS:
        if scheme.power_of_two and rungs > LADDERS[0][0]:
            break
        scale = finish_scales(ladder(best, rungs, first, last), power_of_two=scheme.power_of_two)
        cost = rounded_cost(slab.energies(scale, *_range(scheme)))
        best = np.where(cost == cost.min(axis=1, keepdims=True), scale, np.inf).min(axis=1, keepdims=True)
    return best


def _noise(slab: Slab, scale: Floats, scheme: Scheme) -> Floats:
    return slab.energies(scale[:, None], *_range(scheme))[:, 0]


def _range(scheme: Scheme) -> tuple[int, int]:
    """The ends of the integer range, counted from the offset."""
    return scheme.quant_min - scheme.symmetric_offset, scheme.quant_max - scheme.symmetric_offset
