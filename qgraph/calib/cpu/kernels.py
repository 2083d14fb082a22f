"""The counting kernel: one walk over an activation adds it to the statistics of its tensor.

Each element costs one load, one shift and one increment, in a scratch histogram that all tensors share, so that it
stays in the cache. What was counted there is then moved to the tensor's own histogram::

    activation ─▶ scratch, uint32 ─▶ move the octaves that the tensor has in use ─▶ totals, uint32
                                     moved less than was counted? look through all bins

Extremes come from the histogram, too: only an activation whose outermost bin reaches that of an extreme so far is
looked at once more. The same holds for atoms, for what is not finite, and for the first block with zeros; those behind
it are kept apart. Pages of the totals that no value touches cost neither memory nor time.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qgraph.calib.cpu.compiling import compiled
from qgraph.calib.grid import ALL_BUT_SIGN, BIN_COUNT, DROPPED_BITS, FIRST_NONFINITE, MANTISSA_BITS, SIGN_BIN

BLOCK: Final = 8192
"""Elements that are counted before their zeros are looked for: 32 KiB, which a first-level cache holds."""

GROUP: Final = 1 << 8
"""Elements whose counters are found together, before any of them is counted."""

LANES: Final = 8
"""Counters beside those of the bins, on which zeros fall in turn: to add to one counter again and again is slow. A
power of two."""

LINE: Final = 16
"""Counters that are looked at together where an end of the histogram is searched: 64 bytes."""

OCTAVE: Final = 1 << MANTISSA_BITS
"""Counters that are looked at and moved together. Fewer at a time would be moved behind branches that no processor
foretells."""

SPARE_OCTAVES: Final = 4
"""Octaves below the smallest magnitude so far that are looked at, too."""

LOWEST_FINITE: Final = -0x7F800000
HIGHEST_FINITE: Final = 0x7F7FFFFF
MINUS_ZERO: Final = -0x80000000

MINIMUM, MINIMUM_COUNT, MAXIMUM, MAXIMUM_COUNT, NAN, POSITIVE_INFINITIES, NEGATIVE_INFINITIES = range(7)
"""Places in the tally: extremes as ordered integers, their multiplicities, and what is not finite."""

ZEROS, POSITIVE_FIRST, POSITIVE_LAST, NEGATIVE_FIRST, NEGATIVE_LAST, PLACES = range(7, 13)
"""Further places: zeros of either sign, and the bins of each sign that are in use, as whole octaves [first, last)."""

HOLDS_MINIMUM, HOLDS_MAXIMUM, HAS_NONFINITE = 1, 2, 4
"""What an activation can be, as bits of a number."""

Place = Any
"""Where something is in an array: an integer of any kind; a kernel's loops want unsigned ones."""


@compiled
def order_of(bits: np.int32) -> np.int32:
    """Turn a float32's bits into an integer that orders like the float. −0 becomes −1, +0 is 0."""
    return bits ^ ((bits >> np.int32(31)) & np.int32(ALL_BUT_SIGN))


@compiled
def count_equal(block: NDArray[np.int32], wanted: np.int32) -> int:
    """How many elements have exactly these bits."""
    count = 0
    for i in range(block.size):
        count += block[i] == wanted
    return count


@compiled
def count_bins(block: NDArray[np.int32], scratch: NDArray[np.uint32]) -> None:
    """Add each element to its bin."""
    for i in range(block.size):
        scratch[np.uint32(block[i]) >> np.uint32(DROPPED_BITS)] += np.uint32(1)


@compiled
def count_apart(block: NDArray[np.int32], scratch: NDArray[np.uint32], places: NDArray[np.uint32]) -> int:
    """Add each element to its bin, but zeros to the lanes in turn, since those of a Relu are many; return their number.

    The places of a group are found first, which is vectorised, then counted.
    """
    zeros = 0
    for start in range(0, block.size, GROUP):
        size = min(GROUP, block.size - start)
        found = np.int32(0)
        for i in range(size):
            element = np.uint32(block[np.uint64(start + i)])
            zero = (element & np.uint32(ALL_BUT_SIGN)) == 0
            found += np.int32(zero)
            lane = np.uint32(BIN_COUNT) + (np.uint32(i) & np.uint32(LANES - 1))
            places[i] = lane if zero else element >> np.uint32(DROPPED_BITS)
        zeros += int(found)
        for i in range(size):
            scratch[places[i]] += np.uint32(1)
    return zeros


@compiled
def count_all(bits: NDArray[np.int32], scratch: NDArray[np.uint32]) -> int:
    """Count an activation into the empty scratch histogram, but for its zeros; return how many those are.

    From the first block with zeros on they are kept apart: the bins of the smallest magnitudes would have them, but
    denormals as well.
    """
    zeros = 0
    places = np.empty(GROUP, np.uint32)
    smallest = np.uint32(0)
    for start in range(0, bits.size, BLOCK):
        block = bits[start : start + BLOCK]
        if zeros:
            zeros += count_apart(block, scratch, places)
            continue
        count_bins(block, scratch)
        if scratch[0] + scratch[SIGN_BIN] != smallest:
            positive, negative = count_equal(block, np.int32(0)), count_equal(block, np.int32(MINUS_ZERO))
            scratch[0] -= np.uint32(positive)
            scratch[SIGN_BIN] -= np.uint32(negative)
            smallest = scratch[0] + scratch[SIGN_BIN]
            zeros = positive + negative
    scratch[BIN_COUNT:] = 0
    return zeros


@compiled
def is_touched(scratch: NDArray[np.uint32], start: Place, size: int) -> bool:
    """Whether some counter among so many is not zero."""
    touched = np.uint32(0)
    for i in range(start, start + np.uint64(size)):
        touched |= scratch[i]
    return bool(touched != 0)


@compiled
def span(scratch: NDArray[np.uint32], first: Place, last: Place) -> tuple[Place, Place]:
    """The lowest and the highest bin that is not empty in the lines ``first..last``; ``lowest > highest`` for none."""
    while first < last and not is_touched(scratch, np.uint64(last - LINE), LINE):
        last -= LINE
    while first < last and not is_touched(scratch, np.uint64(first), LINE):
        first += LINE
    if first == last:
        return first, last - 1
    while scratch[np.uint64(last - 1)] == 0:
        last -= 1
    while scratch[np.uint64(first)] == 0:
        first += 1
    return first, last - 1


@compiled
def move_octaves(scratch: NDArray[np.uint32], totals: NDArray[np.uint32], first: Place, last: Place) -> np.int64:
    """Move the counters of the octaves ``first..last`` to the totals; return how much was moved."""
    moved = np.uint32(0)
    for start in range(np.uint64(first), np.uint64(last), np.uint64(OCTAVE)):
        if is_touched(scratch, start, OCTAVE):
            for i in range(start, start + np.uint64(OCTAVE)):
                moved += scratch[i]
                totals[i] += scratch[i]
                scratch[i] = 0
    return np.int64(moved)


@compiled
def move_rest(scratch: NDArray[np.uint32], totals: NDArray[np.uint32], tally: NDArray[np.int64]) -> bool:
    """Move what is outside the octaves in use, and take its octaves into use; whether something is not finite.

    More octaves than needed are taken, so that this is seldom called again: the whole octave of the largest magnitude,
    and some octaves below the smallest.
    """
    finite = True
    for sign in range(2):
        base = sign * SIGN_BIN
        first, last = span(scratch, base, base + SIGN_BIN)
        if last >= base + FIRST_NONFINITE:
            finite = False
            scratch[base + FIRST_NONFINITE : base + SIGN_BIN] = 0
            first, last = span(scratch, base, base + FIRST_NONFINITE)
        if first <= last:
            begin = max(np.int64(base), first - first % OCTAVE - SPARE_OCTAVES * OCTAVE)
            end = last - last % OCTAVE + OCTAVE
            place = NEGATIVE_FIRST if sign else POSITIVE_FIRST
            if tally[place] < tally[place + 1]:
                begin, end = np.int64(min(begin, tally[place])), np.int64(max(end, tally[place + 1]))
            move_octaves(scratch, totals, begin, end)
            tally[place], tally[place + 1] = begin, end
    return not finite


@compiled
def extremes(block: NDArray[np.int32]) -> tuple[np.int64, np.int64]:
    """Lowest and highest element of a block, as ordering integers, whatever they are."""
    lowest = highest = order_of(block[0])
    for i in range(block.size):
        order = order_of(block[i])
        lowest = min(lowest, order)
        highest = max(highest, order)
    return np.int64(lowest), np.int64(highest)


@compiled
def finite_extremes(block: NDArray[np.int32], tally: NDArray[np.int64]) -> tuple[np.int64, np.int64]:
    """Count what is not finite into the tally; return the extremes of the rest, reversed if there is none."""
    low, high = np.int64(HIGHEST_FINITE), np.int64(LOWEST_FINITE)
    for i in range(block.size):
        order = np.int64(order_of(block[i]))
        if order > HIGHEST_FINITE + 1 or order < LOWEST_FINITE - 1:
            tally[NAN] += 1
        elif order > HIGHEST_FINITE:
            tally[POSITIVE_INFINITIES] += 1
        elif order < LOWEST_FINITE:
            tally[NEGATIVE_INFINITIES] += 1
        else:
            low, high = min(low, order), max(high, order)
    return low, high


@compiled
def count_extremes(block: NDArray[np.int32], low: np.int64, high: np.int64, tally: NDArray[np.int64]) -> None:
    """Move the tally's extremes to a block's and count their multiplicity.

    Zeros are counted anyway, so an extreme of zero, by either sign, needs no multiplicity.
    """
    if low < tally[MINIMUM]:
        tally[MINIMUM], tally[MINIMUM_COUNT] = low, 0
    if low == tally[MINIMUM] and low not in (-1, 0):
        tally[MINIMUM_COUNT] += count_equal(block, order_of(np.int32(low)))
    if high > tally[MAXIMUM]:
        tally[MAXIMUM], tally[MAXIMUM_COUNT] = high, 0
    if high == tally[MAXIMUM] and high not in (-1, 0):
        tally[MAXIMUM_COUNT] += count_equal(block, order_of(np.int32(high)))


@compiled
def count_extremes_by_block(bits: NDArray[np.int32], tally: NDArray[np.int64]) -> tuple[np.int64, np.int64]:
    """As `count_extremes` of a finite activation, whose extremes are found on the way and returned."""
    low, high = np.int64(HIGHEST_FINITE), np.int64(LOWEST_FINITE)
    for start in range(0, bits.size, BLOCK):
        block = bits[start : start + BLOCK]
        block_low, block_high = extremes(block)
        count_extremes(block, block_low, block_high, tally)
        low, high = min(low, block_low), max(high, block_high)
    return low, high


@compiled
def reaches_extreme(scratch: NDArray[np.uint32], zeros: int, tally: NDArray[np.int64]) -> bool:
    """Whether the finite values in the octaves in use may hold an extreme; moves extremes to zero if zero is one.

    Bins compare as the ordering integers of their values do: as ``order >> DROPPED_BITS``.
    """
    inner, outer = span(scratch, tally[POSITIVE_FIRST], tally[POSITIVE_LAST])
    negative_inner, negative_outer = span(scratch, tally[NEGATIVE_FIRST], tally[NEGATIVE_LAST])
    positive, negative = inner <= outer, negative_inner <= negative_outer
    low = high = np.int64(0)
    if negative:
        low = SIGN_BIN - 1 - negative_outer
    elif zeros == 0:
        low = inner
    if positive:
        high = outer
    elif zeros == 0:
        high = SIGN_BIN - 1 - negative_inner
    if zeros and not negative and tally[MINIMUM] > 0:
        tally[MINIMUM], tally[MINIMUM_COUNT] = 0, 0
    if zeros and not positive and tally[MAXIMUM] < -1:
        tally[MAXIMUM], tally[MAXIMUM_COUNT] = 0, 0
    reaches_low = (negative or zeros == 0) and low <= tally[MINIMUM] >> DROPPED_BITS
    reaches_high = (positive or zeros == 0) and high >= tally[MAXIMUM] >> DROPPED_BITS
    return bool((positive or negative) and (reaches_low or reaches_high))


@compiled
def add_bits(
    bits: NDArray[np.int32],
    scratch: NDArray[np.uint32],
    totals: NDArray[np.uint32],
    tally: NDArray[np.int64],
    atoms: NDArray[np.int32],
    atom_counts: NDArray[np.int64],
) -> int:
    """Add an activation, given as the bits of contiguous float32, to a tensor's counters in place.

    Args:
        scratch: an empty histogram, empty again afterwards.
        totals: with room for all elements in each counter.

    Returns:
        Which of `HOLDS_MINIMUM`, `HOLDS_MAXIMUM` (of all that was added so far) and `HAS_NONFINITE` it is.
    """
    holds = 0
    zeros = count_all(bits, scratch)
    tally[ZEROS] += zeros
    for k in range(atoms.size):
        if scratch[np.uint32(atoms[k]) >> np.uint32(DROPPED_BITS)]:
            atom_counts[k] += count_equal(bits, atoms[k])
    look = reaches_extreme(scratch, zeros, tally)
    moved = move_octaves(scratch, totals, tally[POSITIVE_FIRST], tally[POSITIVE_LAST])
    moved += move_octaves(scratch, totals, tally[NEGATIVE_FIRST], tally[NEGATIVE_LAST])
    elsewhere = moved + zeros < bits.size
    low, high = np.int64(HIGHEST_FINITE), np.int64(LOWEST_FINITE)
    if elsewhere and move_rest(scratch, totals, tally):
        holds |= HAS_NONFINITE
        low, high = finite_extremes(bits, tally)
        if low <= high:
            count_extremes(bits, low, high, tally)
    elif look or elsewhere:
        low, high = count_extremes_by_block(bits, tally)
    if low <= high:
        holds |= HOLDS_MINIMUM if low == tally[MINIMUM] else 0
        holds |= HOLDS_MAXIMUM if high == tally[MAXIMUM] else 0
    if zeros:
        holds |= HOLDS_MINIMUM if -1 <= tally[MINIMUM] <= 0 else 0
        holds |= HOLDS_MAXIMUM if -1 <= tally[MAXIMUM] <= 0 else 0
    return holds
