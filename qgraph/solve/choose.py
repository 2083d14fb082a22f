"""Which of several observers a group takes: what ``auto`` does.

The noise of a group is the mean noise of the tensors that are heard in it, in dB, each counting alike, so that a
small one is not given up for a large one. The least noise wins; but predictions are no better than `TIE_DB`, so among
the observers that come as close as this to the least, the first in the order of `candidates` is taken. By default the
one that clips less comes first: it is the safer one for values that calibration did not see::

    minmax −31.20   percentile −38.41   kl −37.90   mse −38.44    ▶  percentile, within 0.05 dB of mse
"""

from __future__ import annotations

from collections.abc import Mapping

from qgraph.solve.run import Choice

TIE_DB = 0.05
"""Predictions that differ by no more than this are equal: it is how exact the mse observer is on raw data."""


def choose(noise: Mapping[str, float]) -> Choice:
    """Pick an observer.

    Args:
        noise: of the group under each observer's parameters, in dB; in order of preference, at least one.

    >>> choose({"minmax": -31.2, "percentile": -38.41, "mse": -38.44})
    Choice(observer='percentile', reason='percentile -38.41 dB (within 0.05 dB of mse -38.44); minmax -31.20')
    """
    least = min(noise.values())
    best = next(name for name, value in noise.items() if value == least)
    taken = next(name for name, value in noise.items() if value <= least + TIE_DB)
    told = f"{taken} {noise[taken]:.2f} dB"
    if taken != best:
        told += f" (within {TIE_DB} dB of {best} {least:.2f})"
    others = sorted((value, name) for name, value in noise.items() if name not in (taken, best))
    return Choice(taken, "; ".join([told, *(f"{name} {value:.2f}" for value, name in others)]))
