"""A histogram for each channel, as a window of octaves that all channels of a tensor share.

A histogram has 2^14 bins, far more than a channel's values touch. The window holds the octaves below the largest
magnitude of all channels; the few values that are smaller are kept as a sorted list of bins::

                       rest ◀─┐ base                        window
    magnitude   0 ────────────┼──────┬──────┬──────┬──────┬──────┐
                              │ one counter per bin, channel and sign
                        what is below the base falls on one counter, and is looked at once more

A larger magnitude moves the window up, and what leaves it at the lower end goes to the rest. So the two never have a
bin in common, and where the window stands does not show in what is read from it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from qgraph.calib.channels import CHANNEL_BINS, CHANNEL_MANTISSA_BITS
from qgraph.calib.kernels import ALL_BUT_SIGN, Place, compiled

OCTAVE: Final = 1 << CHANNEL_MANTISSA_BITS
MAGNITUDES: Final = CHANNEL_BINS // 2
DROPPED_BITS: Final = 23 - CHANNEL_MANTISSA_BITS
WIDTH: Final = 24 * OCTAVE + 1
"""Counters per channel and sign: 24 octaves, and before them the one for all that is below."""

REST: Final = 1 << 16
"""Values below the window that are kept before they are sorted in."""


@compiled
def count_row(bits: NDArray[np.int32], counters: NDArray[np.int64], base: int) -> int:
    """Add finite elements to the counters of their channel; how many fell on the first counters, which are emptied."""
    sides = (np.uint32(0), np.uint32(counters.size - WIDTH))
    for i in range(bits.size):
        u = np.uint32(bits[i])
        magnitude = (u >> np.uint32(DROPPED_BITS)) & np.uint32(MAGNITUDES - 1)
        place = max(magnitude, np.uint32(base)) - np.uint32(base)
        counters[place + sides[u >> np.uint32(31)]] += 1
    below = counters[0]
    counters[0] = 0
    if counters.size > WIDTH:
        below += counters[WIDTH]
        counters[WIDTH] = 0
    return int(below)


@compiled
def list_rest(bits: NDArray[np.int32], base: int, first: int, rest: NDArray[np.int64], used: int) -> int:
    """Write the bins of the elements below the window, zeros left out, behind what the rest has; its new length."""
    lowest = np.uint32((base + 1) << DROPPED_BITS) - np.uint32(1)
    for i in range(bits.size):
        u = np.uint32(bits[i])
        # One less than zero is the largest number there is.
        if (u & np.uint32(ALL_BUT_SIGN)) - np.uint32(1) < lowest:
            rest[used] = first + np.int64(u >> np.uint32(DROPPED_BITS))
            used += 1
    return used


@compiled
def largest_magnitude(low: np.int64, high: np.int64) -> Place:
    """The magnitude bin of the larger of two extremes, given as ordering integers."""
    largest = np.int64(0)
    if high > 0:
        largest = high
    if low < 0:
        largest = max(largest, -1 - low)
    return largest >> DROPPED_BITS


class ChannelWindow:
    """The histograms of the channels of one tensor.

    Attributes:
        counters: int64 [channels, signs * WIDTH].
        base: the largest magnitude bin below the window; at least 0, so that zeros are below it, too.
        rest: int64 [REST or more], bins of values below the window; the first `used` of them are filled.
    """

    def __init__(self, channels: int, *, two_sided: bool) -> None:
        self.two_sided = two_sided
        self.counters = np.zeros((channels, WIDTH * (1 + two_sided)), np.int64)
        self.base = 0
        self.rest = np.zeros(0, np.int64)
        self.used = 0
        self._keys = np.zeros(0, np.int64)
        self._counts = np.zeros(0, np.int64)

    def reach(self, magnitude: int) -> None:
        """Move the window up so that it holds a magnitude bin, if it does not."""
        if magnitude < self.base + WIDTH:
            return
        base = max(0, (magnitude // OCTAVE + 2) * OCTAVE - WIDTH)
        channels, sides = self.counters.shape[0], 1 + self.two_sided
        old = self.counters.reshape(channels, sides, WIDTH)
        keep = max(0, self.base + WIDTH - 1 - base)  # counters that stay in the window
        leaving = old[:, :, 1 : WIDTH - keep]
        channel, side, place = np.nonzero(leaving)
        self._add(channel * CHANNEL_BINS + side * MAGNITUDES + self.base + 1 + place, leaving[channel, side, place])
        new = np.zeros_like(old)
        new[:, :, 1 : 1 + keep] = old[:, :, WIDTH - keep :]
        self.counters, self.base = new.reshape(channels, -1), base

    def make_room(self, elements: int) -> None:
        """See to it that the rest can take that many values more."""
        if self.used + elements > self.rest.size:
            self._sort_in()
            if elements > self.rest.size:
                self.rest = np.zeros(max(REST, elements), np.int64)

    def _sort_in(self) -> None:
        self._add(*np.unique(self.rest[: self.used], return_counts=True))
        self.used = 0

    def _add(self, keys: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        """Add counts of bins below the window to those that are known."""
        if keys.size:
            self._keys, where = np.unique(np.concatenate([self._keys, keys]), return_inverse=True)
            both, self._counts = np.concatenate([self._counts, counts]), np.zeros(self._keys.size, np.int64)
            np.add.at(self._counts, where, both)

    def read(self) -> tuple[NDArray[np.int64], NDArray[np.uint16], NDArray[np.int64]]:
        """Starts, bins and counts, as in `qgraph.calib.channels.ChannelStatistics`."""
        self._sort_in()
        channels, sides = self.counters.shape[0], 1 + self.two_sided
        counters = self.counters.reshape(channels, sides, WIDTH)
        channel, side, place = np.nonzero(counters)
        keys = channel * CHANNEL_BINS + side * MAGNITUDES + self.base + place
        counts = counters[channel, side, place]
        at = np.searchsorted(keys, self._keys)
        keys, counts = np.insert(keys, at, self._keys), np.insert(counts, at, self._counts)
        starts = np.searchsorted(keys, np.arange(channels + 1) * CHANNEL_BINS).astype(np.int64)
        return starts, (keys % CHANNEL_BINS).astype(np.uint16), counts

    @property
    def nbytes(self) -> int:
        """Bytes that the counters hold."""
        return self.counters.nbytes + self.rest.nbytes + self._keys.nbytes + self._counts.nbytes
