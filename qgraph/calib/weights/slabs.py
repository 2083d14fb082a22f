"""A weight in slabs of whole channels, so that one that is mapped from a file never lies in memory as a whole.

::

    weight [c, …]  ─▶  slabs [channels, length]  ─▶  blocks of `BLOCK` values  ─▶  magnitude, rounding error

Every sum runs over a block in order, and then over the blocks of a channel in order, so that it is the same for any
size of slab and any number of threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qgraph.calib.statistics import as_float32
from qgraph.calib.weights.kernels import LANES, error_sums, largest_magnitudes

BLOCK = 4096
"""Values that are summed in one run."""

SLAB = 1 << 23
"""Values of a slab, 32 MiB as float32. Only a single channel may be longer."""

SLAB_CHANNELS = 1 << 16
"""Channels of a slab, however short they are: each costs memory for its candidates."""

PIECE = 1 << 18
"""Values that a thread takes at a time."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Weight = NDArray[np.floating[Any]]


def slabs(weight: Weight, axis: int | None, pool: ThreadPoolExecutor) -> Iterator[Slab]:
    """Cut a weight along its channels.

    Args:
        weight: of any shape; may be mapped from a file.
        axis: of the channels; None where the whole weight is one.
        pool: the threads that will work on the slabs.
    """
    channels = weight.reshape(1, weight.size) if axis is None else np.moveaxis(weight, axis, 0)
    count = channels.shape[0]
    length = channels.size // max(1, count)
    step = min(SLAB_CHANNELS, max(1, SLAB // max(1, length)))
    for first in range(0, count, step):
        some = channels[first : first + step]
        yield Slab(np.ascontiguousarray(some).reshape(some.shape[0], length), pool)


@dataclass(frozen=True, eq=False)
class _Blocks:
    """Some blocks of a slab: their values, and for each its index, its channel, and where in the values it lies."""

    values: NDArray[np.float32]
    index: Integers
    channel: Integers
    start: Integers
    stop: Integers


@dataclass(frozen=True, eq=False)
class Slab:
    """Some channels of a weight.

    Attributes:
        rows: [channels, length], in the weight's own type; a view of it unless its channels lie scattered.
        pool: the threads that work on it.
    """

    rows: Weight
    pool: ThreadPoolExecutor

    @property
    def magnitude(self) -> Floats:
        """Largest magnitude of each channel, NaN or infinite where a value is or is beyond float32: [channels]."""
        return np.asarray(self._magnitudes.max(axis=1, initial=0.0))

    def energies(self, scale: Floats, low: int, high: int) -> Floats:
        """Σ (x − Q(x))² of each channel for k scales: [channels, k].

        Args:
            scale: [channels, k], positive.
            low, high: the ends of the integer range minus the offset.
        """
        count = scale.shape[1]
        lanes = count if count == 1 else -(-count // LANES) * LANES
        padded = np.pad(scale, ((0, 0), (0, lanes - count)), mode="edge")
        live = self._magnitudes.reshape(-1) > 0
        sums = np.zeros((live.size, lanes))

        def measure(blocks: _Blocks) -> None:
            chosen = live[blocks.index]  # zeros are exact at every scale
            own = padded[blocks.channel[chosen]]
            errors = np.empty_like(own)
            error_sums(blocks.values, blocks.start[chosen], blocks.stop[chosen], own, float(low), float(high), errors)
            sums[blocks.index[chosen]] = errors * np.square(own)

        self._measure(measure)
        return np.asarray(_ordered_sum(sums.reshape(scale.shape[0], -1, lanes)[..., :count], axis=1))

    @property
    def _blocks(self) -> int:
        """Blocks of each channel."""
        return -(-int(self.rows.shape[1]) // BLOCK)

    @cached_property
    def _magnitudes(self) -> Floats:
        """Largest magnitude of each block: [channels, blocks]."""
        bits = np.empty(self.rows.shape[0] * self._blocks, np.int32)

        def measure(blocks: _Blocks) -> None:
            found = np.empty(blocks.index.size, np.int32)
            largest_magnitudes(blocks.values.view(np.int32), blocks.start, blocks.stop, found)
            bits[blocks.index] = found

        self._measure(measure)
        return bits.view(np.float32).astype(np.float64).reshape(self.rows.shape[0], self._blocks)

    def _measure(self, measure: Callable[[_Blocks], None]) -> None:
        """Show all blocks, some at a time, in threads."""
        count = self.rows.shape[0] * self._blocks
        together = max(1, PIECE // max(1, min(BLOCK, self.rows.shape[1])))
        jobs = [range(first, min(first + together, count)) for first in range(0, count, together)]
        deque(self.pool.map(lambda job: measure(self._read(job)), jobs), maxlen=0)

    def _read(self, job: range) -> _Blocks:
        index, length = np.arange(job.start, job.stop), self.rows.shape[1]
        channel, place = np.divmod(index, self._blocks)
        start = channel * length + place * BLOCK
        stop = channel * length + np.minimum((place + 1) * BLOCK, length)
        values = as_float32(self.rows.reshape(-1)[start[0] : stop[-1]])
        return _Blocks(values, index, channel, start - start[0], stop - start[0])


def _ordered_sum(values: Floats, axis: int) -> Floats:
    """The sum along an axis from first to last; numpy's own adds in pairs."""
    if not values.shape[axis]:
        return np.asarray(values.sum(axis=axis))
    return np.asarray(np.take(np.cumsum(values, axis=axis), -1, axis=axis))


def total(values: Floats) -> float:
    """The sum from first to last."""
    return float(_ordered_sum(values, axis=0))
