"""The counting kernel: one walk over an activation adds it to the statistics of its tensor.

The dense histogram has a slot for each bin of the grid; pages that no value touches cost no memory. Within
blocks that fit the first-level cache the kernel takes the extremes (a vectorised loop over an integer that
orders like the float), then the histogram. Multiplicities are counted only in blocks that reach an extreme
or hold an atom, and a block with NaN or Inf is looked at once more, element by element.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, ParamSpec, TypeVar

import numba
import numpy as np
from numba.core.codegen import get_host_cpu_features
from numpy.typing import ArrayLike, NDArray

from qgraph.calib.grid import BIN_COUNT, DROPPED_BITS, FIRST_NONFINITE, SIGN_BIN
from qgraph.calib.statistics import TensorStatistics, as_float32, atoms_of, empty_statistics

P = ParamSpec("P")
R = TypeVar("R")

ZERO_LANES: Final = 8
"""Zeros go to as many counters in turn: a rectified tensor would otherwise wait on one counter's last write."""

BLOCK: Final = 4096
"""Elements per block, 16 KiB."""

LOWEST_FINITE: Final = -0x7F800000
HIGHEST_FINITE: Final = 0x7F7FFFFF
ALL_BUT_SIGN: Final = 0x7FFFFFFF

MINIMUM, MINIMUM_COUNT, MAXIMUM, MAXIMUM_COUNT, NAN, POSITIVE_INFINITIES, NEGATIVE_INFINITIES = range(7)
"""Places in the tally: extremes as ordered integers, their multiplicities, and what is not finite."""


WIDE_ARITHMETIC: Final = ("amx", "avx", "fma", "f16c", "neon", "sse", "sve", "dotprod", "i8mm", "bf16", "fullfp16")
"""Beginnings of the names of instruction sets that change how a runtime rounds its sums."""


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile with numba on first use, without the interpreter's lock; cached on disk where a folder is writable."""
    try:
        kernel: Callable[P, R] = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # numba found no folder that it may write to
        kernel = numba.njit(nogil=True)(function)
    return kernel


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
def count_bins(block: NDArray[np.int32], histogram: NDArray[np.int64]) -> None:
    """Add each element to its bin, zeros of either sign to the lanes behind the bins."""
    for i in range(block.size):
        bits = np.uint32(block[i])
        is_zero = (bits & np.uint32(ALL_BUT_SIGN)) == 0
        place = np.uint32(BIN_COUNT + (i & (ZERO_LANES - 1))) if is_zero else bits >> np.uint32(DROPPED_BITS)
        histogram[place] += 1


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
def add_bits(
    bits: NDArray[np.int32],
    histogram: NDArray[np.int64],
    tally: NDArray[np.int64],
    atoms: NDArray[np.int32],
    atom_counts: NDArray[np.int64],
) -> None:
    """Add an activation, given as the bits of contiguous float32, to a tensor's counters in place."""
    for start in range(0, bits.size, BLOCK):
        block = bits[start : start + BLOCK]
        count_bins(block, histogram)
        low, high = extremes(block)
        if low < LOWEST_FINITE or high > HIGHEST_FINITE:
            low, high = finite_extremes(block, tally)
        if low > high:
            continue
        count_extremes(block, low, high, tally)
        for k in range(atoms.size):
            if low <= order_of(atoms[k]) <= high:
                atom_counts[k] += count_equal(block, atoms[k])


def bits_of(value: float) -> int:
    """A float32's bits as a signed integer."""
    return int(np.float32(value).view(np.int32))


def ordered(value: float) -> int:
    """The integer that orders like a finite float32; zero is 0 whatever its sign."""
    bits = bits_of(value + 0.0)
    return bits if bits >= 0 else bits ^ ALL_BUT_SIGN


def value_of(order: int) -> float:
    """The float32 behind an ordering integer; the inverse of `ordered`, and −1 (which is −0) gives 0.0."""
    bits = order if order >= 0 else order ^ ALL_BUT_SIGN
    return float(np.int32(bits).view(np.float32)) + 0.0


class Accumulator:
    """The growing statistics of one tensor, from nothing or from `start`. Not to be shared by threads.

    Args:
        atoms: values whose exact multiplicity is wanted; those of `start` where it is given.
    """

    def __init__(self, atoms: Iterable[float] = (), start: TensorStatistics | None = None) -> None:
        begin = start if start is not None else empty_statistics(atoms_of(atoms))
        self._atoms = np.asarray(begin.atom_values, np.float32)
        self._atom_counts = np.array([count for _, count in begin.atoms], np.int64)
        self._histogram = np.zeros(BIN_COUNT + ZERO_LANES, np.int64)
        self._histogram[begin.bins] = begin.counts
        self._histogram[BIN_COUNT] = begin.zeros
        self._tally = np.zeros(7, np.int64)
        self._tally[:] = (
            ordered(begin.minimum) if begin.minimum is not None else HIGHEST_FINITE + 1,
            begin.minimum_count,
            ordered(begin.maximum) if begin.maximum is not None else LOWEST_FINITE - 1,
            begin.maximum_count,
            begin.nan,
            begin.positive_infinities,
            begin.negative_infinities,
        )
        self._samples = begin.samples

    def add(self, values: ArrayLike, samples: int = 1) -> None:
        """Count an activation of any shape, made by that many samples. It is read once and not kept."""
        flat = np.ascontiguousarray(as_float32(values)).reshape(-1)
        if flat.size:
            bits = flat.view(np.int32)
            add_bits(bits, self._histogram, self._tally, self._atoms.view(np.int32), self._atom_counts)
        self._samples += samples

    def snapshot(self) -> TensorStatistics:
        """The statistics so far, as a value that later `add` calls do not change."""
        zeros = int(self._histogram[BIN_COUNT:].sum())
        touched = np.flatnonzero(self._histogram[:BIN_COUNT])
        bins = touched[touched % SIGN_BIN < FIRST_NONFINITE].astype(np.uint32)
        counts = self._histogram[bins]
        minimum, minimum_count, maximum, maximum_count, nan, positive, negative = (int(n) for n in self._tally)
        some = bool(bins.size) or zeros > 0
        low, high = (value_of(minimum), value_of(maximum)) if some else (None, None)
        atom_counts = [int(n) for n in self._atom_counts]
        return TensorStatistics(
            bins=bins,
            counts=counts,
            zeros=zeros,
            nan=nan,
            positive_infinities=positive,
            negative_infinities=negative,
            samples=self._samples,
            minimum=low,
            maximum=high,
            minimum_count=zeros if low == 0 else minimum_count,
            maximum_count=zeros if high == 0 else maximum_count,
            atoms=tuple(
                (float(value), zeros if value == 0 else count)
                for value, count in zip(self._atoms, atom_counts, strict=True)
            ),
        )


def warm_up() -> None:
    """Compile the kernel now, so that the first activation is not charged for it."""
    Accumulator().add(np.ones(1, np.float32))


def cpu_features() -> str:
    """The processor's instruction sets that change how a runtime rounds sums, sorted, separated by spaces."""
    listed: str = get_host_cpu_features()  # type: ignore[no-untyped-call]
    present = (name[1:] for name in listed.split(",") if name.startswith("+"))
    return " ".join(sorted(name for name in present if name.startswith(WIDE_ARITHMETIC)))
