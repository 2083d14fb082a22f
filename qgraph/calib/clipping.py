"""What a Clip makes of statistics, exactly, where its bounds lie on edges between bins.

Relu6's bounds do, as does every bound with at most eight mantissa bits: then a bin lies on one side of it as a whole::

    bins of x      ▁▂▅▇▆▃▂▁▁▁            clip(x, 0, 6)        ▇▆▃▂█
                   ────┼─────┼───                             ┼────┼
                       0     6                                0    6

What is cut off piles up at the bound, and its number is that of the elements of the bins beyond, infinities included.
NaN stays NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from qgraph.calib.grid import DROPPED_BITS, SIGN_BIN, bin_of
from qgraph.calib.statistics import TensorStatistics
from qgraph.ir.elements import Op, Tensor


def clip_bounds(op: Op, tensors: Mapping[str, Tensor]) -> tuple[float, float] | None:
    """The bounds of a Clip, infinite where it has none; None if they are not known before it runs."""
    found: list[float] = []
    for position, attribute, missing in ((1, "min", -math.inf), (2, "max", math.inf)):
        name = op.inputs[position] if position < len(op.inputs) else None
        value: object = op.attributes.get(attribute, missing)
        if name is not None:
            tensor = tensors.get(name)
            values = tensor.values if tensor is not None else None
            value = values[0] if values is not None and len(values) == 1 else None
        if not isinstance(value, int | float) or math.isnan(value):
            return None
        found.append(float(value) + 0.0)
    return found[0], found[1]


def clips_whole_bins(low: float, high: float) -> bool:
    """Whether a clip to these bounds keeps or cuts off every bin as a whole, and keeps zero."""
    return low <= 0 <= high and low < high and all(_is_edge(bound) for bound in (low, high))


def _is_edge(bound: float) -> bool:
    if not math.isfinite(bound):
        return True
    with np.errstate(over="ignore"):
        rounded = np.float32(bound)
    return float(rounded) == bound and int(rounded.view(np.uint32)) % (1 << DROPPED_BITS) == 0


def clipped(statistics: TensorStatistics, low: float, high: float, atoms: tuple[float, ...]) -> TensorStatistics:
    """Statistics of ``clip(x, low, high)``.

    Args:
        statistics: of x; with the multiplicity of those atoms that lie between the bounds.
        low, high: see `clips_whole_bins`.
        atoms: of the result.

    >>> from qgraph.calib.statistics import statistics_of
    >>> found = clipped(statistics_of([-2.0, 0.0, 5.0, 6.0, 7.5]), 0.0, 6.0, (6.0,))
    >>> found.zeros, found.maximum, found.maximum_count, found.atoms
    (2, 6.0, 2, ((6.0, 2),))
    """
    s = statistics
    first_above = int(bin_of(high)) if 0 < high < math.inf else 0 if high == 0 else SIGN_BIN
    first_below = int(bin_of(low)) if -math.inf < low < 0 else SIGN_BIN if low == 0 else 2 * SIGN_BIN
    above = (s.bins >= first_above) & (s.bins < SIGN_BIN)
    below = s.bins >= first_below
    at_high = int(s.counts[above].sum()) + (s.positive_infinities if high < math.inf else 0)
    at_low = int(s.counts[below].sum()) + (s.negative_infinities if low > -math.inf else 0)
    kept = ~(above | below)
    bins, counts = s.bins[kept], s.counts[kept]
    zeros = s.zeros
    for bound, number in ((high, at_high), (low, at_low)):
        if bound == 0:
            zeros += number
        elif number:
            place = int(np.searchsorted(bins, bin_of(bound)))
            bins, counts = np.insert(bins, place, bin_of(bound)), np.insert(counts, place, number)
    inside = bool(kept.any()) or s.zeros > 0
    minimum, minimum_count = _outermost(low, at_low, high, at_high, s.minimum, s.minimum_count, inside=inside)
    maximum, maximum_count = _outermost(high, at_high, low, at_low, s.maximum, s.maximum_count, inside=inside)
    found = {**dict(s.atoms), **{bound: n for bound, n in ((high, at_high), (low, at_low)) if bound != 0}, 0.0: zeros}
    return replace(
        s,
        bins=bins.astype(np.uint32),
        counts=counts,
        zeros=zeros,
        positive_infinities=0 if high < math.inf else s.positive_infinities,
        negative_infinities=0 if low > -math.inf else s.negative_infinities,
        minimum=minimum,
        maximum=maximum,
        minimum_count=zeros if minimum == 0 else minimum_count,
        maximum_count=zeros if maximum == 0 else maximum_count,
        atoms=tuple((atom, found[atom] if low <= atom <= high else 0) for atom in atoms),
    )


def _outermost(
    near: float, at_near: int, far: float, at_far: int, extreme: float | None, count: int, *, inside: bool
) -> tuple[float | None, int]:
    """One extreme and its multiplicity: the near bound, an element that was kept, or else the far bound."""
    if at_near:
        return near, at_near
    if inside:
        return extreme, count
    return (far, at_far) if at_far else (None, 0)
