"""How near the outputs of a model are to those that are wanted, and whether another one is nearer by more than luck.

What is nearer on these samples may be farther on others: where few samples hold most of the error, their luck decides.
So the samples are drawn again and again with replacement (B. Efron, Bootstrap Methods, 1979), and a gain counts as far
as nearly all draws show it::

    error of a:  4 1 2 3      drawn   0 0 1 3 → 12 against 9:  gains
    error of b:  3 1 1 3      drawn   1 1 3 3 →  8 against 8:  does not
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qgraph.calib.decibels import BROKEN

LEAST_NOISE = 1e-10
"""Of an output, in the mean of several."""

DRAWS = 400

DOUBT = 0.1
"""The share of the draws that may show less than what a gain counts for."""

Outputs = Sequence[NDArray[Any]]
"""What a model makes of one sample, in the order of its outputs."""


@dataclass(frozen=True, slots=True)
class Powers:
    """Of each sample at each output that is made of floats: float64 [samples, outputs]."""

    signal: NDArray[np.float64]
    error: NDArray[np.float64]

    def noise(self, counts: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """Error over signal, all samples together: the geometric mean of the outputs.

        An output that should be silent counts as if its signal were its error, one that is exact as `LEAST_NOISE`.

        Args:
            counts: how often each sample is taken, in several draws: int64 [draws, samples]; None for once, in one.

        Returns:
            One for each draw.
        """
        if counts is None:
            counts = np.ones((1, len(self.signal)), np.int64)
        signal, error = counts @ self.signal, counts @ self.error
        if not signal.shape[1]:
            return np.ones(len(counts))
        ratios = np.divide(error, signal, out=(error > 0).astype(np.float64), where=signal > 0)
        return np.asarray(np.exp(np.log(np.maximum(ratios, LEAST_NOISE)).mean(axis=1)))


def powers_of(expected: Sequence[Outputs], actual: Iterable[Outputs]) -> Powers:
    """What is wanted and what is missing, in squares, of each sample.

    Values that should not be finite do not count. Where others are not, no finite error is large enough: `BROKEN`.
    """
    floats = [index for index, one in enumerate(expected[0]) if np.issubdtype(np.asarray(one).dtype, np.floating)]
    signal, error = np.zeros((len(expected), len(floats))), np.zeros((len(expected), len(floats)))
    for sample, (wanted, found) in enumerate(zip(expected, actual, strict=True)):
        for position, index in enumerate(floats):
            x, y = np.asarray(wanted[index], np.float64), np.asarray(found[index], np.float64)
            wanted_ones = np.isfinite(x)
            x, y = x[wanted_ones], y[wanted_ones]
            signal[sample, position] = np.square(x).sum()
            broken = not np.isfinite(y).all()
            error[sample, position] = BROKEN * max(1.0, signal[sample, position]) if broken else np.square(x - y).sum()
    return Powers(signal, error)


def noise_of(expected: Sequence[Outputs], actual: Iterable[Outputs]) -> float:
    """Error power over signal power of the outputs, see `Powers.noise`."""
    return float(powers_of(expected, actual).noise()[0])


def sure_gain_db(new: Powers, old: Powers) -> float:
    """By how much at least the new outputs are nearer, in all draws of the same samples but a share of `DOUBT`.

    >>> one = np.ones((4, 1))
    >>> round(sure_gain_db(Powers(one, one), Powers(one, 2 * one)), 2)
    3.01
    >>> lucky = np.array([[4.0], [1.1], [1.1], [1.1]])
    >>> sure_gain_db(Powers(one, one), Powers(one, lucky)) < 0.5
    True
    """
    count = len(new.signal)
    counts = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), DRAWS)
    return float(np.quantile(10 * np.log10(old.noise(counts) / new.noise(counts)), DOUBT))
