"""Parts of an output that are far worse than the output as a whole: the signal of large values hides the small ones.

A detector's output, boxes and scores in one tensor, one SNR for each index along the axis of the 6 figures::

    x 41 dB   y 40 dB   w 38 dB   h 38 dB   score 1 −2 dB   score 2 0 dB       all together: 39 dB
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qgraph.analysis.verify_sums import signal_to_noise_db

FAR_DB = 20.0
"""How far below the SNR of the whole a slice is told."""

MOST_SLICES = 256
"""Longer axes count places rather than things of different kinds."""


@dataclass(frozen=True, slots=True)
class HiddenSlices:
    """Slices of an output whose SNR is far below that of the whole.

    Attributes:
        axis: along which the output is cut.
        slices: how many there are along it.
        below_db: how far below is far.
        snr_db: of those that are far below, by index.
    """

    axis: int
    slices: int
    below_db: float
    snr_db: Mapping[int, float]

    @property
    def worst(self) -> int:
        """The index of the worst, the first of equals."""
        return min(self.snr_db, key=lambda index: (self.snr_db[index], index))


@dataclass
class SliceSums:
    """Signal and error of an output by index along each of its axes but the first; float64."""

    signal: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    error: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    varying: set[int] = field(default_factory=set)

    def add(self, expected: NDArray[np.generic], actual: NDArray[np.generic]) -> None:
        """Count one sample of two arrays of the same shape; values that are not finite do not count."""
        axes = [axis for axis in range(1, expected.ndim) if 1 < expected.shape[axis] <= MOST_SLICES]
        self.varying |= self.signal.keys() - set(axes)
        if not axes:
            return
        x, y = expected.astype("float64"), actual.astype("float64")
        finite = np.isfinite(x) & np.isfinite(y)
        x, y = np.where(finite, x, 0.0), np.where(finite, y, 0.0)
        signal, error = x**2, (x - y) ** 2
        for axis in axes:
            others = tuple(other for other in range(x.ndim) if other != axis)
            for sums, squares in ((self.signal, signal), (self.error, error)):
                row = squares.sum(axis=others)
                known = sums.setdefault(axis, np.zeros(len(row)))
                if len(known) == len(row):
                    known += row
                else:
                    self.varying.add(axis)

    def hidden(self) -> HiddenSlices | None:
        """What is far below the whole along the shortest axis where anything is; None where nothing is.

        Slices without signal, or without error, have no SNR and are not told.
        """
        for axis in sorted(self.signal.keys() - self.varying, key=lambda one: (len(self.signal[one]), one)):
            signal, error = self.signal[axis], self.error[axis]
            whole = signal_to_noise_db(float(signal.sum()), float(error.sum()))
            by_index = {
                int(index): signal_to_noise_db(float(signal[index]), float(error[index]))
                for index in np.flatnonzero((signal > 0) & (error > 0))
            }
            far = {index: snr for index, snr in by_index.items() if snr < whole - FAR_DB}
            if far:
                return HiddenSlices(axis, len(signal), FAR_DB, far)
        return None
