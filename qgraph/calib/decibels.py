"""Ratios of noise to signal in decibels."""

from __future__ import annotations

import math

LIMIT_DB = 140.0
"""No ratio is reported beyond ±this. A scale is a float32, so its own rounding makes −145 dB: noise below the limit
says nothing, and without it a constant that is exact to the last bit would look better than one that is not."""

BROKEN = 1e12
"""Noise over signal that an output with NaN or infinity where a number is wanted counts for: more than any that works
has, and still within the limit."""


def decibels(noise: float, signal: float) -> float:
    """Noise power over signal power in dB, within ±`LIMIT_DB`; no noise is the lower limit, signal or not.

    >>> decibels(1.0, 100.0), decibels(0.0, 0.0), decibels(1.0, 0.0)
    (-20.0, -140.0, 140.0)
    """
    if noise <= 0:
        return -LIMIT_DB
    if signal <= 0:
        return LIMIT_DB
    # A difference of logarithms: the quotient could overflow.
    return max(-LIMIT_DB, min(LIMIT_DB, 10 * (math.log10(noise) - math.log10(signal))))
