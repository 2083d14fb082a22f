"""The least squared error there is: a literal search over scales and zero points on the raw values."""

import numpy as np
from numpy.typing import NDArray

from qgraph.tqc import Scheme, scale_and_offset

Values = NDArray[np.float32]


def scheme(bits: int, *, signed: bool = True, symmetric: bool = True, power_of_two: bool = False) -> Scheme:
    low = -(1 << (bits - 1)) if signed else 0
    return Scheme(bits, signed, symmetric, low, low + (1 << bits) - 1, power_of_two=power_of_two)


def error(values: Values, scale: float, offset: int, how: Scheme) -> float:
    x = values.astype(np.float64)
    q = np.clip(np.round(x / scale) + offset, how.quant_min, how.quant_max)
    return float((((q - offset) * scale - x) ** 2).sum())


def brute_force(values: Values, how: Scheme) -> float:
    """The least error over many scales and every zero point, then around the best of them."""
    whole = scale_and_offset(float(values.min()), float(values.max()), how)[0]
    offsets = [how.symmetric_offset] if how.symmetric else list(range(how.quant_min, how.quant_max + 1))
    coarse = [(whole * 2.0 ** (-j / 12), o) for j in range(-2, 60) for o in offsets]
    x, weight = np.unique(values.astype(np.float64), return_counts=True)
    if x.size > 400 and len(offsets) > 16:
        # Too much for all values: the search runs on every tenth, the result is exact.
        x, weight = x[::10], weight[::10]

    def price(candidate: tuple[float, int]) -> float:
        scale, offset = candidate
        n = np.clip(np.round(x / scale), how.quant_min - offset, how.quant_max - offset)
        return float((weight * (n * scale - x) ** 2).sum())

    scale, offset = min(coarse, key=price)
    fine = [
        error(values, scale * 2.0 ** (j / 400), o, how) for j in range(-34, 35) for o in offsets if abs(o - offset) <= 2
    ]
    return min(fine)
