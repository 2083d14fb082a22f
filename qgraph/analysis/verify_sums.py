"""How far two arrays are apart, summed over samples: only sums are kept, so memory does not grow with their number."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qgraph.errors import ModelError

IMAGE = 4
"""Axes of an output that is an image for each sample: sample, class or channel, height, width."""


def inner(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """The inner product of two vectors, in one thread: BLAS cuts it up by the number of cores, and rounds by that."""
    return float(np.einsum("i,i->", x, y))


@dataclass(frozen=True, slots=True)
class OutputAgreement:
    """How one tensor of two models agrees, over all samples.

    Attributes:
        exact: every value is finite and the float model's.
        snr_db: signal power over error power, in dB; inf where there is no error, -inf where there is no signal (the
            float model's output is all zero) or where values are broken. JSON has null for all, and `exact` and
            `broken` tell which.
        cosine: of all values as one vector; None where one of the two is all zero.
        top1: share of rows along the axis of classes whose largest value is at the same place; None where rows have
            one value. Classes are along axis 1 of images (four axes or more), else along the last axis.
        max_abs_error: the largest absolute difference.
        mse: the mean of the squared differences.
        nonfinite: values that are NaN or infinite on either side; they count nowhere else.
        broken: those of them that are finite in the float model: there is no error that is large enough for them.
    """

    exact: bool
    snr_db: float
    cosine: float | None
    top1: float | None
    max_abs_error: float
    mse: float
    nonfinite: int
    broken: int = 0


@dataclass
class Sums:
    """What an agreement is computed from; float64 sums."""

    signal: float = 0.0
    exported: float = 0.0
    product: float = 0.0
    error: float = 0.0
    max_abs_error: float = 0.0
    values: int = 0
    nonfinite: int = 0
    broken: int = 0
    rows: int = 0
    hits: int = 0

    def add(self, expected: NDArray[np.generic], actual: NDArray[np.generic], name: str) -> None:
        """Count one sample of a tensor.

        Raises:
            ModelError: the shapes differ.
        """
        if expected.shape != actual.shape:
            raise ModelError(
                "an output has another shape", f"{name}: {expected.shape} and {actual.shape}", "export the model again"
            )
        x, y = expected.astype("float64"), actual.astype("float64")
        classes = 1 if x.ndim >= IMAGE else -1
        if x.ndim and x.shape[classes] > 1:
            same = x.argmax(axis=classes) == y.argmax(axis=classes)
            self.rows += same.size
            self.hits += int(same.sum())
        finite = np.isfinite(x) & np.isfinite(y)
        self.nonfinite += finite.size - int(finite.sum())
        self.broken += count_broken(x, y)
        x, y = x[finite], y[finite]
        difference = x - y
        self.values += x.size
        self.signal += inner(x, x)
        self.exported += inner(y, y)
        self.product += inner(x, y)
        self.error += inner(difference, difference)
        self.max_abs_error = max(self.max_abs_error, float(np.abs(difference).max(initial=0.0)))

    def agreement(self) -> OutputAgreement:
        """The figures that the sums give."""
        norms = math.sqrt(self.signal) * math.sqrt(self.exported)
        return OutputAgreement(
            exact=not self.error and not self.nonfinite,
            snr_db=-math.inf if self.broken else signal_to_noise_db(self.signal, self.error),
            cosine=self.product / norms if norms else None,
            top1=self.hits / self.rows if self.rows else None,
            max_abs_error=self.max_abs_error,
            mse=self.error / self.values if self.values else 0.0,
            nonfinite=self.nonfinite,
            broken=self.broken,
        )


def count_broken(expected: NDArray[np.float64], actual: NDArray[np.float64]) -> int:
    """How many values are finite as they should be, and NaN or infinite as they are.

    >>> count_broken(np.array([1.0, np.inf, 2.0]), np.array([np.nan, 3.0, 2.0]))
    1
    """
    return int(np.count_nonzero(np.isfinite(expected) & ~np.isfinite(actual)))


def signal_to_noise_db(signal: float, error: float) -> float:
    """Power over power in dB; inf without error, -inf with an error but without signal."""
    if not error:
        return math.inf
    return 10 * math.log10(signal / error) if signal else -math.inf
