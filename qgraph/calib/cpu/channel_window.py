"""A histogram for each channel, as a window of octaves that all channels of a tensor share.

A histogram has 2^14 bins, far more than a channel's values touch. The window holds the octaves below the largest
magnitude of all channels; the few values that are smaller are listed::

                       rest ◀─┐ base                        window
    magnitude   0 ────────────┼──────┬──────┬──────┬──────┬──────┐
                              │ one counter per bin, channel and sign
          what is below the base falls on the lanes; if those are not all zeros, the row is looked at once more

A larger magnitude moves the window up; what was counted until then goes to the list. So where the window stands does
not show in what is read from it.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qgraph.calib.channels import CHANNEL_BINS, CHANNEL_MANTISSA_BITS
from qgraph.calib.cpu.compiling import compiled, prefetch
from qgraph.calib.cpu.kernels import GROUP, LANES, Place
from qgraph.calib.grid import ALL_BUT_SIGN

OCTAVE: Final = 1 << CHANNEL_MANTISSA_BITS
DROPPED_BITS: Final = 23 - CHANNEL_MANTISSA_BITS
SPAN: Final = 24 * OCTAVE
"""Bins in the window."""

WIDTH: Final = LANES + SPAN
"""Counters per channel and sign: the lanes, on which what is below the window falls in turn, and the bins."""

MOSTLY: Final = 10 * OCTAVE
"""Bins at the upper end of the window on which almost all values fall."""

CACHE_LINE: Final = 64
"""Bytes that are brought into the cache together."""

LONG_ROW: Final = 1 << 10
"""Elements of a row above which 16 bits would soon overflow; such rows are few."""

SHORT_COUNTS: Final = (1 << 16) - 1
LONG_COUNTS: Final = (1 << 32) - 1
"""What a counter can hold."""

Counts = tuple[NDArray[np.int64], NDArray[np.int64]]
"""The keys of the bins that hold something, ``channel * CHANNEL_BINS + bin``, sorted, and how much each holds."""

REST: Final = 1 << 16
"""Values below the window that are kept before they are sorted in."""


@compiled
def expect_row(counters: NDArray[Any], channel: int) -> None:
    """Have the counters of a channel, if there is one, brought into the cache while another one is counted."""
    if channel < counters.shape[0]:
        step = CACHE_LINE // counters.itemsize
        for side in range(channel * counters.shape[1], (channel + 1) * counters.shape[1], WIDTH):
            prefetch(counters, side)
            for place in range(side + WIDTH - MOSTLY, side + WIDTH, step):
                prefetch(counters, place)


@compiled
def count_row(
    bits: NDArray[np.int32], counters: NDArray[Any], base: int, most: np.int32, places: NDArray[np.int32]
) -> bool:
    """Add finite elements to the counters of their channel; whether some but zeros fell below the window.

    The places of a group are found first, which is vectorised, then counted.

    Args:
        counters: of one sign, if what is negative counts as zero, or of two; see `ChannelWindow`.
        most: the bits of the largest positive value, as which all larger ones count.
        places: int32 [GROUP], overwritten.
    """
    below = np.int32(0)
    for start in range(0, bits.size, GROUP):
        size = min(GROUP, bits.size - start)
        if counters.size == WIDTH:
            below |= find_places(bits, start, size, places, base, most)
        else:
            below |= find_places_of_two_signs(bits, start, size, places, base)
        for i in range(size):
            counters[np.uint32(places[i])] += 1
    for start in range(0, counters.size, WIDTH):
        for lane in range(start, start + LANES):
            counters[lane] = 0
    return bool(below != 0)


@compiled
def find_places(
    bits: NDArray[np.int32], start: int, size: int, places: NDArray[np.int32], base: int, most: np.int32
) -> np.int32:
    """The counters of elements where what is negative counts as zero; not 0 if some but zeros are below the window."""
    lowest, highest = np.int32(base + 1 - LANES), most >> np.int32(DROPPED_BITS)
    below = np.int32(0)
    for i in range(size):
        element = bits[np.uint64(start + i)]
        place = min(element >> np.int32(DROPPED_BITS), highest) - lowest
        below |= np.int32((place < LANES) & (element > 0))
        places[i] = max(place, np.int32(i) & np.int32(LANES - 1))
    return below


@compiled
def find_places_of_two_signs(
    bits: NDArray[np.int32], start: int, size: int, places: NDArray[np.int32], base: int
) -> np.int32:
    """As `find_places`, where either sign has counters of its own."""
    lowest = np.int32(base + 1 - LANES)
    below = np.int32(0)
    for i in range(size):
        element = bits[np.uint64(start + i)]
        magnitude = element & np.int32(ALL_BUT_SIGN)
        place = (magnitude >> np.int32(DROPPED_BITS)) - lowest
        below |= np.int32((place < LANES) & (magnitude != 0))
        side = (element >> np.int32(31)) & np.int32(WIDTH)
        places[i] = max(place, np.int32(i) & np.int32(LANES - 1)) + side
    return below


@compiled
def list_rest(
    bits: NDArray[np.int32], least: np.int32, base: int, first: int, rest: NDArray[np.int64], used: int
) -> int:
    """Write the bins of the elements below the window, zeros left out, behind what the rest has; its new length.

    Args:
        least: 0 to leave out what is negative, too; else the smallest integer.
    """
    lowest = np.uint32((base + 1) << DROPPED_BITS) - np.uint32(1)
    for i in range(bits.size):
        u = np.uint32(bits[i])
        # One less than zero is the largest number there is.
        if (u & np.uint32(ALL_BUT_SIGN)) - np.uint32(1) < lowest and bits[i] >= least:
            rest[used] = first + np.int64(u >> np.uint32(DROPPED_BITS))
            used += 1
    return used


@compiled
def count_filled(counters: NDArray[Any]) -> int:
    """How many counters are not zero."""
    filled = 0
    for row in range(counters.shape[0]):
        for place in range(counters.shape[1]):
            filled += counters[row, place] != 0
    return filled


@compiled
def take_filled(
    counters: NDArray[Any], step: int, first: int, keys: NDArray[np.int64], counts: NDArray[np.int64]
) -> None:
    """Write the counters that are not zero to a list.

    Args:
        counters: [rows, WIDTH].
        step, first: the key of a counter is ``row * step + first + place``.
    """
    n = 0
    for row in range(counters.shape[0]):
        for place in range(counters.shape[1]):
            if counters[row, place]:
                keys[n], counts[n] = row * step + first + place, counters[row, place]
                n += 1


@compiled
def count_together(
    counters: NDArray[Any], step: int, first: int, listed: NDArray[np.int64], lengths: NDArray[np.int64]
) -> None:
    """Add up, by channel, the counters that are not zero and the listed bins whose counter is zero.

    Args:
        counters, step, first: as `take_filled` has them.
        listed: keys.
        lengths: int64 [channels].
    """
    for row in range(counters.shape[0]):
        filled = 0
        for place in range(counters.shape[1]):
            filled += counters[row, place] != 0
        lengths[row * step // CHANNEL_BINS] += filled
    for key in listed:
        row, place = key // step, key % step - first
        if not (0 <= place < counters.shape[1] and counters[row, place]):
            lengths[key // CHANNEL_BINS] += 1


@compiled
def put_together(
    counters: NDArray[Any],
    step: int,
    first: int,
    listed: NDArray[np.int64],
    listed_counts: NDArray[np.int64],
    bins: NDArray[np.uint16],
    counts: NDArray[np.int64],
) -> None:
    """Write counters that are not zero and a sorted list in one order, and what both hold as one.

    A counter of zero is written, too, and then written over: no processor could foretell a branch around it.

    Args:
        counters, step, first: as `take_filled` has them.
        listed, listed_counts: keys and counts.
        bins, counts: with room for as many as `count_together` found, and one.
    """
    n = k = 0
    for row in range(counters.shape[0]):
        for place in range(counters.shape[1]):
            count = np.int64(counters[row, place])
            key = np.int64(row * step + first + place)
            while k < listed.size and listed[k] <= key:
                if listed[k] == key:
                    count += listed_counts[k]
                else:
                    bins[n], counts[n] = listed[k] % CHANNEL_BINS, listed_counts[k]
                    n += 1
                k += 1
            bins[n], counts[n] = key % CHANNEL_BINS, count
            n += count != 0
    for rest in range(k, listed.size):
        bins[n], counts[n] = listed[rest] % CHANNEL_BINS, listed_counts[rest]
        n += 1


@compiled
def largest_magnitude(low: np.int64, high: np.int64) -> Place:
    """The magnitude bin of the larger of two extremes, given as ordering integers."""
    largest = np.int64(0)
    if high > 0:
        largest = high
    if low < 0:
        largest = max(largest, -1 - low)
    return largest >> DROPPED_BITS


def merged(some: Counts, more: Counts) -> Counts:
    """The sum of two lists."""
    if not (some[0].size and more[0].size):
        return some if some[0].size else more
    keys = np.concatenate([some[0], more[0]])
    order = keys.argsort(kind="stable")  # which merges what is sorted already
    keys = keys[order]
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    return keys[first], np.add.reduceat(np.concatenate([some[1], more[1]])[order], first)


class ChannelWindow:
    """The histograms of the channels of one tensor.

    The counters are small, so that many of them stay in the cache. Before they can overflow they become larger, and
    then are emptied into a sorted list of bins and counts.

    Attributes:
        counters: uint16, or uint32 for long rows, [channels, signs * WIDTH].
        base: the largest magnitude bin below the window; at least 0, so that zeros are below it, too.
        rest: int64 [REST or more], bins of values below the window; the first `used` of them are filled.
    """

    def __init__(self, channels: int, *, two_sided: bool) -> None:
        self._signs = 1 + two_sided
        self.counters: NDArray[Any] = np.zeros((channels, WIDTH * self._signs), np.uint16)
        self._room = SHORT_COUNTS  # elements that a counter can take without overflow
        self.base = 0
        self.rest = np.zeros(0, np.int64)
        self.used = 0
        self._listed: Counts = np.zeros(0, np.int64), np.zeros(0, np.int64)

    def reach(self, magnitude: int) -> None:
        """Move the window up so that it holds a magnitude bin, if it does not."""
        if magnitude > self.base + SPAN:
            self._empty()
            self.base = max(0, (magnitude // OCTAVE + 2) * OCTAVE - SPAN - 1)

    def make_room(self, elements: int) -> None:
        """See to it that the counters and the rest can take rows of that many values more."""
        if self.counters.dtype == np.uint16 and elements > min(LONG_ROW, self._room):
            self.counters = self.counters.astype(np.uint32)
            self._room += LONG_COUNTS - SHORT_COUNTS
        if elements > self._room:
            self._empty()
        self._room -= elements
        if self.used + elements > self.rest.size:
            self._sort_in()
            if elements > self.rest.size:
                self.rest = np.zeros(max(REST, elements), np.int64)

    def _filled(self) -> Counts:
        """What the counters hold."""
        sides = self.counters.reshape(-1, WIDTH)
        filled = count_filled(sides)
        keys, counts = np.empty(filled, np.int64), np.empty(filled, np.int64)
        take_filled(sides, CHANNEL_BINS // self._signs, self.base + 1 - LANES, keys, counts)
        return keys, counts

    def _empty(self) -> None:
        """List what the counters hold."""
        self._listed = merged(self._listed, self._filled())
        self.counters[:] = 0
        self._room = SHORT_COUNTS if self.counters.dtype == np.uint16 else LONG_COUNTS

    def _sort_in(self) -> None:
        """List what the rest holds."""
        self._listed = merged(self._listed, np.unique(self.rest[: self.used], return_counts=True))
        self.used = 0

    def read(self) -> tuple[NDArray[np.int64], NDArray[np.uint16], NDArray[np.int64]]:
        """Starts, bins and counts, as in `qgraph.calib.channels.ChannelStatistics`.

        The counters keep what they hold: listed, it would take more memory from then on.
        """
        self._sort_in()
        known = self.counters.reshape(-1, WIDTH), CHANNEL_BINS // self._signs, self.base + 1 - LANES
        starts = np.zeros(self.counters.shape[0] + 1, np.int64)
        count_together(*known, self._listed[0], starts[1:])
        starts = starts.cumsum()
        total = int(starts[-1])
        bins, counts = np.empty(total + 1, np.uint16), np.empty(total + 1, np.int64)
        put_together(*known, *self._listed, bins, counts)
        return starts, bins[:total], counts[:total]

    @property
    def nbytes(self) -> int:
        """Bytes that the counters hold."""
        return self.counters.nbytes + self.rest.nbytes + sum(array.nbytes for array in self._listed)
