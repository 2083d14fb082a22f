"""The counting kernels for GPUs: those of `qgraph.calib.cpu.kernels`, `channel_kernels` and `row_kernels` in Triton.

A network makes hundreds of small activations, and starting a kernel for each would cost more than counting. So one
launch takes all activations of an inference: the addresses come in a table, and each program has a row of work::

    work   address   start   size   histogram     program 1 counts elements 8192…12543 of the tensor at
      0       0          0   8192       5         addresses[0] into histogram 5
      1       0       8192   4352       5
      2       1          0    576       7

All arithmetic is on the bits of values, as integers, so that no compiler's option (flushing denormals to zero, fusing
a multiplication with an addition) can change a count; sums add float64 in the order that `channel_kernels` has.
Counters that programs share are integers and are added atomically, so no result depends on which program is first.

Where there is no GPU the kernels run in Triton's interpreter, if ``TRITON_INTERPRET=1`` is set before this module is
imported: slow, but the same code.
"""

from __future__ import annotations

from typing import Final

import triton
import triton.language as tl

HIGHEST_FINITE: tl.constexpr = tl.constexpr(0x7F7FFFFF)
LOWEST_FINITE: tl.constexpr = tl.constexpr(-0x7F800000)
HIGHEST: tl.constexpr = tl.constexpr(0x7FFFFFFF)
LOWEST: tl.constexpr = tl.constexpr(-0x80000000)
ALL_BUT_SIGN: tl.constexpr = tl.constexpr(0x7FFFFFFF)

LOG_FIELDS: Final = 8
"""Columns of the log before the atoms: lowest, its count, highest, its count, zeros, NaN, +Inf, −Inf."""

WORK_FIELDS: Final = 4
"""Columns of a row of work of `count_bins`: address, first element, number of elements, row of the histogram."""

CHANNEL_FIELDS: Final = 12
"""Columns of a row of work of `take_channels`.

Tensor, first element, channels of the tensor from here on, elements in a row of its inner axes, all channels,
elements of a channel, where its partial results go, its first row among the histograms, lowest and highest ordering
integer that a value may have, the row of its atoms, and 0.
"""

MERGE_FIELDS: Final = 5
"""Columns of `merge_channels`: row of the state, channels, place of the first sample's results, samples, stride."""

ROW_FIELDS: Final = 8
"""Columns of `pair_rows`: tensor, first row, rows, elements of a row, inner axes, where keys go, lowest, highest."""

KEY_OF_NAN, KEY_OF_INFINITY, KEY_OF_SINGLE = -1, -2, -3
"""What stands for the key of a row that has none."""


@triton.jit
def order_of(bits):
    """Turn a float32's bits into an integer that orders like the float; both zeros are 0."""
    order = bits ^ ((bits >> 31) & ALL_BUT_SIGN)
    return tl.where(order == -1, 0, order)


@triton.jit
def bits_of(order):
    """The inverse of `order_of`, but for −0."""
    return order ^ ((order >> 31) & ALL_BUT_SIGN)


@triton.jit
def is_nan(order):
    """Whether an ordering integer is beyond the infinities."""
    return (order > HIGHEST_FINITE + 1) | (order < LOWEST_FINITE - 1)


@triton.jit
def is_finite(order):
    """Whether an ordering integer is that of a finite value."""
    return (order <= HIGHEST_FINITE) & (order >= LOWEST_FINITE)


@triton.jit
def load_orders(address, place, mask, kind: tl.constexpr):
    """The ordering integers of elements of a tensor of float32, bfloat16 or float16; 0 where masked."""
    if kind == "float32":
        bits = tl.load(address.to(tl.pointer_type(tl.int32)) + place, mask=mask, other=0)
    elif kind == "bfloat16":
        bits = tl.load(address.to(tl.pointer_type(tl.int16)) + place, mask=mask, other=0).to(tl.int32) << 16
    else:
        # The least float16 is a normal float32, so no denormal is made or read as float32.
        half = tl.load(address.to(tl.pointer_type(tl.float16)) + place, mask=mask, other=0.0)
        bits = half.to(tl.float32).to(tl.int32, bitcast=True)
    return order_of(bits)


@triton.jit
def double_of(order):
    """The float64 of a finite ordering integer, put together from bits: conversions may flush denormals."""
    magnitude = bits_of(order) & ALL_BUT_SIGN
    exponent = (magnitude >> 23).to(tl.int64)
    mantissa = (magnitude & 0x7FFFFF).to(tl.int64)
    normal = (((exponent + 896) << 52) | (mantissa << 29)).to(tl.float64, bitcast=True)
    unit = (tl.zeros_like(mantissa) + (874 << 52)).to(tl.float64, bitcast=True)  # 2^-149
    found = tl.where(exponent > 0, normal, mantissa.to(tl.float64) * unit)
    return tl.where(order < 0, -found, found)


@triton.jit
def count_bins(
    addresses,
    work,
    totals,
    log,
    atoms,
    kind: tl.constexpr,
    atom_columns: tl.constexpr,
    block: tl.constexpr,
):
    """Count a piece of a tensor into its histogram, and write what else is known of it to its row of the log.

    Zeros and atoms are left out of the histogram: many elements are equal to them, and increments of one counter wait
    for each other. For the same reason equal bins that follow each other are added at once.

    Args:
        addresses: int64, of each tensor.
        work: int64 [programs, WORK_FIELDS].
        totals: int64 [tensors, BIN_COUNT].
        log: int32 [programs, LOG_FIELDS + atom_columns], overwritten.
        atoms: int32 [tensors, atom_columns], ordering integers; the highest there is where a tensor has fewer.
    """
    program = tl.program_id(0).to(tl.int64)
    address = tl.load(addresses + tl.load(work + program * 4))
    start = tl.load(work + program * 4 + 1)
    size = tl.load(work + program * 4 + 2).to(tl.int32)
    tensor = tl.load(work + program * 4 + 3)
    counters = totals + tensor * 131072
    lane = tl.arange(0, block)
    column = tl.arange(0, atom_columns)
    wanted = tl.load(atoms + tensor * atom_columns + column)
    none = tl.zeros([block], tl.int32)
    low, high = none + HIGHEST, none + LOWEST
    lows, highs, zeros, nans, above, below, held, run = none, none, none, none, none, none, none, none
    equal = tl.zeros([block, atom_columns], tl.int32)
    for first in range(0, size, block):
        valid = first + lane < size
        order = load_orders(address, start + first + lane, valid, kind)
        finite = valid & is_finite(order)
        nans += (valid & is_nan(order)).to(tl.int32)
        above += (valid & (order == HIGHEST_FINITE + 1)).to(tl.int32)
        below += (valid & (order == LOWEST_FINITE - 1)).to(tl.int32)
        zeros += (valid & (order == 0)).to(tl.int32)
        lows = tl.where(finite & (order < low), 0, lows) + (finite & (order <= low)).to(tl.int32)
        low = tl.where(finite, tl.minimum(low, order), low)
        highs = tl.where(finite & (order > high), 0, highs) + (finite & (order >= high)).to(tl.int32)
        high = tl.where(finite, tl.maximum(high, order), high)
        matches = ((order[:, None] == wanted[None, :]) & finite[:, None]).to(tl.int32)
        equal += matches
        counted = finite & (order != 0) & (tl.sum(matches, axis=1) == 0)
        place = (bits_of(order) >> 15) & 0x1FFFF
        changed = counted & (place != held)
        tl.atomic_add(counters + held, run.to(tl.int64), mask=changed & (run > 0), sem="relaxed")
        run = tl.where(changed, 0, run) + counted.to(tl.int32)
        held = tl.where(changed, place, held)
    tl.atomic_add(counters + held, run.to(tl.int64), mask=run > 0, sem="relaxed")
    lowest, highest = tl.min(low, axis=0), tl.max(high, axis=0)
    row = log + program * (8 + atom_columns)
    tl.store(row + 0, lowest)
    tl.store(row + 1, tl.sum(tl.where(low == lowest, lows, 0), axis=0))
    tl.store(row + 2, highest)
    tl.store(row + 3, tl.sum(tl.where(high == highest, highs, 0), axis=0))
    tl.store(row + 4, tl.sum(zeros, axis=0))
    tl.store(row + 5, tl.sum(nans, axis=0))
    tl.store(row + 6, tl.sum(above, axis=0))
    tl.store(row + 7, tl.sum(below, axis=0))
    tl.store(row + 8 + column, tl.sum(equal, axis=0))


@triton.jit
def folded(lanes, channels: tl.constexpr):
    """The sums of float64 [channels, 64]: the second half is added to the first until one is left."""
    lanes = tl.sum(tl.reshape(lanes, [channels, 2, 32]), axis=1)
    lanes = tl.sum(tl.reshape(lanes, [channels, 2, 16]), axis=1)
    lanes = tl.sum(tl.reshape(lanes, [channels, 2, 8]), axis=1)
    lanes = tl.sum(tl.reshape(lanes, [channels, 2, 4]), axis=1)
    lanes = tl.sum(tl.reshape(lanes, [channels, 2, 2]), axis=1)
    return tl.sum(lanes, axis=1)


@triton.jit
def clipped_orders(address, place, mask, low, high, kind: tl.constexpr):
    """As `load_orders`, cut off at both ends; NaN stays NaN."""
    order = load_orders(address, place, mask, kind)
    return tl.where(is_nan(order), order, tl.minimum(tl.maximum(order, low), high))


@triton.jit
def finite_part(address, base, stride, inner, size, low, high, kind):
    """The sum of the finite values of one channel, which move up to fill 64 lanes in turn; float64 [1]."""
    lane = tl.arange(0, 64)
    lanes = tl.zeros([1, 64], tl.float64)
    seen = 0
    for first in range(0, size, 64):
        element = first + lane
        valid = element < size
        place = base + (element // inner).to(tl.int64) * stride + element % inner
        order = clipped_orders(address, place, valid, low, high, kind)
        finite = valid & is_finite(order)
        rank = seen + tl.cumsum(finite.to(tl.int32), axis=0) - 1
        # At most one of 64 elements in a row falls into each lane, so the order of this sum does not matter.
        mine = (rank % 64)[:, None] == lane[None, :]
        value = tl.where(finite, double_of(tl.where(finite, order, 0)), 0.0)
        lanes += tl.sum(tl.where(mine & finite[:, None], value[:, None], 0.0), axis=0)[None, :]
        seen += tl.sum(finite.to(tl.int32), axis=0)
    return folded(lanes, 1)


@triton.jit
def take_channels(
    addresses,
    work,
    atoms,
    bins,
    partial,
    places,
    kind: tl.constexpr,
    binned: tl.constexpr,
    atom_columns: tl.constexpr,
    block: tl.constexpr,
):
    """Extremes, sums and counts of some channels of one sample, and their histograms.

    Args:
        addresses, atoms: as for `count_bins`.
        work: int64 [programs, CHANNEL_FIELDS].
        bins: int32 [channels, CHANNEL_BINS], the histograms; added to.
        partial: int64 [8 + atom_columns, places], overwritten: lowest, its count, highest, its count, NaN, +Inf,
            −Inf, the bits of the sum, the counts of the atoms.
        places: how many channels, of all samples and tensors, there are.
    """
    item = work + tl.program_id(0).to(tl.int64) * 12
    address = tl.load(addresses + tl.load(item))
    base, left = tl.load(item + 1), tl.load(item + 2)
    inner, stride = tl.load(item + 3).to(tl.int32), tl.load(item + 4) * tl.load(item + 3)
    size = tl.load(item + 5).to(tl.int32)
    out, histogram = tl.load(item + 6), tl.load(item + 7)
    cut_low, cut_high = tl.load(item + 8).to(tl.int32), tl.load(item + 9).to(tl.int32)
    column = tl.arange(0, atom_columns)
    wanted = tl.load(atoms + tl.load(item + 10) * atom_columns + column)
    channel, lane = tl.arange(0, block), tl.arange(0, 64)
    own = channel < left
    none = tl.zeros([block, 64], tl.int32)
    low, high = none + HIGHEST, none + LOWEST
    lows, highs, nans, above, below = none, none, none, none, none
    equal = tl.zeros([block, atom_columns], tl.int32)
    lanes = tl.zeros([block, 64], tl.float64)
    for first in range(0, size, 64):
        element = first + lane
        valid = own[:, None] & (element < size)[None, :]
        place = base + channel.to(tl.int64)[:, None] * inner
        place += ((element // inner).to(tl.int64) * stride + element % inner)[None, :]
        order = clipped_orders(address, place, valid, cut_low, cut_high, kind)
        finite = valid & is_finite(order)
        nans += (valid & is_nan(order)).to(tl.int32)
        above += (valid & (order == HIGHEST_FINITE + 1)).to(tl.int32)
        below += (valid & (order == LOWEST_FINITE - 1)).to(tl.int32)
        lanes += double_of(tl.where(finite, order, 0))
        if binned:
            lows = tl.where(finite & (order < low), 0, lows) + (finite & (order <= low)).to(tl.int32)
            highs = tl.where(finite & (order > high), 0, highs) + (finite & (order >= high)).to(tl.int32)
            matches = ((order[:, :, None] == wanted[None, None, :]) & finite[:, :, None]).to(tl.int32)
            equal += tl.sum(matches, axis=1)
            counted = finite & (order != 0) & (tl.sum(matches, axis=2) == 0)
            bin_place = (histogram + channel)[:, None] * 16384 + ((bits_of(order) >> 18) & 0x3FFF)
            tl.atomic_add(bins + bin_place, none + 1, mask=counted, sem="relaxed")
        low = tl.where(finite, tl.minimum(low, order), low)
        high = tl.where(finite, tl.maximum(high, order), high)
    part = folded(lanes, block)
    odd = tl.sum(nans + above + below, axis=1)
    if tl.max(odd, axis=0) > 0:
        for one in range(tl.minimum(left, block).to(tl.int32)):
            found = finite_part(address, base + one * inner, stride, inner, size, cut_low, cut_high, kind)
            part = tl.where((channel == one) & (odd > 0), found, part)
    lowest, highest = tl.min(low, axis=1), tl.max(high, axis=1)
    row = partial + out + channel
    tl.store(row, lowest.to(tl.int64), mask=own)
    tl.store(row + places, tl.sum(tl.where(low == lowest[:, None], lows, 0), axis=1).to(tl.int64), mask=own)
    tl.store(row + 2 * places, highest.to(tl.int64), mask=own)
    tl.store(row + 3 * places, tl.sum(tl.where(high == highest[:, None], highs, 0), axis=1).to(tl.int64), mask=own)
    tl.store(row + 4 * places, tl.sum(nans, axis=1).to(tl.int64), mask=own)
    tl.store(row + 5 * places, tl.sum(above, axis=1).to(tl.int64), mask=own)
    tl.store(row + 6 * places, tl.sum(below, axis=1).to(tl.int64), mask=own)
    tl.store(row + 7 * places, part.to(tl.int64, bitcast=True), mask=own)
    tl.store(row[:, None] + (8 + column)[None, :] * places, equal.to(tl.int64), mask=own[:, None])


@triton.jit
def add_part(limbs, bits, mask):
    """Add float64s, given as their bits, to totals; see `qgraph.calib.exact_sums`."""
    exponent = (bits >> 52) & 0x7FF
    mantissa = tl.where(exponent > 0, (bits & 0xFFFFFFFFFFFFF) | (1 << 52), 0)
    position = exponent - 926
    mantissa = mantissa >> tl.minimum(tl.maximum(-position, 0), 63)
    position = tl.maximum(position, 0)
    limb, shift = position // 32, position % 32
    low = (mantissa & 0xFFFFFFFF) << shift
    high = (mantissa >> 32) << shift
    sign = tl.where(bits < 0, -1, 1).to(tl.int64)
    mask = mask & (mantissa > 0)
    tl.atomic_add(limbs + limb, sign * (low & 0xFFFFFFFF), mask=mask, sem="relaxed")
    tl.atomic_add(limbs + limb + 1, sign * ((low >> 32) + (high & 0xFFFFFFFF)), mask=mask, sem="relaxed")
    tl.atomic_add(limbs + limb + 2, sign * (high >> 32), mask=mask, sem="relaxed")


@triton.jit
def merge_channels(work, partial, places, state, limbs, atom_columns: tl.constexpr, block: tl.constexpr):
    """Add what `take_channels` found in each sample to what is known of the channels, which one program owns.

    Args:
        work: int64 [programs, MERGE_FIELDS].
        state: int64 [channels, 7 + atom_columns]: the first fields of `partial` but for the sum.
        limbs: int64 [channels, 12].
    """
    item = work + tl.program_id(0).to(tl.int64) * 5
    first, left = tl.load(item), tl.load(item + 1)
    out, samples, stride = tl.load(item + 2), tl.load(item + 3).to(tl.int32), tl.load(item + 4)
    channel, column = tl.arange(0, block), tl.arange(0, atom_columns)
    own = channel < left
    row = state + (first + channel) * (7 + atom_columns)
    total = limbs + (first + channel) * 12
    low, lows = tl.load(row, mask=own, other=0), tl.load(row + 1, mask=own, other=0)
    high, highs = tl.load(row + 2, mask=own, other=0), tl.load(row + 3, mask=own, other=0)
    nans, above = tl.load(row + 4, mask=own, other=0), tl.load(row + 5, mask=own, other=0)
    below = tl.load(row + 6, mask=own, other=0)
    atom_row = row[:, None] + 7 + column[None, :]
    equal = tl.load(atom_row, mask=own[:, None], other=0)
    for sample in range(samples):
        found = partial + out + sample * stride + channel
        new_low = tl.load(found, mask=own, other=0)
        new_lows = tl.load(found + places, mask=own, other=0)
        lows = tl.where(new_low < low, 0, lows) + tl.where(new_low <= low, new_lows, 0)
        low = tl.minimum(low, new_low)
        new_high = tl.load(found + 2 * places, mask=own, other=0)
        new_highs = tl.load(found + 3 * places, mask=own, other=0)
        highs = tl.where(new_high > high, 0, highs) + tl.where(new_high >= high, new_highs, 0)
        high = tl.maximum(high, new_high)
        nans += tl.load(found + 4 * places, mask=own, other=0)
        above += tl.load(found + 5 * places, mask=own, other=0)
        below += tl.load(found + 6 * places, mask=own, other=0)
        equal += tl.load(found[:, None] + (8 + column)[None, :] * places, mask=own[:, None], other=0)
        add_part(total, tl.load(found + 7 * places, mask=own, other=0), own)
    tl.store(row, low, mask=own)
    tl.store(row + 1, lows, mask=own)
    tl.store(row + 2, high, mask=own)
    tl.store(row + 3, highs, mask=own)
    tl.store(row + 4, nans, mask=own)
    tl.store(row + 5, above, mask=own)
    tl.store(row + 6, below, mask=own)
    tl.store(atom_row, equal, mask=own[:, None])


@triton.jit
def gap_bits(largest, second):
    """The bits of the float32 nearest to largest − second, given as finite ordering integers; never infinite.

    Rounded by hand, to even, since a conversion may flush denormals.
    """
    gap = double_of(largest) - double_of(second)
    bits = gap.to(tl.int64, bitcast=True)
    top = tl.zeros_like(bits) + 0x47EFFFFFE0000000  # the largest float32
    bits = tl.minimum(bits, top)
    shifted = bits - (896 << 52)
    normal = (shifted + 0x0FFFFFFF + ((shifted >> 29) & 1)) >> 29
    scale = (tl.zeros_like(bits) + (1172 << 52)).to(tl.float64, bitcast=True)  # 2^149
    small = bits < (897 << 52)
    denormal = (tl.where(small, gap, 0.0) * scale).to(tl.int64)
    return tl.where(small, denormal, normal).to(tl.int32)


@triton.jit
def pair_rows(addresses, work, keys, kind: tl.constexpr, block: tl.constexpr, width: tl.constexpr):
    """The key of each row, as `qgraph.calib.rows` has it, or what stands for it.

    Args:
        work: int64 [programs, ROW_FIELDS].
        keys: int32, overwritten.
    """
    item = work + tl.program_id(0).to(tl.int64) * 8
    address = tl.load(addresses + tl.load(item))
    first, left = tl.load(item + 1), tl.load(item + 2)
    size, inner, out = tl.load(item + 3).to(tl.int32), tl.load(item + 4), tl.load(item + 5)
    cut_low, cut_high = tl.load(item + 6).to(tl.int32), tl.load(item + 7).to(tl.int32)
    row = tl.arange(0, block)
    own = row < left
    base = (first + row) // inner * size * inner + (first + row) % inner
    lane = tl.arange(0, width)
    least = tl.zeros([block, width], tl.int32) + (LOWEST_FINITE - 1)
    largest, second = least, least
    nans = tl.zeros([block, width], tl.int32)
    for start in range(0, size, width):
        element = start + lane
        valid = own[:, None] & (element < size)[None, :]
        place = base[:, None] + element.to(tl.int64)[None, :] * inner
        order = clipped_orders(address, place, valid, cut_low, cut_high, kind)
        nan = valid & is_nan(order)
        nans += nan.to(tl.int32)
        order = tl.where(valid & (nan == 0), order, least)
        second = tl.maximum(second, tl.minimum(order, largest))
        largest = tl.maximum(largest, order)
    high = tl.max(largest, axis=1)
    top = largest == high[:, None]
    # The best of the rest, unless two lanes have the largest element.
    rest = tl.max(tl.where(top, second, largest), axis=1)
    rest = tl.where(tl.sum(top.to(tl.int32), axis=1) > 1, high, rest)
    finite = is_finite(high) & is_finite(rest)
    upper = (bits_of(tl.where(finite, rest, 0)) >> 17) & 0x7FFF
    key = (upper << 14) | (gap_bits(tl.where(finite, high, 0), tl.where(finite, rest, 0)) >> 17)
    key = tl.where(finite, key, -2)
    key = tl.where(size == 1, -3, key)
    key = tl.where(tl.sum(nans, axis=1) > 0, -1, key)
    tl.store(keys + out + row, key, mask=own)
