"""The growing statistics of a tensor's channels on the CPU: the kernels' counters, and the value that they make."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qgraph.calib.channels import ChannelStatistics, merge_channels, no_channels
from qgraph.calib.cpu.channel_kernels import add_binned_channels, add_channels, add_parts
from qgraph.calib.cpu.channel_window import ChannelWindow
from qgraph.calib.cpu.kernels import (
    HIGHEST_FINITE,
    LOWEST_FINITE,
    MAXIMUM,
    MAXIMUM_COUNT,
    MINIMUM,
    MINIMUM_COUNT,
    NAN,
    NEGATIVE_INFINITIES,
    POSITIVE_INFINITIES,
)
from qgraph.calib.exact_sums import LIMBS, carried
from qgraph.calib.grid import ALL_BUT_SIGN

ADDITIONS: Final = 1 << 28
"""Parts that can be added to a total before its limbs must be carried."""


class ChannelAccumulator:
    """The growing statistics of the channels along one axis. Not to be shared by threads.

    Args:
        bounds: values beyond them are cut off, as a clip does.
    """

    def __init__(self, start: ChannelStatistics, bounds: tuple[float, float] = (-np.inf, np.inf)) -> None:
        self._start = start
        self._bounds = np.array(bounds, np.float32)
        self._plan = no_channels(start.axis, binned=start.binned, atoms=[atom for atom, _ in start.atoms])
        self._atoms = np.array([atom for atom, _ in start.atoms], np.float32).view(np.int32)
        self._reset(0)

    def _reset(self, channels: int) -> None:
        """Begin with that many channels that have no value yet."""
        self._elements = np.zeros(channels, np.int64)
        self._tally = np.zeros((channels, 7), np.int64)
        self._tally[:, MINIMUM], self._tally[:, MAXIMUM] = HIGHEST_FINITE + 1, LOWEST_FINITE - 1
        self._atom_counts = np.zeros((self._atoms.size, channels), np.int64)
        self._parts = np.zeros(channels, np.float64)
        self._limbs = np.zeros((channels, LIMBS), np.int64)
        self._additions = 0
        self._window = ChannelWindow(channels if self._plan.binned else 0, two_sided=bool(self._bounds[0] < 0))

    def add(self, values: NDArray[Any]) -> None:
        """Count the activation of one sample, float32. One without the planned axis is left out."""
        axis = self._plan.axis
        if not -values.ndim <= axis < values.ndim or values.size == 0:
            return
        # Behind axes of one element, as that of a batch, channels lie as they are wanted.
        alone = axis >= 0 and values.size == math.prod(values.shape[axis:])
        moved = np.ascontiguousarray(values if alone else np.moveaxis(values, axis, 0))
        rows = moved.reshape(values.shape[axis], -1)
        if rows.shape[0] != self._elements.size:
            self._start = self.snapshot()
            self._reset(rows.shape[0])
        if self._plan.binned:
            self._count(rows)
        else:
            add_channels(rows, self._bounds, self._tally, self._parts)
        self._elements += rows.shape[1]
        add_parts(self._limbs, self._parts.view(np.int64))
        self._additions += 1
        if self._additions == ADDITIONS:
            self._limbs, self._additions = carried(self._limbs), 0

    def _count(self, rows: NDArray[np.float32]) -> None:
        """Add channels that have a histogram; move the window or make room where a channel needs it."""
        window = self._window
        channel = top = 0
        while channel < rows.shape[0]:
            window.reach(top)
            window.make_room(rows.shape[1])
            channel, window.used, top = add_binned_channels(
                rows,
                channel,
                self._bounds,
                self._tally,
                self._parts,
                self._atoms,
                self._atom_counts,
                window.counters,
                window.base,
                window.rest,
                window.used,
            )

    @property
    def nbytes(self) -> int:
        """Bytes that the counters hold."""
        held = (self._tally, self._atom_counts, self._elements, self._parts, self._limbs, self._window)
        return sum(one.nbytes for one in held)

    def snapshot(self) -> ChannelStatistics:
        """The statistics so far, as a value that later `add` calls do not change."""
        if not self._elements.size:
            return self._start
        return merge_channels(self._start, self._counted()) if self._start.size else self._counted()

    def _counted(self) -> ChannelStatistics:
        """What was counted since the last reset."""
        histogram = self._window.read() if self._plan.binned else self._no_histogram()
        return counted_channels(self._plan, self._elements, self._tally, self._limbs, self._atom_counts, histogram)

    def _no_histogram(self) -> tuple[NDArray[np.int64], NDArray[np.uint16], NDArray[np.int64]]:
        """Starts, bins and counts of channels without histograms."""
        return np.zeros(self._elements.size + 1, np.int64), np.zeros(0, np.uint16), np.zeros(0, np.int64)


def counted_channels(
    plan: ChannelStatistics,
    elements: NDArray[np.int64],
    tally: NDArray[np.int64],
    limbs: NDArray[np.int64],
    atom_counts: NDArray[np.int64],
    histogram: tuple[NDArray[np.int64], NDArray[np.uint16], NDArray[np.int64]],
) -> ChannelStatistics:
    """The counters of C channels as statistics.

    Args:
        plan: statistics of nothing, with axis and atoms.
        elements: int64 [C], how many values were counted, whatever they are.
        tally: int64 [C, 7], places `MINIMUM` to `NEGATIVE_INFINITIES`; extremes are ordering integers.
        limbs: int64 [C, LIMBS], carried or not.
        atom_counts: int64 [atoms, C]; that of zero is not looked at.
        histogram: starts, bins and counts, as `ChannelStatistics` has them.
    """
    none = elements == tally[:, [NAN, POSITIVE_INFINITIES, NEGATIVE_INFINITIES]].sum(axis=1)
    minimum = _values(tally[:, MINIMUM], none, np.inf)
    maximum = _values(tally[:, MAXIMUM], none, -np.inf)
    nan, positive, negative = (tally[:, n].copy() for n in (NAN, POSITIVE_INFINITIES, NEGATIVE_INFINITIES))
    starts, bins, counts = histogram
    finite = elements - nan - positive - negative
    # Zeros, of either sign, are what the histogram leaves out; only channels that have one have multiplicities.
    up_to = np.zeros(counts.size + 1, np.int64)
    np.cumsum(counts, out=up_to[1:])
    binned = np.diff(up_to[starts])
    zeros = finite - binned if plan.binned else np.zeros_like(finite)
    return ChannelStatistics(
        axis=plan.axis,
        binned=plan.binned,
        finite=finite,
        nan=nan,
        positive_infinities=positive,
        negative_infinities=negative,
        minimum=minimum,
        maximum=maximum,
        minimum_count=np.where(minimum == 0, zeros, tally[:, MINIMUM_COUNT]),
        maximum_count=np.where(maximum == 0, zeros, tally[:, MAXIMUM_COUNT]),
        sums=carried(limbs),
        starts=starts,
        bins=bins,
        counts=counts,
        atoms=tuple(
            (atom, zeros if atom == 0 else n.copy()) for (atom, _), n in zip(plan.atoms, atom_counts, strict=True)
        ),
    )


def _values(orders: NDArray[np.int64], none: NDArray[np.bool_], missing: float) -> NDArray[np.float64]:
    """The floats behind ordering integers."""
    bits = np.where(orders >= 0, orders, orders ^ ALL_BUT_SIGN).astype(np.int32)
    return np.where(none, missing, bits.view(np.float32).astype(np.float64) + 0.0)
