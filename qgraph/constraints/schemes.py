"""What slots of different schemes can bear together."""

from __future__ import annotations

import math
from collections.abc import Iterable

from qgraph.tqc import Scheme


def common_scheme(schemes: Iterable[Scheme]) -> Scheme | None:
    """The scheme whose every scale and offset is one of each of these; None if there is none.

    A symmetric scale is an asymmetric one with its offset in the middle, a power of two is a scale like others, one
    scale for the whole tensor is one that all channels have, and what stays in the narrower range stays in the wider.
    Nothing is in common between integers of other bits or sign (an int16 would lose half of its bits without a word),
    nor between scales per channel of different axes.

    Args:
        schemes: at least one, in any order.

    >>> int8 = Scheme(8, signed=True, symmetric=False, quant_min=-128, quant_max=127)
    >>> narrow = Scheme(8, signed=True, symmetric=True, quant_min=-127, quant_max=127, power_of_two=True)
    >>> print(common_scheme([int8, narrow]))
    int8 [-127, 127] symmetric per tensor, power of two
    >>> common_scheme([int8, Scheme(16, signed=True, symmetric=False, quant_min=-128, quant_max=127)])
    """
    given = list(schemes)
    first = given[0]
    low, high = max(one.quant_min for one in given), min(one.quant_max for one in given)
    axes = {one.axis for one in given}
    if any((one.bits, one.signed) != (first.bits, first.signed) for one in given) or low >= high:
        return None
    if len(axes - {None}) > 1:
        return None
    return Scheme(
        first.bits,
        signed=first.signed,
        symmetric=any(one.symmetric for one in given),
        quant_min=low,
        quant_max=high,
        axis=None if None in axes else first.axis,
        power_of_two=any(one.power_of_two for one in given),
    )


def bears(scheme: Scheme, scale: float, offset: int) -> bool:
    """Whether a scale and an offset are allowed by a scheme.

    >>> int8 = Scheme(8, signed=True, symmetric=True, quant_min=-127, quant_max=127)
    >>> bears(int8, 0.5, 0), bears(int8, 0.5, -128)
    (True, False)
    """
    if scheme.symmetric and offset != scheme.symmetric_offset:
        return False
    power = not scheme.power_of_two or math.frexp(scale)[0] == 0.5
    return power and scheme.quant_min <= offset <= scheme.quant_max
