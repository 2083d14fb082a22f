"""How much is measured to compare what is tried, by what a sample of the model costs.

A network whose samples are small is compared on many. Where one sample makes many activations, fewer of them show as
much: each holds more values. What counts is their size, never the time, so that the same input gives the same model
on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LIGHT = 64 << 20
"""Bytes of activations that a sample may make without being compared less. MobileNetV2 makes 27 million of them."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How many samples are used for what, and how much is tried.

    Attributes:
        judged: samples that outputs are compared on; by few of them the luckiest would be taken, and not the best.
        biased: samples that biases are measured on while something is tried; the mean over the places of an image
            needs few.
        ranged: samples that ranges are tried on: there are many to try.
        searched: those of them on which the groups that cost the outputs most are found, and on which a range is tried
            first; what does not help there is not tried on the others.
        costly: how many of these groups get other ranges.
        equalized: the least number of tensors that can be equalized, for each weighted op, that is worth another
            calibration.
        all_ways: whether what is best of each model, and from other observers, is followed to its end; or of all only
            the best, step by step.
    """

    judged: int
    biased: int
    ranged: int
    searched: int
    costly: int
    equalized: float
    all_ways: bool


FULL = Effort(judged=64, biased=16, ranged=16, searched=8, costly=8, equalized=0.0, all_ways=True)

LEAST = Effort(judged=16, biased=12, ranged=8, searched=2, costly=8, equalized=0.1, all_ways=False)
"""What is measured however large samples are."""


def effort_for(made: int) -> Effort:
    """The effort for a model that makes so many bytes of activations of a sample.

    >>> effort_for(LIGHT) == FULL, effort_for(100 * LIGHT) == LEAST
    (True, True)
    >>> effort_for(2 * LIGHT).judged
    32
    """
    if made <= LIGHT:
        return FULL

    def scaled(full: int, least: int) -> int:
        return max(least, full * LIGHT // made)

    return Effort(
        judged=scaled(FULL.judged, LEAST.judged),
        biased=scaled(FULL.biased, LEAST.biased),
        ranged=scaled(FULL.ranged, LEAST.ranged),
        searched=scaled(FULL.searched, LEAST.searched),
        costly=scaled(FULL.costly, LEAST.costly),
        equalized=LEAST.equalized,
        all_ways=LEAST.all_ways,
    )


def picked(count: int, most: int) -> list[int]:
    """At most `most` of the numbers below `count`, at random, and the same at each call.

    At random, as data may repeat its kinds at even distances.

    >>> picked(3, 8), sorted(picked(100, 4))
    ([0, 1, 2], [5, 20, 36, 82])
    """
    if count <= most:
        return list(range(count))
    return [int(one) for one in np.random.default_rng(0).permutation(count)[:most]]
