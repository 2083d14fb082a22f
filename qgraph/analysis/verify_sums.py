"""How far two arrays are apart, summed over samples: only sums are kept, so memory does not grow with their number."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qgraph.errors import ModelError


def inner(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """The inner product of two vectors, in one thread: BLAS cuts it up by the number of cores, and rounds by that."""
    return float(np.einsum("i,i->", x, y))


@dataclass(frozen=True, slots=True)
class OutputAgreement:
    """How one tensor of two models agrees, over all samples.

    Attributes:
        exact: every value is finite and the float model's.
        snr_db: signal power over error power, in dB; inf where there is no error, -inf where there is no signal: the
            float model's output is all zero. JSON has null for both, and `exact` tells which.
        cosine: of all values as one vector; None where one of the two is all zero.
        top1: share of rows along the last axis whose largest value is at the same place; None where rows have
            one value.
        max_abs_error: the largest absolute difference.
        mse: the mean of the squared differences.
        nonfinite: values that are NaN or infinite on either side; they count nowhere else.
    """

    exact: bool
    snr_db: float
    cosine: float | None
    top1: float | None
    max_abs_error: float
    mse: float
    nonfinite: int


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
        if x.ndim and x.shape[-1] > 1:
            same = x.argmax(axis=-1) == y.argmax(axis=-1)
            self.rows += same.size
            self.hits += int(same.sum())
        finite = np.isfinite(x) & np.isfinite(y)
        self.nonfinite += finite.size - int(finite.sum())
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
            snr_db=signal_to_noise_db(self.signal, self.error),
            cosine=self.product / norms if norms else None,
            top1=self.hits / self.rows if self.rows else None,
            max_abs_error=self.max_abs_error,
            mse=self.error / self.values if self.values else 0.0,
            nonfinite=self.nonfinite,
        )


def signal_to_noise_db(signal: float, error: float) -> float:
    """Power over power in dB; inf without error, -inf with an error but without signal."""
    if not error:
        return math.inf
    return 10 * math.log10(signal / error) if signal else -math.inf
