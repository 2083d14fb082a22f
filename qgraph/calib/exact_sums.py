"""Sums of float32 values that do not depend on the order in which their parts are added.

A part is a float64 that was summed from finite float32 values. Every float32 is a multiple of 2^-149, and so is
every float64 that a sum of them is rounded to: rounding only makes the last place coarser. A total is therefore an
integer number of 2^-149, kept in limbs of 32 bits, and adding to it is integer addition: exact, associative and
commutative, whatever the values are. The rounding *inside* a part depends on nothing but that part's values and
the fixed order in which they are added up, so the total is the same for every order, split or merge of the parts::

    limb          11 …           4         3         2         1         0
    bits     383 …          159 … 128  127 … 96   95 … 64   63 … 32   31 … 0     × 2^-149
                                            └── a float64 covers three limbs at most

2^63 parts of 2^170 each need 382 bits. Every limb but the last is in [0, 2^32), the last one carries the sign, so
that equal totals have equal limbs.

>>> total = limbs_of([1.0, 2.0**100, -(2.0**100), -2.0**-149])
>>> value(total) * 2**149 == 2**149 - 1
True
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray

LIMBS: Final = 12
LIMB_BITS: Final = 32
LIMB_MASK: Final = (1 << LIMB_BITS) - 1
UNIT_EXPONENT: Final = -149
"""Exponent of the smallest positive float32."""

Limbs = NDArray[np.int64]


def no_sums(channels: int) -> Limbs:
    """Totals of nothing: int64 [channels, LIMBS]."""
    return np.zeros((channels, LIMBS), np.int64)


def limbs_of(parts: Iterable[float]) -> Limbs:
    """The total of parts, the slow and obvious way: int64 [LIMBS].

    Args:
        parts: finite multiples of 2^-149.
    """
    total = sum(int(Fraction(part) * 2**-UNIT_EXPONENT) for part in parts)
    return np.array(
        [*((total >> LIMB_BITS * i) & LIMB_MASK for i in range(LIMBS - 1)), total >> LIMB_BITS * (LIMBS - 1)]
    )


def carried(limbs: Limbs) -> Limbs:
    """The same totals with every limb but the last in [0, 2^32): int64 [..., LIMBS]."""
    settled = limbs.copy()
    for i in range(LIMBS - 1):
        settled[..., i + 1] += settled[..., i] >> LIMB_BITS  # an arithmetic shift: it rounds down
        settled[..., i] &= LIMB_MASK
    return settled


def value(limbs: Limbs) -> Fraction:
    """The exact value of one total."""
    total = sum(int(limb) << LIMB_BITS * i for i, limb in enumerate(limbs.tolist()))
    return Fraction(total, 1 << -UNIT_EXPONENT)
