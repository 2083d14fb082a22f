"""Unite the ranges of several quantizers into one of the same scheme, as Align to Large does.

What is united are ranges that were chosen already, so uniting must not widen what needs no widening: doing it again,
or with the result, changes nothing::

    int8 [-128, 127] symmetric, scale s    stands for [-127 s, 127 s]; the end at -128 s is no reason to widen
    scales 0.01 and 0.04                   0.04
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qgraph.tqc import Scheme, scale_and_offset


def rendering_scheme(scheme: Scheme) -> Scheme:
    """The scheme in which each value is solved alone before the ranges are united.

    The union of two asymmetric ranges is a new range, whose scale is rounded to a power of two once, here below and
    not before. The largest of several powers of two needs no more rounding.
    """
    return scheme if scheme.symmetric else replace(scheme, power_of_two=False)


def unite(quantizers: Sequence[tuple[float, int]], scheme: Scheme) -> tuple[float, int]:
    """Scale and offset of the least range that holds those of all quantizers, in whatever order they come.

    Args:
        quantizers: scales (float32) and offsets, at least one, each solved in `rendering_scheme(scheme)`.

    >>> int8 = Scheme(8, signed=True, symmetric=False, quant_min=-128, quant_max=127)
    >>> unite([(1.0, -128), (0.5, 127)], int8)  # [0, 255] and [-127.5, 0]
    (1.5, -43)
    >>> unite([(0.25, 3), (0.25, 3)], int8)
    (0.25, 3)
    """
    if scheme.symmetric:
        return max(scale for scale, _ in quantizers), scheme.symmetric_offset
    low = min(scale * (scheme.quant_min - offset) for scale, offset in quantizers)
    high = max(scale * (scheme.quant_max - offset) for scale, offset in quantizers)
    return scale_and_offset(low, high, scheme)
