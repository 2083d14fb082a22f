"""The universal log-linear grid: the bin of a float32 is its top 17 bits.

Sign, 8 exponent bits and 8 mantissa bits, so every octave has 256 bins of equal width, whatever the data::

    bit  31 30......23 22......15 14.............0
         s  eeeeeeee   mmmmmmmm   (within the bin)
         └──────── bin ─────────┘

    value    0        1         2                   4
             ├─ … ────┼┼┼┼┼┼┼┼┼┼┼─┼─┼─┼─┼─┼─┼─┼─┼─┼─┤
    bins        32512 ^    32768 ^             33024 ^

No range is needed beforehand and no histogram is ever rebinned, so merging histograms is adding integers.
A bin's index orders magnitudes; `value_rank` orders values. Zeros are counted apart from the bins.

>>> bin_of([1.0, 1.003, 1.004, 2.0, -1.0]).tolist()
[32512, 32512, 32513, 32768, 98048]
>>> edges([32512, 98048])
(array([ 1.        , -1.00390625]), array([ 1.00390625, -1.        ]))
>>> value_rank(bin_of([-1.0, -0.5, 0.5, 1.0])).tolist()
[33023, 33279, 97792, 98048]
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

MANTISSA_BITS = 8
"""Mantissa bits of a bin: 256 bins per octave."""

GRID_BITS = 1 + 8 + MANTISSA_BITS
"""Bits of a bin's index: sign, exponent, mantissa."""

BIN_COUNT = 1 << GRID_BITS
"""Number of bins, the non-finite ones included."""

DROPPED_BITS = 32 - GRID_BITS
"""Low mantissa bits that differ inside one bin."""

SIGN_BIN = BIN_COUNT >> 1
"""Bins from here on are negative; a bin's magnitude is its index modulo this."""

FIRST_NONFINITE = 255 << MANTISSA_BITS
"""Magnitudes from here on are Inf and NaN; they never occur in statistics."""

ALL_BUT_SIGN = 0x7FFFFFFF
"""The bits of a float32's magnitude."""

FIRST_NORMAL = 1 << MANTISSA_BITS
"""Magnitudes below this are denormals."""

_WIDTHS = np.ldexp(1.0, np.maximum(np.arange(FIRST_NONFINITE >> MANTISSA_BITS), 1) - 127 - MANTISSA_BITS)
"""The width of a bin, by its exponent field."""


def bin_of(values: ArrayLike) -> NDArray[np.uint32]:
    """The bin of each value, which is rounded to float32 first. Same shape as the input."""
    bits: NDArray[np.uint32] = np.asarray(values, dtype=np.float32).view(np.uint32)
    return bits >> np.uint32(DROPPED_BITS)


def edges(bins: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper edge of each finite bin, by value, exact in float64.

    A positive bin holds lower <= x < upper, a negative one lower < x <= upper. The edge above the largest
    float32 is 2^128.
    """
    index = np.asarray(bins, dtype=np.int64)
    exponent, mantissa = (index & (SIGN_BIN - 1)) >> MANTISSA_BITS, index & (FIRST_NORMAL - 1)
    width = _WIDTHS[exponent]
    # Exponent field 0 has no implicit leading one.
    significand = mantissa + FIRST_NORMAL * (exponent > 0)
    inner, outer = significand * width, (significand + 1) * width
    negative = index >= SIGN_BIN
    return np.where(negative, -outer, inner), np.where(negative, -inner, outer)


def value_rank(bins: ArrayLike) -> NDArray[np.int64]:
    """Position of each bin among all `BIN_COUNT` bins ordered by value, from most negative to most positive."""
    index = np.asarray(bins, dtype=np.int64)
    return np.where(index >= SIGN_BIN, BIN_COUNT - 1 - index, index + SIGN_BIN)


def ordered(value: float) -> int:
    """The integer that orders like a finite float32; zero is 0 whatever its sign.

    >>> [ordered(value) for value in (-1.0, 0.0, 2.0**-149)]
    [-1065353217, 0, 1]
    """
    bits = int(np.float32(value + 0.0).view(np.int32))
    return bits if bits >= 0 else bits ^ ALL_BUT_SIGN


def value_of(order: int) -> float:
    """The float32 behind an ordering integer; the inverse of `ordered`, and −1 (which is −0) gives 0.0."""
    bits = order if order >= 0 else order ^ ALL_BUT_SIGN
    return float(np.int32(bits).view(np.float32)) + 0.0
