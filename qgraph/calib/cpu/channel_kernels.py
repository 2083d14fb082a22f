"""Counts the channels of activations: extremes, exact sums and, where asked for, a histogram of each.

Channels are walked one after the other, so that the values of one stay in the cache.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qgraph.calib.channels import CHANNEL_BINS, SUM_LANES
from qgraph.calib.cpu.channel_window import SPAN, WIDTH, count_row, expect_row, largest_magnitude, list_rest
from qgraph.calib.cpu.compiling import compiled
from qgraph.calib.cpu.kernels import (
    GROUP,
    HIGHEST_FINITE,
    LOWEST_FINITE,
    MAXIMUM,
    MAXIMUM_COUNT,
    MINIMUM,
    MINIMUM_COUNT,
    MINUS_ZERO,
    count_equal,
    extremes,
    finite_extremes,
    order_of,
)
from qgraph.calib.exact_sums import LIMB_BITS, LIMB_MASK, UNIT_EXPONENT
from qgraph.calib.grid import ALL_BUT_SIGN

DOUBLE_UNIT: Final = 1075 + UNIT_EXPONENT
"""Biased exponent of a float64 whose last mantissa bit is worth 2^-149."""


@compiled
def add_part(limbs: NDArray[np.int64], bits: np.int64) -> None:
    """Add a float64, given as its bits, to a total; see `qgraph.calib.exact_sums`."""
    exponent = (bits >> 52) & 0x7FF
    mantissa = bits & 0xFFFFFFFFFFFFF
    if exponent == 0:  # zero: there are no denormals among multiples of 2^-149
        return
    mantissa |= 1 << 52
    position = exponent - DOUBLE_UNIT
    if position < 0:
        mantissa >>= -position
        position = np.int64(0)
    limb, shift = position // LIMB_BITS, position % LIMB_BITS
    low = (mantissa & LIMB_MASK) << shift
    high = (mantissa >> LIMB_BITS) << shift
    sign = -1 if bits < 0 else 1
    # The low half reaches up to bit 63, so what is above it is taken without its sign.
    limbs[limb] += sign * (low & LIMB_MASK)
    limbs[limb + 1] += sign * (((low >> LIMB_BITS) & LIMB_MASK) + (high & LIMB_MASK))
    limbs[limb + 2] += sign * (high >> LIMB_BITS)


@compiled
def part_of(values: NDArray[np.float32], low: np.float32, high: np.float32, lanes: NDArray[np.float64]) -> float:
    """The sum of finite values, cut off at both ends, in float64: `SUM_LANES` lanes in turn, then halves on each other.

    Args:
        lanes: float64 [SUM_LANES], overwritten. A loop over lanes has no order to keep, so that it is vectorised.
    """
    lanes[:] = 0.0
    whole = values.size // SUM_LANES * SUM_LANES
    for start in range(0, whole, SUM_LANES):
        for lane in range(SUM_LANES):
            x = values[start + lane]
            x = low if x < low else x
            lanes[lane] += high if x > high else x
    for lane in range(values.size - whole):
        x = values[whole + lane]
        x = low if x < low else x
        lanes[lane] += high if x > high else x
    return folded(lanes)


@compiled
def folded(lanes: NDArray[np.float64]) -> float:
    """The sum of `SUM_LANES` lanes: the second half is added to the first until one is left."""
    half = SUM_LANES // 2
    while half:
        for lane in range(half):
            lanes[lane] += lanes[half + lane]
        half //= 2
    return float(lanes[0])


@compiled
def finite_part_of(values: NDArray[np.float32], lanes: NDArray[np.float64]) -> float:
    """As `part_of`, over the finite values alone, which move up."""
    lanes[:] = 0.0
    seen = 0
    for i in range(values.size):
        if np.isfinite(values[i]):
            lanes[seen % SUM_LANES] += values[i]
            seen += 1
    return folded(lanes)


@compiled
def clip_into(values: NDArray[np.float32], low: np.float32, high: np.float32, row: NDArray[np.float32]) -> None:
    """Write values, cut off at both ends, to a row of the same size. NaN stays NaN."""
    for i in range(values.size):
        x = values[i]
        x = low if x < low else x
        row[i] = high if x > high else x


@compiled
def add_channels(
    values: NDArray[np.float32],
    bounds: NDArray[np.float32],
    tally: NDArray[np.int64],
    parts: NDArray[np.float64],
) -> None:
    """Take extremes and sums of float32 [channels, elements], with at least one element each.

    Args:
        bounds: values beyond them are cut off.
        tally: its extremes are moved, and what is not finite is counted; multiplicities are left alone.
        parts: overwritten with the sums.
    """
    lanes, buffer = np.empty(SUM_LANES), np.empty(values.shape[1], np.float32)
    as_bits = bounds.view(np.int32)
    least, most = np.int64(order_of(as_bits[0])), np.int64(order_of(as_bits[1]))
    for channel in range(values.shape[0]):
        low, high = extremes(values[channel].view(np.int32))
        if low >= LOWEST_FINITE and high <= HIGHEST_FINITE:
            low, high = min(max(low, least), most), min(max(high, least), most)
            parts[channel] = part_of(values[channel], bounds[0], bounds[1], lanes)
        else:
            clip_into(values[channel], bounds[0], bounds[1], buffer)
            low, high = finite_extremes(buffer.view(np.int32), tally[channel])
            parts[channel] = finite_part_of(buffer, lanes)
        if low <= high:
            tally[channel, MINIMUM] = min(tally[channel, MINIMUM], low)
            tally[channel, MAXIMUM] = max(tally[channel, MAXIMUM], high)


@compiled
def add_binned_channels(
    values: NDArray[np.float32],
    first: int,
    bounds: NDArray[np.float32],
    tally: NDArray[np.int64],
    parts: NDArray[np.float64],
    atoms: NDArray[np.int32],
    atom_counts: NDArray[np.int64],
    counters: NDArray[Any],
    base: int,
    rest: NDArray[np.int64],
    used: int,
) -> tuple[int, int, int]:
    """As `add_channels` from `first` on, with multiplicities and histograms; stop where these cannot take a channel.

    Finite values are cut off while they are read, if at all at zero: what is negative then has no place in the
    histogram. Other channels are cut off beforehand.

    Args:
        counters, base, rest, used: see `qgraph.calib.cpu.channel_window.ChannelWindow`.

    Returns:
        The channel that is next, how much of the rest is used, and the largest magnitude bin of that channel.
    """
    lanes, places, buffer = np.empty(SUM_LANES), np.empty(GROUP, np.int32), np.empty(values.shape[1], np.float32)
    as_bits = bounds.view(np.int32)
    least, most = np.int64(order_of(as_bits[0])), np.int64(order_of(as_bits[1]))
    in_place = bounds[1] == np.inf if bounds[0] == -np.inf else bounds[0] == 0 and bounds[1] > 0
    lowest = np.int32(0 if counters.shape[1] == WIDTH else MINUS_ZERO)
    for channel in range(first, values.shape[0]):
        row, cut = values[channel], most
        low, high = extremes(row.view(np.int32))
        finite = low >= LOWEST_FINITE and high <= HIGHEST_FINITE
        if not (finite and in_place):
            clip_into(row, bounds[0], bounds[1], buffer)
            row, cut = buffer, np.int64(HIGHEST_FINITE + 1)
            low, high = finite_extremes(row.view(np.int32), np.zeros(7, np.int64))
        if low <= high:
            low, high = min(max(low, least), most), min(max(high, least), most)
        top = largest_magnitude(low, high) if low <= high else np.int64(0)
        if top > base + SPAN or used + row.size > rest.size:
            return channel, used, int(top)
        bits = row.view(np.int32)
        expect_row(counters, channel + 1)
        if finite:
            parts[channel] = part_of(row, bounds[0], bounds[1], lanes)
        else:
            finite_extremes(bits, tally[channel])
            parts[channel] = finite_part_of(row, lanes)
            drop_nonfinite(buffer)  # which the row is then
        if low <= high:
            count_multiplicities(bits, low, high, cut, tally, atoms, atom_counts, channel)
        if count_row(bits, counters[channel], base, as_bits[1] if in_place else np.int32(ALL_BUT_SIGN), places):
            used = list_rest(bits, lowest, base, channel * CHANNEL_BINS, rest, used)
    return values.shape[0], used, 0


@compiled
def count_multiplicities(
    bits: NDArray[np.int32],
    low: np.int64,
    high: np.int64,
    most: np.int64,
    tally: NDArray[np.int64],
    atoms: NDArray[np.int32],
    atom_counts: NDArray[np.int64],
    channel: int,
) -> None:
    """Move a channel's extremes to those of a row and count their multiplicity, and that of the atoms.

    Zeros are counted anyway, so an extreme of zero, by either sign, needs no multiplicity.

    Args:
        low, high: the row's extremes as ordering integers, cut off at `most`, as which all larger ones count.
    """
    if low < tally[channel, MINIMUM]:
        tally[channel, MINIMUM], tally[channel, MINIMUM_COUNT] = low, 0
    if low == tally[channel, MINIMUM] and low not in (-1, 0):
        tally[channel, MINIMUM_COUNT] += count_equal_or_beyond(bits, low, most)
    if high > tally[channel, MAXIMUM]:
        tally[channel, MAXIMUM], tally[channel, MAXIMUM_COUNT] = high, 0
    if high == tally[channel, MAXIMUM] and high not in (-1, 0):
        tally[channel, MAXIMUM_COUNT] += count_equal_or_beyond(bits, high, most)
    for k in range(atoms.size):
        if low <= order_of(atoms[k]) <= high:
            atom_counts[k, channel] += count_equal_or_beyond(bits, np.int64(order_of(atoms[k])), most)


@compiled
def count_equal_or_beyond(bits: NDArray[np.int32], wanted: np.int64, most: np.int64) -> int:
    """How many elements are one value, given as an ordering integer; if it is `most`, how many reach it."""
    if wanted != most:
        return count_equal(bits, order_of(np.int32(wanted)))
    count = 0
    for i in range(bits.size):
        count += bool(order_of(bits[i]) >= wanted)
    return count


@compiled
def drop_nonfinite(values: NDArray[np.float32]) -> None:
    """Put zeros, which no histogram counts, in the place of what is not finite."""
    for i in range(values.size):
        if not np.isfinite(values[i]):
            values[i] = np.float32(0)


@compiled
def add_parts(limbs: NDArray[np.int64], parts: NDArray[np.int64]) -> None:
    """Add one float64, given as its bits, to the total of each channel."""
    for channel in range(parts.size):
        add_part(limbs[channel], parts[channel])
