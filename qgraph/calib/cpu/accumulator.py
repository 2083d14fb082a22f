"""The growing statistics of one tensor on the CPU: the kernels' counters, and the value that they make."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qgraph.calib.cpu.kernels import (
    HAS_NONFINITE,
    HIGHEST_FINITE,
    HOLDS_MAXIMUM,
    HOLDS_MINIMUM,
    LANES,
    LOWEST_FINITE,
    MAXIMUM,
    MINIMUM,
    OCTAVE,
    PLACES,
    POSITIVE_FIRST,
    add_bits,
)
from qgraph.calib.grid import BIN_COUNT, SIGN_BIN, ordered, value_of
from qgraph.calib.provenance import Provenance, smallest
from qgraph.calib.statistics import TensorStatistics, as_float32, atoms_of, empty_statistics

LARGEST_PIECE: Final = 1 << 31
"""Elements that are counted in the scratch histogram before they are moved."""

LARGEST_COUNT: Final = (1 << 32) - 1
"""What a counter can hold."""


def empty_scratch() -> NDArray[np.uint32]:
    """A scratch histogram and its lanes, 512 KiB: one for each thread that counts."""
    return np.zeros(BIN_COUNT + LANES, np.uint32)


class Accumulator:
    """The growing statistics of one tensor, from nothing or from `start`. Not to be shared by threads.

    Args:
        atoms: values whose exact multiplicity is wanted; those of `start` where it is given.
    """

    def __init__(self, atoms: Iterable[float] = (), start: TensorStatistics | None = None) -> None:
        begin = start if start is not None else empty_statistics(atoms_of(atoms))
        self._atoms = np.asarray(begin.atom_values, np.float32)
        self._atom_bits = self._atoms.view(np.int32)
        self._atom_counts = np.array([count for _, count in begin.atoms], np.int64)
        # A mapping of its own: an allocator may reuse memory, and would write zeros to all of it.
        self._totals = np.frombuffer(mmap.mmap(-1, 4 * BIN_COUNT, access=mmap.ACCESS_COPY), np.uint32)
        self._room = LARGEST_COUNT  # elements that a counter can take without overflow
        self._before = begin.bins, begin.counts  # counted before the counters were last empty
        self._tally = np.zeros(PLACES, np.int64)
        self._tally[:POSITIVE_FIRST] = (
            ordered(begin.minimum) if begin.minimum is not None else HIGHEST_FINITE + 1,
            begin.minimum_count,
            ordered(begin.maximum) if begin.maximum is not None else LOWEST_FINITE - 1,
            begin.maximum_count,
            begin.nan,
            begin.positive_infinities,
            begin.negative_infinities,
            begin.zeros,
        )
        self._tally[POSITIVE_FIRST:PLACES] = _octaves_in_use(begin.bins)
        self._samples = begin.samples
        self._provenance = begin.provenance

    def add(
        self,
        values: ArrayLike,
        samples: int = 1,
        scratch: NDArray[np.uint32] | None = None,
        *,
        sample: str | None = None,
    ) -> None:
        """Count an activation of any shape, made by that many samples. It is read and not kept.

        Args:
            scratch: see `empty_scratch`; not to be used by another thread meanwhile.
            sample: the content hash of the sample that made it, for the provenance of extremes.
        """
        flat = np.ascontiguousarray(as_float32(values)).reshape(-1)
        if flat.size:
            scratch = empty_scratch() if scratch is None else scratch
            for start in range(0, flat.size, LARGEST_PIECE):
                bits = flat[start : start + LARGEST_PIECE].view(np.int32)
                if bits.size > self._room:
                    self._empty()
                self._room -= bits.size
                before = self._tally[MINIMUM], self._tally[MAXIMUM]
                holds = add_bits(bits, scratch, self._totals, self._tally, self._atom_bits, self._atom_counts)
                if holds:
                    self._provenance = self._held(holds, before, sample)
        self._samples += samples

    def _held(self, holds: int, before: tuple[np.int64, np.int64], sample: str | None) -> Provenance:
        """The provenance after an activation that holds something, given the extremes before it."""
        known = self._provenance
        minimum, maximum, nonfinite = known.minimum, known.maximum, known.nonfinite
        # Both zeros are one value: −1 and 0 order alike.
        low, high = (
            old == new or (-1 <= old <= 0 and -1 <= new <= 0)
            for old, new in zip(before, (self._tally[MINIMUM], self._tally[MAXIMUM]), strict=True)
        )
        if holds & HOLDS_MINIMUM:
            minimum = smallest((minimum, sample)) if low else sample
        if holds & HOLDS_MAXIMUM:
            maximum = smallest((maximum, sample)) if high else sample
        if holds & HAS_NONFINITE:
            nonfinite = smallest((nonfinite, sample))
        return Provenance(minimum, maximum, nonfinite)

    def _counted(self) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """The bins that hold something, and how much: what was counted before, and what the counters hold."""
        before, before_counts = self._before
        bins, counts = [], []
        for first, last in self._tally[POSITIVE_FIRST:PLACES].reshape(2, 2):
            held = self._totals[first:last].astype(np.int64)
            of_these = (before >= first) & (before < last)
            held[before[of_these] - first] += before_counts[of_these]
            filled = np.flatnonzero(held)
            bins.append(first + filled)
            counts.append(held[filled])
        return np.concatenate(bins).astype(np.uint32), np.concatenate(counts)

    def _empty(self) -> None:
        """List what the counters hold."""
        self._before = self._counted()
        for first, last in self._tally[POSITIVE_FIRST:PLACES].reshape(2, 2):
            self._totals[first:last] = 0
        self._room = LARGEST_COUNT

    def snapshot(self) -> TensorStatistics:
        """The statistics so far, as a value that later `add` calls do not change."""
        minimum, minimum_count, maximum, maximum_count, nan, positive, negative, zeros = map(
            int, self._tally[:POSITIVE_FIRST]
        )
        bins, counts = self._counted()
        some = bool(bins.size) or zeros > 0
        low, high = (value_of(minimum), value_of(maximum)) if some else (None, None)
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
                (float(value), zeros if value == 0 else int(count))
                for value, count in zip(self._atoms, self._atom_counts, strict=True)
            ),
            provenance=self._provenance,
        )


def _octaves_in_use(bins: NDArray[np.uint32]) -> list[int]:
    """First and last bin of the whole octaves that hold these bins: positive ones, then negative ones; 0 for none."""
    found: list[int] = []
    for side in (bins[bins < SIGN_BIN], bins[bins >= SIGN_BIN]):
        found += [int(side[0]) // OCTAVE * OCTAVE, int(side[-1]) // OCTAVE * OCTAVE + OCTAVE] if side.size else [0, 0]
    return found


def warm_up() -> None:
    """Compile the kernel now, so that the first activation is not charged for it."""
    Accumulator().add(np.ones(1, np.float32))
